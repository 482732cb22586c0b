"""One question for many runs: what all triggers of a triggerer that wait for executions share."""

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

_log = logging.getLogger(__name__)

_BATCH = 100
_SHORTEST_SECONDS = 1.0
# A run that was deleted never ends: every so many rounds it is asked whether all are still there.
_ROUNDS_PER_CENSUS = 10


@dataclass(slots=True, eq=False)
class _Waiter:
    run_id: str
    poll_seconds: float
    end: asyncio.Future[str | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


async def find(run_ids: Sequence[str], count: Callable[[Sequence[str]], Awaitable[int]]) -> list[str]:
    """The runs that a count counts, by halves: one of a hundred is found with some ten questions, all with one.

    The runs go on meanwhile. What is found was counted itself, or in a part that was counted as a whole; what the last
    count has left out is found the next time.

    Args:
        run_ids: The runs.
        count: Asks how many of some of them are in question.
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
    """The runs of one DAG that are waited for.

    A round asks, for each hundred of them, how many have ended. Only where some have is it asked which. So a thousand
    waiting triggers put ten questions a round, where each by itself would put a thousand.

    Args:
        dag_id: The DAG.
        count: Counts its runs: of these ids, in one of these states or in any; by default it asks Airflow.
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
        self._hurry = asyncio.Event()
        self._rounds: asyncio.Task[None] | None = None

    async def ended(self, run_id: str, *, poll_seconds: float) -> str | None:
        """Wait until a run has ended.

        Args:
            run_id: The run.
            poll_seconds: How long its end may go unnoticed; the most impatient waiter sets the pace for all.

        Returns:
            ``success`` or ``failed``; ``None`` where there is no such run, or no more.
        """
        waiter = _Waiter(run_id, poll_seconds)
        self._waiters[waiter] = None
        if self._rounds is None or self._rounds.done():
            # In a context of its own: what it logs is not the log of the task that happens to wait first.
            self._rounds = contextvars.Context().run(
                asyncio.get_running_loop().create_task, self._watch(), name="batchexec-run-watch"
            )
            self._rounds.add_done_callback(self._leave_nobody)
        elif poll_seconds < self._pace:
            self._hurry.set()
        try:
            return await waiter.end
        finally:
            del self._waiters[waiter]
            if not self._waiters:
                self._hurry.set()

    async def _watch(self) -> None:
        number = 0
        while self._waiters:
            await self._pause()
            run_ids = sorted({waiter.run_id for waiter in self._waiters if not waiter.end.done()})
            for start in range(0, len(run_ids), _BATCH):
                batch = run_ids[start : start + _BATCH]
                try:
                    await self._ask(batch, census=number % _ROUNDS_PER_CENSUS == 0)
                except Exception:  # noqa: BLE001  whatever it is, whoever waits must not be forgotten
                    _log.exception("The runs of %s could not be looked at; they will be again.", self._dag_id)
            number += 1

    async def _pause(self) -> None:
        """Until the most impatient waiter is due, also one that comes meanwhile, or all have left."""
        clock = asyncio.get_running_loop().time
        started = clock()
        # Triggerers that were started together need not ask together.
        share = random.uniform(0.8, 1.0)  # noqa: S311  no secret
        while self._waiters:
            self._hurry.clear()
            self._pace = max(_SHORTEST_SECONDS, min(waiter.poll_seconds for waiter in self._waiters))
            left = started + self._pace * share - clock()
            try:
                await asyncio.wait_for(self._hurry.wait(), left)
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

    def _leave_nobody(self, rounds: asyncio.Task[None]) -> None:
        """Where nobody looks any more, nobody goes on waiting: Airflow starts a trigger that was cancelled again."""
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
