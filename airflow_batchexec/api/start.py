"""Starting an execution: everything that can be refused at once is, and of equal starts exactly one goes through."""

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
from airflow_batchexec.api.auth import check_may
from airflow_batchexec.api.build_check import check_build
from airflow_batchexec.api.database import dag_bag, in_transaction
from airflow_batchexec.api.errors import ApiError, configured
from airflow_batchexec.engine.config.model import ExecutionConfig, flat_fields
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

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True, slots=True)
class _Start:
    """A valid request.

    Attributes:
        fields: What it says, by flat name.
        config: The configuration, with what the DAG adds.
        conf: What the run is given.
    """

    fields: dict[str, Any]
    config: ExecutionConfig
    conf: dict[str, Any]


def start(body: Any, *, idempotency_key: str | None, user: BaseUser) -> str:
    """Start an execution.

    Args:
        body: The request, as JSON.
        idempotency_key: What makes a repetition of this start give the same execution; ``None`` for nothing.
        user: Who starts it.

    Returns:
        The execution's id.

    Raises:
        ApiError: It is refused.
        BatchExecError: Likewise, by the configuration or the model repository.
    """
    dag_id = configured(settings.execution_dags)[0]
    in_transaction(lambda session: check_may("POST", dag_id, user=user, session=session))
    key = _digest_of_key(idempotency_key, user)
    request = read_start_request(body)
    defaults, connection = in_transaction(lambda session: _of_dag(session, dag_id))
    try:
        wanted = _validated(request.fields, defaults)
    except ConfigurationError as error:
        raise _as_written(error, request.paths) from error
    # Before all that may have changed since: a repetition is not asked whether it could start now.
    known = in_transaction(lambda session: _find_known(session, dag_id, wanted, key=key))
    if known is None:
        check_build(wanted.config, batch_execution_conn_id=connection)
    client = {
        **({WARNINGS: request.warnings} if request.warnings else {}),
        **({IDEMPOTENCY_KEY: key} if key else {}),
    }
    conf = {**wanted.conf, **({CLIENT_KEY: client} if client else {})}
    try:
        outcome = in_transaction(
            lambda session: _start_once(session, dag_id, wanted, conf=conf, key=key, user=user)
        )
    except IntegrityError:
        # Somebody else has created a run of this id since the transaction looked.
        outcome = in_transaction(
            lambda session: (
                _find_known(session, dag_id, wanted, key=key)
                or _find_twin(session, wanted)
                or ApiError(HTTPStatus.CONFLICT, "Another start came first. Try again.")
            )
        )
    if isinstance(outcome, ApiError):
        raise outcome
    return outcome


def _digest_of_key(key: str | None, user: BaseUser) -> str:
    """The key as it is stored: of one user's own, and not to be read back."""
    if key is None:
        return ""
    if not _KEY.fullmatch(key):
        raise ApiError(
            HTTPStatus.BAD_REQUEST, "Idempotency-Key: it should be 1 to 255 visible ASCII characters."
        )
    return hashlib.sha256(f"{user.get_id()}\0{key}".encode()).hexdigest()


def _of_dag(session: Session, dag_id: str) -> tuple[dict[str, Any], str]:
    """The parameters that a DAG has by default, and the connection of its task that plans."""
    dag = dag_bag().get_latest_version_of_dag(dag_id, session=session)
    if dag is None:
        raise _no_dag(dag_id, "is not there")
    plan = dag.task_dict.get(PLAN_TASK_ID)
    return queries.default_params(dag), str(getattr(plan, "batch_execution_conn_id", "") or "")


