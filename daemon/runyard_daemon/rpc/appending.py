"""One AppendFiles stream: pieces in order, answers with durable lengths as they come."""

from __future__ import annotations

import asyncio

from runyard_contract.errors import MessageTooLarge
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.callers import caller, may_act_for
from runyard_daemon.control.live import Live
from runyard_daemon.control.orders import RunRef
from runyard_daemon.control.tags import JobTags
from runyard_daemon.logs.layout import LogFile
from runyard_daemon.rpc.convert.agents import from_target, to_log_file, to_target
from runyard_daemon.rpc.idle import Duplex, incoming
from runyardpb.agent.v1 import agent_pb2 as pb

MESSAGES_AT_ONCE = 64
"""Messages of one stream that wait for the disk."""
MESSAGE_PIECES = 64
MESSAGE_PIECES_BYTES = 2 << 20

Context = Duplex[pb.AppendFilesRequest, pb.AppendFilesResponse]
_Place = tuple[RunRef, int]


class Appending:
    """Serves one stream."""

    def __init__(self, context: Context, live: Live, logs: AttemptLogs, tags: JobTags) -> None:
        self._context = context
        self._live = live
        self._logs = logs
        self._tags = tags
        self._answers: dict[_Place, pb.AppendFilesResponse] = {}
        self._wake = asyncio.Event()
        self._turns = asyncio.Semaphore(MESSAGES_AT_ONCE)
        self._caller = caller()
        self._is_over = False

    async def run(self) -> None:
        """Serves to the end of the stream."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._answer(), name="append-answers")
            async with asyncio.TaskGroup() as taking:
                async for request in incoming(self._context, None):
                    await self._turns.acquire()
                    taking.create_task(self._take(request), name="append-pieces")
            self._is_over = True
            self._wake.set()

    async def _take(self, request: pb.AppendFilesRequest) -> None:
        """Appends the pieces of one message; tasks begin in the order in which these came."""
        try:
            target, files = to_target(request.ref), _files(request)
            held = self._live.attempts.get(target.ref.run_id)
            if held is None or held.ref != target.ref or not may_act_for(self._caller, held.node):
                for number in files:
                    self._queue(target, number, 0, is_superseded=True)
                return
            if any(piece.data for piece in request.pieces):
                self._live.disk.check()
            committed = await self._logs.appender.append_all(
                (held.key, files[piece.file], piece.offset_bytes, piece.data)
                for piece in request.pieces
            )
            for number, file in files.items():
                self._queue(target, number, committed[held.key, file])
            if LogFile.TAGS in files.values():
                await self._tags.drain(held)
        finally:
            self._turns.release()

    def _queue(
        self, target: RunRef, file: int, committed_bytes: int, *, is_superseded: bool = False
    ) -> None:
        """Keeps the newest answer for each file until it is sent."""
        self._answers[(target, file)] = pb.AppendFilesResponse(
            ref=from_target(target),
            file=file,  # type: ignore[arg-type]  # as it came
            committed_bytes=committed_bytes,
            is_superseded=is_superseded,
        )
        self._wake.set()

    async def _answer(self) -> None:
        while not self._is_over or self._answers:
            await self._wake.wait()
            self._wake.clear()
            while self._answers:
                place = next(iter(self._answers))
                await self._context.write(self._answers.pop(place))


def _files(request: pb.AppendFilesRequest) -> dict[int, LogFile]:
    """The files that a message has pieces of. Raises SpecInvalid, MessageTooLarge."""
    size_bytes = sum(len(piece.data) for piece in request.pieces)
    if len(request.pieces) > MESSAGE_PIECES or size_bytes > MESSAGE_PIECES_BYTES:
        raise MessageTooLarge(
            f"{len(request.pieces)} pieces with {size_bytes} bytes in one message; at most "
            f"{MESSAGE_PIECES} with {MESSAGE_PIECES_BYTES} can be"
        )
    return {piece.file: to_log_file(piece.file) for piece in request.pieces}
