"""Applies a function to many items in several threads."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["parallel_map"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def parallel_map(
    work: Callable[[_Item], _Result], items: Iterable[_Item], *, threads: int, name: str
) -> list[_Result]:
    """Apply ``work`` to every item, to several concurrently.

    After the first failure, no further items are started, running ones are awaited, and the failure of the first item
    that failed, in item order, is raised. An exception in the calling thread, such as Ctrl-C or one raised by
    ``items``, also stops the rest. ``items`` is consumed as threads become free.

    Args:
        work: Called in one of the threads, or in the calling thread if there is only one item.
        items: The arguments for ``work``. The calling thread iterates over them.
        threads: The maximum number of concurrent calls.
        name: The prefix of the threads' names.

    Returns:
        The results in the order of the items.
    """
    rest = iter(items)
    first = list(islice(rest, 2))
    if len(first) < 2:  # noqa: PLR2004  nothing to parallelize
        return [work(item) for item in first]
    failures: dict[int, BaseException] = {}

    def attempt(number: int, item: _Item) -> _Result:
        # Earlier items still run, so that the same item's failure is raised whichever thread is faster.
        if any(failed < number for failed in list(failures)):
            raise CancelledError
        try:
            return work(item)
        except BaseException as error:
            failures[number] = error
            raise

    with ThreadPoolExecutor(threads, thread_name_prefix=name) as pool:
        try:
            # Queue one item behind each running one, so that no thread is idle while results are collected.
            results = _collect(pool, attempt, chain(first, rest), failures, max_pending=2 * threads)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # leaving the pool waits for running items
    if failures:
        raise failures[min(failures)]
    return [results[number] for number in range(len(results))]


def _collect(
    pool: ThreadPoolExecutor,
    attempt: Callable[[int, _Item], _Result],
    items: Iterable[_Item],
    failures: Mapping[int, BaseException],
    *,
    max_pending: int,
) -> dict[int, _Result]:
    """The results by item number; incomplete if an item failed."""
    numbered = enumerate(items)
    pending: dict[Future[_Result], int] = {}
    results: dict[int, _Result] = {}
    while True:
        for number, item in islice(numbered, max_pending - len(pending)):
            pending[pool.submit(attempt, number, item)] = number
        if not pending:
            return results
        done, _ = wait(pending, return_when=FIRST_COMPLETED)
        if failures:
            return results
        for future in done:
            results[pending.pop(future)] = future.result()
