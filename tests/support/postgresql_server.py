"""A PostgreSQL server on loopback, from the system's packages, with an empty database for an Airflow."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from s3_server import free_port

from tools.processes import until_parent_dies

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["start_postgresql_server"]

# Debian installs the server programs here, outside PATH.
_DEBIAN = Path("/usr/lib/postgresql")
_USER = "batchexec"
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
# The data does not outlive the tests, so durability is off.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
}


@contextmanager
def start_postgresql_server() -> Iterator[str]:
    """Run a server; afterwards, stop it, wait for it, and remove its files.

    Yields:
        The SQLAlchemy URL of its empty database.
    """
    user = _server_user()
    # Not in pytest's temporary folder, which only the user who runs the tests may read: root must not run the server.
    folder = Path(tempfile.mkdtemp(prefix="batchexec-tests-postgresql-"))
    process = None
    try:
        password, port, log = secrets.token_hex(16), free_port(), folder / "log"
        (folder / "password").write_text(password)
        if user:
            for path in (folder, folder / "password"):
                os.chown(path, user["user"], user["group"])
        data = folder / "data"
        initdb = [_program("initdb"), "--no-sync", "--auth=scram-sha-256", f"--username={_USER}"]
        initdb += [f"--pwfile={folder / 'password'}", "--encoding=UTF8", "--locale=C", str(data)]
        subprocess.run(initdb, check=True, capture_output=True, cwd=folder, **user)
        settings = [f"--{name}={value}" for name, value in {**_SETTINGS, "port": str(port)}.items()]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*until_parent_dies("INT"), _program("postgres"), "-D", str(data), *settings],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                **user,
            )
        address = f"{_USER}:{password}@127.0.0.1:{port}/postgres"
        _wait_until_ready(process, f"postgresql://{address}", log)
        yield f"postgresql+psycopg2://{address}"
    finally:
        if process is not None:
            # A fast shutdown: does not wait for clients to disconnect.
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGQUIT)
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    found = [str(path) for path in sorted(_DEBIAN.glob(f"*/bin/{name}"))]
    path = shutil.which(name) or (found[-1] if found else "")
    assert path, f"{name} is missing; on Debian: apt-get install postgresql"
    return path


def _server_user() -> dict[str, Any]:
    """The user to run the server as: the current one or, as root may not run it, the user that the package creates."""
    if os.getuid():
        return {}
    user = pwd.getpwnam("postgres")
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _wait_until_ready(process: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"The PostgreSQL server ended with {process.returncode}:\n{log.read_text()}")
        try:
            psycopg2.connect(address).close()
        except psycopg2.OperationalError:
            if time.monotonic() > deadline:
                raise RuntimeError(f"The PostgreSQL server is not ready:\n{log.read_text()}") from None
            time.sleep(0.05)  # the polling interval
        else:
            return
