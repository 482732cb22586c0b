"""Executions on this machine, without a server; used by the client and the command line."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_batchexec.client.interruption import signals_as_interrupts
from airflow_batchexec.client.local_settings import instance_table, repository
from airflow_batchexec.client.progress import progress_bar
from airflow_batchexec.engine.config.locations import AllowedLocations, Location, Scheme
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.engine.execution.ids import local_id
from airflow_batchexec.exceptions import ConfigurationError, ExecutionFailedError

if TYPE_CHECKING:
    from airflow_batchexec.client.progress import Bar
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.execution.manifest import ManifestHeader
    from airflow_batchexec.engine.execution.preparation import Prepared
    from airflow_batchexec.engine.running.local_execution import LocalExecution, Observer

__all__ = ["LocalRunResult", "local_execution", "local_folder", "run_locally"]

log = logging.getLogger(__name__)
_model_log = log.getChild("model")

_FILE_SCHEME = "file://"
_NO_BUCKET = "file:// folders are not in a bucket"
_NO_SECRETS = "secrets are on the server, and file:// folders do not need any"
_NO_MACHINE = "it selects a machine, and the execution runs on this one"
_NOT_LOCAL = {
    "bucket": _NO_BUCKET,
    "source_bucket": _NO_BUCKET,
    "destination_bucket": _NO_BUCKET,
    "access_token_name": _NO_SECRETS,
    "access_secret_name": _NO_SECRETS,
    "service_account_key_secret_name": _NO_SECRETS,
    "iam_role_arn": "roles are only for buckets",
    "purchase_option": _NO_MACHINE,
    "gpu_type": _NO_MACHINE,
}


@dataclass(frozen=True, kw_only=True)
class LocalRunResult:
    """The outcome of an execution on this machine.

    Attributes:
        execution_id: The ID of the execution.
        status: ``FINISHED``, ``FAILED``, ``CANCELLED`` or ``TIMEOUT``.
        reason: Why the execution did not finish; empty if it did.
        model_id: The model.
        build_id: The build.
        total_files: The number of input files.
        finished_files: The number of files with a result.
        failed_files: The number of files that were started but have no result.
        not_started_files: The number of files that were not started.
        skipped_files: The number of files in the source folder that are not of the input file type.
        rows: The number of rows in the results.
        seconds: The duration in seconds.
        destination: The folder with the results.
        manifest: The file that lists the outcome of each input file.
    """

    execution_id: str
    status: str
    reason: str
    model_id: str
    build_id: str
    total_files: int
    finished_files: int
    failed_files: int
    not_started_files: int
    skipped_files: int
    rows: int
    seconds: float
    destination: str
    manifest: str

    @cached_property
    def document(self) -> dict[str, Any]:
        """The contents of the manifest, read from its file on first use."""
        path = Location.parse(self.manifest).path
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return document

    @classmethod
    def of(cls, manifest: ManifestHeader) -> LocalRunResult:
        """Create a result from a manifest's header."""
        return cls(
            execution_id=manifest.execution_id,
            status=manifest.status.value,
            reason=manifest.reason,
            model_id=manifest.model_id,
            build_id=manifest.build_id,
            total_files=manifest.total_files,
            finished_files=manifest.finished_files,
            failed_files=manifest.failed_files,
            not_started_files=manifest.not_started_files,
            skipped_files=manifest.skipped_files,
            rows=manifest.rows,
            seconds=manifest.seconds,
            destination=manifest.destination,
            manifest=manifest.manifest,
        )


def local_folder(folder: str, field: str) -> str:
    """Return a file:// folder as an absolute URI. Existing calls use paths relative to the working folder.

    Raises:
        ConfigurationError: It is not a file:// folder.
    """
    path = folder.removeprefix(_FILE_SCHEME)
    if not folder.startswith(_FILE_SCHEME) or not path:
        raise ConfigurationError(
            f"{field}: {folder!r} is not a file:// folder. Local executions read and write file:// folders; executions "
            f"over buckets run on a server.",
            field=field,
        )
    return _FILE_SCHEME + str(Path(path).absolute())


