"""A task that predicts one file, with no execution around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_batchexec import internals
from airflow_batchexec.engine.config.file_request import check_file_request, file_config
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
from airflow_batchexec.operators.file_attempt import FileAttempt
from airflow_batchexec.reporting.lineage import facets_of
from airflow_batchexec.runs.parse_time import check_literals, given, is_templated
from airflow_batchexec.runs.task_errors import as_task_failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

__all__ = ["PredictFileOperator"]

_FIELDS = (
    "file",
    "destination_folder",
    "model_id",
    "build_id",
    "input_file_type",
    "output_file_type",
    "access_token_name",
    "access_secret_name",
    "iam_role_arn",
    "service_account_key_secret_name",
    "file_timeout",
    "parameters",
    "instance",
    "cpus",
    "memory",
    "gpu_type",
    "gpu_amount",
)


class PredictFileOperator(BaseOperator):
    """Sends one file through a model's ``predict``.

    The task fetches the file, starts a predictor, calls ``predict``, and publishes the result under the file's name with
    the output's suffix, whole or not at all. It needs no plan and no finish task; nothing else is written to the
    destination, and nothing is locked. A retry or a clear predicts the file again. Mapped over a list of files, each may
    resolve to another build, if the model is deployed anew meanwhile and no ``build_id`` is given; and two files of the
    same name need different destination folders.

    Literal values are validated when the DAG is parsed; templates, and all values of a mapped task, when it runs. All
    arguments are templated. An argument that is ``None``, or renders to nothing, is unset. ``executor``, ``queue`` and
    ``executor_config`` of the task choose its machine; ``instance`` does not.

    Args:
        file: The file's URI.
        destination_folder: The URI of the folder of the result; it is made where it is missing.
        model_id: The model.
        build_id: The build; by default the one that is deployed when the task runs.
        input_file_type: How the file is read; by default as the suffix of its name tells.
        output_file_type: How the result is written; by default CSV.
        access_token_name: The name of the secret that holds the access key of both buckets.
        access_secret_name: The name of the secret that holds the secret key of both buckets.
        iam_role_arn: The AWS role that is assumed to reach the buckets.
        service_account_key_secret_name: The name of the secret that holds a Google Cloud service account's key.
        file_timeout: Seconds for reading, predicting and writing the file; 0 for no limit.
        parameters: What the model finds in its environment variables.
        instance: The instance of the pod; by default the deployment's, else small.
        cpus: In place of the instance's; may be a fraction.
        memory: In place of the instance's, in MiB.
        gpu_type: In place of the instance's.
        gpu_amount: In place of the instance's.
        batch_execution_conn_id: The connection.

    Returns:
        A dictionary: ``input`` and ``output``, each with ``uri``, ``size_bytes``, ``etag`` and ``rows``;
        ``seconds`` by step (``load``, ``fetch``, ``read``, ``predict``, ``write``, ``publish``); ``model_id`` and
        ``build_id``.

    Raises:
        ConfigurationError: While parsing: a literal value is wrong, or a required one is missing;
            ``details["field"]`` names it.
        ResultCollisionError: While parsing: the result would overwrite the file.
        AirflowFailException: The file failed, and a retry cannot help.
        AirflowException: The file failed, and a retry may help; or the task was terminated.

    Example::

        PredictFileOperator.partial(
            task_id="totals", destination_folder="s3://shop/totals/{{ ds }}", model_id="order_total"
        ).expand(file=arrived.output)
    """

    template_fields: Sequence[str] = (*_FIELDS, "batch_execution_conn_id")

    def __init__(
        self,
        *,
        file: str | None = None,
        destination_folder: str | None = None,
        model_id: str | None = None,
        build_id: str | None = None,
        input_file_type: str | None = None,
        output_file_type: str | None = None,
        access_token_name: str | None = None,
        access_secret_name: str | None = None,
        iam_role_arn: str | None = None,
        service_account_key_secret_name: str | None = None,
        file_timeout: int | str | None = None,
        parameters: Mapping[str, Any] | str | None = None,
        instance: str | None = None,
        cpus: float | str | None = None,
        memory: int | str | None = None,
        gpu_type: str | None = None,
        gpu_amount: int | str | None = None,
        batch_execution_conn_id: str = BatchExecutionHook.default_conn_name,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.file = file
        self.destination_folder = destination_folder
        self.model_id = model_id
        self.build_id = build_id
        self.input_file_type = input_file_type
        self.output_file_type = output_file_type
        self.access_token_name = access_token_name
        self.access_secret_name = access_secret_name
        self.iam_role_arn = iam_role_arn
        self.service_account_key_secret_name = service_account_key_secret_name
        self.file_timeout = file_timeout
        self.parameters = parameters
        self.instance = instance
        self.cpus = cpus
        self.memory = memory
        self.gpu_type = gpu_type
        self.gpu_amount = gpu_amount
        self.batch_execution_conn_id = batch_execution_conn_id
        self._attempt: FileAttempt | None = None
        # A mapped task is instantiated when it runs: an error here would be a failure that is retried.
        if not internals.is_made_by_mapping(self):
            self._check()

    def execute(self, context: Context) -> dict[str, Any]:
        """Predict the file."""
        internals.die_with_supervisor()
        with as_task_failure():
            self._attempt = FileAttempt(
                fields=self._given(),
                batch_execution_conn_id=self.batch_execution_conn_id,
                context=context,
                log=self.log,
            )
            return self._attempt.run()

    def get_openlineage_facets_on_complete(
        self,
        task_instance: RuntimeTaskInstanceProtocol,  # noqa: ARG002  the provider's signature
    ) -> Any:
        """Report the file and its result to OpenLineage."""
        return facets_of(self._attempt.lineage if self._attempt else None)

    def on_kill(self) -> None:
        """End the predictor; the file has no result."""
        if self._attempt is not None:
            self._attempt.kill()

    def _given(self) -> dict[str, Any]:
        return given({name: getattr(self, name) for name in _FIELDS})

    def _check(self) -> None:
        """Refuse what is already known to be wrong."""
        fields = self._given()
        literals = {name: value for name, value in fields.items() if not is_templated(value)}
        later = fields.keys() - literals.keys()
        if not later:
            file_config(fields)
            return
        check_file_request(literals, known_later=later)
        check_literals({"source_folder" if name == "file" else name: value for name, value in fields.items()})
        if not later & {"file", "destination_folder", "output_file_type"}:
            # These alone decide whether the result would overwrite the input.
            decide = {name: literals[name] for name in literals.keys() & {"file", "output_file_type"}}
            folder = literals["destination_folder"]
            file_config({"model_id": "any", "input_file_type": "CSV", "destination_folder": folder, **decide})
