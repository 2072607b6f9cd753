"""Whether the daemon can keep what it is given."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from runyard_contract.errors import RunyardError
from runyard_daemon.control.live import Live
from runyard_daemon.store import figures

FRESH_S = 1.0
"""An answer is good for that long, so that no caller can make the daemon write all the time."""
PROBE_S = 10.0
"""A write that takes longer counts as failed."""
LEAST_FREE_BYTES = 1 << 20
"""With less free space logs and blobs can't be kept, even where a small commit still can."""


class Health:
    """Tries a real, durable write when asked; between two questions nothing is done."""

    def __init__(self, live: Live, home: Path) -> None:
        self._live = live
        self._home = home
        self._can_write = True
        self._asked_at_s = float("-inf")
        self._lock = asyncio.Lock()

    async def can_write(self) -> bool:
        """Whether what is acknowledged now would be kept."""
        async with self._lock:
            if self._live.boot_now() - self._asked_at_s >= FRESH_S:
                self._can_write = await self._probe()
                self._asked_at_s = self._live.boot_now()
        return self._can_write

    async def _probe(self) -> bool:
        try:
            disk = os.statvfs(self._home)
            if disk.f_bavail * disk.f_frsize < LEAST_FREE_BYTES:
                return False
            async with asyncio.timeout(PROBE_S):
                await self._live.store.write(figures.touch)
        except (RunyardError, OSError, TimeoutError):
            return False
        return True
