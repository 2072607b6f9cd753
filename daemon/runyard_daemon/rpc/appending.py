"""One AppendFiles stream: pieces in order, answers with durable lengths as they come."""

from __future__ import annotations

import asyncio

from runyard_contract.errors import MessageTooLarge
from runyard_contract.limits import LOG_CHUNK_BYTES
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.live import Live
from runyard_daemon.control.orders import RunRef
from runyard_daemon.control.tags import JobTags
from runyard_daemon.logs.layout import LogFile
from runyard_daemon.rpc.convert.agents import from_target, to_log_file, to_target
from runyard_daemon.rpc.idle import Duplex, incoming
from runyardpb.agent.v1 import agent_pb2 as pb

PIECES_AT_ONCE = 64
"""Pieces of one stream that wait for the disk."""

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
        self._turns = asyncio.Semaphore(PIECES_AT_ONCE)
        self._is_over = False

    async def run(self) -> None:
        """Serves to the end of the stream."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._answer(), name="append-answers")
            async with asyncio.TaskGroup() as pieces:
                async for request in incoming(self._context, None):
                    await self._turns.acquire()
                    pieces.create_task(self._piece(request), name="append-piece")
            self._is_over = True
            self._wake.set()

    async def _piece(self, request: pb.AppendFilesRequest) -> None:
        """Appends one piece; tasks begin in the order in which the pieces came."""
        try:
            target, file = to_target(request.ref), to_log_file(request.file)
            if len(request.data) > LOG_CHUNK_BYTES:
                raise MessageTooLarge(
                    f"a piece of {len(request.data)} bytes is over {LOG_CHUNK_BYTES}"
                )
            held = self._live.attempts.get(target.ref.run_id)
            if held is None or held.ref != target.ref:
                self._queue(target, request.file, 0, is_superseded=True)
                return
            if request.data:
                self._live.disk.check()
            committed_bytes = await self._logs.appender.append(
                held.key, file, request.offset_bytes, request.data
            )
            self._queue(target, request.file, committed_bytes)
            if file is LogFile.TAGS and request.data:
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
