"""Objects in the buckets of S3 or a compatible server.

Preconditions are S3's own (``If-Match``, ``If-None-Match``), so exactly one of several writers wins, wherever they run.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from airflow_batchexec.engine.config.locations import Location, Scheme
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.buckets import (
    CONNECT_SECONDS,
    CONNECTIONS,
    READ_SECONDS,
    BucketStorage,
    byte_range,
    missing_bucket,
)
from airflow_batchexec.engine.storage.disk import disk_errors, open_regular
from airflow_batchexec.engine.storage.s3.errors import (
    error_code,
    http_status,
    is_failed_precondition,
    s3_errors,
)
from airflow_batchexec.engine.storage.s3.session import (
    S3Access,
    ignore_secret,
    open_session,
    refresh_rejected_keys,
)
from airflow_batchexec.engine.storage.s3.transfer import (
    TransferLimits,
    download,
    quote_etag,
    unquote_etag,
    upload,
)
from airflow_batchexec.exceptions import ConfigurationError, ObjectChangedError, ObjectExistsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import boto3
    from mypy_boto3_s3 import S3Client

__all__ = ["S3Storage", "connect"]

_ATTEMPTS = 3
_DEFAULT_LIMITS = TransferLimits()


def connect(access: S3Access | None = None, *, limits: TransferLimits = _DEFAULT_LIMITS) -> S3Storage:
    """Open S3, in about 0.15 s. This sends no request, except to STS to assume a role.

    Raises:
        AccessDeniedError: The caller may not assume the role.
        ConfigurationError: The endpoint, the region, the role or the machine's AWS configuration cannot be used.
        StorageError: STS is unreachable.
    """
    access = access or S3Access()
    return S3Storage.from_session(
        open_session(access),
        endpoint_url=access.endpoint_url,
        region_name=access.region_name,
        limits=limits,
        on_secret=access.on_secret,
    )


class S3Storage(BucketStorage):
    """``s3://`` locations.

    Args:
        client: A boto3 client for S3, shared by all threads.
        limits: The sizes for single-request and multipart transfers.
    """

    scheme = Scheme.S3
    store = "S3"

    def __init__(self, *, client: S3Client, limits: TransferLimits = _DEFAULT_LIMITS) -> None:
        self._client = client
        self._limits = limits

    @classmethod
    def from_session(
        cls,
        session: boto3.Session,
        *,
        endpoint_url: str | None = None,
        region_name: str | None = None,
        limits: TransferLimits = _DEFAULT_LIMITS,
        on_secret: Callable[[str], None] | None = None,
    ) -> S3Storage:
        """Open S3 with a session's credentials, which may be refreshable.

        The first request to a bucket in another region detects the region, and later requests go there directly.

        Args:
            session: The session with the credentials and the default region.
            endpoint_url: A server other than AWS.
            region_name: The region that is tried first.
            limits: The sizes for single-request and multipart transfers.
            on_secret: Called with every secret and token before its first use.

        Raises:
            ConfigurationError: The endpoint or the region is malformed.
        """
        config = Config(
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            max_pool_connections=CONNECTIONS,
            tcp_keepalive=True,
            # Servers other than AWS rarely have a DNS name for each bucket.
            s3={"addressing_style": "path"} if endpoint_url else None,
        )
        try:
            client: S3Client = session.client(
                "s3", endpoint_url=endpoint_url or None, region_name=region_name or None, config=config
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                f"endpoint_url, region_name: cannot create an S3 client for {endpoint_url!r}, {region_name!r}: {error}",
                field="endpoint_url",
            ) from error
        refresh_rejected_keys(client, session, on_secret or ignore_secret)
        return cls(client=client, limits=limits)

    def stat(self, location: Location) -> ObjectInfo:
        """Return the current state of the object."""
        bucket, key = self._address(location)
        with s3_errors("stat", location):
            try:
                response = self._client.head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                self._check_bucket(error, location)
                raise
        return ObjectInfo(location, response["ContentLength"], unquote_etag(response["ETag"]))

    def read_with_etag(self, location: Location) -> tuple[bytes, str]:
        """Read the content and the etag from one response."""
        bucket, key = self._address(location)
        with s3_errors("read", location):
            response = self._client.get_object(Bucket=bucket, Key=key)
            with closing(response["Body"]) as body:
                return body.read(), unquote_etag(response["ETag"])

    def fetch(self, info: ObjectInfo, scratch_file: Path) -> Path:
        """Download the object, in parallel ranges if it is large."""
        self._address(info.location)
        with disk_errors(f"write {scratch_file} for", info.location.uri), s3_errors("fetch", info.location):
            download(self._client, info, scratch_file, self._limits)
        return scratch_file

    def publish(self, path: Path, location: Location) -> ObjectInfo:
        """Upload in one request with a checksum, or in a multipart upload that is aborted on any failure."""
        self._address(location)
        with (
            disk_errors(f"publish {path} as", location.uri),
            open_regular(path, follow_links=False) as source,
            s3_errors("publish", location),
        ):
            info = upload(self._client, source.fileno(), location, self._limits)
            path.unlink()
        return info

    def write(self, location: Location, data: bytes) -> ObjectInfo:
        """Write in one request with a checksum."""
        bucket, key = self._address(location)
        with s3_errors("write", location):
            response = self._client.put_object(Bucket=bucket, Key=key, Body=data, ChecksumAlgorithm="CRC32")
        return ObjectInfo(location, len(data), unquote_etag(response["ETag"]))

    def create(self, location: Location, data: bytes) -> ObjectInfo:
        """Write if S3 has no such object."""
        bucket, key = self._address(location)
        with s3_errors("create", location, refused=ObjectExistsError):
            try:
                response = self._client.put_object(
                    Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", ChecksumAlgorithm="CRC32"
                )
            except ClientError as error:
                return self._earlier_write(error, location, data)
        return ObjectInfo(location, len(data), unquote_etag(response["ETag"]))

    def replace(self, location: Location, data: bytes, *, etag: str) -> ObjectInfo:
        """Write if the object still has this etag."""
        bucket, key = self._address(location)
        with s3_errors("replace", location, absent=ObjectChangedError):
            try:
                response = self._client.put_object(
                    Bucket=bucket, Key=key, Body=data, IfMatch=quote_etag(etag), ChecksumAlgorithm="CRC32"
                )
            except ClientError as error:
                return self._earlier_write(error, location, data)
        return ObjectInfo(location, len(data), unquote_etag(response["ETag"]))

    def delete(self, location: Location, *, etag: str | None = None) -> None:
        """Delete the object; with an etag, compare it first, then delete on the condition that it is unchanged.

        A server without conditional deletes ignores or rejects the condition; there, an object that is written between
        the two requests is deleted too.
        """
        bucket, key = self._address(location)
        with s3_errors("delete", location):
            if etag is None:
                self._client.delete_object(Bucket=bucket, Key=key)
                return
            try:
                self._client.head_object(Bucket=bucket, Key=key, IfMatch=quote_etag(etag))
                self._client.delete_object(Bucket=bucket, Key=key, IfMatch=quote_etag(etag))
            except ClientError as error:
                if http_status(error) == 404:  # noqa: PLR2004  HTTP: nothing to delete
                    self._check_bucket(error, location)
                elif error_code(error) == "NotImplemented":
                    self._client.delete_object(Bucket=bucket, Key=key)
                else:
                    raise

    def _entries(self, folder: Location, prefix: str, *, only_first: bool = False) -> Iterator[ObjectInfo]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=folder.bucket,
            Prefix=prefix,
            PaginationConfig={"MaxItems": 1, "PageSize": 1} if only_first else {},
        )
        with s3_errors("list", folder):
            for page in pages:
                for entry in page.get("Contents", []):
                    location = Location(Scheme.S3, folder.bucket, entry["Key"])
                    yield ObjectInfo(location, entry["Size"], unquote_etag(entry["ETag"]))

    def _read_range(self, location: Location, first: int, last: int | None) -> bytes:
        bucket, key = self._address(location)
        with s3_errors("read", location):
            try:
                response = self._client.get_object(Bucket=bucket, Key=key, Range=byte_range(first, last))
            except ClientError as error:
                if error_code(error) == "InvalidRange":
                    return b""
                raise
            with closing(response["Body"]) as body:
                return body.read()

    def _check_bucket(self, error: ClientError, location: Location) -> None:
        """Raise ``BucketNotFoundError`` if the bucket is missing: a HEAD's 404 has no body to say so."""
        if http_status(error) != 404:  # noqa: PLR2004  HTTP: not found
            return
        try:
            self._client.head_bucket(Bucket=location.bucket)
        except ClientError as bucket_error:
            if http_status(bucket_error) == 404:  # noqa: PLR2004  HTTP: not found
                raise missing_bucket(location) from error

    def _earlier_write(self, error: ClientError, location: Location, data: bytes) -> ObjectInfo:
        """Return what an earlier attempt of this call wrote, if botocore has retried; else raise the error."""
        retried = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
        if retried and is_failed_precondition(error):
            info = self._written_earlier(location, data)
            if info is not None:
                return info
        raise error
