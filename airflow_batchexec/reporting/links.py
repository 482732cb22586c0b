"""Links on a task in Airflow's UI: to the run of its execution, and to the results.

A link is an XCom: the server shows the value stored under the link's key. Airflow stores it when a task stops running,
however it ends, including by deferral. These tasks also push it themselves, so that the link is available while they
run and after they were killed.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from airflow.sdk import BaseOperatorLink, conf

from airflow_batchexec.exceptions import BatchExecError
from airflow_batchexec.internals import read_xcom
from airflow_batchexec.names import FINISH_TASK_ID, RUN_KEY

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk import BaseOperator
    from airflow.sdk.types import RuntimeTaskInstanceProtocol, TaskInstanceKey

__all__ = ["ExecutionLink", "ResultsLink", "console_url", "run_url"]

log = logging.getLogger(__name__)

# The AWS partitions, by the prefix of their region names.
_AWS_CONSOLES = {"cn-": "console.amazonaws.cn", "us-gov-": "console.amazonaws-us-gov.com"}
_AWS_CONSOLE = "console.aws.amazon.com"
_GOOGLE_CONSOLE = "https://console.cloud.google.com/storage/browser"
# The environment variables that boto3 reads.
_ENDPOINT_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
_AWS_ENDPOINTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws")


class ExecutionLink(BaseOperatorLink):
    """A link from a task that starts an execution or waits for one to the execution's run."""

    name = "Execution"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002  Airflow's signature
        """The URL of the run; empty if the task has not started a run."""
        run = _own_xcom(ti_key, RUN_KEY)
        return run_url(**run) if run else ""

    @classmethod
    def show(cls, ti: RuntimeTaskInstanceProtocol, *, dag_id: str, run_id: str) -> None:
        """Show the link from now on."""
        ti.xcom_push(cls().xcom_key, run_url(dag_id=dag_id, run_id=run_id))


class ResultsLink(BaseOperatorLink):
    """A link to the folder of an execution's results in the cloud provider's console.

    On the last task of an execution, and on tasks that start one or wait for one.
    """

    name = "Results"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002  Airflow's signature
        """The URL of the folder; empty if it has no console page, or the execution was refused."""
        run = _own_xcom(ti_key, RUN_KEY)
        if not run:
            return _own_xcom(ti_key, self.xcom_key) or ""
        return read_xcom(self.xcom_key, task_id=FINISH_TASK_ID, **run) or ""

    @classmethod
    def show(cls, ti: RuntimeTaskInstanceProtocol, destination: str, *, batch_execution_conn_id: str) -> None:
        """Show the link from now on. Logs a warning instead if the bucket's server cannot be determined.

        Args:
            ti: The task instance.
            destination: The destination folder's URI.
            batch_execution_conn_id: The connection that defines the buckets' server.
        """
        try:
            server = _server(destination, batch_execution_conn_id)
        except BatchExecError as error:
            # The execution itself reports what is wrong with the connection.
            log.warning("Cannot link to the results: %s", error.message)
            return
        ti.xcom_push(cls().xcom_key, console_url(destination, **server))


def run_url(*, dag_id: str, run_id: str) -> str:
    """The URL of a run in Airflow's UI; relative to the server's root if ``[api] base_url`` is not set."""
    base = (conf.get("api", "base_url", fallback="") or "").rstrip("/")
    return f"{base}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}"


def console_url(folder: str, *, endpoint_url: str = "", region_name: str = "") -> str:
    """The URL of a folder in its cloud provider's console.

    Args:
        folder: The folder's URI.
        endpoint_url: The server; empty for the cloud provider's default.
        region_name: The bucket's region; empty if unknown.

    Returns:
        The URL; empty on disk, and for servers other than the cloud provider's, whose consoles are unknown.
    """
    scheme, _, rest = folder.partition("://")
    bucket, _, key = rest.partition("/")
    if scheme == "gs" and not endpoint_url:
        return f"{_GOOGLE_CONSOLE}/{quote('/'.join(filter(None, (bucket, key))))}"
    if scheme != "s3" or not _is_aws(endpoint_url):
        return ""
    host = next(
        (name for prefix, name in _AWS_CONSOLES.items() if region_name.startswith(prefix)), _AWS_CONSOLE
    )
    query = {"region": region_name, "prefix": f"{key}/" if key else ""}
    query = {name: value for name, value in query.items() if value}
    url = f"https://{host}/s3/buckets/{quote(bucket, safe='')}"
    return f"{url}?{urlencode(query, quote_via=quote, safe='/')}" if query else url


def _own_xcom(ti_key: TaskInstanceKey, key: str) -> Any:
    return read_xcom(
        key,
        dag_id=ti_key.dag_id,
        run_id=ti_key.run_id,
        task_id=ti_key.task_id,
        map_index=ti_key.map_index,
    )


def _is_aws(endpoint_url: str) -> bool:
    return not endpoint_url or (urlsplit(endpoint_url).hostname or "").endswith(_AWS_ENDPOINTS)


def _server(destination: str, batch_execution_conn_id: str) -> dict[str, str]:
    """The endpoint and region of the destination's bucket, from the connections and the worker's environment."""
    from airflow_batchexec.hooks.connection_extra import ConnectionExtra  # noqa: PLC0415  not for parsing
    from airflow_batchexec.hooks.lookup import find_connection  # noqa: PLC0415  as above

    if destination.startswith("file:"):
        return {}
    connection = find_connection(batch_execution_conn_id, field="batch_execution_conn_id")
    extra = ConnectionExtra.parse(connection.extra_dejson if connection else {})
    if destination.startswith("gs:"):
        return {"endpoint_url": extra.gcs_endpoint_url or os.environ.get("STORAGE_EMULATOR_HOST", "")}
    aws: dict[str, Any] = {}
    if extra.aws_conn_id and (found := find_connection(extra.aws_conn_id, field="aws_conn_id")):
        aws = found.extra_dejson
    services = aws.get("service_config")
    service = services.get("s3", {}) if isinstance(services, dict) else {}
    endpoints = (
        extra.endpoint_url,
        service.get("endpoint_url"),
        aws.get("endpoint_url"),
        *_environment(_ENDPOINT_VARIABLES),
    )
    regions = (extra.region_name, aws.get("region_name"), *_environment(["AWS_DEFAULT_REGION"]))
    return {
        "endpoint_url": next(filter(None, endpoints), ""),
        "region_name": next(filter(None, regions), ""),
    }


def _environment(names: Iterable[str]) -> list[str]:
    return [os.environ.get(name, "") for name in names]
