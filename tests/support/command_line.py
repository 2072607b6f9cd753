"""Commands typed in this process, and runs that a fake daemon plays to them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from runyardpb.v1 import logs_pb2, runs_pb2
from support.fake_control import FakeControl

STDOUT = logs_pb2.LOG_SOURCE_STDOUT
STDERR = logs_pb2.LOG_SOURCE_STDERR
ENVIRONMENT = logs_pb2.LOG_SOURCE_ENVIRONMENT


@dataclass(frozen=True, slots=True)
class Done:
    """What a command gave."""

    code: int
    stdout: bytes
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def last_line(self) -> str:
        return self.stderr.rstrip("\n").rpartition("\n")[2]


CommandLine = Callable[..., Done]


def play(
    control: FakeControl,
    log: tuple[tuple[int, bytes], ...] = (),
    **ending: Any,
) -> None:
    """Decides what followed runs print, (stream, bytes), and how they end."""

    def follow(request: runs_pb2.FollowRunRequest) -> Iterator[runs_pb2.FollowRunResponse]:
        run = control.state.runs[request.name]
        run.state = runs_pb2.Run.STATE_RUNNING
        yield runs_pb2.FollowRunResponse(run=run)
        offset = 0
        for stream, data in log:
            chunk = logs_pb2.LogChunk(stream=stream, offset_bytes=offset, data=data)  # type: ignore[arg-type]
            if stream != logs_pb2.LOG_SOURCE_ENVIRONMENT:
                offset += len(data)
            yield runs_pb2.FollowRunResponse(log=chunk)
        end_run(run, **ending)
        yield runs_pb2.FollowRunResponse(run=run)

    control.state.follow = follow


def end_run(
    run: runs_pb2.Run,
    *,
    exit_code: int | None = 0,
    outcome: int | None = None,
    end_class: int = 0,
    message: str = "",
    advice: str = "",
    signal: int | None = None,
    state: int | None = None,
) -> None:
    """Makes a run final."""
    failed = end_class or exit_code
    default = runs_pb2.Run.STATE_FAILED if failed else runs_pb2.Run.STATE_COMPLETED
    run.state = state or default  # type: ignore[assignment]
    run.end.end_class = end_class  # type: ignore[assignment]
    if exit_code is not None:
        run.end.exit_code = exit_code
    if signal is not None:
        run.end.signal = signal
    run.end.outcome = outcome if outcome is not None else exit_code or 0
    run.end.message = message
    run.end.advice = advice
    run.attempt = 1
    run.start_time.FromSeconds(1_700_000_100)
    run.end_time.FromSeconds(1_700_000_112)
    span = run.phases.add(phase="script")
    span.start_time.FromSeconds(1_700_000_100)
    span.duration.FromSeconds(12)
