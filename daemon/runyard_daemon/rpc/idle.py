"""Requests of a stream, with an end to waiting for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol, TypeVar

import grpc.aio
from runyard_contract.errors import RunyardError

T_co = TypeVar("T_co", covariant=True)


class Readable(Protocol[T_co]):
    """The side of a call's context that requests come from."""

    async def read(self) -> T_co:
        """The next request, or `grpc.aio.EOF`."""
        ...


class StreamIdle(RunyardError):
    """A stream brought nothing for too long."""

    reason = "STREAM_IDLE"
    code = "DEADLINE_EXCEEDED"
    retryable = True
    retry_after_s = 1.0


async def incoming(context: Readable[T_co], idle_s: float) -> AsyncIterator[T_co]:
    """The requests of a stream until the sender ends it.

    Raises StreamIdle where the next whole message does not come within `idle_s` seconds.
    """
    while True:
        try:
            async with asyncio.timeout(idle_s):
                request = await context.read()
        except TimeoutError:
            raise StreamIdle(
                f"the stream brought nothing for {idle_s:g} s",
                hint="call again; what was acknowledged or committed is kept",
                idle_s=f"{idle_s:g}",
            ) from None
        if request is grpc.aio.EOF:
            return
        yield request
