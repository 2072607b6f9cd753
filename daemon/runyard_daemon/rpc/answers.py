"""Answers of a stream, sent whole whatever happens to the task that sends them.

A write that is cancelled goes on inside gRPC. Until it is through, the call takes neither another
write nor its end: gRPC refuses both, tells nobody, and the caller waits for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

SETTLE_S = 5.0
"""How long the end of a call waits for an answer that its caller does not take."""


class Answers:
    """A call's context for a handler that streams its answers."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self._sending: asyncio.Task[None] | None = None
        self.read = context.read
        """As the context's own: the next request, or `grpc.aio.EOF`."""

    async def write(self, message: Any) -> None:
        """Sends an answer, after one whose sender was cancelled."""
        while self._sending is not None and not self._sending.done():
            await asyncio.wait([self._sending])
        self._sending = asyncio.create_task(self._context.write(message), name="answer")
        await asyncio.shield(self._sending)

    async def settle(self) -> None:
        """Waits until nothing is on its way, so that the call can be ended."""
        sending = self._sending
        if sending is None:
            return
        if not sending.done():
            await asyncio.wait([sending], timeout=SETTLE_S)
        if sending.done():
            with contextlib.suppress(Exception):  # its sender, if there is one, knows already
                sending.result()
