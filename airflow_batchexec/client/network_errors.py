"""Readable messages for network errors, which the libraries wrap several times."""

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
    """Convert an error of requests to one of this package, which contains nothing of the request."""
    if isinstance(error, ValueError):
        # The message does not repeat the URL: a proxy URL may contain a password.
        return ConfigurationError(
            f"server: {server} or a proxy URL from the environment is invalid.",
            field="server",
        )
    inner = list(_inner(error))
    if isinstance(error, requests.exceptions.SSLError):
        certificate = next((e for e in inner if isinstance(e, ssl.SSLCertVerificationError)), None)
        if certificate is not None:
            return UntrustedServerError(
                f"The certificate of {server} is not trusted: {certificate.verify_message}. If you use a "
                f"private CA, pass its certificate as ca_bundle.",
                server=server,
            )
        if any("WRONG_VERSION_NUMBER" in str(e) for e in inner):
            return UntrustedServerError(
                f"{server} does not speak TLS on this port. Should the URL start with http://?", server=server
            )
    return ServerUnreachableError(f"{server} cannot be reached: {_cause(error, inner)}.", server=server)


def _cause(error: requests.RequestException, inner: list[BaseException]) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return "connection timed out"
    if isinstance(error, requests.Timeout) or any(isinstance(e, TimeoutError) for e in inner):
        return "response timed out"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy configured in the environment rejected the request"
    if any(isinstance(e, socket.gaierror) for e in inner) or "NameResolution" in repr(inner):
        return "unknown host"
    system = next((e for e in inner if isinstance(e, OSError) and e.strerror and e.errno), None)
    if system is not None:
        return str(system.strerror)
    return "the connection was closed before the response was complete"


def _inner(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and every error it wraps as cause, context, argument or reason."""
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
