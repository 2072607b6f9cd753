"""FollowRun and ReadLog: streams that show a run as it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from runyard_contract.errors import OffsetOutOfRange, SpecInvalid
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.live import Live
from runyard_daemon.logs.layout import AttemptKey
from runyard_daemon.logs.reader import LogChunk, LogSource
from runyard_daemon.rpc.convert.runs import read_run
from runyard_daemon.rpc.idle import Writable
from runyard_daemon.store import attempts, runs
from runyard_daemon.store.runs import RunRecord
from runyardpb.v1 import logs_pb2
from runyardpb.v1 import runs_pb2 as pb

_SOURCES = {
    logs_pb2.LOG_SOURCE_UNSPECIFIED: LogSource.MERGED,
    logs_pb2.LOG_SOURCE_MERGED: LogSource.MERGED,
    logs_pb2.LOG_SOURCE_STDOUT: LogSource.STDOUT,
    logs_pb2.LOG_SOURCE_STDERR: LogSource.STDERR,
    logs_pb2.LOG_SOURCE_ENVIRONMENT: LogSource.ENVIRONMENT,
}
_STREAMS = {
    LogSource.STDOUT: logs_pb2.LOG_SOURCE_STDOUT,
    LogSource.STDERR: logs_pb2.LOG_SOURCE_STDERR,
    LogSource.ENVIRONMENT: logs_pb2.LOG_SOURCE_ENVIRONMENT,
    LogSource.MERGED: logs_pb2.LOG_SOURCE_UNSPECIFIED,
}


def to_source(number: int) -> LogSource:
    """Which log is asked for. Raises SpecInvalid for an unknown one."""
    found = _SOURCES.get(number)  # type: ignore[call-overload]  # any number may come
    if found is None:
        raise SpecInvalid(violations=[("source", f"{number} is no log")])
    return found  # type: ignore[no-any-return]  # as above


def to_chunk(chunk: LogChunk) -> logs_pb2.LogChunk:
    """Some bytes of a log."""
    return logs_pb2.LogChunk(
        stream=_STREAMS[chunk.source],
        offset_bytes=chunk.offset_bytes,
        data=chunk.data,
        is_last=chunk.is_last,
    )


def check_offset(field: str, offset_bytes: int) -> None:
    """Raises OffsetOutOfRange for a negative offset."""
    if offset_bytes < 0:
        raise OffsetOutOfRange(
            f"{field} is {offset_bytes}, which is negative", offset_bytes=str(offset_bytes)
        )


def is_sealed(live: Live, key: AttemptKey) -> Callable[[], bool]:
    """Says whether the record of an attempt has a complete log."""

    def look() -> bool:
        record = live.store.peek(lambda conn: attempts.get(conn, key.run_id, key.attempt))
        return record is not None and record.is_sealed

    return look


class Following:
    """One FollowRun: states and log as they come, the final state last."""

    def __init__(
        self,
        context: Writable[pb.FollowRunResponse],
        live: Live,
        logs: AttemptLogs,
        run: RunRecord,
        heartbeat_s: float,
    ) -> None:
        self._context = context
        self._live = live
        self._logs = logs
        self._run = run
        self._heartbeat_s = heartbeat_s
        self._turn = asyncio.Lock()
        self._has_written = asyncio.Event()

    async def run(self, request: pb.FollowRunRequest) -> None:
        """Follows to the end."""
        check_offset("log_offset_bytes", request.log_offset_bytes)
        check_offset("environment_log_offset_bytes", request.environment_log_offset_bytes)
        sources = []
        if not request.omit_log:
            sources.append((LogSource.MERGED, request.log_offset_bytes))
        if request.include_environment_log and not request.omit_log:
            sources.append((LogSource.ENVIRONMENT, request.environment_log_offset_bytes))
        async with asyncio.TaskGroup() as group:
            beating = group.create_task(self._beat(), name="follow-heartbeat")
            async with asyncio.TaskGroup() as shown:
                for source, offset_bytes in sources:
                    shown.create_task(self._log(source, offset_bytes), name="follow-log")
                shown.create_task(self._states(), name="follow-states")
            beating.cancel()
        await self._context.write(pb.FollowRunResponse(run=await self._message()))

    async def _write(self, response: pb.FollowRunResponse) -> None:
        async with self._turn:
            await self._context.write(response)
        self._has_written.set()

    async def _message(self) -> pb.Run:
        run_id = self._run.run_id
        now_us = self._live.now_us()
        return self._live.store.peek(
            lambda conn: read_run(conn, runs.get(conn, run_id) or self._run, now_us)
        )

    async def _states(self) -> None:
        """Sends the run after each change, up to the last one before its end."""
        with self._live.changes.of_run(self._run.run_id) as changed:
            told = ""
            while True:
                changed.clear()
                message = await self._message()
                if is_final(message.state):
                    return
                if message.etag != told:
                    told = message.etag
                    await self._write(pb.FollowRunResponse(run=message))
                await changed.wait()

    async def _log(self, source: LogSource, offset_bytes: int) -> None:
        key = await self._attempt()
        if key is None:
            return
        with self._logs.reader.follow(
            key, source, offset_bytes, is_sealed=is_sealed(self._live, key)
        ) as follower:
            while (chunk := await follower.next(None)) is not None:
                await self._write(pb.FollowRunResponse(log=to_chunk(chunk)))
                if chunk.is_last:
                    return

    async def _attempt(self) -> AttemptKey | None:
        """The attempt whose log is shown; None for a run that ended without one."""
        run_id = self._run.run_id
        with self._live.changes.of_run(run_id) as changed:
            while True:
                changed.clear()
                run = self._live.store.peek(lambda conn: runs.get(conn, run_id)) or self._run
                if run.attempt:
                    return AttemptKey(run.experiment, run_id, run.attempt)
                if run.state.is_final:
                    return None
                await changed.wait()

    async def _beat(self) -> None:
        """Breaks a long silence."""
        while True:
            self._has_written.clear()
            try:
                async with asyncio.timeout(self._heartbeat_s):
                    await self._has_written.wait()
            except TimeoutError:
                await self._write(pb.FollowRunResponse())


def is_final(state: int) -> bool:
    """Whether a run in this state has ended."""
    return state in {pb.Run.STATE_COMPLETED, pb.Run.STATE_FAILED, pb.Run.STATE_CANCELED}


async def stream_log(
    context: Writable[logs_pb2.ReadLogResponse],
    live: Live,
    logs: AttemptLogs,
    key: AttemptKey | None,
    request: logs_pb2.ReadLogRequest,
    heartbeat_s: float,
) -> None:
    """Sends a log from an offset on: what is there now, or, with `follow`, to its end."""
    check_offset("offset_bytes", request.offset_bytes)
    source = to_source(request.source)
    if key is None:
        last = logs_pb2.LogChunk(offset_bytes=request.offset_bytes, is_last=True)
        await context.write(logs_pb2.ReadLogResponse(chunk=last))
        return
    timeout_s = heartbeat_s if request.follow else 0.0
    with logs.reader.follow(
        key, source, request.offset_bytes, is_sealed=is_sealed(live, key)
    ) as follower:
        while True:
            chunk = await follower.next(timeout_s)
            if chunk is None and not request.follow:
                return
            message = to_chunk(chunk) if chunk is not None else logs_pb2.LogChunk()
            await context.write(logs_pb2.ReadLogResponse(chunk=message))
            if chunk is not None and chunk.is_last:
                return