def _validated(fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> _Start:
    """The request with what the DAG's own defaults add, checked as far as it can be from here.

    Raises:
        ConfigurationError: A value is wrong, or a location is not allowed; ``details["field"]`` is the flat name.
    """
    table = flat_fields()
    by_default = {name: value for name, value in defaults.items() if name in table}
    allowed, instances = configured(settings.allowed_locations), configured(settings.instance_table)
    config = ExecutionConfig.from_fields(**{**by_default, **fields})
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
    # Where the request says what a field is by default, the DAG's own default must not come back.
    conf = {name: fields[name] for name in fields if name in by_default} | config.fields()
    return _Start(dict(fields), config, conf)


def _as_written(error: ConfigurationError, paths: Mapping[str, str]) -> ConfigurationError:
    """The error with the field as the sender wrote it, who may not know the flat names."""
    field = str(error.details.get("field", ""))
    path = paths.get(field, field)
    message = error.message
    if path != field:
        named, separator, reason = message.partition(": ")
        message = f"{path}: {reason}" if separator and named == field else f"{path}: {message}"
    return ConfigurationError(message, **{**error.details, "field": path})


def _start_once(
    session: Session, dag_id: str, wanted: _Start, *, conf: dict[str, Any], key: str, user: BaseUser
) -> str | ApiError:
    """Create the run, unless it is there; whatever comes of it, the audit log is told in the same transaction."""
    said: dict[str, Any] = {
        "method": "POST",
        "model_id": wanted.config.execution.model_id,
        "build_id": wanted.config.execution.build_id or "",
        "source": wanted.config.source.uri,
        "destination": wanted.config.destination.uri,
    }
    # The first statement writes: from here on SQLite lets nobody else, as the lock on the DAG's row does elsewhere.
    entry = queries.add_audit_entry(
        session, "start_batch_job", user=user.get_name(), dag_id=dag_id, run_id=None, said=said
    )
    dag = queries.lock_dag(session, dag_id)
    outcome = (
        _find_known(session, dag_id, wanted, key=key)
        or _refusal_of_dag(dag_id, dag)
        or _find_twin(session, wanted)
        or _create(session, dag_id, wanted, conf=conf, user=user)
    )
    if isinstance(outcome, ApiError):
        entry.extra = queries.as_json({**said, "refused": outcome.message})
    else:
        entry.run_id = outcome
    return outcome


def _refusal_of_dag(dag_id: str, dag: Any) -> ApiError | None:
    if dag is None or dag.is_stale:
        return _no_dag(dag_id, "is not there")
    if dag.has_import_errors:
        return _no_dag(dag_id, "cannot be imported")
    if dag.allowed_run_types is not None and DagRunType.MANUAL not in dag.allowed_run_types:
        return _no_dag(dag_id, "takes no manual runs")
    if dag.is_paused:
        return ApiError(
            HTTPStatus.CONFLICT, f"The DAG {dag_id} is paused, so nothing it is given would run. Unpause it."
        )
    return None


def _find_known(session: Session, dag_id: str, wanted: _Start, *, key: str) -> str | ApiError | None:
    """The execution that was started with this key, or the refusal because that was another request."""
    found = queries.run_of_key(session, dag_id, key) if key else None
    if found is None:
        return None
    run_id, conf = found
    if {name: value for name, value in conf.items() if name != CLIENT_KEY} == wanted.conf:
        return run_id
    return ApiError(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        f"Idempotency-Key: the execution {run_id} was started with this key, by another request.",
    )


def _find_twin(session: Session, wanted: _Start) -> ApiError | None:
    """The refusal because an equal execution is at work."""
    identity = _identity(wanted.config)
    model_id = wanted.config.execution.model_id
    defaults: dict[str, dict[str, Any]] = {}
    for dag, run_id, conf in queries.active_runs(session, settings.execution_dags()):
        if dag not in defaults:
            defaults[dag] = queries.params_of(session, dag)
        fields = {**defaults[dag], **conf}
        # Most runs are of other models; to find that out takes no configuration.
        if str(fields.get("model_id", "")).strip() != model_id:
            continue
        config = _config_of(fields)
        if config is not None and _identity(config) == identity:
            return ApiError(
                HTTPStatus.CONFLICT,
                f"The execution {run_id} has the same model, build, source and destination, and has not ended.",
            )
    return None


def _create(
    session: Session, dag_id: str, wanted: _Start, *, conf: dict[str, Any], user: BaseUser
) -> str | ApiError:
    dag: SerializedDAG | None = dag_bag().get_latest_version_of_dag(dag_id, session=session)
    if dag is None:
        return _no_dag(dag_id, "is not there")
    prefix = rest_prefix(_identity(wanted.config))
    run_id = next_rest_id(prefix, queries.run_ids_like(session, dag_id, prefix))
    try:
        # As Airflow's own call does that starts a run, except that the id is made here.
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
    """What may run once at a time. The build is the one that is asked for: which one is live, only the plan decides."""
    return config.identity(build_id=config.execution.build_id or "").digest


def _config_of(fields: Mapping[str, Any]) -> ExecutionConfig | None:
    """The configuration of a run that somebody has started; ``None`` where its plan will refuse it."""
    table = flat_fields()
    try:
        return ExecutionConfig.from_fields(**{name: value for name, value in fields.items() if name in table})
    except BatchExecError:
        return None


def _no_dag(dag_id: str, what: str) -> ApiError:
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        f"The DAG {dag_id} {what}. It is the first of [batchexec] execution_dags, whose runs are executions.",
    )
