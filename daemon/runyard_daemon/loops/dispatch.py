"""Grants waiting runs whenever something may have made room for one."""

from __future__ import annotations

import asyncio

from runyard_contract.errors import RunyardError
from runyard_daemon.control.grants import Grants
from runyard_daemon.control.live import Live

RETRY_S = 1.0
"""Pause after the store refused (a full disk): the runs wait meanwhile."""


async def dispatch(live: Live, grants: Grants) -> None:
    """Never returns."""
    while True:
        await live.wake_dispatch.wait()
        live.wake_dispatch.clear()
        try:
            await grants.grant_waiting()
        except RunyardError as error:
            live.journal.warning("dispatch_failed", reason=error.reason, why=error.message)
            await asyncio.sleep(RETRY_S)
            live.wake_dispatch.set()
