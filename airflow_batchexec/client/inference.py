"""Batch inference from Python: over folders of this machine, and over a frame."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_batchexec.client.frames import join_results, split_frame, whole_batch_size
from airflow_batchexec.client.interruption import ends_as_interrupts
from airflow_batchexec.client.local_run import LocalRunResult, local_folder, run_here
from airflow_batchexec.client.manager import BatchJobManagerClient
from airflow_batchexec.client.staged_run import run_staged
from airflow_batchexec.client.staging import StagingFolder
from airflow_batchexec.engine.config.model import ExecutionConfig
from airflow_batchexec.engine.standalone.file_types import FileType, result_name
from airflow_batchexec.exceptions import ConfigurationError, ExecutionFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas as pd

__all__ = ["BatchInferenceClient"]

# What the arguments here are called in the configuration, whose errors name its own fields.
_ARGUMENTS = {
    "file_timeout": "task_timeout",
    "pods": "executors",
    "gpu_amount": "gpus",
}


class BatchInferenceClient:
    """Sends files, or a frame, through a model.

    Args:
        model_id: The model of ``run``.
        build_id: The build of that model, instead of the one that is deployed.
        model_repository: Where builds lie, for what runs on this machine; else ``BATCHEXEC_MODEL_REPOSITORY``, else
            that of Airflow's configuration.
        manager: The client of the server, for frames that are staged; else one is made of the environment or the
            client's file where it is needed.
    """

    def __init__(
        self,
        model_id: str | None = None,
        build_id: str | None = None,
        *,
        model_repository: str | None = None,
        manager: BatchJobManagerClient | None = None,
    ) -> None:
        self.model_id = model_id
        self.build_id = build_id
        self._model_repository = model_repository
        self._manager = manager

    def local_file_run(
        self,
        model_id: str,
        source_folder: str,
        destination_folder: str,
        input_file_type: str,
        output_file_type: str | None = None,
        job_timeout: int = 0,
        task_timeout: int = 0,
        executors: int | None = None,
        cpus: float | None = None,
        memory: int | None = None,
        gpus: int = 0,
        gpu_type: str | None = None,
        iam_role_arn: str | None = None,
        build_id: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        instance: str = "",
    ) -> LocalRunResult:
        """Send the files of a folder of this machine through a model, on this machine, and wait for the end.

        Args:
            model_id: The model.
            source_folder: A ``file://`` folder; every file of the type in it, and in its subfolders, is read.
            destination_folder: A ``file://`` folder, made where it is missing. Results replace files of their names.
            input_file_type: CSV, Parquet or Feather.
            output_file_type: Likewise; the input's.
            job_timeout: Seconds that all of it may take; 0 for no limit.
            task_timeout: Seconds that one file may take; 0 for no limit.
            executors: How many files are predicted at once; the deployment's, else one.
            cpus: How many CPUs each of them has; the instance's.
            memory: How much memory each of them has, in MiB; the instance's.
            gpus: Refused: GPUs cannot be dealt out here. An instance with GPUs lets the model see this machine's.
            gpu_type: Refused likewise.
            iam_role_arn: Refused: roles are for buckets.
            build_id: The build, instead of the one that is deployed.
            parameters: What the model finds in its environment variables.
            instance: The instance; the deployment's, else small.

        Returns:
            The account of an execution all of whose files have their results.

        Raises:
            ExecutionFailedError: A file has no result; ``details`` hold ``status``, ``execution_id``, the model's own
                ``traceback`` where it raised, and ``manifest``, the file that says what became of each.
            ConfigurationError: An argument is wrong, or means nothing here.
            PlanningError: There is nothing to do, or results would collide.
            RepositoryError: There is no such build.
            KeyboardInterrupt: Somebody interrupted this: the model's processes have ended, and nothing partial is left.
        """
        if not input_file_type:
            raise ConfigurationError(
                "input_file_type: it is required; it selects the files of the source folder.",
                field="input_file_type",
            )
        return self._run_here(
            model_id=model_id,
            source_folder=local_folder(source_folder, "source_folder"),
            destination_folder=local_folder(destination_folder, "destination_folder"),
            input_file_type=input_file_type,
            output_file_type=output_file_type or input_file_type,
            job_timeout=job_timeout,
            file_timeout=task_timeout,
            pods=executors,
            cpus=cpus,
            memory=memory,
            gpu_amount=gpus,
            gpu_type=gpu_type,
            iam_role_arn=iam_role_arn,
            build_id=build_id,
            parameters=dict(parameters) if parameters else None,
            instance=instance,
        )

    def run(
        self,
        df: pd.DataFrame,
        batch_size: int,
        *,
        model_id: str | None = None,
        build_id: str | None = None,
        staging: str | None = None,
        keep: bool = False,
        input_file_type: str = "PARQUET",
        output_file_type: str | None = None,
        job_timeout: int = 0,
        task_timeout: int = 0,
        executors: int | None = None,
        cpus: float | None = None,
        memory: int | None = None,
        gpus: int = 0,
        gpu_type: str | None = None,
        iam_role_arn: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        instance: str = "",
        access_token_name: str | None = None,
        access_secret_name: str | None = None,
        service_account_key_secret_name: str | None = None,
        purchase_option: str | None = None,
        progress: bool | None = None,
    ) -> pd.DataFrame:
        """Send a frame through a model, in files of some rows each, and give the results as one frame in its order.

        Without ``staging`` this machine does it, in a temporary folder. With it, a server does: the files go to a new
        folder below ``staging``, with this machine's credentials, and that folder is removed in the end.

        Args:
            df: The frame. Its columns have unique names, which are texts. Its index is not part of what ``predict`` gets.
            batch_size: How many rows each call of ``predict`` gets; the last gets what is left. A frame without rows is
                one call without rows.
            model_id: The model, instead of the client's own.
            build_id: The build, likewise.
            staging: An ``s3://``, ``gs://`` or ``file://`` folder that this machine and the server reach.
            keep: Whether the folder below ``staging`` stays.
            input_file_type: What the files are. CSV does not keep all types of values.
            output_file_type: What the results are; the input's.
            job_timeout: Seconds that all of it may take; 0 for no limit.
            task_timeout: Seconds that one call may take; 0 for no limit.
            executors: How many calls there are at once; the deployment's.
            cpus: How many CPUs each of them has; the instance's.
            memory: How much memory each of them has, in MiB; the instance's.
            gpus: How many GPUs each of them has; with ``staging`` only, as all that follows but ``parameters`` and
                ``instance``.
            gpu_type: Which GPUs.
            iam_role_arn: The role by which the server reaches the folder.
            parameters: What the model finds in its environment variables.
            instance: The instance; the deployment's, else small.
            access_token_name: The name of the server's secret that holds the access key of the folder's bucket.
            access_secret_name: The name of the one that holds its secret key.
            service_account_key_secret_name: The name of the one that holds the Google Cloud key.
            purchase_option: ``spot`` or ``on-demand``.
            progress: Whether to draw a bar on standard error; ``None``: where that is a terminal.

        Returns:
            What ``predict`` gave. Its index is that of ``df`` where each call gave as many rows as it got, else a new
            numbering.

        Raises:
            ExecutionFailedError: A file has no result.
            ResultError: ``predict`` gave other columns for one batch than for another.
            ConfigurationError: An argument is wrong, or means nothing without ``staging``.
            PlanningError: The server refuses the execution.
            RepositoryError: There is no such build.
            StorageError: The folder below ``staging`` cannot be written or read.
            ServerError: The server gives no answer, or no right.
            KeyboardInterrupt: Somebody interrupted this: the execution is cancelled.
        """
        size = whole_batch_size(batch_size)
        read = _file_type(input_file_type, "input_file_type")
        written = _file_type(output_file_type or input_file_type, "output_file_type")
        fields = {
            "model_id": model_id or self.model_id,
            "build_id": build_id or (self.build_id if model_id in (None, self.model_id) else None),
            "input_file_type": read,
            "output_file_type": written,
            "job_timeout": job_timeout,
            "file_timeout": task_timeout,
            "pods": executors,
            "cpus": cpus,
            "memory": memory,
            "gpu_amount": gpus,
            "gpu_type": gpu_type,
            "iam_role_arn": iam_role_arn,
            "parameters": dict(parameters) if parameters else None,
            "instance": instance,
            "access_token_name": access_token_name,
            "access_secret_name": access_secret_name,
            "service_account_key_secret_name": service_account_key_secret_name,
            "purchase_option": purchase_option,
        }
        if staging is None and keep:
            raise ConfigurationError("keep: there is nothing to keep without staging.", field="keep")
        with ends_as_interrupts(), tempfile.TemporaryDirectory(prefix="batchexec-run-") as scratch:
            source, destination = Path(scratch, "in"), Path(scratch, "out")
            source.mkdir()
            destination.mkdir()
            parts = split_frame(df, size, source, read)
            names = [result_name(path.name, read, written) for path in parts]
            if staging is None:
                folders = {"source_folder": f"file://{source}", "destination_folder": f"file://{destination}"}
                try:
                    self._run_here(**fields, **folders, progress=progress)
                except ExecutionFailedError as error:
                    # It lies in the folder that is about to be removed.
                    del error.details["manifest"]
                    raise
            else:
                self._run_there(
                    fields,
                    StagingFolder(staging),
                    parts=parts,
                    names=names,
                    results=destination,
                    keep=keep,
                    progress=progress,
                )
            return join_results(df, size, [destination / name for name in names], written)

    def _run_there(
        self,
        fields: dict[str, Any],
        place: StagingFolder,
        **arguments: Any,
    ) -> None:
        with _names_of_arguments():
            config = _config(
                **fields, source_folder=place.source.uri, destination_folder=place.destination.uri
            )
        run_staged(self._server(), config, place, **arguments)

    def _run_here(self, *, progress: bool | None = None, **fields: Any) -> LocalRunResult:
        with _names_of_arguments():
            return run_here(_config(**fields), model_repository=self._model_repository, progress=progress)

    def _server(self) -> BatchJobManagerClient:
        self._manager = self._manager or BatchJobManagerClient()
        return self._manager


def _config(**fields: Any) -> ExecutionConfig:
    return ExecutionConfig.from_fields(**{name: value for name, value in fields.items() if value})


def _file_type(value: str, field: str) -> FileType:
    try:
        return FileType.parse(value)
    except ValueError as error:
        raise ConfigurationError(f"{field}: {error}", field=field) from None


@contextmanager
def _names_of_arguments() -> Iterator[None]:
    """Let errors name the arguments in place of the configuration's own fields."""
    try:
        yield
    except ConfigurationError as error:
        field = error.details.get("field", "")
        if field not in _ARGUMENTS:
            raise
        name = _ARGUMENTS[field]
        raise ConfigurationError(
            name + error.message.removeprefix(field), **{**error.details, "field": name}
        ) from None
