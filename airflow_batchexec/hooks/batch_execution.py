"""The hook: opens the buckets of an execution with the credentials that its configuration names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, Variable
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowRuntimeError
from airflow.sdk.log import mask_secret

from airflow_batchexec.exceptions import ConfigurationError

if TYPE_CHECKING:
    from airflow_batchexec.config import ExecutionConfig
    from airflow_batchexec.engine.locations import Location, Scheme
    from airflow_batchexec.engine.storage import Storage
    from airflow_batchexec.engine.storage.s3 import S3Access

__all__ = ["BatchExecutionHook"]


class BatchExecutionHook(BaseHook):
    """Opens storages.

    The keys of a bucket come from the two secrets (Airflow Variables) that are named; where none is named, from
    boto3's default chain. There is no falling back from the one to the other. The connection says where S3 is:
    extras ``endpoint_url`` and ``region_name``. Without the default connection, S3 is AWS.

    Args:
        batch_execution_conn_id: The connection, of type ``batch_execution``.
        access_token_name: The name of the secret that holds the access key.
        access_secret_name: The name of the secret that holds the secret key.
    """

    conn_name_attr = "batch_execution_conn_id"
    default_conn_name = "batch_execution_default"
    conn_type = "batch_execution"
    hook_name = "Batch Execution"

    def __init__(
        self,
        batch_execution_conn_id: str = default_conn_name,
        *,
        access_token_name: str = "",
        access_secret_name: str = "",
    ) -> None:
        super().__init__()
        self.batch_execution_conn_id = batch_execution_conn_id
        self._access_token_name = access_token_name
        self._access_secret_name = access_secret_name
        self._storages: dict[Scheme, Storage] = {}

    @classmethod
    def for_execution(cls, config: ExecutionConfig, *, batch_execution_conn_id: str) -> BatchExecutionHook:
        """The hook that an execution's configuration asks for.

        Raises:
            ConfigurationError: It asks for credentials that this version cannot use.
        """
        for field, value in (
            ("iam_role_arn", config.advanced_options.custom_iam_role_arn),
            ("service_account_key_secret_name", config.service_account_key_secret_name),
        ):
            if value:
                raise ConfigurationError(
                    f"{field}: this version cannot use it yet; leave it out.", field=field
                )
        return cls(
            batch_execution_conn_id,
            access_token_name=config.execution.access_token_name,
            access_secret_name=config.execution.access_secret_name,
        )

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Which fields of the connection form have a meaning."""
        return {
            "hidden_fields": ["host", "schema", "login", "password", "port"],
            "relabeling": {},
            "placeholders": {"extra": '{"endpoint_url": "", "region_name": ""}'},
        }

    def get_conn(self) -> S3Access:
        """How S3 is reached, and as whom.

        Raises:
            ConfigurationError: A connection or a secret is missing.
        """
        from airflow_batchexec.engine.storage.s3 import S3Access  # noqa: PLC0415  boto3 takes its time

        extra = self._connection_extra()
        names = (self._access_token_name, self._access_secret_name)
        if any(names) and not all(names):
            field = "access_token_name" if not names[0] else "access_secret_name"
            raise ConfigurationError(
                f"{field}: an access key and its secret belong together; name both, or neither.", field=field
            )
        return S3Access(
            access_key_id=_secret(names[0], field="access_token_name") if names[0] else None,
            secret_access_key=_secret(names[1], field="access_secret_name") if names[1] else None,
            endpoint_url=extra.get("endpoint_url") or None,
            region_name=extra.get("region_name") or None,
        )

    def open_storage(self, location: Location) -> Storage:
        """The storage that a location lies in; one for all locations of a scheme.

        Raises:
            ConfigurationError: The scheme is not supported, or a connection or secret is missing.
        """
        from airflow_batchexec.engine.locations import Scheme  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.storage import open_storage  # noqa: PLC0415  as above

        if location.scheme not in self._storages:
            access = self.get_conn() if location.scheme is Scheme.S3 else None
            self._storages[location.scheme] = open_storage(location, s3=access)
        return self._storages[location.scheme]

    def _connection_extra(self) -> dict[str, Any]:
        try:
            connection = self.get_connection(self.batch_execution_conn_id)
        except AirflowNotFoundException:
            if self.batch_execution_conn_id != self.default_conn_name:
                raise ConfigurationError(
                    f"batch_execution_conn_id: there is no connection {self.batch_execution_conn_id!r}.",
                    field="batch_execution_conn_id",
                ) from None
            return {}
        extra: dict[str, Any] = connection.extra_dejson
        return extra


def _secret(name: str, *, field: str) -> str:
    try:
        value = str(Variable.get(name)).strip()
    except (AirflowRuntimeError, KeyError):
        raise ConfigurationError(
            f"{field}: there is no secret (Airflow Variable) named {name!r}.", field=field
        ) from None
    mask_secret(value)
    return value
