"""Fetches and publications that run beside the pod: several small files at once, but large ones one by one.

Files that are fetched ahead and results that are being published occupy the disk, so both are limited in number and in
bytes.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from airflow_batchexec.engine.running.file_job import FileJob

__all__ = ["TRANSFER_BYTES", "Fetches", "Publications"]

#: Start no further transfer while those before it have this many bytes in total.
TRANSFER_BYTES = 64 * 2**20
# With a round trip of 30 ms, a pod need not wait for its storage if predicting a file takes 4 ms or more. Fetches and
# publications together do not exceed a bucket's connections.
_MAX_FILES = 8


class Fetches:
    """Fetches files in order, ahead of the pod. Used by a single thread.

    Args:
        jobs: The files; each is consumed only when it is about to be fetched.
        fetch: Makes a file available on this machine and returns its path; called in several threads.
        max_bytes: Fetch no further file ahead while those before it have this many bytes in total; 0 to fetch in the
            thread that takes the files, at most one ahead.
        may_look_ahead: Whether a file may be consumed before the pod is free, if ``max_bytes`` is 0.
    """

    def __init__(
        self,
        jobs: Iterator[FileJob],
        fetch: Callable[[FileJob], Path],
        *,
        max_bytes: int = TRANSFER_BYTES,
        may_look_ahead: Callable[[], bool] = lambda: False,
    ) -> None:
        self._jobs = jobs
        self._fetch = fetch
        self._max_bytes = max_bytes
        self._may_look_ahead = may_look_ahead
        self._ahead: deque[FileJob] = deque()
        self._bytes_ahead = 0
        self._threads = ThreadPoolExecutor(_MAX_FILES, thread_name_prefix="fetch")

    def take(self) -> FileJob | None:
        """The next file, being fetched or fetched; ``None`` if there are no more."""
        if not self._max_bytes:
            return self._ahead.popleft() if self._ahead else self._fetch_here()
        self._fetch_ahead()
        if not self._ahead:
            return None
        job = self._ahead.popleft()
        self._bytes_ahead -= job.task.size_bytes
        self._fetch_ahead()
        return job

    def look_ahead(self) -> None:
        """Fetch the next file while the pod is busy, if this is for the calling thread to do."""
        if not self._max_bytes and not self._ahead and self._may_look_ahead():
            job = self._fetch_here()
            if job is not None:
                self._ahead.append(job)

    def close(self) -> None:
        """Start no further fetch, and wait for the running ones."""
        self._threads.shutdown(cancel_futures=True)

    def _fetch_here(self) -> FileJob | None:
        job = next(self._jobs, None)
        if job is not None:
            job.fetched = _completed(self._fetch, job)
        return job

    def _fetch_ahead(self) -> None:
        while len(self._ahead) < _MAX_FILES and self._bytes_ahead < self._max_bytes:
            job = next(self._jobs, None)
            if job is None:
                return
            job.fetched = self._threads.submit(self._fetch, job)
            self._ahead.append(job)
            self._bytes_ahead += job.task.size_bytes


class Publications:
    """Publishes results while the pod predicts. Used by a single thread.

    Args:
        publish: Publishes the result of a file and records its end; called in several threads.
    """

    def __init__(self, publish: Callable[[FileJob], None]) -> None:
        self._publish = publish
        self._files = 0
        self._bytes = 0
        self._crash: BaseException | None = None
        self._ended = threading.Condition()
        self._threads = ThreadPoolExecutor(_MAX_FILES, thread_name_prefix="publish")

    @property
    def have_room(self) -> bool:
        """Whether ``add`` would not wait."""
        return self._files < _MAX_FILES and self._bytes < TRANSFER_BYTES

    def add(self, job: FileJob) -> None:
        """Publish a result as soon as there is room."""
        size = job.output_bytes
        with self._ended:
            self._ended.wait_for(lambda: self.have_room)
            self._files += 1
            self._bytes += size
        self._threads.submit(self._run, job, size)

    def check(self) -> None:
        """Raise what ``publish`` has raised, if anything."""
        if self._crash is not None:
            raise self._crash

    def close(self) -> None:
        """Wait for all publications."""
        self._threads.shutdown()

    def _run(self, job: FileJob, size: int) -> None:
        try:
            self._publish(job)
        except BaseException as error:  # noqa: BLE001  raised by the next check
            self._crash = error
        finally:
            with self._ended:
                self._files -= 1
                self._bytes -= size
                self._ended.notify()


def _completed(work: Callable[[FileJob], Path], job: FileJob) -> Future[Path]:
    """The outcome of a call in this thread."""
    future: Future[Path] = Future()
    try:
        future.set_result(work(job))
    except Exception as error:  # noqa: BLE001  raised by the future's result()
        future.set_exception(error)
    return future
