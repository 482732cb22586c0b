"""A proxy on loopback between botocore and the S3 and STS server, which can behave as AWS does and that server cannot.

It understands requests as a whole: rules may change one, answer it in the server's place, or change the answer.
"""

from __future__ import annotations

import http.client
import re
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from s3_server import Keys

__all__ = ["Answer", "AwsProxy", "Request", "start_aws_proxy"]

_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")
_GIVEN = re.compile(rb"<(AccessKeyId|SecretAccessKey|SessionToken)>([^<]+)</")
_EXPIRATION = re.compile(rb"(?<=<Expiration>)[^<]+(?=</Expiration>)")
_OF_ONE_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


@dataclass(frozen=True)
class Request:
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def form(self) -> dict[str, str]:
        """The fields of a call of STS; empty for S3."""
        if not self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return {}
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}

    @property
    def action(self) -> str:
        """What STS is asked for."""
        return self.form.get("Action", "")

    @property
    def access_key_id(self) -> str:
        """Whose signature it has."""
        return self._scope()[0]

    @property
    def region(self) -> str:
        """The region that it is signed for."""
        return self._scope()[1]

    @property
    def bucket(self) -> str:
        """The bucket that it is for."""
        return "" if self.action else urlsplit(self.path).path.strip("/").partition("/")[0]

    def _scope(self) -> tuple[str, str]:
        found = _CREDENTIAL.search(self.headers.get("authorization", ""))
        return (found[1], found[2]) if found else ("", "")


@dataclass(frozen=True)
class Answer:
    """One answer."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def of_s3(cls, status: int, code: str, message: str, headers: dict[str, str], **more: str) -> Answer:
        """An error as S3 words it."""
        return cls(
            status, headers, f"<Error>{_elements(Code=code, Message=message, **more)}</Error>".encode()
        )

    @classmethod
    def of_sts(cls, status: int, code: str, message: str) -> Answer:
        """An error as STS words it."""
        body = f"<ErrorResponse><Error>{_elements(Code=code, Message=message)}</Error></ErrorResponse>"
        return cls(status, {"content-type": "text/xml"}, body.encode())


@dataclass
class AwsProxy:
    """A running proxy.

    Attributes:
        endpoint_url: Its address.
        requests: All requests that came, in order.
        rules: What is done with a request; the first is asked first.
        given: The ids, secrets and tokens of all sessions that STS has given.
    """

    endpoint_url: str
    target: tuple[str, int]
    requests: list[Request] = field(default_factory=list)
    rules: list[Any] = field(default_factory=list)
    given: set[str] = field(default_factory=set, repr=False)
    _expired: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, action: str) -> int:
        """How often STS was asked for this."""
        return sum(request.action == action for request in self.requests)

    def session_life(
        self, seconds: int, *, told_seconds: int | None = None, keys: Keys | None = None
    ) -> None:
        """Let roles be assumed for so long, shorter than STS itself would.

        Args:
            seconds: After which the server refuses the session.
            told_seconds: What the answer says; the same, if nothing is given.
            keys: Of the user who assumes the role; not needed for a web identity, whose requests are not signed.
        """

        def rule(request: Request, pass_on: Callable[[Request], Answer]) -> Answer:
            if not request.action.startswith("AssumeRole"):
                return pass_on(request)
            body = urlencode({**request.form, "DurationSeconds": seconds}).encode()
            answer = pass_on(_signed(replace(request, body=body), keys))
            if told_seconds is None:
                return answer
            told = datetime.now(UTC) + timedelta(seconds=told_seconds)
            return replace(answer, body=_EXPIRATION.sub(f"{told:%Y-%m-%dT%H:%M:%SZ}".encode(), answer.body))

        self.rules.append(rule)

    def refuse_other_regions(self, bucket: str, region: str) -> None:
        """Answer as a bucket's own endpoint does where the signature is for another region."""

        def rule(request: Request, pass_on: Callable[[Request], Answer]) -> Answer:
            if request.bucket != bucket or request.region == region:
                return pass_on(request)
            headers = {} if _has_key(request) else {"x-amz-bucket-region": region}
            if request.method == "HEAD":
                return Answer(400, headers)
            message = (
                f"The authorization header is malformed; the region '{request.region}' is wrong; "
                f"expecting '{region}'"
            )
            return Answer.of_s3(400, "AuthorizationHeaderMalformed", message, headers, Region=region)

        self.rules.append(rule)

    def refuse_as_expired(self) -> None:
        """Answer as S3 does where a session has expired, for those that :meth:`expire_all` is about."""

        def rule(request: Request, pass_on: Callable[[Request], Answer]) -> Answer:
            if request.action or request.access_key_id not in self._expired:
                return pass_on(request)
            if request.method == "HEAD":
                return Answer(400, {} if _has_key(request) else {"x-amz-bucket-region": "us-east-1"})
            return Answer.of_s3(400, "ExpiredToken", "The provided token has expired.", {})

        self.rules.append(rule)

    def expire_all(self) -> None:
        """Let every key that has been used, and the one that STS has given last, count as expired."""
        self._expired |= self.given | {request.access_key_id for request in self.requests}

    def answer_sts(self, answer: Answer, *, after: int = 0) -> None:
        """Give this answer to whoever asks STS, but for the first few."""

        def rule(request: Request, pass_on: Callable[[Request], Answer]) -> Answer:
            asked = sum(bool(earlier.action) for earlier in self.requests)
            return answer if request.action and asked > after else pass_on(request)

        self.rules.append(rule)

    def handle(self, request: Request) -> Answer:
        """What the proxy makes of a request."""
        with self._lock:
            self.requests.append(request)
        return self._apply(request, list(self.rules))

    def _apply(self, request: Request, rules: list[Any]) -> Answer:
        if not rules:
            return self._forward(request)
        answer: Answer = rules[0](request, lambda changed: self._apply(changed, rules[1:]))
        return answer

    def _forward(self, request: Request) -> Answer:
        with closing(http.client.HTTPConnection(*self.target, timeout=120)) as connection:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name not in _OF_ONE_HOP:
                    connection.putheader(name, value)
            connection.putheader("content-length", str(len(request.body)))
            connection.endheaders(request.body)
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in answer.getheaders()}
            body = answer.read()
            if request.action:
                self.given.update(found.decode() for _, found in _GIVEN.findall(body))
            return Answer(answer.status, headers, body)


