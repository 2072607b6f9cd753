"""Keeps what only grows within bounds: answers to requests, events, ended runs by the policy."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

from runyard_contract.errors import RunyardError
from runyard_daemon.config import Config
from runyard_daemon.control.hello import WORKSPACE
from runyard_daemon.control.live import Live
from runyard_daemon.control.removal import Remover
from runyard_daemon.core.retention import RetentionPolicy
from runyard_daemon.store import events, requests

ROWS = 1000
"""Rows of one transaction, so that no submit waits long behind it."""


async def clean_up(live: Live, remover: Remover, config: Config) -> None:
    """Never returns. What a crash cut off is finished at once, the rest is done round by round."""
    await _tried(live, remover.finish())
    while True:
        await asyncio.sleep(config.janitor_s)
        await _tried(live, tidy(live, remover, config.retention))


async def _tried(live: Live, work: Coroutine[None, None, None]) -> None:
    """Does work whose failure must not end the loop: the next round tries again."""
    try:
        await work
    except (RunyardError, OSError) as error:
        why = error.message if isinstance(error, RunyardError) else str(error)
        live.journal.warning("clean_up_failed", why=why)


async def tidy(live: Live, remover: Remover, policy: RetentionPolicy | None) -> None:
    """One round: removes all that has expired."""
    while await live.store.write(lambda conn: requests.prune(conn, live.now_us(), ROWS)) == ROWS:
        pass
    while await live.store.write(lambda conn: events.prune(conn, limit=ROWS)) == ROWS:
        pass
    await remover.finish()
    if policy is not None:
        removed = 0
        async for progress in remover.prune(WORKSPACE, "", policy):
            removed = progress.removed_runs
        if removed:
            live.journal.info("runs_removed", count=removed)
    await remover.shrink()
