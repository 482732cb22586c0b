"""The FastAPI application: its routes and its OpenAPI document."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

from airflow.sdk import conf
from fastapi import APIRouter, FastAPI, Header, Path, Query, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse

from airflow_batchexec._version import __version__
from airflow_batchexec.api import reading
from airflow_batchexec.api.auth import Caller, ChangingCaller  # noqa: TC001  FastAPI reads the annotations
from airflow_batchexec.api.body import Body, parse_json
from airflow_batchexec.api.cancel import cancel
from airflow_batchexec.api.errors import ApiError, ApiRoute, add_error_handlers
from airflow_batchexec.api.examples import REQUEST_BODY, error_responses
from airflow_batchexec.api.start import start
from airflow_batchexec.engine.config.values import OPTIONAL_ID_SCHEMA
from airflow_batchexec.wire.responses import (
    CancelResponse,
    DetailsResponse,
    ListResponse,
    ReportResponse,
    StartResponse,
    StatusResponse,
)

__all__ = ["create_app"]

_TITLE = "Batch execution"
_DESCRIPTION = (
    "Storage-based batch inference: start, monitor and cancel executions. Every call needs an Airflow token; the "
    "permissions of its user on the runs of the execution DAGs apply."
)
_ExecutionId = Annotated[
    str,
    Path(
        description="The execution's ID, as returned by the start.",
        max_length=250,
        # Airflow's default pattern for run IDs; documented but not enforced, since deployments can change it.
        json_schema_extra={"pattern": "^[A-Za-z0-9_][A-Za-z0-9_.~:+-]*$"},
    ),
]
_Id = Annotated[str, Query(pattern=str(OPTIONAL_ID_SCHEMA["pattern"]), max_length=128)]

router = APIRouter(prefix="/api/v1", route_class=ApiRoute, tags=["batch executions"])
documents = APIRouter(route_class=ApiRoute, include_in_schema=False)


@router.post(
    "/batch-job/start-job",
    summary="Start an execution",
    openapi_extra={"requestBody": REQUEST_BODY},
    responses=error_responses(StartResponse, 400, 401, 403, 404, 409, 413, 415, 422, 503),
)
def start_job(
    user: ChangingCaller,
    body: Body,
    idempotency_key: Annotated[
        str | None,
        Header(
            description="A repeated start with the same key and body returns the first execution. 1 to 255 visible "
            "ASCII characters."
        ),
    ] = None,
) -> StartResponse:
    """Runs every file of the source folder through the model and writes its result to the destination folder."""
    return StartResponse(batch_id=start(parse_json(body), idempotency_key=idempotency_key, user=user))


@router.get(
    "/batch-job/{execution_id}/status",
    summary="Get the status of an execution",
    responses=error_responses(StatusResponse, 400, 401, 403, 404, 503),
)
def job_status(user: Caller, execution_id: _ExecutionId) -> StatusResponse:
    """Returns the status, and how many files have a result."""
    return reading.get_status(execution_id, user=user)


@router.get(
    "/batch-job/{execution_id}/report",
    summary="Get the report of an execution",
    responses=error_responses(ReportResponse, 400, 401, 403, 404, 503),
)
def job_report(user: Caller, execution_id: _ExecutionId) -> ReportResponse:
    """Returns the log, in order: the plan, each file's start and end, model output, the audit, the end."""
    return reading.get_report(execution_id, user=user)


@router.post(
    "/batch-job/{execution_id}/cancel",
    summary="Cancel an execution",
    responses=error_responses(CancelResponse, 400, 401, 403, 404, 409, 503),
)
def cancel_job(user: ChangingCaller, execution_id: _ExecutionId) -> CancelResponse:
    """Stops the files in progress and ends the execution; existing results are kept."""
    cancel(execution_id, user=user)
    return CancelResponse()


@router.get(
    "/batch-job/{execution_id}",
    summary="Get an execution with all its files",
    responses=error_responses(DetailsResponse, 400, 401, 403, 404, 503),
)
def job_details(user: Caller, execution_id: _ExecutionId) -> DetailsResponse:
    """Returns the parameters, the report, and the outcome of each file."""
    return reading.get_details(execution_id, user=user)


@router.get(
    "/batch-jobs",
    summary="List executions, newest first",
    responses=error_responses(ListResponse, 400, 401, 403, 503),
)
def list_jobs(
    user: Caller,
    model_id: Annotated[_Id | None, Query(description="Only executions of this model.")] = None,
    build_id: Annotated[_Id | None, Query(description="Only executions of this build.")] = None,
    status: Annotated[
        str | None, Query(description="Only executions with this status: full name, short name or number.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Maximum number of executions per page.")] = 100,
    cursor: Annotated[
        str | None, Query(description="`next_cursor` of the previous page.", max_length=100)
    ] = None,
) -> ListResponse:
    """Lists executions whose runs the user may read. Pages may hold fewer than `limit`; the last has no `next_cursor`."""
    return reading.list_executions(
        user=user,
        model_id=(model_id or "").strip(),
        build_id=(build_id or "").strip(),
        status=status or "",
        limit=limit,
        cursor=cursor or "",
    )


@documents.get("/openapi.json", response_class=JSONResponse)
def openapi(request: Request, user: Caller) -> Any:  # noqa: ARG001  requires authentication
    """The OpenAPI document, with the URL at which the API is mounted."""
    document = get_openapi(
        title=_TITLE,
        version=__version__,
        description=_DESCRIPTION,
        routes=router.routes,
    )
    document["servers"] = [{"url": request.scope.get("root_path", "")}]
    _drop_validation_errors(document)
    return document


@documents.get("/docs", response_class=HTMLResponse)
def docs(request: Request, user: Caller) -> HTMLResponse:  # noqa: ARG001  as above
    """Swagger UI, unless Airflow has it disabled."""
    if not conf.getboolean("api", "enable_swagger_ui", fallback=True):
        raise ApiError(HTTPStatus.NOT_FOUND, "Swagger UI is disabled: see [api] enable_swagger_ui.")
    return get_swagger_ui_html(openapi_url=f"{request.scope.get('root_path', '')}/openapi.json", title=_TITLE)


def _drop_validation_errors(document: dict[str, Any]) -> None:
    """Remove FastAPI's own validation errors, which this API never returns."""
    for path in document["paths"].values():
        for operation in path.values():
            if "HTTPValidationError" in str(operation["responses"].get("422", "")):
                del operation["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        document["components"]["schemas"].pop(name, None)


def create_app() -> FastAPI:
    """Create the application, to be mounted in Airflow's API server."""
    # FastAPI's own document routes would need no authentication.
    app = FastAPI(title=_TITLE, openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(router)
    app.include_router(documents)
    add_error_handlers(app)
    return app
