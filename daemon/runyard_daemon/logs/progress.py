"""How far the logs of live attempts are, for those who follow them. Event loop only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from runyard_daemon.logs.layout import AttemptKey, LogFile


class Progress:
    """Lengths of one attempt's files as readers may see them, and whether its log is complete."""

    def __init__(self) -> None:
        self.lengths: dict[LogFile, int] = {}
        """Bytes written, of files that were touched since the daemon started."""
        self.is_sealed = False
        self.followers = 0
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Waits for the next change after this call."""
        await self._changed.wait()

    def wake(self) -> None:
        """Wakes all who wait."""
        self._changed.set()
        self._changed = asyncio.Event()


class ProgressBoard:
    """The progress of attempts that grow or are followed."""

    def __init__(self) -> None:
        self._by_attempt: dict[AttemptKey, Progress] = {}

    def get(self, key: AttemptKey) -> Progress | None:
        """Gives an attempt's progress; None: nothing happened to it here."""
        return self._by_attempt.get(key)

    def follow(self, key: AttemptKey) -> Progress:
        """Gives an attempt's progress and keeps it until `unfollow`."""
        progress = self._by_attempt.setdefault(key, Progress())
        progress.followers += 1
        return progress

    def unfollow(self, key: AttemptKey) -> None:
        """Ends a `follow`."""
        progress = self._by_attempt[key]
        progress.followers -= 1
        self._drop_if_idle(key, progress)

    def publish(self, changes: Mapping[AttemptKey, Mapping[LogFile, int]]) -> None:
        """Takes new lengths and wakes those who follow."""
        for key, lengths in changes.items():
            progress = self._by_attempt.setdefault(key, Progress())
            progress.lengths.update(lengths)
            progress.wake()
            self._drop_if_idle(key, progress)

    def seal(self, key: AttemptKey) -> None:
        """Notes that an attempt's log is complete and wakes those who follow."""
        progress = self._by_attempt.get(key)
        if progress is not None:
            progress.is_sealed = True
            progress.wake()
            self._drop_if_idle(key, progress)

    def _drop_if_idle(self, key: AttemptKey, progress: Progress) -> None:
        """Forgets a complete log that nobody follows: its record says that it is sealed."""
        if progress.is_sealed and not progress.followers:
            self._by_attempt.pop(key, None)
