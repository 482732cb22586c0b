"""A proxy on loopback between botocore and the S3 and STS server, to emulate what that server lacks of AWS's behavior.

It handles whole requests: rules may change a request, respond instead of the server, or change the response.
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

__all__ = ["AwsProxy", "Request", "Response", "start_aws_proxy"]

_CREDENTIAL = re.compile(r"Credential=([^/]+)/\d+/([^/]+)/([^/]+)/aws4_request")
_ISSUED = re.compile(rb"<(AccessKeyId|SecretAccessKey|SessionToken)>([^<]+)</")
_EXPIRATION = re.compile(rb"(?<=<Expiration>)[^<]+(?=</Expiration>)")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}


@dataclass(frozen=True)
class Request:
    """One request as received."""

    method: str
    path: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def form(self) -> dict[str, str]:
        """The form fields of an STS request; empty for S3."""
        if not self.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
            return {}
        return {name: values[0] for name, values in parse_qs(self.body.decode()).items()}

    @property
    def action(self) -> str:
        """The action of an STS request; empty for S3."""
        return self.form.get("Action", "")

    @property
    def access_key_id(self) -> str:
        """The access key ID that signed the request."""
        return self._scope()[0]

    @property
    def region(self) -> str:
        """The region that the request is signed for."""
        return self._scope()[1]

    @property
    def bucket(self) -> str:
        """The bucket of the request."""
        return "" if self.action else urlsplit(self.path).path.strip("/").partition("/")[0]

    def _scope(self) -> tuple[str, str]:
        found = _CREDENTIAL.search(self.headers.get("authorization", ""))
        return (found[1], found[2]) if found else ("", "")


@dataclass(frozen=True)
class Response:
    """One response."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @classmethod
    def of_s3(cls, status: int, code: str, message: str, headers: dict[str, str], **more: str) -> Response:
        """Create an error response in S3's format."""
        return cls(
            status, headers, f"<Error>{_elements(Code=code, Message=message, **more)}</Error>".encode()
        )

    @classmethod
    def of_sts(cls, status: int, code: str, message: str) -> Response:
        """Create an error response in STS's format."""
        body = f"<ErrorResponse><Error>{_elements(Code=code, Message=message)}</Error></ErrorResponse>"
        return cls(status, {"content-type": "text/xml"}, body.encode())


