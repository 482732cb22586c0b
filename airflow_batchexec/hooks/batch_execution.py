"""The hook: opens the buckets of an execution with the credentials that its configuration and connection name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.log import mask_secret

from airflow_batchexec.exceptions import BatchExecError, ConfigurationError
from airflow_batchexec.hooks.aws_connection import aws_source
from airflow_batchexec.hooks.connection_extra import ConnectionExtra
from airflow_batchexec.hooks.lookup import find_connection, mask_service_account, read_secret

if TYPE_CHECKING:
    from airflow_batchexec.engine.config.locations import Location, Scheme
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.storage import GcsAccess, Storage
    from airflow_batchexec.engine.storage.s3.storage import S3Access

__all__ = ["BatchExecutionHook"]


class BatchExecutionHook(BaseHook):
    """Opens storages.

    S3's credentials come from the first of these that is named, and from no other: the two secrets (Airflow Variables),
    the connection of type ``aws``, boto3's default chain. With them a role is assumed where there is one: the one that
    is given here, else the connection's. Google Cloud Storage's come from the secret that holds a service account's
    key, else from Google's default chain. The connection says the rest, by its extras. Without the default
    connection, S3 is AWS.

    May be used in any thread, a triggerer's too. Blocks; not for an event loop.

    Args:
        batch_execution_conn_id: The connection, of type ``batch_execution``.
        access_token_name: The name of the secret that holds the access key.
        access_secret_name: The name of the secret that holds the secret key.
        iam_role_arn: The role to assume, in place of the connection's.
        aws_conn_id: The connection of type ``aws``, in place of the one that the connection names.
        service_account_key_secret_name: The name of the secret that holds a Google Cloud service account's key.
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
        iam_role_arn: str = "",
        aws_conn_id: str = "",
        service_account_key_secret_name: str = "",
    ) -> None:
        super().__init__()
        self.batch_execution_conn_id = batch_execution_conn_id
        self._access_token_name = access_token_name
        self._access_secret_name = access_secret_name
        self._iam_role_arn = iam_role_arn
        self._aws_conn_id = aws_conn_id
        self._service_account_key_secret_name = service_account_key_secret_name
        self._extra: ConnectionExtra | None = None
        self._storages: dict[Scheme, Storage] = {}

    @classmethod
    def for_execution(cls, config: ExecutionConfig, *, batch_execution_conn_id: str) -> BatchExecutionHook:
        """The hook that an execution's configuration asks for."""
        return cls(
            batch_execution_conn_id,
            access_token_name=config.execution.access_token_name,
            access_secret_name=config.execution.access_secret_name,
            iam_role_arn=config.advanced_options.custom_iam_role_arn,
            service_account_key_secret_name=config.service_account_key_secret_name,
        )

    def get_conn(self) -> S3Access:
        """How S3 is reached, and as whom. No request is made but to Airflow, and for an ``aws`` connection's own role.

        Raises:
            AccessDeniedError: The role of the ``aws`` connection may not be assumed.
            ConfigurationError: A connection or a secret is missing, or cannot be used.
            StorageError: Airflow, or the STS of the ``aws`` connection, is out of reach.
        """
        from airflow_batchexec.engine.storage.s3.storage import S3Access  # noqa: PLC0415  boto3 takes its time

        extra = self._connection_extra()
        role = extra.role(self._iam_role_arn)
        by_token = role is not None and role.web_identity_token_file is not None
        credentials = self._aws_credentials(extra, by_token=by_token)
        of_connection = {"endpoint_url": extra.endpoint_url, "sts_endpoint_url": extra.sts_endpoint_url}
        return S3Access(
            region_name=extra.region_name or None,
            role=role,
            on_secret=mask_secret,
            **credentials | {name: url for name, url in of_connection.items() if url},
        )

    def open_storage(self, location: Location) -> Storage:
        """The storage that a location lies in; one for all locations of a scheme.

        Raises:
            AccessDeniedError: The role may not be assumed.
            ConfigurationError: A connection or a secret is missing, or cannot be used.
            StorageError: Airflow or STS is out of reach.
        """
        from airflow_batchexec.engine.config.locations import Scheme  # noqa: PLC0415  not for parsing
        from airflow_batchexec.engine.storage import open_storage  # noqa: PLC0415  as above

        scheme = location.scheme
        if scheme not in self._storages:
            self._storages[scheme] = open_storage(
                location,
                s3=self.get_conn() if scheme is Scheme.S3 else None,
                gcs=self._gcs_access() if scheme is Scheme.GS else None,
            )
        return self._storages[scheme]

    def test_connection(self) -> tuple[bool, str]:
        """Whether AWS accepts what the connection says, and as whom: what the form's Test button does."""
        from airflow_batchexec.engine.storage.s3.identity import identify  # noqa: PLC0415  boto3 takes its time

        try:
            access = self.get_conn()
            identity = identify(access, field="aws_conn_id")
        except BatchExecError as error:
            return False, error.message
        server = access.endpoint_url or "AWS"
        if not identity.arn:
            return True, f"{server} accepts {access.told_source}. It has no STS that would say who this is."
        return (
            True,
            f"{server} knows this as {identity.arn}, by {access.told_source}, in {identity.region}.",
        )

    def _aws_credentials(self, extra: ConnectionExtra, *, by_token: bool) -> dict[str, Any]:
        """What ``S3Access`` is told of where the credentials come from."""
        names = (self._access_token_name, self._access_secret_name)
        if any(names):
            if not all(names):
                field = "access_token_name" if not names[0] else "access_secret_name"
                raise ConfigurationError(
                    f"{field}: an access key and its secret belong together; name both, or neither.",
                    field=field,
                )
            if by_token:
                raise ConfigurationError(
                    "access_token_name: the connection assumes roles by web_identity_token_file, which takes no keys. "
                    "Leave out both names, or use a connection without it.",
                    field="access_token_name",
                )
            return {
                "access_key_id": read_secret(names[0], field="access_token_name", masked=False),
                "secret_access_key": read_secret(names[1], field="access_secret_name"),
                "source": "the keys of access_token_name and access_secret_name",
            }
        aws_conn_id = self._aws_conn_id or extra.aws_conn_id
        if not aws_conn_id or by_token:
            return {}
        source = aws_source(aws_conn_id, region_name=extra.region_name)
        return {
            "session": source.session,
            "endpoint_url": source.endpoint_url or None,
            "sts_endpoint_url": source.sts_endpoint_url or None,
            "source": f"the connection {aws_conn_id!r} of aws_conn_id",
        }

    def _gcs_access(self) -> GcsAccess:
        from airflow_batchexec.engine.storage import GcsAccess  # noqa: PLC0415  not for parsing

        field, key = "service_account_key_secret_name", None
        if self._service_account_key_secret_name:
            key = read_secret(self._service_account_key_secret_name, field=field)
            mask_service_account(key)
        return GcsAccess(
            service_account_key=key, endpoint_url=self._connection_extra().gcs_endpoint_url or None
        )

    def _connection_extra(self) -> ConnectionExtra:
        if self._extra is not None:
            return self._extra
        connection = find_connection(self.batch_execution_conn_id, field="batch_execution_conn_id")
        if connection is None and self.batch_execution_conn_id != self.default_conn_name:
            raise ConfigurationError(
                f"batch_execution_conn_id: there is no connection {self.batch_execution_conn_id!r}.",
                field="batch_execution_conn_id",
            )
        extra = {} if connection is None else connection.extra_dejson
        self._extra = ConnectionExtra.parse(extra)
        if unknown := ConnectionExtra.unknown(extra):
            self.log.warning(
                "The connection %r has extras that mean nothing: %s. Known are: %s.",
                self.batch_execution_conn_id,
                ", ".join(unknown),
                ", ".join(ConnectionExtra.names()),
            )
        return self._extra
