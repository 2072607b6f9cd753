"""Looks, while a job runs, for what gives no signal: files that grow, files that are finished."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from runyard_agent.deadlines import Deadlines

LIVE_LOGS_S = 1.0
LIVE_OUTPUTS_S = 30.0
SLOWEST_POLL_S = 1.0


class LiveFiles:
    """Polls from `start` to `stop`.

    Args:
        poll_s: the first pause; pauses grow up to a second, or to this where it is longer.
        first: has the same pause, and a timer for all runs, most of which are over by then.
        look: has the growing files looked at.
        collect: sends finished files; told whether those of outputs/ are wanted, too.
    """

    def __init__(
        self,
        poll_s: float,
        first: Deadlines,
        look: Callable[[], None],
        collect: Callable[[bool], Coroutine[Any, Any, None]],
    ) -> None:
        self._poll_s = poll_s
        self._first = first
        self._slowest_s = max(SLOWEST_POLL_S, poll_s)
        self._look = look
        self._collect = collect
        self._since_logs_s = 0.0
        self._since_outputs_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._collecting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to look."""
        self._first.set(self, self._on_time)

    def _go_on(self) -> None:
        """Looks again after a pause."""
        self._timer = asyncio.get_running_loop().call_later(self._poll_s, self._on_time)

    async def stop(self) -> None:
        """Looks no more; a collection that is under way is left."""
        self._first.drop(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._collecting is not None:
            self._collecting.cancel()
            await asyncio.gather(self._collecting, return_exceptions=True)

    def _on_time(self) -> None:
        """One look."""
        self._look()
        self._since_logs_s += self._poll_s
        self._since_outputs_s += self._poll_s
        self._poll_s = min(self._poll_s * 1.5, self._slowest_s)
        is_free = self._collecting is None or self._collecting.done()
        if self._since_logs_s >= LIVE_LOGS_S and is_free:
            with_outputs = self._since_outputs_s >= LIVE_OUTPUTS_S
            self._since_logs_s = 0.0
            self._since_outputs_s = 0.0 if with_outputs else self._since_outputs_s
            self._collecting = asyncio.create_task(self._collect(with_outputs), name="live files")
        self._go_on()
