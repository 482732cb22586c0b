"""Who is calling, and what of the execution DAGs they may do: Airflow's own users, asked in Airflow's own way."""

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
from airflow_batchexec.api.errors import ApiError, configured

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

__all__ = ["Caller", "ChangingCaller", "check_may", "dags_for", "may"]

_Method = Literal["GET", "POST", "PUT"]
_DOING = {"GET": "read", "POST": "start", "PUT": "change"}
_bearer = HTTPBearer(
    auto_error=False, bearerFormat="JWT", description="A token of Airflow's: `POST /auth/token` gives one."
)
_Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


async def _caller(request: Request, credentials: _Credentials) -> BaseUser:
    """The user that a request comes from.

    Raises:
        ApiError: There is none, or the token is expired, revoked or forged.
    """
    try:
        user: BaseUser = await get_user(request, None, credentials)
    except HTTPException as error:
        # Airflow tells a token that it cannot read from one that is missing; for the caller both mean the same.
        raise ApiError(
            HTTPStatus.UNAUTHORIZED,
            f"{error.detail}. Send Authorization: Bearer <token>.",
            {"WWW-Authenticate": "Bearer"},
        ) from error
    return user


async def _changing_caller(
    request: Request, user: Annotated[BaseUser, Depends(_caller)], credentials: _Credentials
) -> BaseUser:
    """The user of a request that changes something: a browser's cookie alone must come from a page of this server.

    Raises:
        ApiError: There is no user, or the request may be another site's.
    """
    # Only a bearer token is sure to have been put there by whoever wrote the request: browsers add cookies, and also
    # the Authorization of a name and password, on their own.
    if credentials is None or credentials.scheme.lower() != "bearer":
        origin = request.headers.get("origin", "")
        if origin not in _own_origins(request):
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                f"A cookie alone may not change anything from another origin ({origin or 'none was sent'}). "
                f"Send Authorization: Bearer <token>.",
            )
    return user


Caller = Annotated[BaseUser, Depends(_caller)]
"""The user of a request."""
ChangingCaller = Annotated[BaseUser, Depends(_changing_caller)]
"""The user of a request that changes something."""


def may(method: _Method, dag_id: str, *, user: BaseUser, session: Session) -> bool:
    """Whether a user may do something with the runs of a DAG.

    Args:
        method: ``GET`` reads, ``POST`` starts and ``PUT`` changes them.
        dag_id: The DAG.
        user: Who.
        session: A session of Airflow's database.
    """
    return get_auth_manager().is_authorized_dag(
        method=method,
        access_entity=DagAccessEntity.RUN,
        details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id, session=session)),
        user=user,
    )


def check_may(method: _Method, dag_id: str, *, user: BaseUser, session: Session) -> None:
    """Refuse what a user may not do with the runs of a DAG.

    Raises:
        ApiError: They may not.
    """
    if not may(method, dag_id, user=user, session=session):
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"You may not {_DOING[method]} executions: you lack that right on runs of {dag_id}.",
        )


def dags_for(method: _Method, *, user: BaseUser, session: Session) -> list[str]:
    """The execution DAGs whose runs a user may read, or change.

    Raises:
        ApiError: None.
    """
    dag_ids = configured(settings.execution_dags)
    found = [dag_id for dag_id in dag_ids if may(method, dag_id, user=user, session=session)]
    if not found:
        raise ApiError(
            HTTPStatus.FORBIDDEN,
            f"You may not {_DOING[method]} executions: you lack that right on runs of {', '.join(dag_ids)}.",
        )
    return found


def _own_origins(request: Request) -> set[str]:
    """What a page of this server says where it comes from: the address that was called, or the one that users see."""
    own = {f"{request.url.scheme}://{request.headers.get('host', '')}"}
    base = urlsplit(conf.get("api", "base_url", fallback=""))
    if base.scheme and base.netloc:
        own.add(f"{base.scheme}://{base.netloc}")
    return own
