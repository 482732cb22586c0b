"""A real HTTP server that sends the responses a test scripts: complete, truncated, late or never."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from collections import defaultdict
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

__all__ = ["API", "DROP", "START", "STARTED", "Received", "Reply", "ScriptedServer", "jwt", "status_of"]

API = "/batchexec/api/v1/"
START = f"{API}batch-job/start-job"
STARTED = {"batch_id": "rest__1", "success": True, "failure_message": ""}


def status_of(name: str, finished: int = 0, total: int = 0) -> dict[str, Any]:
    """A response to a status request."""
    return {
        "job_status": f"BATCH_JOB_{name}_STATUS",
        "success": True,
        "failure_message": "",
        "finished_files": finished,
        "total_files": total,
    }


def jwt(*, lives: float, issued: float = 1_000_000.0, number: int = 0) -> str:
    """A token with a lifetime of ``lives`` seconds; its signature is not valid, and is not checked."""
    claims = {"iat": issued, "exp": issued + lives, "sub": str(number)}
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{payload}.c2ln"


@dataclass(frozen=True)
class Reply:
    """One scripted response.

    Attributes:
        status: Its status.
        body: Its JSON document or its text, or a function that computes either from the request's JSON.
        headers: Additional headers.
        cut: Whether to close the connection in the middle of the body.
        gate: An event to wait for before responding; the end of the test sets it.
    """

    status: int = 200
    body: Any = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    gate: threading.Event | None = None


DROP = Reply(status=0)
"""Closes the connection without a response."""


@dataclass(frozen=True)
class Received:
    """One received request."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    document: Any


class ScriptedServer:
    """A real HTTP server that sends scripted responses; the last response to a call is repeated."""

    def __init__(self, certificate: Path | None = None) -> None:
        self._replies: dict[str, list[Reply]] = defaultdict(list)
        self._gates: list[threading.Event] = []
        self._changed = threading.Condition()
        self.received: list[Received] = []
        scripted = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                scripted._answer(self)

            do_POST = do_GET  # noqa: N815  the base's name

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # some tests hang up on purpose
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            scheme = "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for gate in self._gates:
            gate.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def on(self, call: str, *replies: Reply | dict[str, Any]) -> None:
        """Script the responses to calls of a method and path, in order; a bare document is a response with status 200."""
        self._replies[call] = [r if isinstance(r, Reply) else Reply(body=r) for r in replies]
        self._gates += [r.gate for r in self._replies[call] if r.gate]

    def calls(self) -> list[str]:
        """The methods and paths of all received requests."""
        return [f"{request.method} {request.path}" for request in self.received]

    def wait_for(self, call: str, count: int = 1) -> None:
        """Wait until a call has been received ``count`` times."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.calls().count(call) >= count, timeout=600), (
                self.calls()
            )

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        path, _, query = handler.path.partition("?")
        call = f"{handler.command} {path}"
        document = json.loads(body) if body else None
        with self._changed:
            replies = self._replies[call]
            reply = (
                Reply(404, {"detail": "Not Found"})
                if not replies
                else replies.pop(0)
                if len(replies) > 1
                else replies[0]
            )
            self.received.append(Received(handler.command, path, query, dict(handler.headers), document))
            self._changed.notify_all()
        if reply.gate is not None:
            reply.gate.wait(240)
        handler.close_connection = True
        if callable(reply.body):
            reply = replace(reply, body=reply.body(document))
        if reply is not DROP:
            self._send(handler, reply)

    @staticmethod
    def _send(handler: BaseHTTPRequestHandler, reply: Reply) -> None:
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        content = text.encode()
        handler.send_response(reply.status)
        for name, value in {
            "Content-Type": "application/json",
            "Connection": "close",
            **reply.headers,
        }.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if reply.cut else content)
