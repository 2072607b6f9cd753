"""An agent without a supervisor: speaks the real session protocol over a real stream."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from runyard_contract.orderindex import STDERR, STDOUT, encode_record
from runyard_contract.version import PROTOCOL_VERSION, build_id
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.agent.v1.agent_pb2_grpc import AgentServiceStub
from runyardpb.v1 import common_pb2

LIMIT_S = 20.0

Report = pb.AttemptReport
File = pb.AppendFilesRequest


def now() -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(time.time_ns())
    return stamp


def orders(message: pb.SessionResponse, kind: str) -> list[Any]:
    """All orders of a kind in a message."""
    several = {"lease": message.leases, "forget": message.forgets}
    if kind in several:
        return list(several[kind])
    return [getattr(message, kind)] if message.WhichOneof("message") == kind else []


def pieces_of(ref: pb.AttemptRef, *pieces: tuple[int, int, bytes]) -> pb.AppendFilesRequest:
    """The message with (file, offset, data) pieces."""
    message = pb.AppendFilesRequest(ref=ref)
    for file, offset, data in pieces:
        message.pieces.add(file=file, offset_bytes=offset, data=data)  # type: ignore[arg-type]
    return message


class FakeAgent:
    """One agent; `connected` opens a session, the other methods speak in it."""

    def __init__(self, channel: Any, **hello: Any) -> None:
        self._stub: Any = AgentServiceStub(channel)
        self.hello = pb.Hello(
            **{
                "node_id": "node-1",
                "hostname": "host1",
                "agent_version": build_id(),
                "protocol_version": PROTOCOL_VERSION,
                "boot_id": "boot-1",
                "machine_id": "machine-1",
                "compute_target": "local",
                "slots": 2,
                "capacity": common_pb2.Resources(cpu_millicores=4000, memory_bytes=8 << 30),
                "platform": "linux-x86_64",
                "job_account": "me",
                **hello,
            }
        )
        self.received: list[pb.SessionResponse] = []
        self.acknowledged = 0
        self._call: Any = None
        self._sent = 0
        self._news = asyncio.Event()
        self._taken: set[tuple[int, str, int]] = set()
        self.ended: grpc.StatusCode | None = None

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[FakeAgent]:
        """Opens a session; returns after Welcome."""
        self._call = self._stub.Session()
        self._sent = 0
        self.acknowledged = 0
        self.received.clear()
        self._taken.clear()
        self.ended = None
        reading = asyncio.create_task(self._read(), name="fake-agent")
        try:
            await self.say(hello=self.hello)
            await self.expect("welcome")
            yield self
        finally:
            self._call.cancel()
            await asyncio.wait([reading])

    async def _read(self) -> None:
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                self.received.append(message)
                self.acknowledged = max(self.acknowledged, message.acknowledged)
                self._wake()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        self.ended = await self._call.code()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, check: Callable[[], Any], what: str) -> Any:
        """Waits for a condition over what was received."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while not (found := check()):
                    await self._news.wait()
                return found
        except TimeoutError:
            raise AssertionError(f"never: {what}; received {self.received}") from None

    async def say(self, **message: Any) -> int:
        """Sends a message; gives its number."""
        self._sent += 1
        seen = self.received[-1].sequence if self.received else 0
        await self._call.write(pb.SessionRequest(sequence=self._sent, acknowledged=seen, **message))
        return self._sent

    async def told(self, **message: Any) -> None:
        """Sends a message and waits until its effect is durable."""
        number = await self.say(**message)
        await self.until(lambda: self.acknowledged >= number or self.ended, "acknowledged")
        assert self.acknowledged >= number, f"the session ended: {self.ended}"

    async def expect(self, kind: str) -> Any:
        """The next order of a kind that was not expected before, alone in its message or not."""

        def look() -> Any:
            for message in self.received:
                for index, order in enumerate(orders(message, kind)):
                    place = (message.sequence, kind, index)
                    if place not in self._taken:
                        self._taken.add(place)
                        return order
            if self.ended is not None:
                raise AssertionError(f"the session ended with {self.ended}, not with {kind}")
            return None

        return await self.until(look, kind)

    async def over(self) -> grpc.StatusCode:
        """Waits for the end of the session."""
        code: grpc.StatusCode = await self.until(lambda: self.ended, "end of the session")
        return code

    async def report(self, ref: pb.AttemptRef, phase: int, **fields: Any) -> None:
        """Reports how far an attempt is; returns when that is durable."""
        await self.told(reports=[Report(ref=ref, phase=phase, **fields)])

    async def start(self, ref: pb.AttemptRef) -> None:
        """Reports an attempt up to RUNNING."""
        for phase in (Report.PHASE_ACCEPTED, Report.PHASE_PREPARING):
            await self.report(ref, phase)
        await self.report(ref, Report.PHASE_RUNNING, start_time=now())

    async def append(self, ref: pb.AttemptRef, *pieces: tuple[int, int, bytes]) -> list[Any]:
        """Ships (file, offset, data) pieces, each in a message of its own; gives the answers."""
        return await self._ship([pieces_of(ref, piece) for piece in pieces])

    async def append_at_once(
        self, ref: pb.AttemptRef, *pieces: tuple[int, int, bytes]
    ) -> list[Any]:
        """Ships (file, offset, data) pieces in one message; gives the answers."""
        return await self._ship([pieces_of(ref, *pieces)])

    async def _ship(self, messages: list[pb.AppendFilesRequest]) -> list[Any]:
        return [answer async for answer in self._stub.AppendFiles(iter(messages))]

    async def print(
        self, ref: pb.AttemptRef, out: bytes = b"", err: bytes = b""
    ) -> list[pb.FileLength]:
        """Ships a whole log, stdout before stderr; gives the lengths for the report."""
        order = (encode_record(STDOUT, 0, len(out)) if out else b"") + (
            encode_record(STDERR, 0, len(err)) if err else b""
        )
        files = ((File.FILE_STDOUT, out), (File.FILE_STDERR, err), (File.FILE_ORDER, order))
        await self.append(ref, *[(file, 0, data) for file, data in files if data])
        return [pb.FileLength(file=file, length_bytes=len(data)) for file, data in files if data]

    async def end(
        self,
        ref: pb.AttemptRef,
        exit_code: int = 0,
        lengths: Any = (),
        end: pb.AttemptEnd | None = None,
        **fields: Any,
    ) -> None:
        """Reports EXITED and ENDED."""
        facts = end or pb.AttemptEnd(
            reason=pb.AttemptEnd.REASON_EXITED, exit_code=exit_code, end_time=now()
        )
        started = {} if end is not None else {"start_time": now()}
        for phase in (Report.PHASE_EXITED, Report.PHASE_ENDED):
            await self.report(ref, phase, end=facts, lengths=lengths, **started, **fields)

    async def finish_at_once(self, *refs: pb.AttemptRef, duration_s: float = 0.01) -> None:
        """Reports in one message that attempts came, ran shortly and went."""
        took = Duration()
        took.FromNanoseconds(round(duration_s * 1e9))
        end = pb.AttemptEnd(reason=pb.AttemptEnd.REASON_EXITED, end_time=now(), duration=took)
        await self.told(
            reports=[
                Report(ref=ref, phase=Report.PHASE_ENDED, end=end, start_time=now()) for ref in refs
            ]
        )
