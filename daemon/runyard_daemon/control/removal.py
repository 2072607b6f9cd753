"""Removes ended runs for good: one, or those that a policy chooses; gives the space back.

Never an active run. A removal that is cut off at any moment is finished by `finish`, which the
janitor calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from pathlib import Path

from runyard_contract.errors import StateNotAllowed
from runyard_contract.states import FINAL
from runyard_daemon.control import catalog
from runyard_daemon.control.live import Live
from runyard_daemon.core.retention import Chooser, KeptRun, RetentionPolicy
from runyard_daemon.logs.layout import remove_runs
from runyard_daemon.store import Connection, removal, space

RUNS_AT_ONCE = 100
ROWS_AT_ONCE = 500
"""Rows of one transaction, so that no submit waits long behind it."""
LOOKED_AT_ONCE = 1000
PAGES_AT_ONCE = 64
PAGES_KEPT_FREE = 1024
"""4 MiB: new records need not grow the file at once."""
NAMED_RUNS = 100


@dataclass(frozen=True, slots=True)
class PruneProgress:
    """How far a removal by policy is."""

    chosen_runs: int
    chosen_bytes: int
    removed_runs: int = 0
    run_ids: tuple[str, ...] = ()
    """Of the first `NAMED_RUNS` that are to go, once."""


class Remover:
    """Removes runs of one data directory; `root` is its folder `runs`."""

    def __init__(self, live: Live, root: Path) -> None:
        self._live = live
        self._root = root

    async def delete(self, workspace: str, experiment: str, run_id: str) -> None:
        """Removes a run that has ended. Raises RunNotFound, StateNotAllowed."""

        def mark(conn: Connection) -> str:
            run = catalog.run(conn, workspace, experiment, run_id)
            if not run.state.is_final:
                raise StateNotAllowed(
                    f"the run {run.run_id} has not ended: it is {run.state.value}",
                    hint=f"end it with `runyard runs cancel {run.run_id}`, or wait for it",
                    state=run.state.value,
                    allowed=",".join(sorted(FINAL)),
                )
            removal.mark(conn, [run.run_id])
            return run.run_id

        async def work() -> None:
            async with self._live.removal:
                await self._live.store.write(mark)
                await self._finish()

        await self._live.background.whole(work(), "delete")

    async def prune(
        self, workspace: str, experiment: str, policy: RetentionPolicy, *, is_dry: bool = False
    ) -> AsyncIterator[PruneProgress]:
        """Removes the runs of a scope that a policy chooses; an empty experiment: of all.

        Gives its progress after the look and after each step. Raises ExperimentNotFound.
        """
        chosen = await self._choose(workspace, experiment, policy)
        total_bytes = sum(run.size_bytes for run in chosen)
        named = tuple(run.run_id for run in chosen[:NAMED_RUNS])
        yield PruneProgress(len(chosen), total_bytes, 0, named)
        removed = 0
        # The oldest first: what is cut off leaves the newer ones.
        for start in range(0, 0 if is_dry else len(chosen), RUNS_AT_ONCE):
            part = chosen[start : start + RUNS_AT_ONCE]
            removed += await self._live.background.whole(self._remove(part), "prune")
            yield PruneProgress(len(chosen), total_bytes, removed)
        if removed:
            await self.shrink()

    async def finish(self) -> None:
        """Finishes removals that were cut off."""
        async with self._live.removal:
            await self._finish()

    async def shrink(self) -> None:
        """Gives free space of the database back to the disk, a little at a time."""
        given_back = PAGES_AT_ONCE
        while given_back == PAGES_AT_ONCE:
            given_back = await self._live.store.write(
                lambda conn: space.shrink(conn, PAGES_AT_ONCE, PAGES_KEPT_FREE)
            )

    async def _choose(
        self, workspace: str, experiment: str, policy: RetentionPolicy
    ) -> list[KeptRun]:
        """The runs that are to go, oldest first."""
        store = self._live.store

        def scope(conn: Connection) -> Sequence[int]:
            found = catalog.workspace(conn, workspace).name
            name = catalog.experiment(conn, found, experiment).name if experiment else ""
            return removal.sequences(conn, found, name)

        sequences = await store.read(scope)
        chooser = Chooser(policy, self._live.now_us())
        chosen: list[KeptRun] = []
        for start in range(0, len(sequences), LOOKED_AT_ONCE):
            part = sequences[start : start + LOOKED_AT_ONCE]
            runs = await store.read(partial(removal.sizes, wanted=part))
            chosen += [run for run in runs if chooser.is_to_go(run)]
        chosen.reverse()
        return chosen

    async def _remove(self, chosen: Sequence[KeptRun]) -> int:
        """Removes runs; gives how many of them were there."""
        run_ids = [run.run_id for run in chosen]
        async with self._live.removal:
            marked = await self._live.store.write(lambda conn: removal.mark(conn, run_ids))
            await self._finish()
        return marked

    async def _finish(self) -> None:
        """Removes all that is marked: rows, then folders, then the marks."""
        store = self._live.store
        while await store.write(lambda conn: removal.erase(conn, ROWS_AT_ONCE)):
            pass
        while erased := await store.read(lambda conn: removal.erased(conn, RUNS_AT_ONCE)):
            erased.sort(key=attrgetter("experiment"))
            for experiment, group in groupby(erased, key=attrgetter("experiment")):
                run_ids = [run.run_id for run in group]
                await asyncio.to_thread(remove_runs, self._root, experiment, run_ids)
            gone = [run.run_id for run in erased]
            await store.write(partial(removal.forget, run_ids=gone))
