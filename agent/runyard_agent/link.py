"""The connection to the daemon as the rest of the agent sees it: there, or to be waited for."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc

from runyard_agent.core.backoff import Backoff
from runyard_contract.errors import DiskFailed, DiskFull, ReadOnly, RunyardError
from runyard_contract.status import DETAILS_KEY, from_status_bytes
from runyardpb.agent.v1 import agent_pb2_grpc
from runyardpb.v1 import snapshots_pb2_grpc

T = TypeVar("T")

_RETRY = Backoff(first_s=0.2, cap_s=10.0)
_DISK_ERRORS = (DiskFull, DiskFailed, ReadOnly)


class Cancellable(Protocol):
    """A call that must be cancelled when it is left."""

    def cancel(self) -> bool:
        """Ends the call."""


C = TypeVar("C", bound=Cancellable)


@contextlib.asynccontextmanager
async def cancelling(call: C) -> AsyncIterator[C]:
    """Always cancels a streaming call on the way out: one that is just dropped is never freed."""
    try:
        yield call
    finally:
        call.cancel()


Q = TypeVar("Q")
A = TypeVar("A")


class Stream(Generic[Q, A]):
    """A call with messages both ways."""

    __slots__ = ("_call",)

    def __init__(self, multi_callable: Any, metadata: tuple[tuple[str, str], ...]) -> None:
        # grpc-stubs know neither a call without an iterator nor grpc.aio.EOF.
        self._call: Any = multi_callable(metadata=metadata)

    async def read(self) -> A | None:
        """The next message; None at the other side's orderly end, else its error is raised."""
        try:
            message: A = await self._call.read()
        except grpc.aio.AioRpcError as refused:
            raise error_of(refused) from None
        if message is not grpc.aio.EOF:  # type: ignore[attr-defined]
            return message
        code = await self._call.code()
        if code is grpc.StatusCode.OK:
            return None
        trailing = await self._call.trailing_metadata()
        raise _error(code, await self._call.details(), trailing)

    async def write(self, message: Q) -> None:
        """Sends a message; raises once the call has ended, of which `read` tells the cause."""
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as refused:
            raise error_of(refused) from None
        except asyncio.InvalidStateError as error:
            raise ConnectionResetError(f"the call has ended: {error}") from None

    def cancel(self) -> bool:
        """Ends the call."""
        return bool(self._call.cancel())


@dataclass(frozen=True, slots=True)
class Stubs:
    """The services that an agent calls, over one connection."""

    agent: agent_pb2_grpc.AgentServiceAsyncStub
    snapshots: snapshots_pb2_grpc.SnapshotServiceAsyncStub
    metadata: tuple[tuple[str, str], ...]


class Link:
    """Gives the stubs of the present connection."""

    def __init__(self) -> None:
        self._stubs: Stubs | None = None
        self._is_up = asyncio.Event()

    def up(self, stubs: Stubs) -> None:
        """There is a connection."""
        self._stubs = stubs
        self._is_up.set()

    def down(self) -> None:
        """There is none now."""
        self._stubs = None
        self._is_up.clear()

    async def stubs(self) -> Stubs:
        """The stubs, once there is a connection."""
        while self._stubs is None:
            await self._is_up.wait()
        return self._stubs

    async def call(self, make: Callable[[Stubs], Awaitable[T]]) -> T:
        """Makes a call that is harmless when repeated, again and again until it is answered.

        Raises the daemon's error when that would be the same the next time. A disk that is
        full or fails at the daemon's end, and a connection that breaks, are waited for.
        """
        failures = 0
        while True:
            stubs = await self.stubs()
            try:
                return await make(stubs)
            except grpc.aio.AioRpcError as refused:
                error = error_of(refused)
                if not error.retryable and not isinstance(error, _DISK_ERRORS):
                    raise error from None
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
                # Not we were cancelled: the connection was closed under the call.
            failures += 1
            await asyncio.sleep(_RETRY.delay_s(failures, random.random()))  # noqa: S311 - no secret


def error_of(refused: grpc.aio.AioRpcError | grpc.Call) -> RunyardError:
    """The daemon's error behind a failed call."""
    return _error(refused.code(), refused.details(), refused.trailing_metadata())


def _error(code: grpc.StatusCode, details: str | None, trailing: Any) -> RunyardError:
    """The error in what a call ended with."""
    data: bytes | None = None
    for key, value in trailing or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            data = value
    return from_status_bytes(data, code.name, details or "")
