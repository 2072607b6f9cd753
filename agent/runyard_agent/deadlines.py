"""Calls that are due after one and the same time, most of which never come: one timer for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

TOO_EARLY_S = 0.001


class Deadlines:
    """Calls what is not taken back within `after_s` of its setting. Costs a run next to nothing."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._due: dict[object, tuple[float, Callable[[], None]]] = {}
        """In the order of their times, as all wait equally long."""
        self._timer: asyncio.TimerHandle | None = None

    def set(self, owner: object, call: Callable[[], None]) -> None:
        """Calls this in time; an owner has one call at a time."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._after_s
        self._due.pop(owner, None)
        self._due[owner] = due_s, call
        if self._timer is None:
            self._timer = loop.call_at(due_s, self._on_time)

    def drop(self, owner: object) -> None:
        """Takes the owner's call back; harmless where it has none."""
        self._due.pop(owner, None)

    def _on_time(self) -> None:
        """Calls what is due. The timer stands for the oldest call, which may be gone by now."""
        self._timer = None
        loop = asyncio.get_running_loop()
        # A timer may fire within the resolution of the clock too early.
        now_s = loop.time() + TOO_EARLY_S
        try:
            while self._due:
                owner, (due_s, call) = next(iter(self._due.items()))
                if due_s > now_s:
                    break
                del self._due[owner]
                call()
        finally:
            if self._due and self._timer is None:
                due_s, _ = next(iter(self._due.values()))
                self._timer = loop.call_at(due_s, self._on_time)
