"""Objects in S3 buckets, or in those of any server that speaks S3's protocol.

Conditions are S3's own (``If-Match``, ``If-None-Match``), so exactly one of several writers wins wherever they run.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from airflow_batchexec.engine.config.locations import Location, Scheme
from airflow_batchexec.engine.storage.base import ObjectInfo, Storage
from airflow_batchexec.engine.storage.disk import disk_errors, open_regular
from airflow_batchexec.engine.storage.s3.errors import (
    error_code,
    http_status,
    is_refused_condition,
    s3_errors,
)
from airflow_batchexec.engine.storage.s3.session import S3Access, keep_usable, open_session, untold
from airflow_batchexec.engine.storage.s3.transfer import TransferLimits, download, upload
from airflow_batchexec.exceptions import (
    BucketNotFoundError,
    ConfigurationError,
    LocationError,
    ObjectChangedError,
    ObjectExistsError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import boto3
    from mypy_boto3_s3 import S3Client

__all__ = ["S3Storage", "connect"]

_CONNECT_SECONDS = 5
_READ_SECONDS = 60
_ATTEMPTS = 3
_CONNECTIONS = 16
_DEFAULT_LIMITS = TransferLimits()


def connect(access: S3Access | None = None, *, limits: TransferLimits = _DEFAULT_LIMITS) -> S3Storage:
    """Open S3; about 0.15 s. No request is made yet, but to STS where a role is assumed.

    Raises:
        AccessDeniedError: The role may not be assumed.
        ConfigurationError: The endpoint, the region, the role or the machine's AWS configuration cannot be used.
        StorageError: STS is out of reach.
    """
    access = access or S3Access()
    return S3Storage.from_session(
        open_session(access),
        endpoint_url=access.endpoint_url,
        region_name=access.region_name,
        limits=limits,
        on_secret=access.on_secret,
    )


class S3Storage(Storage):
    """``s3://`` locations.

    Args:
        client: A boto3 client for S3. It is shared by all threads.
        limits: What is moved in one piece, and how the rest is cut.
    """

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
        """Open S3 with a session's credentials, which may be ones that renew themselves.

        A bucket that lies in another region is found by the first request to it, and reached there from then on.

        Args:
            session: Whose credentials, and where nothing else is said region, are taken.
            endpoint_url: A server other than AWS.
            region_name: The region that is tried first.
            limits: What is moved in one piece.
            on_secret: Is told every secret and token before its first use.

        Raises:
            ConfigurationError: The endpoint or the region is malformed.
        """
        config = Config(
            retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
            connect_timeout=_CONNECT_SECONDS,
            read_timeout=_READ_SECONDS,
            max_pool_connections=_CONNECTIONS,
            tcp_keepalive=True,
            # Servers other than AWS rarely have a name for each bucket.
            s3={"addressing_style": "path"} if endpoint_url else None,
        )
        try:
            client: S3Client = session.client(
                "s3", endpoint_url=endpoint_url or None, region_name=region_name or None, config=config
            )
        except (BotoCoreError, ValueError) as error:
            raise ConfigurationError(
                f"endpoint_url, region_name: no S3 client can be made for {endpoint_url!r}, {region_name!r}: {error}",
                field="endpoint_url",
            ) from error
        keep_usable(client, session, on_secret or untold)
        return cls(client=client, limits=limits)

    def list(self, folder: Location) -> Iterator[ObjectInfo]:
        """Objects below ``folder/``; the empty ones that only stand for a folder are left out.

        A key is listed as it is stored, also where it is no normal path (``a//b``, ``a/../b``).
        """
        bucket, key = _bucket(folder), folder.key
        with s3_errors("list", folder):
            if key:
                # A key sorts before all that it is a prefix of, so one entry tells whether it is an object.
                first = self._client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
                if first and first[0]["Key"] == key:
                    yield ObjectInfo(folder, first[0]["Size"], _plain(first[0]["ETag"]))
                    return
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=bucket, Prefix=f"{key}/" if key else ""
            )
            for page in pages:
                for entry in page.get("Contents", []):
                    if entry["Size"] or not entry["Key"].endswith("/"):
                        location = Location(Scheme.S3, bucket, entry["Key"])
                        yield ObjectInfo(location, entry["Size"], _plain(entry["ETag"]))

    def stat(self, location: Location) -> ObjectInfo:
        """The object as S3 knows it now."""
        bucket, key = _address(location)
        with s3_errors("look at", location):
            try:
                answer = self._client.head_object(Bucket=bucket, Key=key)
            except ClientError as error:
                self._check_bucket(error, location)
                raise
        return ObjectInfo(location, answer["ContentLength"], _plain(answer["ETag"]))

    def read(self, location: Location, *, start: int = 0, length: int | None = None) -> bytes:
        """The content, or a range of it; what lies beyond the end is empty."""
        if start == 0 and length is None:
            return self.read_with_etag(location)[0]
        if length == 0:
            self.stat(location)
            return b""
        bucket, key = _address(location)
        end = "" if length is None else start + length - 1
        with s3_errors("read", location):
            try:
                answer = self._client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{end}")
            except ClientError as error:
                if error_code(error) == "InvalidRange":
                    return b""
                raise
            with closing(answer["Body"]) as body:
                return body.read()

    def read_with_etag(self, location: Location) -> tuple[bytes, str]:
        """The content and the etag of one answer."""
        bucket, key = _address(location)
        with s3_errors("read", location):
            answer = self._client.get_object(Bucket=bucket, Key=key)
            with closing(answer["Body"]) as body:
                return body.read(), _plain(answer["ETag"])

    def fetch(self, info: ObjectInfo, scratch_file: Path) -> Path:
        """A download, in parallel ranges where the object is large."""
        _address(info.location)
        with disk_errors(f"write {scratch_file} for", info.location.uri), s3_errors("fetch", info.location):
            download(self._client, info, scratch_file, self._limits)
        return scratch_file

    def publish(self, path: Path, location: Location) -> ObjectInfo:
        """One request with a checksum, or a multipart upload that is aborted on any failure."""
        _address(location)
        with (
            disk_errors(f"publish {path} as", location.uri),
            open_regular(path, follow_links=False) as source,
            s3_errors("publish", location),
        ):
            info = upload(self._client, source.fileno(), location, self._limits)
            path.unlink()
        return info

    def write(self, location: Location, data: bytes) -> ObjectInfo:
        """One request with a checksum."""
        bucket, key = _address(location)
        with s3_errors("write", location):
            answer = self._client.put_object(Bucket=bucket, Key=key, Body=data, ChecksumAlgorithm="CRC32")
        return ObjectInfo(location, len(data), _plain(answer["ETag"]))

    def create(self, location: Location, data: bytes) -> ObjectInfo:
        """A write that S3 refuses where there is an object."""
        bucket, key = _address(location)
        with s3_errors("create", location, refused=ObjectExistsError):
            try:
                answer = self._client.put_object(
                    Bucket=bucket, Key=key, Body=data, IfNoneMatch="*", ChecksumAlgorithm="CRC32"
                )
            except ClientError as error:
                return self._own_earlier_write(error, location, data)
        return ObjectInfo(location, len(data), _plain(answer["ETag"]))

    def replace(self, location: Location, data: bytes, *, etag: str) -> ObjectInfo:
        """A write that S3 refuses where the object has another etag."""
        bucket, key = _address(location)
        with s3_errors("replace", location, absent=ObjectChangedError):
            try:
                answer = self._client.put_object(
                    Bucket=bucket, Key=key, Body=data, IfMatch=_quoted(etag), ChecksumAlgorithm="CRC32"
                )
            except ClientError as error:
                return self._own_earlier_write(error, location, data)
        return ObjectInfo(location, len(data), _plain(answer["ETag"]))

    def delete(self, location: Location, *, etag: str | None = None) -> None:
        """With an etag: compared first, then deleted on the condition that it has not changed since.

        A server that does not know conditional deletes ignores the condition or refuses it; there an object that
        is written between the two is deleted too.
        """
        bucket, key = _address(location)
        with s3_errors("delete", location):
            if etag is None:
                self._client.delete_object(Bucket=bucket, Key=key)
                return
            try:
                self._client.head_object(Bucket=bucket, Key=key, IfMatch=_quoted(etag))
                self._client.delete_object(Bucket=bucket, Key=key, IfMatch=_quoted(etag))
            except ClientError as error:
                if http_status(error) == 404:  # noqa: PLR2004  HTTP: nothing to delete
                    self._check_bucket(error, location)
                elif error_code(error) == "NotImplemented":
                    self._client.delete_object(Bucket=bucket, Key=key)
                else:
                    raise

    def staging(self, folder: Location) -> Path | None:  # noqa: ARG002  no folder of this machine is in a bucket
        """Nowhere."""
        return None

    def _check_bucket(self, error: ClientError, location: Location) -> None:
        """A HEAD's 404 has no body to say what is missing: ask for the bucket alone."""
        if http_status(error) != 404:  # noqa: PLR2004  HTTP: not found
            return
        try:
            self._client.head_bucket(Bucket=location.bucket)
        except ClientError as bucket_error:
            if http_status(bucket_error) == 404:  # noqa: PLR2004  HTTP: not found
                raise BucketNotFoundError(
                    f"Cannot find {location.uri}: there is no bucket {location.bucket!r}; check its name and endpoint.",
                    uri=location.uri,
                ) from error

    def _own_earlier_write(self, error: ClientError, location: Location, data: bytes) -> ObjectInfo:
        """What this very call wrote before its answer was lost and botocore asked again; else the refusal.

        Without this, the winner of a race could believe that it has lost, and nobody would have won.
        """
        retried = error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
        if retried and is_refused_condition(error):
            stored, etag = self.read_with_etag(location)
            if stored == data:
                return ObjectInfo(location, len(data), etag)
        raise error


def _bucket(location: Location) -> str:
    if location.scheme is not Scheme.S3:
        raise LocationError(f"{location.uri} does not lie in S3.", uri=location.uri)
    return location.bucket


def _address(location: Location) -> tuple[str, str]:
    bucket = _bucket(location)
    if not location.key:
        raise LocationError(f"{location.uri} is a whole bucket, not an object.", uri=location.uri)
    return bucket, location.key


def _plain(etag: str) -> str:
    return etag.strip('"')


def _quoted(etag: str) -> str:
    return f'"{etag}"'
