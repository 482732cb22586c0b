"""Moving the content of large and small objects between S3 and this machine's disk.

Up: every byte travels with a checksum that S3 verifies, and an object appears in one step, also where it is sent in
parts. Down: every range is asked for under the etag that was listed, so that parts of two versions never mix.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

from airflow_batchexec.engine.storage.base import ObjectInfo
from airflow_batchexec.exceptions import BatchExecError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef, GetObjectRequestTypeDef

    from airflow_batchexec.engine.config.locations import Location

__all__ = ["TransferLimits", "download", "upload"]

_MOST_PARTS = 10_000  # https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
_READ_BYTES = 1024 * 1024
_READ_ATTEMPTS = 3

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


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
    size = info.size_bytes
    descriptor = os.open(scratch_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        try:
            _in_parallel(
                lambda span: _download_span(client, info, descriptor, span),
                _spans(size, limits),
                limits.parallel,
            )
        finally:
            os.close(descriptor)
    except BaseException:
        scratch_file.unlink()
        raise


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
    return ObjectInfo(location, size, answer["ETag"].strip('"'))


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
        parts = _in_parallel(send, list(enumerate(_spans(size, limits), start=1)), limits.parallel)
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
    return ObjectInfo(location, size, answer["ETag"].strip('"'))


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
    pieces = []
    while start < end and (piece := os.pread(source, end - start, start)):
        pieces.append(piece)
        start += len(piece)
    if start != end:
        raise StorageError(
            f"The file to publish as {location.uri} became shorter meanwhile.", uri=location.uri
        )
    return b"".join(pieces)


def _download_span(client: S3Client, info: ObjectInfo, descriptor: int, span: tuple[int, int]) -> None:
    """Write one range; where the connection breaks in the middle of an answer, go on from there.

    botocore tries a request again until its answer begins, and not after that.
    """
    position, end = span
    for attempts_left in reversed(range(_READ_ATTEMPTS)):
        body = _open_range(client, info, position, end)
        try:
            for piece in iter(lambda: body.read(_READ_BYTES), b""):  # noqa: B023  used up within the iteration
                position += _write_at(descriptor, piece, position)
            break
        except (HTTPClientError, IncompleteReadError):
            if not attempts_left or position == end:
                raise
        finally:
            body.close()
    if position != end:
        raise StorageError(
            f"{info.location.uri} gave other than {info.size_bytes} bytes.", uri=info.location.uri
        )


def _open_range(client: S3Client, info: ObjectInfo, start: int, end: int) -> StreamingBody:
    request: GetObjectRequestTypeDef = {
        "Bucket": info.location.bucket,
        "Key": info.location.key,
        "IfMatch": f'"{info.etag}"',
    }
    if (start, end) != (0, info.size_bytes):  # S3 sends the stored checksum with a whole object only
        request["Range"] = f"bytes={start}-{end - 1}"
    return client.get_object(**request)["Body"]


def _write_at(descriptor: int, data: bytes, position: int) -> int:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, position)
        rest, position = rest[written:], position + written
    return len(data)


def _in_parallel(work: Callable[[_Item], _Result], items: Sequence[_Item], workers: int) -> list[_Result]:
    """The results in the order of the items; the first failure is raised when what was running has ended."""
    if len(items) == 1:
        return [work(items[0])]
    with ThreadPoolExecutor(min(workers, len(items)), thread_name_prefix="batchexec-s3") as pool:
        try:
            futures = [pool.submit(work, item) for item in items]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
