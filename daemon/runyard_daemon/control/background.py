"""Work that goes on to its end although whoever asked for it is gone.

A write can't be taken back once it is queued: a caller that hangs up in the middle must not leave
memory and records apart. So what changes both runs here, and the caller only waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """Tasks of the daemon's own task group. Enter it before use; leaving waits for what runs."""

    def __init__(self) -> None:
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Background:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> None:
        await self._group.__aexit__(*exc)

    async def whole(self, work: Coroutine[Any, Any, T], name: str) -> T:
        """Runs `work` to its end and gives its result; a cancelled caller leaves it running."""
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._group.create_task(_settle(work, outcome), name=name)
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            outcome.add_done_callback(_taken)
            raise

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        """Runs `work` to its end; nobody waits for it, and its failure changes nothing."""
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        outcome.add_done_callback(_taken)
        self._group.create_task(_settle(work, outcome), name=name)


async def _settle(work: Coroutine[Any, Any, T], outcome: asyncio.Future[T]) -> None:
    try:
        result = await work
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    except Exception as error:
        outcome.set_exception(error)
    else:
        if not outcome.done():
            outcome.set_result(result)


def _taken(outcome: asyncio.Future[Any]) -> None:
    """Marks an error as seen: nobody is left to hear of it."""
    if not outcome.cancelled():
        outcome.exception()
