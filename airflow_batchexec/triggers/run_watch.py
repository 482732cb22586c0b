"""One query for many runs, shared by all triggers of a triggerer that wait for executions."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from airflow_batchexec.internals import count_dag_runs
from airflow_batchexec.names import ENDED_RUN_STATES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["RunWatch", "find", "watch_of"]

log = logging.getLogger(__name__)

_BATCH = 100
_SHORTEST_SECONDS = 1.0
# A deleted run never ends: in every tenth round, check that all still exist.
_ROUNDS_PER_CENSUS = 10


@dataclass(slots=True, eq=False)
class _Waiter:
    run_id: str
    poll_seconds: float
    end: asyncio.Future[str | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


async def find(run_ids: Sequence[str], count: Callable[[Sequence[str]], Awaitable[int]]) -> list[str]:
    """Find the runs that match, by bisection: one of a hundred takes some ten queries, all of them takes one.

    The runs change meanwhile. Each run that is returned was counted, alone or in a group that matched as a whole; one
    that starts to match too late is found the next time.

    Args:
        run_ids: The runs.
        count: Counts how many of the given runs match.
    """
    hits = await count(run_ids) if run_ids else 0
    if hits <= 0:
        return []
    if hits >= len(run_ids):
        return list(run_ids)
    half = len(run_ids) // 2
    found = await find(run_ids[:half], count)
    return found if len(found) >= hits else [*found, *await find(run_ids[half:], count)]


class RunWatch:
    """Waits for runs of one DAG.

    A round counts, for each hundred runs, how many have ended, and looks for them only if some have. So a thousand
    waiting triggers take ten queries a round instead of a thousand.

    Args:
        dag_id: The DAG.
        count: Counts runs with these ids, in one of these states or in any; default: queries Airflow.
    """

    def __init__(
        self,
        dag_id: str,
        *,
        count: Callable[[str, list[str], list[str] | None], Awaitable[int]] | None = None,
    ) -> None:
        self._dag_id = dag_id
        self._count = count or _count
        self._waiters: dict[_Waiter, None] = {}
        self._pace = _SHORTEST_SECONDS
        self._wake = asyncio.Event()
        self._rounds: asyncio.Task[None] | None = None

    async def ended(self, run_id: str, *, poll_seconds: float) -> str | None:
        """Wait for the end of a run.

        Args:
            run_id: The run.
            poll_seconds: Seconds between two checks; the shortest interval applies to all waiters.

        Returns:
            ``success`` or ``failed``; ``None`` if the run does not exist, or was deleted.
        """
        waiter = _Waiter(run_id, poll_seconds)
        self._waiters[waiter] = None
        if self._rounds is None or self._rounds.done():
            # In a new context, so that it does not log as the task that happens to wait first.
            self._rounds = contextvars.Context().run(
                asyncio.get_running_loop().create_task, self._watch(), name="batchexec-run-watch"
            )
            self._rounds.add_done_callback(self._cancel_waiters)
        elif poll_seconds < self._pace:
            self._wake.set()
        try:
            return await waiter.end
        finally:
            del self._waiters[waiter]
            if not self._waiters:
                self._wake.set()

    async def _watch(self) -> None:
        number = 0
        while self._waiters:
            await self._pause()
            run_ids = sorted({waiter.run_id for waiter in self._waiters if not waiter.end.done()})
            for start in range(0, len(run_ids), _BATCH):
                batch = run_ids[start : start + _BATCH]
                try:
                    await self._ask(batch, census=number % _ROUNDS_PER_CENSUS == 0)
                except Exception:
                    log.exception("Cannot query the runs of %s; retrying.", self._dag_id)
            number += 1

    async def _pause(self) -> None:
        """Sleep until the waiter with the shortest interval is due, including later ones, or none is left."""
        clock = asyncio.get_running_loop().time
        started = clock()
        # Jitter, so that triggerers that started together do not query together.
        jitter = random.uniform(0.8, 1.0)  # noqa: S311  no secret
        while self._waiters:
            self._wake.clear()
            self._pace = max(_SHORTEST_SECONDS, min(waiter.poll_seconds for waiter in self._waiters))
            left = started + self._pace * jitter - clock()
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                return

    async def _ask(self, run_ids: list[str], *, census: bool) -> None:
        ended = await find(run_ids, partial(self._count_in, states=ENDED_RUN_STATES))
        for state in ENDED_RUN_STATES:
            in_state = await find(ended, partial(self._count_in, states=[state]))
            self._settle(in_state, state)
            ended = sorted(set(ended) - set(in_state))
        if census:
            self._settle(await find(run_ids, self._count_missing), None)

    def _settle(self, run_ids: Sequence[str], state: str | None) -> None:
        settled = set(run_ids)
        for waiter in self._waiters if settled else ():
            if waiter.run_id in settled and not waiter.end.done():
                waiter.end.set_result(state)

    def _cancel_waiters(self, rounds: asyncio.Task[None]) -> None:
        """Cancel the waiters of a watch that has ended: Airflow restarts cancelled triggers."""
        if rounds is self._rounds:
            for waiter in self._waiters:
                waiter.end.cancel()

    async def _count_in(self, run_ids: Sequence[str], states: Sequence[str]) -> int:
        return await self._count(self._dag_id, list(run_ids), list(states))

    async def _count_missing(self, run_ids: Sequence[str]) -> int:
        return len(run_ids) - await self._count(self._dag_id, list(run_ids), None)


async def _count(dag_id: str, run_ids: list[str], states: list[str] | None) -> int:
    return await asyncio.to_thread(count_dag_runs, dag_id, run_ids, states)


_watches: dict[tuple[asyncio.AbstractEventLoop, str], RunWatch] = {}


def watch_of(dag_id: str) -> RunWatch:
    """The watch of a DAG's runs in the running event loop."""
    return _watches.setdefault((asyncio.get_running_loop(), dag_id), RunWatch(dag_id))
