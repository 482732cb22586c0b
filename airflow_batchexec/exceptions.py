"""Every error that this package raises.

::

    BatchExecError
    ├── ConfigurationError          a field of the request, of a build or of the deployment is wrong
    │   └── LocationError           a folder, bucket or URI is malformed or not allowed here
    ├── PlanningError               the execution is refused before any file is touched
    │   ├── NoInputFilesError       the source folder is missing, empty, or holds no file of the type
    │   ├── ResultCollisionError    two inputs would give one result, or a result would overwrite an input
    │   └── ExecutionRunningError   an execution with the same identity is running
    ├── RepositoryError             the model repository cannot give the build that was asked for
    │   ├── ModelNotFoundError
    │   ├── BuildNotFoundError
    │   ├── NoLiveBuildError
    │   ├── BuildExistsError        builds are immutable
    │   └── InvalidBuildError       what lies in the build's folder is no build
    ├── StorageError                a bucket or disk did not do what it was asked      (may be tried again)
    │   ├── ObjectNotFoundError
    │   ├── ObjectExistsError
    │   ├── ObjectChangedError      the object is no longer the one that was listed or read
    │   ├── BucketNotFoundError
    │   ├── AccessDeniedError       wrong keys, or keys without the permission
    │   └── DiskFullError           the scratch disk or the destination has no room       (may be tried again)
    ├── PodError                    the pod is gone, and not because of what predict raised
    │   ├── ModelLoadError          the build cannot be imported, instantiated or initialised
    │   ├── PodMemoryError          it needed more memory than its instance has
    │   └── PodDiedError            it exited or was killed                           (may be tried again)
    ├── FileTaskError               one file could not be processed
    │   ├── InputFileError          the file cannot be read as its type
    │   ├── PredictError            predict raised                                    (may be tried again)
    │   ├── ResultError             predict returned something that is no result, or that cannot be written
    │   └── FileTimeoutError        the file took longer than file_timeout
    ├── JobTimeoutError             the execution took longer than job_timeout
    ├── ExecutionCancelledError     somebody ended the execution
    ├── ExecutionFailedError        an execution that a client waited for has ended without all results
    ├── WaitTimeoutError            a client has waited long enough; the execution goes on
    └── ServerError                 a client of the REST API did not get what it asked for
        ├── ServerUnreachableError  no answer, or only that of a server that cannot answer now (may be tried again)
        ├── UntrustedServerError    the server's certificate is not to be trusted
        ├── NotAllowedError         the server does not know the user, or the user lacks the right
        └── UnexpectedAnswerError   the server failed, or what answered is not this API

``retryable`` says whether trying the same thing again can succeed. Errors pickle, with their details, and hold
names of secrets, never values.
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
    """The root of the tree.

    Args:
        message: What went wrong, with which execution, file or field, and what to do about it.
        details: Plain values for programs: ``field=``, ``uri=``, ``execution_id=``, ``traceback=`` ….
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
    """A field of the request, of a build or of the deployment is wrong; ``details["field"]`` names it."""


class LocationError(ConfigurationError):
    """A folder, bucket or URI is malformed or not allowed here."""


class PlanningError(BatchExecError):
    """The execution is refused before any file is touched."""


class NoInputFilesError(PlanningError):
    """The source folder is missing, empty, or holds no file of the type."""


class ResultCollisionError(PlanningError):
    """Two inputs would give one result, or a result would overwrite an input."""


class ExecutionRunningError(PlanningError):
    """An execution with the same identity is running; ``details["execution_id"]`` names it."""


class RepositoryError(BatchExecError):
    """The model repository cannot give the build that was asked for."""


class ModelNotFoundError(RepositoryError):
    """No model of that id is in the repository."""


class BuildNotFoundError(RepositoryError):
    """The model has no build of that id."""


class NoLiveBuildError(RepositoryError):
    """No build was named, and none is deployed."""


class BuildExistsError(RepositoryError):
    """Builds are immutable: this id is taken."""


class InvalidBuildError(RepositoryError):
    """What lies in the folder is no build."""


class StorageError(BatchExecError):
    """A bucket or disk did not do what it was asked."""

    retryable = True


class ObjectNotFoundError(StorageError):
    """There is no such object."""

    retryable = False


class ObjectExistsError(StorageError):
    """Create-if-absent found an object."""

    retryable = False


class ObjectChangedError(StorageError):
    """The object is no longer the one that was listed or read."""

    retryable = False


class BucketNotFoundError(StorageError):
    """There is no such bucket."""

    retryable = False


class AccessDeniedError(StorageError):
    """The keys are wrong, or lack the permission."""

    retryable = False


class DiskFullError(StorageError):
    """The scratch disk or the destination has no room."""


class PodError(BatchExecError):
    """The pod is gone, and not because of what ``predict`` raised."""


class ModelLoadError(PodError):
    """The build cannot be imported, instantiated or initialised."""


class PodMemoryError(PodError):
    """The pod needed more memory than its instance has."""


class PodDiedError(PodError):
    """The pod exited or was killed."""

    retryable = True


class FileTaskError(BatchExecError):
    """One file could not be processed; ``details["file"]`` names it."""


class InputFileError(FileTaskError):
    """The file cannot be read as its type."""


class PredictError(FileTaskError):
    """``predict`` raised; ``details["traceback"]`` is the model's own."""

    retryable = True


class ResultError(FileTaskError):
    """``predict`` returned something that is no result, or that cannot be written."""


class FileTimeoutError(FileTaskError):
    """The file took longer than ``file_timeout``."""


class JobTimeoutError(BatchExecError):
    """The execution took longer than ``job_timeout``."""

    @classmethod
    def after(cls, job_timeout: float, *, file: str = "") -> Self:
        """The error of an execution that exceeded its ``job_timeout``.

        Args:
            job_timeout: Seconds.
            file: The file that was being processed; empty if there was none.
        """
        if file:
            return cls(f"{file}: the execution exceeded its job_timeout of {job_timeout:g} s.")
        return cls(f"The execution exceeded its job_timeout of {job_timeout:g} s.")


class ExecutionCancelledError(BatchExecError):
    """Somebody ended the execution."""


class ExecutionFailedError(BatchExecError):
    """An execution that a client waited for has ended without all results; ``details["status"]`` says how."""


class WaitTimeoutError(BatchExecError):
    """A client has waited as long as it was told to; the execution goes on."""


class ServerError(BatchExecError):
    """A client of the REST API did not get what it asked for; ``details["server"]`` names the server."""


class ServerUnreachableError(ServerError):
    """No answer in time, or only that of a server that cannot answer now."""

    retryable = True


class UntrustedServerError(ServerError):
    """No connection: the certificate of the server is not to be trusted."""


class NotAllowedError(ServerError):
    """The server does not know the user, or the user lacks the right; ``details["status_code"]`` is 401 or 403."""


class UnexpectedAnswerError(ServerError):
    """The server failed, or what answered is not this API; ``details["status_code"]`` is what it answered with."""
