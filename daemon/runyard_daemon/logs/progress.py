"""Wakes those who follow the logs of live attempts. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from runyard_daemon.logs.layout import AttemptKey


class Progress:
    """What followers of one attempt wait on. The bytes themselves are in the files."""

    def __init__(self) -> None:
        self.changes = 0
        """Grows with everything that followers want to hear of."""
        self.is_sealed = False
        """The log is complete: no byte follows."""
        self.followers = 0
        self._changed = asyncio.Event()

    async def wait_beyond(self, changes: int, timeout_s: float | None) -> bool:
        """Waits until there were more changes than these; False: not within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.changes == changes:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def wake(self) -> None:
        """Counts a change and wakes all who wait."""
        self.changes += 1
        self._changed.set()
        self._changed = asyncio.Event()


class ProgressBoard:
    """The attempts that are followed now. Others cost nothing here."""

    def __init__(self) -> None:
        self._by_attempt: dict[AttemptKey, Progress] = {}

    def join(self, key: AttemptKey) -> Progress:
        """Gives what to wait on; `leave` must follow."""
        progress = self._by_attempt.setdefault(key, Progress())
        progress.followers += 1
        return progress

    def leave(self, key: AttemptKey) -> None:
        """Ends a `join`."""
        progress = self._by_attempt[key]
        progress.followers -= 1
        if not progress.followers:
            del self._by_attempt[key]

    def wake(self, keys: Iterable[AttemptKey]) -> None:
        """Wakes those who follow these attempts: their files grew."""
        for key in keys:
            progress = self._by_attempt.get(key)
            if progress is not None:
                progress.wake()

    def seal(self, key: AttemptKey) -> None:
        """Tells those who follow an attempt that its log is complete.

        Who begins to follow later learns it from the attempt's record, so that must be durable
        before.
        """
        progress = self._by_attempt.get(key)
        if progress is not None:
            progress.is_sealed = True
            progress.wake()
