"""The hook: opens an execution's storages with the credentials from its configuration and connection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.log import mask_secret

from airflow_batchexec.exceptions import BatchExecError, ConfigurationError
from airflow_batchexec.hooks.aws_connection import open_aws_connection
from airflow_batchexec.hooks.connection_extra import ConnectionExtra
from airflow_batchexec.hooks.lookup import find_connection, mask_service_account, read_secret

if TYPE_CHECKING:
    from airflow_batchexec.engine.config.locations import Location, Scheme
    from airflow_batchexec.engine.config.model import ExecutionConfig
    from airflow_batchexec.engine.storage.base import Storage
    from airflow_batchexec.engine.storage.gcs.access import GcsAccess
    from airflow_batchexec.engine.storage.s3.session import S3Access

__all__ = ["BatchExecutionHook"]


class BatchExecutionHook(BaseHook):
    """Opens storages.

    S3 credentials come from the first of these that is set, without falling back to the next: the two secrets (Airflow
    Variables), the connection of type ``aws``, boto3's default chain. If a role is set here or, failing that, on the
    connection, it is assumed with these credentials. Google Cloud Storage credentials come from the secret with a
    service account key, else from Google's default chain. The connection's extras set everything else. If the default
    connection does not exist, S3 means AWS.

    Can be used in any thread, including in a triggerer. Blocks; do not call it from an event loop.

    Args:
        batch_execution_conn_id: The connection, of type ``batch_execution``.
        access_token_name: The name of the secret that contains the access key.
        access_secret_name: The name of the secret that contains the secret key.
        iam_role_arn: The role to assume; overrides the connection's.
        aws_conn_id: The connection of type ``aws``; overrides the one that the connection names.
        service_account_key_secret_name: The name of the secret that contains a Google Cloud service account key.
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
        """Create the hook for an execution's configuration."""
        return cls(
            batch_execution_conn_id,
            access_token_name=config.execution.access_token_name,
            access_secret_name=config.execution.access_secret_name,
            iam_role_arn=config.advanced_options.custom_iam_role_arn,
            service_account_key_secret_name=config.service_account_key_secret_name,
        )

    def get_conn(self) -> S3Access:
        """The endpoints and credentials for S3. Contacts only Airflow, and STS for an ``aws`` connection's role.

        Raises:
            AccessDeniedError: Access to a connection or secret, or assuming the ``aws`` connection's role, is denied.
            ConfigurationError: A connection or a secret is missing, or cannot be used.
            StorageError: Airflow, or the STS of the ``aws`` connection, is unreachable.
        """
        from airflow_batchexec.engine.storage.s3.session import S3Access  # noqa: PLC0415  slow: imports boto3

        extra = self._connection_extra()
        role = extra.role(self._iam_role_arn)
        uses_web_identity = role is not None and role.web_identity_token_file is not None
        credentials = self._aws_credentials(extra, uses_web_identity=uses_web_identity)
        endpoints = {"endpoint_url": extra.endpoint_url, "sts_endpoint_url": extra.sts_endpoint_url}
        return S3Access(
            region_name=extra.region_name or None,
            role=role,
            on_secret=mask_secret,
            **credentials | {name: url for name, url in endpoints.items() if url},
        )

    def open_storage(self, location: Location) -> Storage:
        """The storage for a location; all locations of a scheme share one.

        Raises:
            AccessDeniedError: Access to a connection or secret, or assuming the role, is denied.
            ConfigurationError: A connection or a secret is missing, or cannot be used.
            StorageError: Airflow or STS is unreachable.
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
        """Whether AWS accepts the connection's credentials, and for which identity; the Test button of the form."""
        from airflow_batchexec.engine.storage.s3.identity import identify  # noqa: PLC0415  slow: imports boto3

        try:
            access = self.get_conn()
            identity = identify(access, field="aws_conn_id")
        except BatchExecError as error:
            return False, error.message
        server = access.endpoint_url or "AWS"
        if not identity.arn:
            return (
                True,
                f"{server} accepts {access.credentials_source}, but has no STS to report the identity.",
            )
        return (
            True,
            f"Authenticated with {server} in {identity.region} as {identity.arn}, using {access.credentials_source}.",
        )

    def _aws_credentials(self, extra: ConnectionExtra, *, uses_web_identity: bool) -> dict[str, Any]:
        """The arguments of ``S3Access`` that provide the credentials."""
        names = (self._access_token_name, self._access_secret_name)
        if any(names):
            if not all(names):
                field = "access_token_name" if not names[0] else "access_secret_name"
                raise ConfigurationError(
                    f"{field}: missing. Set both access_token_name and access_secret_name, or neither.",
                    field=field,
                )
            if uses_web_identity:
                raise ConfigurationError(
                    "access_token_name: keys cannot be combined with the connection's web_identity_token_file. Leave "
                    "out access_token_name and access_secret_name, or use a connection without a token file.",
                    field="access_token_name",
                )
            return {
                "access_key_id": read_secret(names[0], field="access_token_name", masked=False),
                "secret_access_key": read_secret(names[1], field="access_secret_name"),
                "source": "the keys from access_token_name and access_secret_name",
            }
        aws_conn_id = self._aws_conn_id or extra.aws_conn_id
        if not aws_conn_id or uses_web_identity:
            return {}
        connection = open_aws_connection(aws_conn_id, region_name=extra.region_name)
        return {
            "session": connection.session,
            "endpoint_url": connection.endpoint_url or None,
            "sts_endpoint_url": connection.sts_endpoint_url or None,
            "source": f"the credentials of aws_conn_id {aws_conn_id!r}",
        }

    def _gcs_access(self) -> GcsAccess:
        from airflow_batchexec.engine.storage.gcs.access import GcsAccess  # noqa: PLC0415  not for parsing

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
                f"batch_execution_conn_id: connection {self.batch_execution_conn_id!r} does not exist.",
                field="batch_execution_conn_id",
            )
        extra = {} if connection is None else connection.extra_dejson
        self._extra = ConnectionExtra.parse(extra)
        if unknown := ConnectionExtra.unknown_names(extra):
            self.log.warning(
                "Ignoring unknown extras of connection %r: %s. Supported extras: %s.",
                self.batch_execution_conn_id,
                ", ".join(unknown),
                ", ".join(ConnectionExtra.names()),
            )
        return self._extra