@contextmanager
def start_aws_proxy(target_url: str) -> Iterator[AwsProxy]:
    """Run a proxy in front of a server until the block ends."""
    address = urlsplit(target_url)
    proxy = AwsProxy("", (str(address.hostname), int(address.port or 80)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(proxy))
    proxy.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler_of(proxy: AwsProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 120

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            answer = proxy.handle(Request(self.command, self.path, headers, body))
            self.send_response_only(answer.status)
            for name, value in answer.headers.items():
                if name not in _OF_ONE_HOP:
                    self.send_header(name, value)
            length = len(answer.body) if self.command != "HEAD" else answer.headers.get("content-length", 0)
            if answer.status != 204:
                self.send_header("content-length", str(length))
            self.send_header("connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.handle_any)
    return Handler


def _has_key(request: Request) -> bool:
    """Whether it is about an object rather than a bucket."""
    return bool(urlsplit(request.path).path.strip("/").partition("/")[2])


def _elements(**texts: str) -> str:
    return "".join(f"<{name}>{text}</{name}>" for name, text in texts.items())


def _signed(request: Request, keys: Keys | None) -> Request:
    """The request with a new signature for its changed body."""
    if keys is None:
        return request
    url = f"http://{request.headers['host']}{request.path}"
    signed = AWSRequest(
        request.method, url, data=request.body, headers={"content-type": request.headers["content-type"]}
    )
    credentials = Credentials(keys.access_key_id, keys.secret_access_key)
    SigV4Auth(credentials, "sts", request.region or "us-east-1").add_auth(signed)
    headers = {name.lower(): value for name, value in signed.headers.items()}
    return replace(request, headers={"host": request.headers["host"], **headers})
