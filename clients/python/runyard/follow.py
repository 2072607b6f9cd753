"""Follows a run live: its changes and its log, over broken connections and restarted daemons."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from runyard._convert import run_record
from runyard.channel import Connection
from runyard.records import RunRecord
from runyard_contract.errors import DaemonUnavailable, Draining
from runyard_contract.ids import RunName
from runyard_contract.value import value_class
from runyardpb.v1 import logs_pb2, logs_pb2_grpc, runs_pb2, runs_pb2_grpc

MERGED = "merged"
STDOUT = "stdout"
STDERR = "stderr"
ENVIRONMENT = "environment"

_STREAMS = {
    logs_pb2.LOG_SOURCE_STDOUT: STDOUT,
    logs_pb2.LOG_SOURCE_STDERR: STDERR,
    logs_pb2.LOG_SOURCE_ENVIRONMENT: ENVIRONMENT,
}
_SOURCES = {MERGED: logs_pb2.LOG_SOURCE_MERGED, **{text: n for n, text in _STREAMS.items()}}
_BREAKS_WITHOUT_PROGRESS = 5
_PAUSE_S = 0.05


@value_class
class LogBytes:
    """Bytes that the run printed. `stream` is "stdout", "stderr" or "environment".

    `offset_bytes` is where they begin: in the merged log, or in the log of the environment.
    """

    stream: str
    offset_bytes: int
    data: bytes


Event = RunRecord | LogBytes
EventT = TypeVar("EventT", Event, LogBytes, RunRecord)


def follow(
    connection: Connection,
    name: RunName,
    log_offset: int = 0,
    *,
    include_environment_log: bool = False,
    omit_log: bool = False,
) -> Iterator[Event]:
    """What happens to a run: its record after each change, and its log's bytes in order.

    The last event is the record with the final state; it comes after the last byte of the log.
    A broken connection is taken up at the next byte, and an embedded daemon that was killed is
    started again, so any number of breaks gives the same bytes. Raises RunyardError.
    """
    cursor = _Cursor(log_offset)
    yield from resumed(
        connection,
        lambda: _follow_once(
            connection,
            cursor,
            runs_pb2.FollowRunRequest(
                name=str(name),
                include_environment_log=include_environment_log,
                omit_log=omit_log,
            ),
        ),
        lambda: cursor.is_over,
    )


def resumed(
    connection: Connection, once: Callable[[], Iterator[EventT]], is_over: Callable[[], bool]
) -> Iterator[EventT]:
    """The events of one stream after another, until `is_over`; each goes on where the last ended.

    Gives up, with the error of the last break, after five breaks without an event between them.
    """
    breaks = 0
    while True:
        error: DaemonUnavailable | Draining
        try:
            for event in once():
                breaks = 0
                yield event
            if is_over():
                return
            error = DaemonUnavailable(
                "the daemon ended the stream too early", hint="see `runyard daemon status`"
            )
        except (DaemonUnavailable, Draining) as broken:
            error = broken
        breaks += 1
        if breaks > _BREAKS_WITHOUT_PROGRESS:
            raise error
        if breaks > 1:
            time.sleep(_PAUSE_S * breaks)
        connection.recover(error)


class _Cursor:
    """How far a run was followed."""

    # No dataclass, here and below: defining one costs a command more than a millisecond.
    __slots__ = ("environment_offset", "is_over", "log_offset")

    def __init__(self, log_offset: int) -> None:
        self.log_offset = log_offset
        self.environment_offset = 0
        self.is_over = False


def _follow_once(
    connection: Connection, cursor: _Cursor, request: runs_pb2.FollowRunRequest
) -> Iterator[Event]:
    """The events of one stream, from the cursor on."""
    request.log_offset_bytes = cursor.log_offset
    request.environment_log_offset_bytes = cursor.environment_offset
    with connection.stream(
        runs_pb2_grpc.RunServiceStub, lambda stub: stub.FollowRun, request
    ) as answers:
        for answer in answers:
            kind = answer.WhichOneof("event")
            if kind == "run":
                record = run_record(answer.run)
                cursor.is_over = record.is_final
                yield record
                if cursor.is_over:
                    return
            elif kind == "log" and answer.log.data:
                yield _log_bytes(answer.log, cursor)


def _log_bytes(chunk: logs_pb2.LogChunk, cursor: _Cursor) -> LogBytes:
    """The bytes of a chunk; the cursor moves behind them."""
    stream = _STREAMS.get(chunk.stream, STDOUT)
    end = chunk.offset_bytes + len(chunk.data)
    if stream == ENVIRONMENT:
        cursor.environment_offset = end
    else:
        cursor.log_offset = end
    return LogBytes(stream, chunk.offset_bytes, chunk.data)


def read_log(
    connection: Connection,
    name: RunName,
    source: str = MERGED,
    *,
    offset_bytes: int = 0,
    attempt: int = 0,
    is_live: bool = False,
) -> Iterator[LogBytes]:
    """A log from an offset on: "merged", "stdout", "stderr" or "environment".

    Each piece names its own stream. With `is_live` it goes on until the log is complete. `attempt`
    counts from 1; 0 is the newest. A broken connection is taken up at the next byte.
    """
    position = _LogPosition(offset_bytes)
    yield from resumed(
        connection,
        lambda: _read_once(connection, name, source, position, attempt, is_live),
        lambda: position.is_over,
    )


class _LogPosition:
    """How far a log was read."""

    __slots__ = ("is_over", "offset_bytes")

    def __init__(self, offset_bytes: int) -> None:
        self.offset_bytes = offset_bytes
        self.is_over = False


def _read_once(
    connection: Connection,
    name: RunName,
    source: str,
    position: _LogPosition,
    attempt: int,
    is_live: bool,
) -> Iterator[LogBytes]:
    """The pieces of one stream, from the position on."""
    request = logs_pb2.ReadLogRequest(
        name=str(name),
        attempt=attempt,
        source=_SOURCES[source],
        offset_bytes=position.offset_bytes,
        follow=is_live,
    )
    with connection.stream(
        logs_pb2_grpc.LogServiceStub, lambda stub: stub.ReadLog, request
    ) as answers:
        for answer in answers:
            chunk = answer.chunk
            if chunk.data:
                position.offset_bytes = chunk.offset_bytes + len(chunk.data)
                stream = _STREAMS.get(chunk.stream, STDOUT)
                yield LogBytes(stream, chunk.offset_bytes, chunk.data)
            position.is_over = position.is_over or chunk.is_last
    # A stream that ends in order, without having been asked to go on, has given what there is.
    position.is_over = position.is_over or not is_live


def wait_until_final(connection: Connection, name: RunName) -> RunRecord:
    """The record of a run once it has ended for good. No log is sent for it."""
    *_, last = follow(connection, name, omit_log=True)
    assert isinstance(last, RunRecord)  # noqa: S101 - what following ends with
    return last
