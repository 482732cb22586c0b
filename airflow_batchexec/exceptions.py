"""All exceptions that this package raises.

::

    BatchExecError
    ├── ConfigurationError          a field of a request, build or deployment is invalid
    │   └── LocationError           a folder, bucket or URI is malformed or not allowed
    ├── PlanningError               the execution was refused before any file was touched
    │   ├── NoInputFilesError       the source folder is missing, empty, or has no files of the given type
    │   ├── ResultCollisionError    two inputs map to one result, or a result would overwrite an input
    │   └── ExecutionRunningError   an execution with the same identity is already running
    ├── RepositoryError             the model repository cannot provide the requested build
    │   ├── ModelNotFoundError
    │   ├── BuildNotFoundError
    │   ├── NoLiveBuildError        no build was requested, and none is deployed
    │   ├── BuildExistsError        the build id is taken; builds are immutable
    │   └── InvalidBuildError       the folder does not contain a valid build
    ├── StorageError                a bucket or disk operation failed                   (retryable)
    │   ├── ObjectNotFoundError
    │   ├── ObjectExistsError
    │   ├── ObjectChangedError      the object has changed since it was listed or read
    │   ├── BucketNotFoundError
    │   ├── AccessDeniedError       the credentials are invalid, or lack a permission
    │   └── DiskFullError           the scratch disk or the destination is full         (retryable)
    ├── PodError                    the pod is gone, for a reason other than predict raising
    │   ├── ModelLoadError          the build cannot be imported, instantiated or initialized
    │   ├── PodMemoryError          the pod exceeded its instance's memory
    │   └── PodDiedError            the pod exited or was killed                        (retryable)
    ├── FileTaskError               one file could not be processed
    │   ├── InputFileError          the file cannot be read as its file type
    │   ├── PredictError            predict raised                                      (retryable)
    │   ├── ResultError             predict returned an invalid result, or one that cannot be written
    │   └── FileTimeoutError        the file exceeded file_timeout
    ├── JobTimeoutError             the execution exceeded job_timeout
    ├── ExecutionCancelledError     the execution was cancelled
    ├── ExecutionFailedError        the execution that a client waited for ended without all results
    ├── WaitTimeoutError            the client stopped waiting; the execution continues
    └── ServerError                 a request to the REST API failed
        ├── ServerUnreachableError  no response, or the server is temporarily unavailable (retryable)
        ├── UntrustedServerError    the server's certificate is not trusted
        ├── NotAllowedError         the user is not authenticated, or lacks a permission
        └── UnexpectedAnswerError   the server failed, or the response is not from this API

``retryable`` says whether repeating the same operation can succeed. Exceptions pickle with their details. They may
contain the names of secrets, never their values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "AccessDeniedError",
    "BatchExecError",
    "BucketNotFoundError",
    "BuildExistsError",
    "BuildNotFoundError",
    "ConfigurationError",
    "DiskFullError",
    "ExecutionCancelledError",
    "ExecutionFailedError",
    "ExecutionRunningError",
    "FileTaskError",
    "FileTimeoutError",
    "InputFileError",
    "InvalidBuildError",
    "JobTimeoutError",
    "LocationError",
    "ModelLoadError",
    "ModelNotFoundError",
    "NoInputFilesError",
    "NoLiveBuildError",
    "NotAllowedError",
    "ObjectChangedError",
    "ObjectExistsError",
    "ObjectNotFoundError",
    "PlanningError",
    "PodDiedError",
    "PodError",
    "PodMemoryError",
    "PredictError",
    "RepositoryError",
    "ResultCollisionError",
    "ResultError",
    "ServerError",
    "ServerUnreachableError",
    "StorageError",
    "UnexpectedAnswerError",
    "UntrustedServerError",
    "WaitTimeoutError",
]


class BatchExecError(Exception):
    """Base class of all exceptions of this package.

    Args:
        message: What went wrong, for which execution, file or field, and how to fix it.
        details: Machine-readable plain values, such as ``field=``, ``uri=``, ``execution_id=`` or ``traceback=``.
    """

    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.details)


def _rebuild(cls: type[BatchExecError], message: str, details: dict[str, Any]) -> BatchExecError:
    return cls(message, **details)


class ConfigurationError(BatchExecError):
    """A field of a request, build or deployment is invalid; ``details["field"]`` names it."""


class LocationError(ConfigurationError):
    """A folder, bucket or URI is malformed or not allowed."""


class PlanningError(BatchExecError):
    """The execution was refused before any file was touched."""


class NoInputFilesError(PlanningError):
    """The source folder is missing, empty, or has no files of the given type."""


class ResultCollisionError(PlanningError):
    """Two inputs map to one result, or a result would overwrite an input."""


class ExecutionRunningError(PlanningError):
    """An execution with the same identity is already running; ``details["execution_id"]`` names it."""


class RepositoryError(BatchExecError):
    """The model repository cannot provide the requested build."""


class ModelNotFoundError(RepositoryError):
    """The repository has no model with this id."""


class BuildNotFoundError(RepositoryError):
    """The model has no build with this id."""


class NoLiveBuildError(RepositoryError):
    """No build was requested, and none is deployed."""


class BuildExistsError(RepositoryError):
    """The build id is taken; builds are immutable."""


class InvalidBuildError(RepositoryError):
    """The folder does not contain a valid build."""


class StorageError(BatchExecError):
    """A bucket or disk operation failed."""

    retryable = True


class ObjectNotFoundError(StorageError):
    """The object does not exist."""

    retryable = False


class ObjectExistsError(StorageError):
    """The object to create already exists."""

    retryable = False


class ObjectChangedError(StorageError):
    """The object has changed since it was listed or read."""

    retryable = False


class BucketNotFoundError(StorageError):
    """The bucket does not exist."""

    retryable = False


class AccessDeniedError(StorageError):
    """The credentials are invalid, or lack a permission."""

    retryable = False


class DiskFullError(StorageError):
    """The scratch disk or the destination is full."""


class PodError(BatchExecError):
    """The pod is gone, for a reason other than ``predict`` raising."""


class ModelLoadError(PodError):
    """The build cannot be imported, instantiated or initialized."""


class PodMemoryError(PodError):
    """The pod exceeded its instance's memory."""


