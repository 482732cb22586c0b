from __future__ import annotations

import signal
import threading

import pytest

from airflow_batchexec.engine.parallel import parallel_map

TIMEOUT_SECONDS = 30  # after which a test that would otherwise hang fails


def thread_names() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_results_are_in_item_order():
    second_ended = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second_ended.wait(TIMEOUT_SECONDS)
        if number == 1:
            second_ended.set()
        return number * number

    assert parallel_map(work, range(50), threads=2, name="test") == [n * n for n in range(50)]


def test_all_threads_work_concurrently():
    barrier = threading.Barrier(4)
    parallel_map(lambda _: barrier.wait(TIMEOUT_SECONDS), range(8), threads=4, name="test")


def test_thread_count_is_limited_and_all_threads_end():
    seen = parallel_map(lambda _: threading.current_thread().name, range(100), threads=3, name="counted")
    assert len(set(seen)) <= 3
    assert all(name.startswith("counted") for name in seen)
    assert not set(seen) & thread_names()


@pytest.mark.parametrize("items", [[], ["only"]])
def test_no_thread_is_started_for_fewer_than_two_items(items):
    here = threading.current_thread()
    assert parallel_map(lambda _: threading.current_thread(), items, threads=8, name="test") == [here] * len(
        items
    )


def test_items_are_consumed_as_threads_become_free():
    taken, ended, ahead = [], [], []

    def items():
        for number in range(1000):
            taken.append(number)
            yield number

    def work(number: int) -> None:
        ahead.append(len(taken) - len(ended))
        ended.append(number)

    parallel_map(work, items(), threads=4, name="test")
    assert sorted(ended) == taken == list(range(1000))
    assert max(ahead) <= 2 * 4


def test_failure_starts_no_further_items_and_waits_for_running_ones():
    running = threading.Event()
    failed = threading.Event()
    started, ended = [], []

    def work(number: int) -> None:
        started.append(number)
        if number == 0:
            running.set()
            assert failed.wait(TIMEOUT_SECONDS)
            ended.append(number)
        else:
            assert running.wait(TIMEOUT_SECONDS)
            failed.set()
            raise ValueError(str(number))

    with pytest.raises(ValueError, match="1"):
        parallel_map(work, range(1000), threads=2, name="test")
    assert started == [0, 1]
    assert ended == [0]


def test_of_several_failures_that_of_the_first_item_is_raised():
    second_failed = threading.Event()

    def work(number: int) -> None:
        if number == 0:
            assert second_failed.wait(TIMEOUT_SECONDS)
        else:
            second_failed.set()
        raise ValueError(f"item {number}")

    with pytest.raises(ValueError, match="item 0"):
        parallel_map(work, range(1000), threads=2, name="test")


def test_failure_of_the_iterable_stops_the_rest():
    release = threading.Event()
    ended = []

    def items():
        yield from range(2)
        release.set()
        raise OSError("the listing failed")

    def work(number: int) -> None:
        assert release.wait(TIMEOUT_SECONDS)
        ended.append(number)

    with pytest.raises(OSError, match="listing failed"):
        parallel_map(work, items(), threads=2, name="test")
    assert set(ended) <= {0, 1}


def test_interrupt_starts_no_further_items_and_waits_for_running_ones():
    both_run = threading.Barrier(2)
    interrupted = threading.Event()
    started, ended = [], []

    def work(number: int) -> None:
        started.append(number)
        if number < 2:
            both_run.wait(TIMEOUT_SECONDS)
        elif number == 10:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert interrupted.wait(TIMEOUT_SECONDS)
        ended.append(number)

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            parallel_map(work, range(1000), threads=2, name="test")
    finally:
        signal.signal(signal.SIGINT, before)
    assert max(started) < 10 + 2 * 2
    assert sorted(ended) == sorted(started)
