"""One query for many waiting triggers, against a fake Airflow that records queries, on a fake clock."""

from __future__ import annotations

import asyncio
import logging
import math
import selectors
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_batchexec.triggers.run_watch import RunWatch, find, watch_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

ENDED = {"success", "failed"}
ROUNDS_PER_CENSUS = 10


class _FakeClockSelector(selectors.DefaultSelector):
    """Advances a fake clock by each timeout instead of waiting."""

    elapsed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        assert timeout is not None, "deadlock: all tasks are waiting, and no timer is set"
        self.elapsed += timeout
        return super().select(0)


def run_on_fake_clock(scenario: Coroutine[Any, Any, None]) -> None:
    """Run a scenario to the end, with a clock that jumps from one event to the next; no task may outlive it."""
    selector = _FakeClockSelector()
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.elapsed
    loop.slow_callback_duration = math.inf

    async def run() -> None:
        await scenario
        await asyncio.sleep(0.1)
        assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()

    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


class Query(NamedTuple):
    """A query to Airflow: how many of these runs are in one of these states; with ``None``, how many exist."""

    at: float
    run_ids: list[str]
    states: list[str] | None


class FakeAirflow:
    """The runs of an Airflow, and every query sent to it."""

    def __init__(self, run_ids: Sequence[str]) -> None:
        self.states = dict.fromkeys(run_ids, "running")
        self.queries: list[Query] = []
        self.failures = 0
        self.refused: str | None = None

    async def count(self, dag_id: str, run_ids: list[str], states: list[str] | None) -> int:
        assert dag_id == "daily"
        assert run_ids, "without IDs, Airflow counts all runs"
        assert len(run_ids) == len(set(run_ids))
        self.queries.append(Query(now(), run_ids, states))
        await asyncio.sleep(0.01)
        if self.failures:
            self.failures -= 1
            raise RuntimeError("Airflow does not respond")
        if self.refused in run_ids:
            raise RuntimeError("Airflow refuses this run")
        found = [self.states[run_id] for run_id in run_ids if run_id in self.states]
        return len(found) if states is None else sum(state in states for state in found)

    def watch(self) -> RunWatch:
        return RunWatch("daily", count=self.count)


def now() -> float:
    return asyncio.get_running_loop().time()


def names(count: int) -> list[str]:
    return [f"run-{i:04d}" for i in range(count)]


def wait_for(
    watch: RunWatch, run_ids: Sequence[str], *, poll_seconds: float = 5.0
) -> list[asyncio.Task[str | None]]:
    return [asyncio.ensure_future(watch.ended(run_id, poll_seconds=poll_seconds)) for run_id in run_ids]


async def cancel(waiting: Sequence[asyncio.Task[str | None]]) -> None:
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


def rounds(airflow: FakeAirflow) -> list[list[Query]]:
    """The queries by round; within a round, one immediately follows the other."""
    found: list[list[Query]] = []
    for query in airflow.queries:
        if not found or query.at - found[-1][-1].at > 0.5:
            found.append([])
        found[-1].append(query)
    return found


