"""Requests of a stream, with an end to waiting for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol, TypeVar, cast

from grpc import aio

from runyard_contract.errors import StreamIdle
from runyard_daemon.rpc.decoding import readable

In_co = TypeVar("In_co", covariant=True)
Out_contra = TypeVar("Out_contra", contravariant=True)

_EOF = cast(object, aio.EOF)  # type: ignore[attr-defined]  # the stubs lack it


class Readable(Protocol[In_co]):
    """The side of a call's context that requests come from."""

    async def read(self) -> In_co:
        """The next request, or `grpc.aio.EOF`."""
        ...


class Writable(Protocol[Out_contra]):
    """The side of a call's context that answers go to; one write at a time."""

    async def write(self, message: Out_contra) -> None:
        """Sends an answer; waits while the other side does not read."""
        ...


class Duplex(Readable[In_co], Writable[Out_contra], Protocol[In_co, Out_contra]):
    """The context of a call that streams both ways."""


async def incoming(context: Readable[In_co], idle_s: float | None) -> AsyncIterator[In_co]:
    """The requests of a stream until the sender ends it.

    Raises SpecInvalid or MessageTooLarge for one that can't be read, and StreamIdle where the next
    whole message does not come within `idle_s` seconds (None: it may take as long as it likes).
    """
    while True:
        try:
            async with asyncio.timeout(idle_s):
                request = await context.read()
        except TimeoutError:
            raise StreamIdle(
                f"the stream brought nothing for {idle_s} s",
                hint="call again; what was acknowledged or committed is kept",
                idle_s=str(idle_s),
            ) from None
        if request is _EOF:
            return
        yield readable(request)
