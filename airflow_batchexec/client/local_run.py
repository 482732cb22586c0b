"""Executions on this machine, with no server: what the client and the command line share of them."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_batchexec.client.interruption import ends_as_interrupts
from airflow_batchexec.client.local_settings import instance_table, repository
from airflow_batchexec.client.progress import bar
from airflow_batchexec.engine.config.locations import AllowedLocations, Location, Scheme
from airflow_batchexec.engine.config.sections import flat_fields
from airflow_batchexec.engine.execution.ids import local_id
from airflow_batchexec.exceptions import ConfigurationError, ExecutionFailedError

if TYPE_CHECKING:
    from airflow_batchexec.client.progress import Bar
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.execution.ledger import FileRecord
    from airflow_batchexec.engine.execution.lifecycle import Prepared
    from airflow_batchexec.engine.execution.manifest import Manifest
    from airflow_batchexec.engine.running.local import LocalExecution, Observer

__all__ = ["LocalRunResult", "local_execution", "local_folder", "run_here"]

logger = logging.getLogger(__name__)
_model_logger = logger.getChild("model")

_FOLDER = "file://"
_NO_BUCKET = "folders of this machine lie in no bucket"
_NO_SECRETS = "there are no secrets without a server, and folders of this machine need none"
_NO_MACHINE = "it chooses a machine, and this is the only one"
_NOT_LOCAL = {
    "bucket": _NO_BUCKET,
    "source_bucket": _NO_BUCKET,
    "destination_bucket": _NO_BUCKET,
    "access_token_name": _NO_SECRETS,
    "access_secret_name": _NO_SECRETS,
    "service_account_key_secret_name": _NO_SECRETS,
    "iam_role_arn": "roles are for buckets",
    "purchase_option": _NO_MACHINE,
    "gpu_type": _NO_MACHINE,
    "gpu_amount": "GPUs cannot be dealt out here. With an instance that has GPUs, a pod sees all of this machine's",
}


@dataclass(frozen=True, kw_only=True)
class LocalRunResult:
    """The account of an execution on this machine.

    Attributes:
        execution_id: Its id.
        status: ``FINISHED``, ``FAILED``, ``CANCELLED`` or ``TIMEOUT``.
        reason: Why it did not finish; empty where it did.
        model_id: Its model.
        build_id: Its build.
        total_files: How many files it had.
        finished_files: How many have their result.
        failed_files: How many were begun and have none.
        not_started_files: How many were not begun.
        skipped_files: How many files of the source folder are not of the input file type.
        rows: How many rows the results have.
        seconds: How long it took.
        destination: The folder of the results.
        manifest: The file that says what became of each file.
        document: What is in it.
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
    document: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, manifest: Manifest) -> LocalRunResult:
        """The account that a manifest gives."""
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
            document=manifest.to_dict(),
        )


def local_folder(folder: str, field: str) -> str:
    """A file:// folder; a relative one, which existing calls use, is taken from the working folder.

    Raises:
        ConfigurationError: It is none.
    """
    path = folder.removeprefix(_FOLDER)
    if not folder.startswith(_FOLDER) or not path:
        raise ConfigurationError(
            f"{field}: {folder!r} is no file:// folder. On this machine, executions read and write file:// folders; "
            f"those over buckets run on a server.",
            field=field,
        )
    return _FOLDER + str(Path(path).absolute())


def _check_local(config: ExecutionConfig) -> None:
    """Refuse what an execution on this machine could only ignore.

    Raises:
        ConfigurationError: A folder is not on this machine, or a field is set that means nothing here.
    """
    for name, location in (("source_folder", config.source), ("destination_folder", config.destination)):
        if location.scheme is not Scheme.FILE:
            raise ConfigurationError(f"{name}: {location.uri} does not lie on this machine.", field=name)
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
    """An execution on this machine, ready to be prepared and run.

    Args:
        config: What is to be executed.
        model_repository: Where builds lie; else the environment's, else that of Airflow's configuration.
        observer: What to tell of it.

    Raises:
        ConfigurationError: It asks for what this machine cannot do, or no model repository is named.
    """
    # pandas and pyarrow stay out until something runs.
    from airflow_batchexec.engine.running.local import LocalExecution  # noqa: PLC0415
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


def run_here(
    config: ExecutionConfig, *, model_repository: str | None = None, progress: bool | None = None
) -> LocalRunResult:
    """Run an execution on this machine to its end.

    What the model prints, and which files are skipped, goes to the loggers of this module.

    Args:
        config: What is to be executed.
        model_repository: As for ``local_execution``.
        progress: Whether to draw a bar on standard error; ``None``: where that is a terminal.

    Raises:
        ExecutionFailedError: A file has no result; ``details["traceback"]`` is the model's own, where it raised.
        BatchExecError: The execution is refused before any file is touched.
        KeyboardInterrupt: Somebody interrupted this: the pods have ended, and nothing partial is left.
    """
    model_id = config.execution.model_id
    with ends_as_interrupts(), bar(model_id, wanted=progress) as view:
        observer = _observer(view, f"{model_id} running")
        execution = local_execution(config, model_repository=model_repository, observer=observer)
        manifest = execution.run(execution.prepare())
    if not manifest.has_finished:
        raise ExecutionFailedError(
            f"The execution {manifest.execution_id} is {manifest.status}: {manifest.reason}",
            execution_id=manifest.execution_id,
            status=manifest.status.value,
            reason=manifest.reason,
            manifest=manifest.manifest,
            traceback=next((record.traceback for record in manifest.files if record.traceback), ""),
        )
    return LocalRunResult.of(manifest)


def _observer(view: Bar, text: str) -> Observer:
    from airflow_batchexec.engine.execution.ledger import FileStatus  # noqa: PLC0415  as above
    from airflow_batchexec.engine.running.local import Observer  # noqa: PLC0415  as above

    def planned(prepared: Prepared) -> None:
        view.show(text, 0, prepared.spec.total_files)
        for file in prepared.plan.skipped:
            logger.warning("Skipped %s: %s", file.file, file.reason)

    def recorded(record: FileRecord) -> None:
        if record.status is FileStatus.FINISHED:
            view.advance(record.output.rows if record.output is not None else 0)

    return Observer(
        planned=planned,
        recorded=recorded,
        printed=lambda pod, _stream, line: _model_logger.info("%s: %s", pod, line),
    )
