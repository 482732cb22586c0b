"""A file, or the files of one pod, through ``predict``: the mapped task of an execution, or a task on its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from airflow_batchexec import internals
from airflow_batchexec.engine.config.file_request import check_file_request, file_config
from airflow_batchexec.exceptions import ConfigurationError
from airflow_batchexec.hooks.batch_execution import BatchExecutionHook
from airflow_batchexec.operators.file_attempt import SingleFile
from airflow_batchexec.operators.shard_attempt import ShareOfPlan
from airflow_batchexec.reporting.lineage import facets_of
from airflow_batchexec.runs.parse_time import check_literals, given, is_templated
from airflow_batchexec.runs.task_errors import as_task_failure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airflow.sdk import Context
    from airflow.sdk.types import RuntimeTaskInstanceProtocol

__all__ = ["PredictFileOperator"]

_OF_PLAN = ("execution", "share")
_OF_FILE = (
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
    """Sends files through a model's ``predict``: one file on its own, or one share of an execution's plan.

    **One file**, named by ``file``, ``destination_folder`` and ``model_id``: the task fetches it, starts a pod, lets it
    predict, and publishes the result under the file's name with the output's suffix, whole or not at all. It needs no
    plan before it and no finish after it; nothing else is written to the destination, and nothing is locked. A retry or
    a clear does the file again. Mapped over a list of files, each may resolve to another build, if the model is deployed
    anew meanwhile and no ``build_id`` is given; and two files of one name need destination folders of their own.

    **A share of a plan**, named by ``execution`` and ``share``: the mapped task of an execution. A retry does only what
    is not done yet. So does a clear in an execution that has failed: it continues it. In one that has finished, a clear
    does its files again.

    Literal values are validated when the DAG is parsed, templates, and all values of a mapped task, when it runs. All
    arguments are templated. What is ``None``, or renders to nothing, is unset. Where the task runs is said by its own
    ``executor``, ``queue`` and ``executor_config``, not by ``instance``.

    Args:
        execution: The XCom ``execution`` of the task ``plan``.
        share: One element of that task's output.
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
        batch_execution_conn_id: The connection; of a share it is the plan's.

    Returns:
        Of one file a dictionary: ``input`` and ``output``, each with ``uri``, ``size_bytes``, ``etag`` and ``rows``;
        ``seconds`` by step (``load``, ``fetch``, ``read``, ``predict``, ``write``, ``publish``); ``model_id`` and
        ``build_id``. Of a share nothing: its ledger has it.

    Raises:
        ConfigurationError: While parsing: a literal value is wrong, a required one is missing, or arguments of both
            kinds are given; ``details["field"]`` names it.
        ResultCollisionError: While parsing: the result would overwrite the file.
        AirflowFailException: A file failed, and trying again cannot help. Of a share also: another pod's file has, and
            some of this pod's were not started; or the execution was cancelled.
        AirflowException: A file failed, and may be tried again; or the task was ended from outside.
        AirflowSkipException: Of a share: the execution has ended already; this is not begun.

    Example::

        PredictFileOperator.partial(
            task_id="totals", destination_folder="s3://shop/totals/{{ ds }}", model_id="order_total"
        ).expand(file=arrived.output)
    """

    template_fields: Sequence[str] = (*_OF_PLAN, *_OF_FILE, "batch_execution_conn_id")

    def __init__(
        self,
        *,
        execution: Any = None,
        share: Any = None,
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
        self.execution = execution
        self.share = share
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
        self._work: ShareOfPlan | SingleFile | None = None
        if self._is_share():
            # Airflow makes and stores a rendered value of each, which in a task costs a millisecond.
            self.template_fields = (*_OF_PLAN, "batch_execution_conn_id")
        # A DAG's default_args reach every task, also the mapped one of an execution in it.
        defaults = kwargs.get("default_args") or {}
        own = {name for name in _OF_FILE if name not in defaults or getattr(self, name) is not defaults[name]}
        self._mixed = sorted(own & self._fields().keys(), key=_OF_FILE.index) if self._is_share() else []
        # A mapped task is made when it runs: an error here would be a failure that is tried again.
        if not internals.is_made_by_mapping(self):
            self._check()

    def execute(self, context: Context) -> dict[str, Any] | None:
        """Predict the file, or the share's files."""
        internals.die_with_supervisor()
        with as_task_failure():
            self._refuse_mixture()
            if self._is_share():
                share = ShareOfPlan(execution=self.execution, share=self.share, context=context, log=self.log)
                self._work = share
                share.run()
                return None
            single = SingleFile(
                fields=self._fields(),
                batch_execution_conn_id=self.batch_execution_conn_id,
                context=context,
                log=self.log,
            )
            self._work = single
            return single.run()

    def get_openlineage_facets_on_complete(
        self,
        task_instance: RuntimeTaskInstanceProtocol,  # noqa: ARG002  the provider's signature
    ) -> Any:
        """What OpenLineage is told: the files that have finished, also where others have failed."""
        return facets_of(self._work.lineage if self._work else None)

    def on_kill(self) -> None:
        """End the pod; what it was at has no result, and of a share is recorded as cancelled."""
        if self._work is not None:
            self._work.kill()

    def _is_share(self) -> bool:
        return self.execution is not None or self.share is not None

    def _fields(self) -> dict[str, Any]:
        return given({name: getattr(self, name) for name in _OF_FILE})

    def _refuse_mixture(self) -> None:
        if self._mixed:
            of_file = ", ".join(self._mixed)
            of_plan = " and ".join(name for name in _OF_PLAN if getattr(self, name) is not None)
            raise ConfigurationError(
                f"{of_file}: given together with {of_plan}. Give either execution and share alone, for a share of a plan; "
                f"or file, destination_folder, model_id and what goes with them, for one file.",
                field=self._mixed[0],
                fields=self._mixed,
            )

    def _check(self) -> None:
        """Refuse what is wrong already."""
        self._refuse_mixture()
        if self._is_share():
            for name, other in (_OF_PLAN, _OF_PLAN[::-1]):
                if getattr(self, name) is None:
                    raise ConfigurationError(f"{name}: it is required where {other} is given.", field=name)
            return
        fields = self._fields()
        if not fields:
            raise ConfigurationError(
                "file: it is required, with destination_folder and model_id; or execution and share are.",
                field="file",
            )
        literals = {name: value for name, value in fields.items() if not is_templated(value)}
        later = fields.keys() - literals.keys()
        if not later:
            file_config(fields)
            return
        check_file_request(literals, known_later=later)
        check_literals({"source_folder" if name == "file" else name: value for name, value in fields.items()})
        if not later & {"file", "destination_folder", "output_file_type"}:
            # Whether the result would overwrite the input, these alone decide.
            decide = {name: literals[name] for name in literals.keys() & {"file", "output_file_type"}}
            folder = literals["destination_folder"]
            file_config({"model_id": "any", "input_file_type": "CSV", "destination_folder": folder, **decide})
