"""Wakes those who wait for a run, or for any run, to change.

Level-triggered: a waiter looks at the state itself after each wake-up, so that any number of
changes between two looks cost one, and a slow one holds nothing in memory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator


class Changes:
    """Belongs to the event loop; used from it only."""

    def __init__(self) -> None:
        self._of_run: dict[str, set[asyncio.Event]] = {}
        self._of_any: set[asyncio.Event] = set()

    def notify(self, run_id: str) -> None:
        """Says that a run changed; its new state is durable."""
        for signal in self._of_run.get(run_id, ()):
            signal.set()
        for signal in self._of_any:
            signal.set()

    @contextlib.contextmanager
    def of_run(self, run_id: str) -> Iterator[asyncio.Event]:
        """An event that is set at each change of the run; the waiter clears it before it looks."""
        signal = asyncio.Event()
        signals = self._of_run.setdefault(run_id, set())
        signals.add(signal)
        try:
            yield signal
        finally:
            signals.discard(signal)
            if not signals:
                self._of_run.pop(run_id, None)

    @contextlib.contextmanager
    def of_any(self) -> Iterator[asyncio.Event]:
        """An event that is set at each change of any run."""
        signal = asyncio.Event()
        self._of_any.add(signal)
        try:
            yield signal
        finally:
            self._of_any.discard(signal)

    @property
    def waiters(self) -> int:
        """How many wait now."""
        return len(self._of_any) + sum(map(len, self._of_run.values()))
