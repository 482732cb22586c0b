"""Starts an execution: refuses early whatever can be checked here, and admits one of several identical starts."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from airflow.exceptions import ParamValidationError
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy.exc import IntegrityError

from airflow_batchexec import settings
from airflow_batchexec.api import queries
from airflow_batchexec.api.auth import require_permission
from airflow_batchexec.api.build_check import check_build
from airflow_batchexec.api.database import dag_bag, in_transaction
from airflow_batchexec.api.errors import ApiError, read_option
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.engine.execution.ids import next_rest_id, rest_prefix
from airflow_batchexec.exceptions import BatchExecError, ConfigurationError
from airflow_batchexec.names import CLIENT_KEY, IDEMPOTENCY_KEY, PLAN_TASK_ID, WARNINGS
from airflow_batchexec.wire.request import read_start_request

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
    from airflow.serialization.definitions.dag import SerializedDAG
    from sqlalchemy.orm import Session

__all__ = ["start"]

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class _StartSpec:
    """A validated request.

    Attributes:
        config: The configuration, including the DAG's defaults.
        conf: The conf for the run.
    """

    config: ExecutionConfig
    conf: dict[str, Any]


def start(body: Any, *, idempotency_key: str | None, user: BaseUser) -> str:
    """Start an execution.

    Args:
        body: The parsed JSON of the request.
        idempotency_key: Starts with the same key return the same execution; ``None`` to start without a key.
        user: The user.

    Returns:
        The execution's ID.

    Raises:
        ApiError: The start is refused.
        BatchExecError: The configuration or the model repository refuses the start.
    """
    dag_id = read_option(settings.execution_dags)[0]
    in_transaction(lambda session: require_permission("POST", dag_id, user=user, session=session))
    key = _digest_of_key(idempotency_key, user)
    request = read_start_request(body)
    defaults, connection = in_transaction(lambda session: _dag_defaults(session, dag_id))
    try:
        spec = _validate(request.fields, defaults)
    except ConfigurationError as error:
        raise _with_sent_path(error, request.paths) from error
    # First, because a repeated start succeeds even if the same start would be refused now.
    known = in_transaction(lambda session: _find_by_key(session, dag_id, spec, key=key))
    if known is None:
        check_build(spec.config, batch_execution_conn_id=connection)
    client = {
        **({WARNINGS: request.warnings} if request.warnings else {}),
        **({IDEMPOTENCY_KEY: key} if key else {}),
    }
    conf = {**spec.conf, **({CLIENT_KEY: client} if client else {})}
    try:
        outcome = in_transaction(
            lambda session: _start_once(session, dag_id, spec, conf=conf, key=key, user=user)
        )
    except IntegrityError:
        # Another request created this run ID concurrently.
        outcome = in_transaction(
            lambda session: (
                _find_by_key(session, dag_id, spec, key=key)
                or _check_duplicate(session, spec)
                or ApiError(HTTPStatus.CONFLICT, "A concurrent start took this run ID. Try again.")
            )
        )
    if isinstance(outcome, ApiError):
        raise outcome
    return outcome


def _digest_of_key(key: str | None, user: BaseUser) -> str:
    """The key as stored: scoped to the user, and not reversible."""
    if key is None:
        return ""
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise ApiError(HTTPStatus.BAD_REQUEST, "Idempotency-Key: must be 1 to 255 visible ASCII characters.")
    return hashlib.sha256(f"{user.get_id()}\0{key}".encode()).hexdigest()


def _dag_defaults(session: Session, dag_id: str) -> tuple[dict[str, Any], str]:
    """The default parameters of a DAG, and the connection of its plan task."""
    dag = dag_bag().get_latest_version_of_dag(dag_id, session=session)
    if dag is None:
        raise _dag_unavailable(dag_id, "does not exist")
    plan = dag.task_dict.get(PLAN_TASK_ID)
    return queries.default_params(dag), str(getattr(plan, "batch_execution_conn_id", "") or "")


def _validate(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> _StartSpec:
    """Combine a request with the DAG's defaults, and validate it as far as the API server can.

    Raises:
        ConfigurationError: A value is invalid, or a location is not allowed; ``details["field"]`` is the flat name.
    """
    table = flat_fields()
    dag_defaults = {name: value for name, value in defaults.items() if name in table}
    allowed, instances = read_option(settings.allowed_locations), read_option(settings.instance_table)
    config = ExecutionConfig.from_fields(**{**dag_defaults, **fields})
    allowed.check(config.source, field="source_folder")
    allowed.check(config.destination, field="destination_folder")
    instances.resolve(
        requested=config.resources.instance_size,
        deployed=None,
        cpus=config.resources.cpus,
        memory_mib=config.resources.memory,
        gpu_type=config.resources.gpu_type,
        gpu_amount=config.resources.gpu_amount,
    )
    # Keep values that equal a parameter's own default, or the DAG's default would replace them.
    conf = {name: fields[name] for name in fields if name in dag_defaults} | config.fields()
    return _StartSpec(config, conf)


def _with_sent_path(error: ConfigurationError, paths: Mapping[str, str]) -> ConfigurationError:
    """The error with the field's path in the request, since the sender may not know the flat name."""
    field = str(error.details.get("field", ""))
    path = paths.get(field, field)
    message = error.message
    if path != field:
        prefix, separator, reason = message.partition(": ")
        message = f"{path}: {reason}" if separator and prefix == field else f"{path}: {message}"
    return ConfigurationError(message, **{**error.details, "field": path})


