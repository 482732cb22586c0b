"""How calls fail: every error becomes the call's own response type, with a status and a reason, and never a traceback."""

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

__all__ = ["ApiError", "ApiRoute", "add_error_handlers", "configured"]

log = logging.getLogger(__name__)

_T = TypeVar("_T")
_RETRY_AFTER_SECONDS = 2
# The first that an error is one of.
_STATUSES: dict[type[Exception], HTTPStatus] = {
    RequestValidationError: HTTPStatus.BAD_REQUEST,
    ClientDisconnect: HTTPStatus.BAD_REQUEST,
    ConfigurationError: HTTPStatus.BAD_REQUEST,
    RepositoryError: HTTPStatus.NOT_FOUND,
    BatchExecError: HTTPStatus.CONFLICT,
}


class ApiError(Exception):
    """A call that is refused.

    Args:
        status: The HTTP status.
        message: The reason, for the caller.
        headers: More headers of the response.
    """

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            self.headers.setdefault("Retry-After", str(_RETRY_AFTER_SECONDS))


class ApiRoute(APIRoute):
    """A route whose errors, whatever they are and wherever they come from, are its own response type."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with what turns its errors into responses."""
        handle = super().get_route_handler()

        async def handle_and_answer(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:  # noqa: BLE001  a caller gets an answer, whatever went wrong
                return _answer(error, self.response_model)

        return handle_and_answer


def configured(read: Callable[[], _T]) -> _T:
    """What an option of ``[batchexec]`` says; where it is wrong, that is no fault of the caller's.

    Raises:
        ApiError: It is wrong.
    """
    try:
        return read()
    except ConfigurationError as error:
        raise ApiError(
            HTTPStatus.SERVICE_UNAVAILABLE, f"The server is configured wrongly. {error.message}"
        ) from error


def add_error_handlers(app: FastAPI) -> None:
    """Answer also what reaches no route: an unknown path, a method that a path does not have."""

    async def answer(request: Request, error: Exception) -> Response:
        routes = [route for route in app.routes if isinstance(route, APIRoute)]
        models = [r.response_model for r in routes if r.matches(request.scope)[0] is not Match.NONE]
        return _answer(error, models[0] if models else None)

    app.add_exception_handler(HTTPException, answer)


def _answer(error: Exception, model: type | None) -> Response:
    known = _as_api_error(error)
    if known is None:
        # The reason may hold anything, so only whoever reads the server's log is told.
        error_id = uuid.uuid4().hex[:12]
        log.error("A request of the batch execution API failed, error %s.", error_id, exc_info=error)
        known = ApiError(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            f"The server failed; its log says why, under the error id {error_id}.",
        )
    return JSONResponse(failure(model, known.message), status_code=known.status, headers=known.headers)


def _as_api_error(error: Exception) -> ApiError | None:
    """The refusal that an error stands for; ``None`` for one that nobody has foreseen."""
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
    where = ".".join(str(part) for part in problem["loc"][1:]) or str(problem["loc"][0])
    return f"{where}: {problem['msg']}."


def _sentence(detail: Any) -> str:
    text = str(detail)
    return text if text.endswith(".") else f"{text}."