@pytest.mark.parametrize(("runs", "queries"), [(1, 1), (1000, 10)])
def test_a_thousand_waiters_take_one_query_per_hundred_runs(runs: int, queries: int):
    async def scenario() -> None:
        airflow = FakeAirflow(names(runs))
        waiting = wait_for(airflow.watch(), names(runs) * (1000 // runs))
        await asyncio.sleep(300)
        *complete, _ = rounds(airflow)
        assert 59 <= len(complete) <= 75
        for number, round_ in enumerate(complete):
            census = [query for query in round_ if query.states is None]
            assert len(round_) - len(census) == queries
            assert len(census) == (0 if number % ROUNDS_PER_CENSUS else queries)
        await cancel(waiting)

    run_on_fake_clock(scenario())


@pytest.mark.parametrize("poll_seconds", [1.0, 5.0, 60.0, 3600.0])
def test_an_end_is_noticed_within_the_poll_interval(poll_seconds: float):
    async def scenario() -> None:
        airflow = FakeAirflow(names(1))
        (waiting,) = wait_for(airflow.watch(), names(1), poll_seconds=poll_seconds)
        await asyncio.sleep(50 * poll_seconds)
        times = [round_[0].at for round_ in rounds(airflow)]
        gaps = [b - a for a, b in pairwise(times)]
        assert all(0.8 * poll_seconds <= gap <= poll_seconds + 0.1 for gap in gaps)
        assert len(set(gaps)) > 10, "without jitter, triggerers started together would query together"
        await cancel([waiting])

    run_on_fake_clock(scenario())


def test_airflow_is_queried_at_most_about_once_a_second():
    async def scenario() -> None:
        airflow = FakeAirflow(names(1))
        waiting = wait_for(airflow.watch(), names(1), poll_seconds=0.001)
        await asyncio.sleep(100)
        assert 90 <= len(airflow.queries) <= 140
        await cancel(waiting)

    run_on_fake_clock(scenario())


def test_a_waiter_with_a_shorter_interval_does_not_wait_for_the_others():
    async def scenario() -> None:
        airflow = FakeAirflow(names(2))
        watch = airflow.watch()
        patient = wait_for(watch, names(1), poll_seconds=3600)
        await asyncio.sleep(10)
        (impatient,) = wait_for(watch, names(2)[1:], poll_seconds=5)
        await asyncio.sleep(10)
        airflow.states["run-0001"] = "success"
        started = now()
        assert await impatient == "success"
        assert now() - started < 6
        await cancel(patient)

    run_on_fake_clock(scenario())


def test_each_waiter_gets_the_state_of_its_own_run():
    async def scenario() -> None:
        airflow = FakeAirflow(names(250))
        waiting = wait_for(airflow.watch(), names(250))
        for i in range(0, 250, 7):
            airflow.states[f"run-{i:04d}"] = "failed" if i % 2 else "success"
        await asyncio.sleep(20)
        for i, task in enumerate(waiting):
            assert task.done() == (i % 7 == 0)
            if task.done():
                assert task.result() == ("failed" if i % 2 else "success")
        await cancel(waiting)

    run_on_fake_clock(scenario())


def test_a_thousand_runs_that_end_at_once_take_few_queries():
    async def scenario() -> None:
        airflow = FakeAirflow(names(1000))
        waiting = wait_for(airflow.watch(), names(1000))
        await asyncio.sleep(20)
        before = len(airflow.queries)
        airflow.states = dict.fromkeys(names(1000), "success")
        started = now()
        assert set(await asyncio.gather(*waiting)) == {"success"}
        assert now() - started < 6
        assert len(airflow.queries) - before <= 10 * 3

    run_on_fake_clock(scenario())


def test_one_run_of_a_thousand_is_found_by_bisection():
    async def scenario() -> None:
        airflow = FakeAirflow(names(1000))
        waiting = wait_for(airflow.watch(), names(1000))
        await asyncio.sleep(60)
        airflow.queries.clear()
        airflow.states["run-0777"] = "failed"
        assert await waiting[777] == "failed"
        # Ten for the hundreds, the halves of 100 down to the run, its state, and a census.
        assert len(airflow.queries) <= 10 + 2 * 7 + 2 + 10
        assert sum(task.done() for task in waiting) == 1
        await cancel(waiting)

    run_on_fake_clock(scenario())


def test_all_waiters_of_one_run_share_a_query_even_if_some_have_left():
    async def scenario() -> None:
        airflow = FakeAirflow(names(1))
        waiting = wait_for(airflow.watch(), names(1) * 50)
        await asyncio.sleep(1)
        await cancel(waiting[:25])
        airflow.states["run-0000"] = "success"
        assert set(await asyncio.gather(*waiting[25:])) == {"success"}
        assert all(query.run_ids == ["run-0000"] for query in airflow.queries)

    run_on_fake_clock(scenario())


def test_a_run_without_waiters_is_not_queried():
    async def scenario() -> None:
        airflow = FakeAirflow(names(10))
        waiting = wait_for(airflow.watch(), names(10))
        await asyncio.sleep(6)
        await cancel(waiting[5:])
        airflow.queries.clear()
        await asyncio.sleep(6)
        assert [query.run_ids for query in airflow.queries] == [names(5)]
        await cancel(waiting)
        airflow.queries.clear()
        await asyncio.sleep(600)
        assert airflow.queries == []

    run_on_fake_clock(scenario())


@pytest.mark.parametrize("pause", [0.0, 1.0, 100.0])
def test_waiters_that_come_after_all_have_left_are_served(pause: float):
    async def scenario() -> None:
        airflow = FakeAirflow(names(2))
        watch = airflow.watch()
        for run_id in names(2):
            (waiting,) = wait_for(watch, [run_id])
            await asyncio.sleep(pause)
            airflow.states[run_id] = "success"
            assert await waiting == "success"
        (waiting,) = wait_for(watch, names(1))
        await asyncio.sleep(pause)
        await cancel([waiting])
        assert await watch.ended("run-0001", poll_seconds=5) == "success"

    run_on_fake_clock(scenario())


@pytest.mark.parametrize("steps", range(12))
def test_a_waiter_that_comes_while_the_watch_ends_is_served(steps: int):
    async def scenario() -> None:
        airflow = FakeAirflow(names(1))
        watch = airflow.watch()
        waiting = wait_for(watch, names(1))
        await asyncio.sleep(1)
        waiting[0].cancel()
        for _ in range(steps):
            await asyncio.sleep(0)
        airflow.states["run-0000"] = "success"
        assert await watch.ended("run-0000", poll_seconds=5) == "success"

    run_on_fake_clock(scenario())


def test_a_run_that_never_existed_is_missing_at_the_first_check():
    async def scenario() -> None:
        airflow = FakeAirflow(names(3))
        waiting = wait_for(airflow.watch(), [*names(3), "nowhere"])
        await asyncio.sleep(6)
        assert [task.done() for task in waiting] == [False, False, False, True]
        assert waiting[3].result() is None
        await cancel(waiting)

    run_on_fake_clock(scenario())


def test_only_a_deleted_run_becomes_missing_after_some_rounds():
    async def scenario() -> None:
        airflow = FakeAirflow(names(300))
        waiting = wait_for(airflow.watch(), names(300))
        await asyncio.sleep(30)
        del airflow.states["run-0123"]
        started = now()
        assert await waiting[123] is None
        assert now() - started <= ROUNDS_PER_CENSUS * 5.5
        assert sum(task.done() for task in waiting) == 1
        await cancel(waiting)

    run_on_fake_clock(scenario())


def test_failed_queries_are_retried(caplog: pytest.LogCaptureFixture):
    async def scenario() -> None:
        airflow = FakeAirflow(names(200))
        waiting = wait_for(airflow.watch(), names(200))
        await asyncio.sleep(20)
        airflow.failures = 7
        airflow.states = dict.fromkeys(names(200), "success")
        assert set(await asyncio.gather(*waiting)) == {"success"}
        assert airflow.failures == 0

    with caplog.at_level(logging.ERROR):
        run_on_fake_clock(scenario())
    assert len(caplog.records) == 7
    assert "Cannot query the runs of daily; retrying." in caplog.text


def test_runs_that_cannot_be_queried_do_not_delay_the_others():
    async def scenario() -> None:
        airflow = FakeAirflow(names(200))
        airflow.refused = "run-0042"
        waiting = wait_for(airflow.watch(), names(200))
        airflow.states = dict.fromkeys(names(200), "success")
        await asyncio.sleep(6)
        assert [task.done() for task in waiting] == [False] * 100 + [True] * 100
        await cancel(waiting)

    run_on_fake_clock(scenario())


def test_a_cancelled_watch_cancels_its_waiters():
    async def scenario() -> None:
        airflow = FakeAirflow(names(3))
        waiting = wait_for(airflow.watch(), names(3))
        await asyncio.sleep(6)
        (watch,) = [task for task in asyncio.all_tasks() if task.get_name() == "batchexec-run-watch"]
        watch.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [asyncio.CancelledError] * 3

    run_on_fake_clock(scenario())


def test_a_dag_has_one_watch():
    async def scenario() -> None:
        assert watch_of("daily") is watch_of("daily")
        assert watch_of("daily") is not watch_of("weekly")

    run_on_fake_clock(scenario())


def counter(
    hits: Callable[[], set[str]], queries: list[list[str]]
) -> Callable[[Sequence[str]], Awaitable[int]]:
    async def count(run_ids: Sequence[str]) -> int:
        assert run_ids
        queries.append(list(run_ids))
        return len(hits() & set(run_ids))

    return count


@given(data=st.data(), size=st.integers(0, 100))
def test_the_search_finds_all_matches_with_few_queries(data: st.DataObject, size: int):
    runs = names(size)
    hits = data.draw(st.sets(st.sampled_from(runs)) if runs else st.just(set()))
    queries: list[list[str]] = []

    async def scenario() -> None:
        assert set(await find(runs, counter(lambda: hits, queries))) == hits

    run_on_fake_clock(scenario())
    assert len(queries) <= 1 + 2 * len(hits) * math.ceil(math.log2(max(size, 2)))
    assert len(queries) <= 2 * size


@given(moments=st.lists(st.sets(st.sampled_from(names(30))), min_size=1, max_size=60))
def test_a_search_finds_only_ended_runs_while_they_change(moments: list[set[str]]):
    queries: list[list[str]] = []

    def ended() -> set[str]:
        return moments[min(len(queries), len(moments)) - 1]

    async def scenario() -> None:
        found = await find(names(30), counter(ended, queries))
        assert len(found) == len(set(found))
        assert set(found) <= set().union(*moments)
        seen = [moments[min(i, len(moments) - 1)] & set(run_ids) for i, run_ids in enumerate(queries)]
        assert set(found) <= set().union(*seen)

    run_on_fake_clock(scenario())


@given(
    first=st.sets(st.sampled_from(names(30))),
    later=st.lists(st.sampled_from(names(30)), max_size=30, unique=True),
)
def test_runs_that_end_during_a_search_do_not_hide_others(first: set[str], later: list[str]):
    queries: list[list[str]] = []

    async def scenario() -> None:
        found = await find(names(30), counter(lambda: first | set(later[: len(queries) - 1]), queries))
        assert len(found) >= len(first)
        assert set(found) <= first | set(later)

    run_on_fake_clock(scenario())
