"""What went wrong on the way to a server, in words: the libraries' own wrap it several times."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

import requests

from airflow_batchexec.exceptions import (
    BatchExecError,
    ConfigurationError,
    ServerUnreachableError,
    UntrustedServerError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["network_error"]


def network_error(error: requests.RequestException, server: str) -> BatchExecError:
    """The error of this package for one of the library's; it holds nothing of the request."""
    if isinstance(error, ValueError):
        # Not repeated: a proxy's address may hold a password.
        return ConfigurationError(
            f"server: {server}, or the address of a proxy that the environment names, cannot be used.",
            field="server",
        )
    inner = list(_inner(error))
    if isinstance(error, requests.exceptions.SSLError):
        certificate = next((e for e in inner if isinstance(e, ssl.SSLCertVerificationError)), None)
        if certificate is not None:
            return UntrustedServerError(
                f"The certificate of {server} is not trusted: {certificate.verify_message}. If it comes from an "
                f"authority of your own, give that one's certificate as ca_bundle.",
                server=server,
            )
        if any("WRONG_VERSION_NUMBER" in str(e) for e in inner):
            return UntrustedServerError(
                f"{server} does not speak TLS on this port; is it an http:// address?", server=server
            )
    return ServerUnreachableError(f"{server} cannot be reached: {_why(error, inner)}.", server=server)


def _why(error: requests.RequestException, inner: list[BaseException]) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.Timeout) or any(isinstance(e, TimeoutError) for e in inner):
        return "no answer in time"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy that the environment names lets no request through"
    if any(isinstance(e, socket.gaierror) for e in inner) or "NameResolution" in repr(inner):
        return "no such host is known"
    system = next((e for e in inner if isinstance(e, OSError) and e.strerror and e.errno), None)
    if system is not None:
        return str(system.strerror)
    return "the connection was closed before the whole answer was there"


def _inner(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it wraps: as cause, context, argument or reason."""
    pending, seen = [error], set[int]()
    while pending:
        current = pending.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        reason = getattr(current, "reason", None)
        wrapped = (current.__cause__, current.__context__, reason, *current.args)
        pending += [e for e in wrapped if isinstance(e, BaseException)]
