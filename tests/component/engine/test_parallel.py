from __future__ import annotations

import signal
import threading

import pytest

from airflow_batchexec.engine.parallel import parallel_map

SECONDS = 30  # after which a test that would wait for ever fails


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_results_come_in_the_order_of_the_items():
    second_has_ended = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert second_has_ended.wait(SECONDS)
        if number == 1:
            second_has_ended.set()
        return number * number

    assert parallel_map(work, range(50), threads=2, name="test") == [n * n for n in range(50)]


def test_as_many_items_as_there_are_threads_are_worked_on_at_once():
    together = threading.Barrier(4)
    parallel_map(lambda _: together.wait(SECONDS), range(8), threads=4, name="test")


def test_no_more_threads_than_asked_for_are_started_and_all_are_gone_afterwards():
    seen = parallel_map(lambda _: threading.current_thread().name, range(100), threads=3, name="counted")
    assert len(set(seen)) <= 3
    assert all(name.startswith("counted") for name in seen)
    assert not set(seen) & names_of_threads()


@pytest.mark.parametrize("items", [[], ["only"]])
def test_without_a_second_item_no_thread_is_started(items):
    here = threading.current_thread()
    assert parallel_map(lambda _: threading.current_thread(), items, threads=8, name="test") == [here] * len(
        items
    )


def test_items_are_taken_only_as_threads_become_free():
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


def test_after_a_failure_nothing_is_begun_and_what_runs_is_waited_for():
    running = threading.Event()
    failed = threading.Event()
    begun, ended = [], []

    def work(number: int) -> None:
        begun.append(number)
        if number == 0:
            running.set()
            assert failed.wait(SECONDS)
            ended.append(number)
        else:
            assert running.wait(SECONDS)
            failed.set()
            raise ValueError(str(number))

    with pytest.raises(ValueError, match="1"):
        parallel_map(work, range(1000), threads=2, name="test")
    assert begun == [0, 1]
    assert ended == [0]


def test_a_failure_of_the_items_themselves_stops_the_rest():
    release = threading.Event()
    ended = []

    def items():
        yield from range(2)
        release.set()
        raise OSError("the listing broke off")

    def work(number: int) -> None:
        assert release.wait(SECONDS)
        ended.append(number)

    with pytest.raises(OSError, match="broke off"):
        parallel_map(work, items(), threads=2, name="test")
    assert set(ended) <= {0, 1}


def test_an_interrupt_leaves_undone_what_has_not_begun_and_what_runs_is_waited_for():
    both_run = threading.Barrier(2)
    interrupted = threading.Event()
    begun, ended = [], []

    def work(number: int) -> None:
        begun.append(number)
        if number < 2:
            both_run.wait(SECONDS)
        elif number == 10:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert interrupted.wait(SECONDS)
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
    assert max(begun) < 10 + 2 * 2
    assert sorted(ended) == sorted(begun)