class PodDiedError(PodError):
    """The pod exited or was killed."""

    retryable = True


class FileTaskError(BatchExecError):
    """One file could not be processed; ``details["file"]`` names it."""


class InputFileError(FileTaskError):
    """The file cannot be read as its file type."""


class PredictError(FileTaskError):
    """``predict`` raised; ``details["traceback"]`` is the model's traceback."""

    retryable = True


class ResultError(FileTaskError):
    """``predict`` returned an invalid result, or one that cannot be written."""


class FileTimeoutError(FileTaskError):
    """The file exceeded ``file_timeout``."""


class JobTimeoutError(BatchExecError):
    """The execution exceeded ``job_timeout``."""

    @classmethod
    def after(cls, job_timeout: float, *, file: str = "") -> Self:
        """Build the error for an execution that exceeded its ``job_timeout``.

        Args:
            job_timeout: Seconds.
            file: The file being processed; empty if none.
        """
        if file:
            return cls(f"{file}: the execution exceeded its job_timeout of {job_timeout:g} s.")
        return cls(f"The execution exceeded its job_timeout of {job_timeout:g} s.")


class ExecutionCancelledError(BatchExecError):
    """The execution was cancelled."""


class ExecutionFailedError(BatchExecError):
    """The execution that a client waited for ended without all results; ``details["status"]`` is its status."""


class WaitTimeoutError(BatchExecError):
    """The client stopped waiting after its timeout; the execution continues."""


class ServerError(BatchExecError):
    """A request to the REST API failed; ``details["server"]`` names the server."""


class ServerUnreachableError(ServerError):
    """The server did not respond in time, or is temporarily unavailable."""

    retryable = True


class UntrustedServerError(ServerError):
    """No connection was made: the server's certificate is not trusted."""


class NotAllowedError(ServerError):
    """The user is not authenticated, or lacks a permission; ``details["status_code"]`` is 401 or 403."""


class UnexpectedAnswerError(ServerError):
    """The server failed, or the response is not from this API; ``details["status_code"]`` is its status code."""
