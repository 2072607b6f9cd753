"""Ends an embedded daemon that nobody needs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runyard_daemon.control.live import Live


async def end_when_idle(live: Live, idle_end_s: float, open_calls: Callable[[], int]) -> None:
    """Returns after `idle_end_s` without runs and clients.

    Args:
        open_calls: how many calls of clients are under way.
    """
    live.note_activity()
    while True:
        if live.waiting or live.attempts or open_calls():
            live.note_activity()
        left_s = live.last_activity + idle_end_s - live.boot_now()
        if left_s <= 0:
            return
        await asyncio.sleep(left_s)
