"""Error handling: every error becomes the route's own response type with a status and a reason, never a traceback."""

from __future__ import annotations

import logging
import uuid
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from airflow_batchexec.exceptions import (
    BatchExecError,
    ConfigurationError,
    RepositoryError,
)
from airflow_batchexec.wire.responses import failure

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from fastapi import FastAPI, Request
    from starlette.responses import Response

__all__ = ["ApiError", "ApiRoute", "add_error_handlers", "read_option"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_RETRY_AFTER_SECONDS = 2
# The first matching type applies.
_STATUSES: dict[type[Exception], HTTPStatus] = {
    RequestValidationError: HTTPStatus.BAD_REQUEST,
    ClientDisconnect: HTTPStatus.BAD_REQUEST,
    ConfigurationError: HTTPStatus.BAD_REQUEST,
    RepositoryError: HTTPStatus.NOT_FOUND,
    BatchExecError: HTTPStatus.CONFLICT,
}


class ApiError(Exception):
    """A refused request.

    Args:
        status: The HTTP status.
        message: The reason, for the caller.
        headers: Additional response headers.
    """

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            self.headers.setdefault("Retry-After", str(_RETRY_AFTER_SECONDS))


class ApiRoute(APIRoute):
    """A route that returns all errors, whatever their source, as its own response type."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, wrapped to turn errors into responses."""
        handle = super().get_route_handler()

        async def handle_with_errors(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:  # noqa: BLE001  callers always get a response
                return _error_response(error, self.response_model)

        return handle_with_errors


def read_option(read: Callable[[], _T]) -> _T:
    """Read an option of ``[batchexec]``, and report an invalid one as the server's error rather than the caller's.

    Raises:
        ApiError: The option is invalid.
    """
    try:
        return read()
    except ConfigurationError as error:
        raise ApiError(
            HTTPStatus.SERVICE_UNAVAILABLE, f"The server is misconfigured. {error.message}"
        ) from error


def add_error_handlers(app: FastAPI) -> None:
    """Handle also errors outside of routes: unknown paths and methods that a path does not support."""

    async def handle(request: Request, error: Exception) -> Response:
        routes = [route for route in app.routes if isinstance(route, APIRoute)]
        models = [r.response_model for r in routes if r.matches(request.scope)[0] is not Match.NONE]
        return _error_response(error, models[0] if models else None)

    app.add_exception_handler(HTTPException, handle)


def _error_response(error: Exception, model: type | None) -> Response:
    api_error = _as_api_error(error)
    if api_error is None:
        # The error may contain secrets, so it goes to the server's log only.
        error_id = uuid.uuid4().hex[:12]
        log.error("Unhandled error in the batch execution API, error ID %s", error_id, exc_info=error)
        api_error = ApiError(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            f"Internal server error. See the server's log for error ID {error_id}.",
        )
    return JSONResponse(
        failure(model, api_error.message), status_code=api_error.status, headers=api_error.headers
    )


def _as_api_error(error: Exception) -> ApiError | None:
    """Convert a known error; ``None`` for an unexpected one."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, HTTPException):
        return ApiError(HTTPStatus(error.status_code), _sentence(error.detail), error.headers)
    for kind, status in _STATUSES.items():
        if isinstance(error, kind):
            return ApiError(status, _message(error))
    return None


def _message(error: Exception) -> str:
    if isinstance(error, RequestValidationError):
        return _first_problem(error)
    if isinstance(error, BatchExecError):
        return error.message
    return "The connection was closed before the request was complete."


def _first_problem(error: RequestValidationError) -> str:
    problem = error.errors()[0]
    location = ".".join(str(part) for part in problem["loc"][1:]) or str(problem["loc"][0])
    return f"{location}: {problem['msg']}."


def _sentence(detail: Any) -> str:
    text = str(detail)
    return text if text.endswith(".") else f"{text}."
