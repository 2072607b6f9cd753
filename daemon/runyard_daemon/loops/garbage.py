"""Removes stored content that nothing needs, now and then."""

from __future__ import annotations

import asyncio

from runyard_contract.errors import RunyardError
from runyard_daemon.control.garbage import GRACE_S, GarbageCollector
from runyard_daemon.control.live import Live


async def collect_garbage(live: Live, collector: GarbageCollector, pause_s: float) -> None:
    """Never returns. Waits first: a start has other work to do, and a short life needs none."""
    while True:
        await asyncio.sleep(pause_s)
        try:
            found = await collector.collect(GRACE_S)
        except (RunyardError, OSError) as error:
            live.journal.warning("garbage_kept", why=str(error))
            continue
        if found.garbage.count:
            live.journal.info(
                "garbage_removed",
                blobs=found.garbage.count,
                size_bytes=found.garbage.size_bytes,
            )
