"""Batch inference from Python: over local folders, and over DataFrames."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_batchexec.client.frames import check_batch_size, join_results, split_frame
from airflow_batchexec.client.interruption import signals_as_interrupts
from airflow_batchexec.client.local_run import LocalRunResult, local_folder, run_locally
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

# The argument for each configuration field with a different name, for error messages.
_ARGUMENTS = {
    "file_timeout": "task_timeout",
    "pods": "executors",
    "gpu_amount": "gpus",
}


class BatchInferenceClient:
    """Runs a model over files or a frame.

    Args:
        model_id: The default model of ``run``.
        build_id: The build of that model; defaults to the deployed one.
        model_repository: The model repository for local runs; defaults to ``BATCHEXEC_MODEL_REPOSITORY``, then to that
            of Airflow's configuration.
        manager: The client for the server that processes staged frames; by default one is created on first use from the
            environment or the configuration file.
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
        """Run a model over the files of a local folder, on this machine, and wait for it to finish.

        Args:
            model_id: The model.
            source_folder: A ``file://`` folder; all files of the type are read, including those in subfolders.
            destination_folder: A ``file://`` folder, created if missing. Results overwrite existing files.
            input_file_type: CSV, Parquet or Feather.
            output_file_type: CSV, Parquet or Feather; defaults to the input file type.
            job_timeout: The maximum duration of the whole run in seconds; 0 for no limit.
            task_timeout: The maximum duration per file in seconds; 0 for no limit.
            executors: The number of files to predict in parallel; defaults to that of the deployment, else 1.
            cpus: The number of CPUs per executor; defaults to that of the instance.
            memory: The memory per executor in MiB; defaults to that of the instance.
            gpus: The number of GPUs per executor; defaults to that of the instance.
            gpu_type: Refused: it selects a machine, and the run is on this one.
            iam_role_arn: Refused: roles are only for buckets.
            build_id: The build; defaults to the deployed one.
            parameters: Environment variables for the model.
            instance: The instance; defaults to that of the deployment, else ``small``.

        Returns:
            The outcome of an execution in which every file has a result.

        Raises:
            ExecutionFailedError: A file has no result; ``details`` contain ``status``, ``execution_id``, the model's
                ``traceback`` if it raised, and ``manifest``, the file that lists the outcome of each input file.
            ConfigurationError: An argument is invalid, or does not apply to local runs.
            PlanningError: There are no input files, or results would collide.
            RepositoryError: The build does not exist.
            KeyboardInterrupt: The call was interrupted; the model's processes have exited, and no partial results
                are left.
        """
        if not input_file_type:
            raise ConfigurationError(
                "input_file_type: it is required; it selects the files of the source folder.",
                field="input_file_type",
            )
        return self._run_locally(
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
        """Run a model over a frame in batches, and return the results as one frame in the same order.

        Without ``staging``, the model runs on this machine, in a temporary folder. With ``staging``, it runs on a
        server: this machine uploads the batches with its own credentials to a new folder below ``staging``, which is
        removed at the end.

        Args:
            df: The frame. Its column names must be unique strings. Its index is not passed to ``predict``.
            batch_size: The number of rows per ``predict`` call; the last call may get fewer. A frame without rows is a
                single call without rows.
            model_id: The model; defaults to that of the client.
            build_id: The build; defaults to that of the client if ``model_id`` is the client's, else the deployed one.
            staging: An ``s3://``, ``gs://`` or ``file://`` folder that both this machine and the server can access.
            keep: Whether to keep the folder below ``staging``.
            input_file_type: The type of the batch files. CSV does not preserve all data types.
            output_file_type: The type of the result files; defaults to the input file type.
            job_timeout: The maximum duration of the whole run in seconds; 0 for no limit.
            task_timeout: The maximum duration per call in seconds; 0 for no limit.
            executors: The number of parallel calls; defaults to that of the deployment.
            cpus: The number of CPUs per executor; defaults to that of the instance.
            memory: The memory per executor in MiB; defaults to that of the instance.
            gpus: The number of GPUs per executor; defaults to that of the instance.
            gpu_type: The GPU type. This and all following arguments except ``parameters``, ``instance`` and ``progress``
                require ``staging``.
            iam_role_arn: The role that the server assumes to access the folder.
            parameters: Environment variables for the model.
            instance: The instance; defaults to that of the deployment, else ``small``.
            access_token_name: The name of the server's secret with the access key for the bucket.
            access_secret_name: The name of the server's secret with the secret key for the bucket.
            service_account_key_secret_name: The name of the server's secret with the Google Cloud key.
            purchase_option: ``spot`` or ``on-demand``.
            progress: Whether to draw a bar on standard error; ``None``: only if it is a terminal.

        Returns:
            What ``predict`` returned. It has the index of ``df`` if every call returned as many rows as it got, else a
            default index.

        Raises:
            ExecutionFailedError: A file has no result.
            ResultError: ``predict`` returned different columns for different batches.
            ConfigurationError: An argument is invalid, or requires ``staging``.
            PlanningError: The server refused the execution.
            RepositoryError: The build does not exist.
            StorageError: The folder below ``staging`` cannot be written or read.
            ServerError: The server did not respond, or the user lacks the permission.
            KeyboardInterrupt: The call was interrupted; the execution is cancelled.
        """
        size = check_batch_size(batch_size)
        input_type = _file_type(input_file_type, "input_file_type")
        output_type = _file_type(output_file_type or input_file_type, "output_file_type")
        fields = {
            "model_id": model_id or self.model_id,
            "build_id": build_id or (self.build_id if model_id in (None, self.model_id) else None),
            "input_file_type": input_type,
            "output_file_type": output_type,
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
            raise ConfigurationError("keep: it requires staging.", field="keep")
        with signals_as_interrupts(), tempfile.TemporaryDirectory(prefix="batchexec-run-") as scratch:
            source, destination = Path(scratch, "in"), Path(scratch, "out")
            source.mkdir()
            destination.mkdir()
            parts = split_frame(df, size, source, input_type)
            names = [result_name(path.name, input_type, output_type) for path in parts]
            if staging is None:
                folders = {"source_folder": f"file://{source}", "destination_folder": f"file://{destination}"}
                try:
                    self._run_locally(**fields, **folders, progress=progress)
                except ExecutionFailedError as error:
                    # The manifest is in the temporary folder, which is about to be removed.
                    del error.details["manifest"]
                    raise
            else:
                self._run_on_server(
                    fields,
                    StagingFolder(staging),
                    parts=parts,
                    names=names,
                    results=destination,
                    keep=keep,
                    progress=progress,
                )
            return join_results(df, size, [destination / name for name in names], output_type)

    def _run_on_server(
        self,
        fields: dict[str, Any],
        staging_folder: StagingFolder,
        **arguments: Any,
    ) -> None:
        with _argument_names_in_errors():
            config = _config(
                **fields,
                source_folder=staging_folder.source.uri,
                destination_folder=staging_folder.destination.uri,
            )
        run_staged(self._get_manager(), config, staging_folder, **arguments)

    def _run_locally(self, *, progress: bool | None = None, **fields: Any) -> LocalRunResult:
        with _argument_names_in_errors():
            return run_locally(_config(**fields), model_repository=self._model_repository, progress=progress)

    def _get_manager(self) -> BatchJobManagerClient:
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
def _argument_names_in_errors() -> Iterator[None]:
    """Make configuration errors name the argument instead of the configuration field."""
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
