"""Authentication and authorization, through Airflow's auth manager."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from airflow.sdk import conf
from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from airflow_batchexec import settings
from airflow_batchexec.api.errors import ApiError, read_option

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["Caller", "ChangingCaller", "allowed_dags", "has_permission", "require_permission"]

_Method = Literal["GET", "POST", "PUT"]
_VERBS = {"GET": "read", "POST": "start", "PUT": "change"}
_bearer = HTTPBearer(
    auto_error=False, bearerFormat="JWT", description="An Airflow token; `POST /auth/token` issues one."
)
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def _caller(request: Request, credentials: _Credentials) -> BaseUser:
    """The authenticated user of a request.

    Raises:
        ApiError: The token is missing, expired, revoked or forged.
    """
    try:
        user: BaseUser = await get_user(request, None, credentials)
    except HTTPException as error:
        # Airflow distinguishes unreadable from missing tokens; to the caller both are a 401.
        raise ApiError(
            HTTPStatus.UNAUTHORIZED,
            f"{error.detail}. Send Authorization: Bearer <token>.",
            {"WWW-Authenticate": "Bearer"},
        ) from error
    return user


async def _changing_caller(
    request: Request, user: Annotated[BaseUser, Depends(_caller)], credentials: _Credentials
) -> BaseUser:
    """The user of a request that changes something. Cookie authentication requires a page of this server as origin.

    Raises:
        ApiError: The request is not authenticated, or may come from another site.
    """
    # Only a bearer token proves that the sender meant to authenticate: browsers attach cookies, and also basic
    # credentials, to requests of any site.
    if credentials is None or credentials.scheme.lower() != "bearer":
        origin = request.headers.get("origin", "")
        if origin not in _own_origins(request):
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                f"With a cookie alone, only same-origin requests may make changes (origin: {origin or 'not sent'}). "
                f"Send Authorization: Bearer <token>.",
            )
    return user


Caller = Annotated[BaseUser, Depends(_caller)]
"""The user of a request."""
ChangingCaller = Annotated[BaseUser, Depends(_changing_caller)]
"""The user of a request that changes something."""


def has_permission(method: _Method, dag_id: str, *, user: BaseUser, session: Session) -> bool:
    """Whether a user has a permission on the runs of a DAG.

    Args:
        method: ``GET`` to read, ``POST`` to start, ``PUT`` to change them.
        dag_id: The DAG.
        user: The user.
        session: A session of Airflow's database.
    """
    return get_auth_manager().is_authorized_dag(
        method=method,
        access_entity=DagAccessEntity.RUN,
        details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id, session=session)),
        user=user,
    )


def require_permission(method: _Method, dag_id: str, *, user: BaseUser, session: Session) -> None:
    """Require a permission on the runs of a DAG.

    Raises:
        ApiError: The user lacks the permission.
    """
    if not has_permission(method, dag_id, user=user, session=session):
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"You may not {_VERBS[method]} executions: you lack this permission on runs of {dag_id}.",
        )


def allowed_dags(method: _Method, *, user: BaseUser, session: Session) -> list[str]:
    """The execution DAGs on whose runs a user has a permission.

    Raises:
        ApiError: The user lacks the permission on all of them.
    """
    dag_ids = read_option(settings.execution_dags)
    found = [dag_id for dag_id in dag_ids if has_permission(method, dag_id, user=user, session=session)]
    if not found:
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"You may not {_VERBS[method]} executions: you lack this permission on runs of {', '.join(dag_ids)}.",
        )
    return found


def _own_origins(request: Request) -> set[str]:
    """The origins of this server's own pages: the host of the request, and that of ``[api] base_url``."""
    own = {f"{request.url.scheme}://{request.headers.get('host', '')}"}
    base = urlsplit(conf.get("api", "base_url", fallback=""))
    if base.scheme and base.netloc:
        own.add(f"{base.scheme}://{base.netloc}")
    return own
