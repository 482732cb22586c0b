"""A proxy on loopback that breaks chosen responses of a real server, as a network does.

It forwards bytes as they arrive. If a request line matches a fault, the response is cut off after some bytes and the
connection is closed; the server has then processed the request, and the client does not know it.
"""

from __future__ import annotations

import re
import socket
import threading
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FlakyProxy", "start_flaky_proxy"]

_REQUEST_LINE = re.compile(rb"\A(?:GET|PUT|POST|HEAD|DELETE) [^\r\n]* HTTP/1\.1\r\n")


@dataclass
class FlakyProxy:
    """A running proxy.

    Attributes:
        endpoint_url: The proxy's URL.
        requests: The request lines received, in order.
    """

    endpoint_url: str
    requests: deque[str] = field(default_factory=deque)
    _faults: list[tuple[re.Pattern[str], int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def cut(self, pattern: str, *, after_bytes: int = 0, times: int = 1) -> None:
        """Cut off the responses to the next requests whose line matches."""
        with self._lock:
            self._faults.extend([(re.compile(pattern), after_bytes)] * times)

    def fault_for(self, line: str) -> int | None:
        """Return after how many bytes the response to this request is cut off; ``None`` if it passes."""
        with self._lock:
            self.requests.append(line)
            for index, (pattern, after_bytes) in enumerate(self._faults):
                if pattern.search(line):
                    del self._faults[index]
                    return after_bytes
        return None


@contextmanager
def start_flaky_proxy(target_url: str) -> Iterator[FlakyProxy]:
    """Run a proxy in front of a server until the block ends."""
    address = urlsplit(target_url)
    target = (str(address.hostname), int(address.port or 80))
    listener = socket.create_server(("127.0.0.1", 0))
    proxy = FlakyProxy(f"http://127.0.0.1:{listener.getsockname()[1]}")
    threads: list[threading.Thread] = []
    sockets: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):  # the listener is closed at the end
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(target)
                sockets.extend((client, server))
                threads.extend(_Connection(proxy, client, server).start())

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    try:
        yield proxy
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        for end in sockets:
            _hang_up(end)
        for thread in threads:
            thread.join()
        for end in sockets:
            end.close()


class _Connection:
    """The two ends of a connection, and how many more bytes of the current response pass."""

    def __init__(self, proxy: FlakyProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._remaining: int | None = None

    def start(self) -> list[threading.Thread]:
        threads = [
            threading.Thread(target=self._forward_requests),
            threading.Thread(target=self._forward_responses),
        ]
        for thread in threads:
            thread.start()
        return threads

    def _forward_requests(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(65536):
                if line := _REQUEST_LINE.match(data):
                    self._remaining = self._proxy.fault_for(line.group().decode().strip())
                self._server.sendall(data)
        _hang_up(self._server)

    def _forward_responses(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(65536):
                if self._remaining is not None and not data.startswith(b"HTTP/1.1 100 "):
                    self._client.sendall(data[: self._remaining])
                    self._remaining -= len(data)
                    if self._remaining <= 0:
                        break
                else:
                    self._client.sendall(data)
        _hang_up(self._client)


def _hang_up(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
