"""Moving the content of large and small objects between S3 and this machine's disk.

Up: every byte travels with a checksum that S3 verifies, and an object appears in one step, also where it is sent in
parts. Down: every range is asked for under the etag that was listed, so that parts of two versions never mix.
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

__all__ = ["TransferLimits", "download", "plain", "quoted", "upload"]

_MOST_PARTS = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_READ_ATTEMPTS = 3

_log = logging.getLogger(__name__)
_THREAD_NAME = "batchexec-s3"


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLimits:
    """What is moved in one piece, and how the rest is cut.

    Attributes:
        single_bytes: Objects up to this size are moved by one request.
        part_bytes: The size of a part of a larger one; S3 takes no part but the last below 5 MiB.
        parallel: Parts that are moved at the same time. Uploads hold as many in memory.
    """

    single_bytes: int = 16 * 1024 * 1024
    part_bytes: int = 8 * 1024 * 1024
    parallel: int = 8


def download(client: S3Client, info: ObjectInfo, scratch_file: Path, limits: TransferLimits) -> None:
    """Write the very object that was listed to ``scratch_file``; on any failure the file is removed.

    Raises:
        ClientError, BotoCoreError: S3 did not give it.
        OSError: The disk did not take it.
        StorageError: Another number of bytes came.
    """
    with scratch(scratch_file) as descriptor:
        parallel_map(
            lambda span: _download_span(client, info, descriptor, span),
            _spans(info.size_bytes, limits),
            threads=limits.parallel,
            name=_THREAD_NAME,
        )


def upload(client: S3Client, source: int, location: Location, limits: TransferLimits) -> ObjectInfo:
    """Send an open file; the object is there whole when this returns, and not at all when it raises.

    Raises:
        ClientError, BotoCoreError: S3 did not take it.
        OSError: The file cannot be read.
        StorageError: The file changed meanwhile.
    """
    size = os.fstat(source).st_size
    if size > limits.single_bytes:
        return _upload_parts(client, source, location, size, limits)
    answer = client.put_object(
        Bucket=location.bucket,
        Key=location.key,
        Body=_read_span(source, (0, size), location),
        ChecksumAlgorithm="CRC32",
    )
    return ObjectInfo(location, size, plain(answer["ETag"]))


def plain(etag: str) -> str:
    """An etag as this package keeps it, from S3's form of it."""
    return etag.strip('"')


def quoted(etag: str) -> str:
    """The inverse of ``plain``: what a request's condition holds."""
    return f'"{etag}"'


def _upload_parts(
    client: S3Client, source: int, location: Location, size: int, limits: TransferLimits
) -> ObjectInfo:
    bucket, key = location.bucket, location.key
    upload_id = client.create_multipart_upload(Bucket=bucket, Key=key, ChecksumAlgorithm="CRC32")["UploadId"]

    def send(numbered: tuple[int, tuple[int, int]]) -> CompletedPartTypeDef:
        number, span = numbered
        answer = client.upload_part(
            Bucket=bucket,
            Key=key,
            UploadId=upload_id,
            PartNumber=number,
            Body=_read_span(source, span, location),
            ChecksumAlgorithm="CRC32",
        )
        return {"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]}

    try:
        parts = parallel_map(
            send, enumerate(_spans(size, limits), start=1), threads=limits.parallel, name=_THREAD_NAME
        )
        # S3 compares the size, each part's etag and each part's checksum with what it holds.
        answer = client.complete_multipart_upload(
            Bucket=bucket,
            Key=key,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
            MpuObjectSize=size,
        )
    except BaseException:
        _abort(client, location, upload_id)
        raise
    return ObjectInfo(location, size, plain(answer["ETag"]))


def _abort(client: S3Client, location: Location, upload_id: str) -> None:
    try:
        client.abort_multipart_upload(Bucket=location.bucket, Key=location.key, UploadId=upload_id)
    except (ClientError, BotoCoreError, BatchExecError) as error:
        # The last of them: a role's keys have run out and could not be replaced.
        _log.warning(
            "The parts that were sent for %s may still be stored, as upload %s: it could not be aborted (%s). "
            "A lifecycle rule for incomplete multipart uploads removes such parts.",
            location.uri,
            upload_id,
            type(error).__name__,
        )


def _spans(size: int, limits: TransferLimits) -> list[tuple[int, int]]:
    """Where each part starts and ends; an object of one piece, or of no bytes, has one."""
    if size <= limits.single_bytes:
        return [(0, size)]
    part = max(limits.part_bytes, -(-size // _MOST_PARTS))
    return [(start, min(start + part, size)) for start in range(0, size, part)]


def _read_span(source: int, span: tuple[int, int], location: Location) -> bytes:
    start, end = span
    # In one piece: joining several would hold all of it twice.
    return b"".join(read_pieces(source, start, end, location, piece_bytes=end - start))


def _download_span(client: S3Client, info: ObjectInfo, descriptor: int, span: tuple[int, int]) -> None:
    """Write one range; where the connection breaks in the middle of an answer, go on from there.

    botocore tries a request again until its answer begins, and not after that.
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
        "IfMatch": quoted(info.etag),
    }
    if (start, end) != (0, info.size_bytes):  # S3 sends the stored checksum with a whole object only
        request["Range"] = byte_range(start, end - 1)
    return client.get_object(**request)["Body"]
