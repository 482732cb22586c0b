"""Transfers of large and small objects between S3 and this machine's disk.

Uploads: S3 verifies a checksum of every byte, and an object appears atomically, even if it is sent in parts.
Downloads: every range is conditional on the etag that was listed, so parts of two versions never mix.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from airflow_batchexec.engine.parallel import parallel_map
from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.engine.storage.buckets import READ_BYTES, byte_range, check_size, read_pieces
from airflow_batchexec.engine.storage.disk import scratch, write_all
from airflow_batchexec.exceptions import BatchExecError

if TYPE_CHECKING:
    from pathlib import Path

    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, GetObjectRequestTypeDef

    from airflow_batchexec.engine.config.locations import Location

__all__ = ["TransferLimits", "download", "quote_etag", "unquote_etag", "upload"]

_MAX_PARTS = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_READ_ATTEMPTS = 3

log = logging.getLogger(__name__)
_THREAD_NAME = "batchexec-s3"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLimits:
    """The sizes for single-request and multipart transfers.

    Attributes:
        single_bytes: The maximum size of an object that is transferred in one request.
        part_bytes: The part size for larger objects; S3 requires at least 5 MiB for every part but the last.
        parallel: The maximum number of concurrent parts. Uploads hold as many in memory.
    """

    single_bytes: int = 16 * 1024 * 1024
    part_bytes: int = 8 * 1024 * 1024
    parallel: int = 8


def download(client: S3Client, info: ObjectInfo, scratch_file: Path, limits: TransferLimits) -> None:
    """Download the exact object that was listed to ``scratch_file``; the file is removed on any failure.

    Raises:
        ClientError, BotoCoreError: The request failed.
        OSError: Writing to the disk failed.
        StorageError: The number of bytes received is not the expected one.
    """
    with scratch(scratch_file) as descriptor:
        parallel_map(
            lambda span: _download_span(client, info, descriptor, span),
            _spans(info.size_bytes, limits),
            threads=limits.parallel,
            name=_THREAD_NAME,
        )


def upload(client: S3Client, source: int, location: Location, limits: TransferLimits) -> ObjectInfo:
    """Upload an open file; the object exists and is complete if this returns, and does not appear if it raises.

    Raises:
        ClientError, BotoCoreError: The request failed.
        OSError: The file cannot be read.
        StorageError: The file changed meanwhile.
    """
    size = os.fstat(source).st_size
    if size > limits.single_bytes:
        return _upload_parts(client, source, location, size, limits)
    response = client.put_object(
        Bucket=location.bucket,
        Key=location.key,
        Body=_read_span(source, (0, size), location),
        ChecksumAlgorithm="CRC32",
    )
    return ObjectInfo(location, size, unquote_etag(response["ETag"]))


def unquote_etag(etag: str) -> str:
    """Return S3's etag without quotes, as in ``ObjectInfo``."""
    return etag.strip('"')


def quote_etag(etag: str) -> str:
    """Return an etag with quotes, as in S3's preconditions; the inverse of ``unquote_etag``."""
    return f'"{etag}"'


def _upload_parts(
    client: S3Client, source: int, location: Location, size: int, limits: TransferLimits
) -> ObjectInfo:
    bucket, key = location.bucket, location.key
    upload_id = client.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm="CRC32")["UploadId"]

    def send(numbered: tuple[int, tuple[int, int]]) -> CompletedPartTypeDef:
        number, span = numbered
        response = client.upload_part(
            Bucket=bucket,
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            Body=_read_span(source, span, location),
            ChecksumAlgorithm="CRC32",
        )
        return {"PartNumber": number, "ETag": response["ETag"], "ChecksumCRC32": response["ChecksumCRC32"]}

    try:
        parts = parallel_map(
            send, enumerate(_spans(size, limits), start=1), threads=limits.parallel, name=_THREAD_NAME
        )
        # S3 verifies the size, and each part's etag and checksum.
        response = client.complete_multipart_upload(
            Bucket=bucket,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
            MpuObjectSize=size,
        )
    except BaseException:
        _abort(client, location, upload_id)
        raise
    return ObjectInfo(location, size, unquote_etag(response["ETag"]))


def _abort(client: S3Client, location: Location, upload_id: str) -> None:
    try:
        client.abort_multipart_upload(Bucket=location.bucket, Key=location.key, UploadId=upload_id)
    except (ClientError, BotoCoreError, BatchExecError) as error:
        # BatchExecError: a role's credentials have expired and could not be refreshed.
        log.warning(
            "Could not abort the multipart upload of %s, upload ID %s (%s). Its parts may still be stored; a lifecycle "
            "rule for incomplete multipart uploads removes them.",
            location.uri,
            upload_id,
            type(error).__name__,
        )


def _spans(size: int, limits: TransferLimits) -> list[tuple[int, int]]:
    """Return the start and end of each part; an object in one piece, even an empty one, has one."""
    if size <= limits.single_bytes:
        return [(0, size)]
    part = max(limits.part_bytes, -(-size // _MAX_PARTS))
    return [(start, min(start + part, size)) for start in range(0, size, part)]


def _read_span(source: int, span: tuple[int, int], location: Location) -> bytes:
    start, end = span
    # As a single piece: joining several would hold the content in memory twice.
    return b"".join(read_pieces(source, start, end, location, piece_bytes=end - start))


def _download_span(client: S3Client, info: ObjectInfo, descriptor: int, span: tuple[int, int]) -> None:
    """Download one range; if the connection breaks in the middle of a response, resume from there.

    botocore retries a request only until its response starts.
    """
    start, end = span
    position = start
    for attempts_left in reversed(range(_READ_ATTEMPTS)):
        body = _open_range(client, info, position, end)
        try:
            for piece in iter(lambda: body.read(READ_BYTES), b""):  # noqa: B023  used up within the iteration
                write_all(descriptor, piece, position)
                position += len(piece)
            break
        except (HTTPClientError, IncompleteReadError):
            if not attempts_left or position == end:
                raise
        finally:
            body.close()
    check_size(info.location, received=position - start, expected=end - start)


def _open_range(client: S3Client, info: ObjectInfo, start: int, end: int) -> StreamingBody:
    request: GetObjectRequestTypeDef = {
        "Bucket": info.location.bucket,
        "Key": info.location.key,
        "IfMatch": quote_etag(info.etag),
    }
    if (start, end) != (0, info.size_bytes):  # S3 sends the stored checksum only with a whole object
        request["Range"] = byte_range(start, end - 1)
    return client.get_object(**request)["Body"]