def _check_local(config: ExecutionConfig) -> None:
    """Refuse fields that a local execution would have to ignore.

    Raises:
        ConfigurationError: A folder is not on this machine, or a field is set that does not apply here.
    """
    for name, location in (("source_folder", config.source), ("destination_folder", config.destination)):
        if location.scheme is not Scheme.FILE:
            raise ConfigurationError(f"{name}: {location.uri} is not on this machine.", field=name)
    fields = config.fields()
    for name, reason in _NOT_LOCAL.items():
        if name in fields:
            title = flat_fields()[name].schema["title"]
            raise ConfigurationError(
                f"{name}: {title} cannot be set for an execution on this machine: {reason}.", field=name
            )


def local_execution(
    config: ExecutionConfig, *, model_repository: str | None = None, observer: Observer | None = None
) -> LocalExecution:
    """Create an execution on this machine, ready to be prepared and run.

    Args:
        config: The configuration of the execution.
        model_repository: The model repository; defaults to that of the environment, then of Airflow's configuration.
        observer: The callbacks to notify of progress.

    Raises:
        ConfigurationError: The configuration does not work on this machine, or no model repository is configured.
    """
    # pandas and pyarrow are not loaded until something runs.
    from airflow_batchexec.engine.running.local_execution import LocalExecution  # noqa: PLC0415
    from airflow_batchexec.engine.storage import open_storage  # noqa: PLC0415

    _check_local(config)
    return LocalExecution(
        execution_id=local_id(),
        config=config,
        repository=repository(model_repository),
        instances=instance_table(),
        open_storage=open_storage,
        allowed=AllowedLocations((Location.parse("file:///"),)),
        observer=observer,
    )


def run_locally(
    config: ExecutionConfig, *, model_repository: str | None = None, progress: bool | None = None
) -> LocalRunResult:
    """Run an execution on this machine to completion.

    Model output and skipped files are logged to the loggers of this module.

    Args:
        config: The configuration of the execution.
        model_repository: As for ``local_execution``.
        progress: Whether to draw a bar on standard error; ``None``: only if it is a terminal.

    Raises:
        ExecutionFailedError: A file has no result; ``details["traceback"]`` is the model's traceback if it raised.
        BatchExecError: The execution is refused before any file is touched.
        KeyboardInterrupt: The call was interrupted; the pods have exited, and no partial results are left.
    """
    model_id = config.execution.model_id
    with signals_as_interrupts(), progress_bar(model_id, enabled=progress) as view:
        observer = _observer(view, f"{model_id} running")
        execution = local_execution(config, model_repository=model_repository, observer=observer)
        prepared = execution.prepare()
        conclusion = execution.run(prepared)
    manifest = conclusion.header
    if not manifest.has_finished:
        raise ExecutionFailedError(
            f"Execution {manifest.execution_id} is {manifest.status}: {manifest.reason}",
            execution_id=manifest.execution_id,
            status=manifest.status.value,
            reason=manifest.reason,
            manifest=manifest.manifest,
            traceback=conclusion.audit.traceback,
        )
    return LocalRunResult.of(manifest)


def _observer(view: Bar, text: str) -> Observer:
    from airflow_batchexec.engine.execution.ledger import FileStatus  # noqa: PLC0415  as above
    from airflow_batchexec.engine.running.local_execution import Observer  # noqa: PLC0415  as above

    def planned(prepared: Prepared) -> None:
        view.show(text, 0, prepared.spec.total_files)
        for file in prepared.plan.named_skipped:
            log.warning("Skipped %s: %s", file.file, file.reason)
        if prepared.plan.unnamed_skipped:
            log.warning(
                "%d more files were skipped; see %s.",
                prepared.plan.unnamed_skipped,
                prepared.spec.folder.skipped.uri,
            )

    def recorded(record: FileRecord) -> None:
        if record.status is FileStatus.FINISHED:
            view.advance(record.output.rows if record.output is not None else 0)

    return Observer(
        planned=planned,
        recorded=recorded,
        printed=lambda pod, _stream, line: _model_log.info("%s: %s", pod, line),
    )