def _start_once(
    session: Session, dag_id: str, spec: _StartSpec, *, conf: dict[str, Any], key: str, user: BaseUser
) -> str | ApiError:
    """Create the run unless it exists; the outcome goes to the audit log in the same transaction."""
    extra: dict[str, Any] = {
        "method": "POST",
        "model_id": spec.config.execution.model_id,
        "build_id": spec.config.execution.build_id or "",
        "source": spec.config.source.uri,
        "destination": spec.config.destination.uri,
    }
    # The first statement must write: it locks the database in SQLite, as the lock on the DAG's row does elsewhere.
    entry = queries.add_audit_entry(
        session, "start_batch_job", user=user.get_name(), dag_id=dag_id, run_id=None, extra=extra
    )
    dag = queries.lock_dag(session, dag_id)
    outcome = (
        _find_by_key(session, dag_id, spec, key=key)
        or _check_dag(dag_id, dag)
        or _check_duplicate(session, spec)
        or _create(session, dag_id, spec, conf=conf, user=user)
    )
    if isinstance(outcome, ApiError):
        entry.extra = queries.as_json({**extra, "refused": outcome.message})
    else:
        entry.run_id = outcome
    return outcome


def _check_dag(dag_id: str, dag: Any) -> ApiError | None:
    if dag is None or dag.is_stale:
        return _dag_unavailable(dag_id, "does not exist")
    if dag.has_import_errors:
        return _dag_unavailable(dag_id, "has import errors")
    if dag.allowed_run_types is not None and DagRunType.MANUAL not in dag.allowed_run_types:
        return _dag_unavailable(dag_id, "does not allow manual runs")
    if dag.is_paused:
        return ApiError(
            HTTPStatus.CONFLICT, f"The DAG {dag_id} is paused, so the execution would not run. Unpause it."
        )
    return None


def _find_by_key(session: Session, dag_id: str, spec: _StartSpec, *, key: str) -> str | ApiError | None:
    """The execution that was started with this key; a refusal if it was started by a different request."""
    found = queries.find_run_by_key(session, dag_id, key) if key else None
    if found is None:
        return None
    run_id, conf = found
    if {name: value for name, value in conf.items() if name != CLIENT_KEY} == spec.conf:
        return run_id
    return ApiError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"Idempotency-Key: execution {run_id} was started with this key by a different request.",
    )


def _check_duplicate(session: Session, spec: _StartSpec) -> ApiError | None:
    """A refusal if an identical execution is active."""
    identity = _identity(spec.config)
    model_id = spec.config.execution.model_id
    defaults: dict[str, dict[str, Any]] = {}
    for dag, run_id, conf in queries.active_runs(session, settings.execution_dags()):
        if dag not in defaults:
            defaults[dag] = queries.load_default_params(session, dag)
        fields = {**defaults[dag], **conf}
        # Most runs are of other models; skip them without parsing their configuration.
        if str(fields.get("model_id", "")).strip() != model_id:
            continue
        config = _parse_config(fields)
        if config is not None and _identity(config) == identity:
            return ApiError(
                HTTPStatus.CONFLICT,
                f"Execution {run_id} with the same model, build, source and destination has not ended.",
            )
    return None


def _create(
    session: Session, dag_id: str, spec: _StartSpec, *, conf: dict[str, Any], user: BaseUser
) -> str | ApiError:
    dag: SerializedDAG | None = dag_bag().get_latest_version_of_dag(dag_id, session=session)
    if dag is None:
        return _dag_unavailable(dag_id, "does not exist")
    prefix = rest_prefix(_identity(spec.config))
    run_id = next_rest_id(prefix, queries.run_ids_with_prefix(session, dag_id, prefix))
    try:
        # As in Airflow's own API, except for the run ID.
        dag.create_dagrun(
            run_id=run_id,
            run_after=datetime.now(UTC),
            conf=conf,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.REST_API,
            triggering_user_name=user.get_name(),
            state=DagRunState.QUEUED,
            session=session,
        )
    except (ParamValidationError, ValueError) as error:
        return ApiError(HTTPStatus.BAD_REQUEST, str(error).partition("\n")[0])
    session.flush()
    return run_id


def _identity(config: ExecutionConfig) -> str:
    """The identity for the concurrency rule, with the requested build: only the plan knows which build is live."""
    return config.identity(build_id=config.execution.build_id or "").digest


def _parse_config(fields: Mapping[str, Any]) -> ExecutionConfig | None:
    """The configuration of an existing run; ``None`` if it is invalid, so that the plan will refuse it."""
    table = flat_fields()
    try:
        return ExecutionConfig.from_fields(**{name: value for name, value in fields.items() if name in table})
    except BatchExecError:
        return None


def _dag_unavailable(dag_id: str, problem: str) -> ApiError:
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"The DAG {dag_id} {problem}. Executions are started as runs of the first DAG in [batchexec] execution_dags.",
    )