@dataclass
class AwsProxy:
    """A running proxy.

    Attributes:
        endpoint_url: The proxy's URL.
        requests: All requests received, in order.
        rules: The handlers of a request; each may call the next.
        given: The IDs, secrets and tokens of all sessions that STS has issued.
    """

    endpoint_url: str
    target: tuple[str, int]
    requests: list[Request] = field(default_factory=list)
    rules: list[Any] = field(default_factory=list)
    given: set[str] = field(default_factory=set, repr=False)
    _expired: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, action: str) -> int:
        """Return how often STS received this action."""
        return sum(request.action == action for request in self.requests)

    def session_life(
        self, seconds: int, *, reported_seconds: int | None = None, keys: Keys | None = None
    ) -> None:
        """Set the lifetime of role sessions, which may be shorter than STS itself allows.

        Args:
            seconds: The lifetime after which the server rejects the session.
            reported_seconds: The lifetime in the response; ``seconds`` by default.
            keys: The keys of the user who assumes the role; not needed for a web identity, whose requests are unsigned.
        """

        def rule(request: Request, pass_on: Callable[[Request], Response]) -> Response:
            if not request.action.startswith("AssumeRole"):
                return pass_on(request)
            body = urlencode({**request.form, "DurationSeconds": seconds}).encode()
            response = pass_on(_signed(replace(request, body=body), keys))
            if reported_seconds is None:
                return response
            expiration = f"{datetime.now(UTC) + timedelta(seconds=reported_seconds):%Y-%m-%dT%H:%M:%SZ}"
            return replace(response, body=_EXPIRATION.sub(expiration.encode(), response.body))

        self.rules.append(rule)

    def refuse_other_regions(self, bucket: str, region: str) -> None:
        """Respond as a bucket's endpoint does if the signature is for another region."""

        def rule(request: Request, pass_on: Callable[[Request], Response]) -> Response:
            if request.bucket != bucket or request.region == region:
                return pass_on(request)
            headers = {} if _has_key(request) else {"x-amz-bucket-region": region}
            if request.method == "HEAD":
                return Response(400, headers)
            message = (
                f"The authorization header is malformed; the region '{request.region}' is wrong; "
                f"expecting '{region}'"
            )
            return Response.of_s3(400, "AuthorizationHeaderMalformed", message, headers, Region=region)

        self.rules.append(rule)

    def refuse_as_expired(self) -> None:
        """Respond as S3 does if a session has expired, for the sessions of :meth:`expire_all`."""

        def rule(request: Request, pass_on: Callable[[Request], Response]) -> Response:
            if not self._is_of_expired_session(request):
                return pass_on(request)
            if request.method == "HEAD":
                return Response(400, {} if _has_key(request) else {"x-amz-bucket-region": "us-east-1"})
            return Response.of_s3(400, "ExpiredToken", "The provided token has expired.", {})

        self.rules.append(rule)

    def refuse_as_unknown(self) -> None:
        """Respond as servers do that forget expired sessions, for those of :meth:`expire_all`."""

        def rule(request: Request, pass_on: Callable[[Request], Response]) -> Response:
            if not self._is_of_expired_session(request):
                return pass_on(request)
            if request.method == "HEAD":
                return Response(403)
            return Response.of_s3(403, "InvalidAccessKeyId", "The access key does not exist.", {})

        self.rules.append(rule)

    def deny_heads(self) -> None:
        """Respond to every HEAD as S3 does if the caller lacks the permission."""

        def rule(request: Request, pass_on: Callable[[Request], Response]) -> Response:
            return Response(403) if request.method == "HEAD" else pass_on(request)

        self.rules.append(rule)

    def expire_all(self) -> None:
        """Treat every key that has been used or issued by STS so far as expired."""
        self._expired |= self.given | {request.access_key_id for request in self.requests}

    def respond_as_sts(self, response: Response, *, after: int = 0) -> None:
        """Return this response to STS requests, except to the first ``after`` ones."""

        def rule(request: Request, pass_on: Callable[[Request], Response]) -> Response:
            received = sum(bool(earlier.action) for earlier in self.requests)
            return response if request.action and received > after else pass_on(request)

        self.rules.append(rule)

    def handle(self, request: Request) -> Response:
        """Record a request, and respond to it by the rules."""
        with self._lock:
            self.requests.append(request)
        return self._apply(request, list(self.rules))

    def _is_of_expired_session(self, request: Request) -> bool:
        return not request.action and request.access_key_id in self._expired

    def _apply(self, request: Request, rules: list[Any]) -> Response:
        if not rules:
            return self._forward(request)
        response: Response = rules[0](request, lambda changed: self._apply(changed, rules[1:]))
        return response

    def _forward(self, request: Request) -> Response:
        with closing(http.client.HTTPConnection(*self.target, timeout=600)) as connection:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.items():
                if name not in _HOP_BY_HOP:
                    connection.putheader(name, value)
            connection.putheader("content-length", str(len(request.body)))
            connection.endheaders(request.body)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            body = response.read()
            if request.action:
                self.given.update(found.decode() for _, found in _ISSUED.findall(body))
            return Response(response.status, headers, body)


@contextmanager
def start_aws_proxy(target_url: str) -> Iterator[AwsProxy]:
    """Run a proxy in front of a server until the block ends."""
    address = urlsplit(target_url)
    proxy = AwsProxy("", (str(address.hostname), int(address.port or 80)))
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_class(proxy))
    proxy.endpoint_url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler_class(proxy: AwsProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 120

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            response = proxy.handle(Request(self.command, self.path, headers, body))
            self.send_response_only(response.status)
            for name, value in response.headers.items():
                if name not in _HOP_BY_HOP:
                    self.send_header(name, value)
            length = (
                len(response.body) if self.command != "HEAD" else response.headers.get("content-length", 0)
            )
            if response.status != 204:
                self.send_header("content-length", str(length))
            self.send_header("connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(response.body)

        def log_message(self, *_: Any) -> None:
            """Log nothing."""

    for method in ("GET", "HEAD", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.handle_any)
    return Handler


def _has_key(request: Request) -> bool:
    """Whether the request is for an object rather than a bucket."""
    return bool(urlsplit(request.path).path.strip("/").partition("/")[2])


def _elements(**texts: str) -> str:
    return "".join(f"<{name}>{text}</{name}>" for name, text in texts.items())


def _signed(request: Request, keys: Keys | None) -> Request:
    """Sign the request again for its changed body."""
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
