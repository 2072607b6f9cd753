"""Keeps what only grows within bounds: answers to requests, events."""

from __future__ import annotations

import asyncio

from runyard_contract.errors import RunyardError
from runyard_daemon.control.live import Live
from runyard_daemon.store import events, requests

ROWS = 1000
"""Rows of one transaction, so that no submit waits long behind it."""


async def clean_up(live: Live, pause_s: float) -> None:
    """Never returns."""
    while True:
        await asyncio.sleep(pause_s)
        try:
            await tidy(live)
        except RunyardError as error:
            live.journal.warning("clean_up_failed", reason=error.reason, why=error.message)


async def tidy(live: Live) -> None:
    """One round: removes all that has expired."""
    while await live.store.write(lambda conn: requests.prune(conn, live.now_us(), ROWS)) == ROWS:
        pass
    while await live.store.write(lambda conn: events.prune(conn, limit=ROWS)) == ROWS:
        pass
