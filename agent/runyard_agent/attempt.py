"""What the agent knows of one attempt, and how it tells the daemon."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from runyard_agent import clock
from runyard_agent.bundles import Bundle
from runyard_agent.laid import LaidOut
from runyard_agent.shipping.growing import Piece
from runyard_agent.supervisor.disk import is_disk_full
from runyard_agent.workdir import WorkIndex
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2

Phase = pb.AttemptReport.Phase
Reason = pb.AttemptEnd.Reason
StoppedBy = pb.AttemptEnd.StoppedBy
File = pb.AppendFilesRequest.File

_REASONS: Mapping[str, Reason.ValueType] = {
    "exited": pb.AttemptEnd.REASON_EXITED,
    "signaled": pb.AttemptEnd.REASON_SIGNALED,
    "spawn_failed": pb.AttemptEnd.REASON_SPAWN_FAILED,
    "supervisor_lost": pb.AttemptEnd.REASON_SUPERVISOR_LOST,
    "never_started": pb.AttemptEnd.REASON_NEVER_STARTED,
    "container_lost": pb.AttemptEnd.REASON_AGENT_FAILED,
}
_STOPPED_BY: Mapping[str, StoppedBy.ValueType] = {
    "cancel": pb.AttemptEnd.STOPPED_BY_CANCEL,
    "timeout": pb.AttemptEnd.STOPPED_BY_TIMEOUT,
    "supervisor_lost": pb.AttemptEnd.STOPPED_BY_SUPERVISOR_LOST,
}
_OUT_OF_MEMORY: Mapping[str, pb.AttemptEnd.OutOfMemory.ValueType] = {
    "limit": pb.AttemptEnd.OUT_OF_MEMORY_LIMIT,
    "host": pb.AttemptEnd.OUT_OF_MEMORY_HOST,
}
WARNINGS_MAX = 20


class Span(NamedTuple):
    """A measured stretch of the attempt: start by wall clock, length by the boot clock."""

    phase: str
    start_unix_ns: int
    duration_ns: int


class Stopwatch:
    """Measures one span from its making on."""

    __slots__ = ("_boot_ns", "_phase", "_unix_ns")

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._unix_ns = clock.unix_ns()
        self._boot_ns = clock.boot_ns()

    def stop(self) -> Span:
        """The span until now."""
        return Span(self._phase, self._unix_ns, clock.boot_ns() - self._boot_ns)


class Attempt:
    """One attempt held by this agent. Whatever changes it calls `changed`."""

    def __init__(self, lease: pb.Lease, bundle: Bundle, changed: Callable[[Attempt], None]) -> None:
        self.lease = lease
        self.bundle = bundle
        self.is_resumed = False
        """An earlier agent has begun with it."""
        self.phase: Phase.ValueType = pb.AttemptReport.PHASE_ACCEPTED
        self.status_message = ""
        self.spans: list[Span] = []
        self.warnings: list[str] = []
        self.execution: dict[str, str] = {}
        """How it is executed: properties of the run, without their "runyard."."""
        self.started_at_unix_ns: int | None = None
        self.end: pb.AttemptEnd | None = None
        self.lengths: dict[File.ValueType, int] = {}
        self.workdir: runs_pb2.WorkdirSummary | None = None
        self.pieces: tuple[Piece, ...] = ()
        """The rest of its logs, where that goes with the last report."""
        self.work_index: WorkIndex | None = None
        """What a small working folder held at the start; of others it is only in the bundle."""
        self.has_folder = False
        """Its folder was laid out before it came."""
        self.laid: LaidOut | None = None
        """Its folders as they were made, where another run may have them later."""
        self.is_untouched = False
        """Its run has ended well and has left these folders as they were."""
        self.has_environment_log = False
        """This agent has written something to it."""
        self._changed = changed
        self._is_quiet = lease.is_ahead

    @property
    def epoch(self) -> int:
        """The grant that it belongs to."""
        return self.lease.ref.epoch

    def advance(self, phase: Phase.ValueType) -> None:
        """Goes forward to a phase, and says so; never back."""
        if phase > self.phase:
            self.phase = phase
            self._is_quiet = self._is_quiet and phase < pb.AttemptReport.PHASE_RUNNING
            self.tell()

    def say(self, message: str) -> None:
        """What it does now, for people."""
        if message != self.status_message:
            self.status_message = message
            self.tell()

    def warn(self, warning: str) -> None:
        """What a person should know; the same thing once, and not without end."""
        if warning in self.warnings or len(self.warnings) > WARNINGS_MAX:
            return
        if len(self.warnings) == WARNINGS_MAX:
            warning = "more warnings were left out"
        self.warnings.append(warning)
        self.tell()

    def tell(self) -> None:
        """There is news. Of a lease that came ahead only what is for good: it may be given back."""
        if not self._is_quiet:
            self._changed(self)

    def started(self, at_unix_ns: int) -> None:
        """The program was started."""
        self.started_at_unix_ns = at_unix_ns
        self.status_message = ""
        self.advance(pb.AttemptReport.PHASE_RUNNING)

    def report_for_hello(self) -> pb.AttemptReport:
        """What a Hello says of it: no end before the rest of its logs, which go in a report."""
        report = self.report()
        if self.pieces:
            report.phase = pb.AttemptReport.PHASE_EXITED
            del report.pieces[:]
        return report

    def report(self) -> pb.AttemptReport:
        """All that is known now."""
        report = pb.AttemptReport(
            ref=self.lease.ref,
            phase=self.phase,
            status_message=self.status_message,
            end=self.end,
            warnings=self.warnings,
            execution=self.execution,
            workdir=self.workdir,
        )
        for span in self.spans:
            message = report.phases.add(phase=span.phase)
            _set_ns(message.start_time, span.start_unix_ns)
            _set_ns(message.duration, max(0, span.duration_ns))
        if self.started_at_unix_ns is not None:
            _set_ns(report.start_time, self.started_at_unix_ns)
        for file, length_bytes in self.lengths.items():
            report.lengths.add(file=file, length_bytes=length_bytes)
        for piece in self.pieces:
            report.pieces.add(file=piece.file, offset_bytes=piece.offset_bytes, data=piece.data)
        return report


def _set_ns(time: Timestamp | Duration, value_ns: int) -> None:
    """Sets a moment or a length of time, not negative: what FromNanoseconds does, in less time."""
    time.seconds, time.nanos = divmod(value_ns, 1_000_000_000)


def end_of(record: Mapping[str, Any], work: str) -> pb.AttemptEnd:
    """The end that an exit record tells of."""
    end = pb.AttemptEnd(
        reason=_REASONS.get(str(record.get("reason")), pb.AttemptEnd.REASON_AGENT_FAILED),
        exit_code=record.get("exit_code") or 0,
        signal=record.get("signal") or 0,
        stopped_by=_STOPPED_BY.get(
            str(record.get("stopped_by")), pb.AttemptEnd.STOPPED_BY_UNSPECIFIED
        ),
        peak_memory_bytes=record.get("max_rss_bytes") or 0,
        working_directory=os.fsencode(work),
        out_of_memory=_OUT_OF_MEMORY.get(
            str(record.get("oom")), pb.AttemptEnd.OUT_OF_MEMORY_UNSPECIFIED
        ),
    )
    if record.get("exit_code") or record.get("signal"):
        was_full = record.get("disk_full")  # when it ended; the room may have come since
        end.is_disk_full = is_disk_full(work) if was_full is None else was_full is True
    _set_ns(end.end_time, record.get("ended_at_unix_ns") or clock.unix_ns())
    _set_ns(end.duration, max(0, record.get("duration_ns") or 0))
    cpu_s = float(record.get("user_cpu_s") or 0) + float(record.get("system_cpu_s") or 0)
    _set_ns(end.cpu_time, max(0, int(cpu_s * 1e9)))
    error = record.get("error")
    if end.reason == pb.AttemptEnd.REASON_SPAWN_FAILED and isinstance(error, dict):
        end.message = str(error.get("message", ""))
        if "advice" not in error:
            end.message = f"the program could not be started: {end.message}"
        end.advice = error.get("advice") or "see whether it exists on the node and may be executed"
        end.metadata["errno"] = str(error.get("errno", ""))
    elif record.get("reason") == "container_lost" and isinstance(error, dict):
        end.message = str(error.get("message", ""))
        end.advice = str(error.get("advice", ""))
    elif end.reason == pb.AttemptEnd.REASON_SUPERVISOR_LOST and not record.get("stopped_by"):
        end.reason = pb.AttemptEnd.REASON_NODE_RESTARTED
        end.message = "the node was restarted while the run was active"
        end.advice = "submit again"
    elif end.reason == pb.AttemptEnd.REASON_SUPERVISOR_LOST:
        end.message = "the process that watched the run was killed; all its processes were ended"
        end.advice = "submit again; see what kills processes on the node (memory may be short)"
    return end


def failed(
    reason: Reason.ValueType,
    message: str,
    advice: str = "",
    metadata: Mapping[str, str] | None = None,
    stopped_by: StoppedBy.ValueType = pb.AttemptEnd.STOPPED_BY_UNSPECIFIED,
) -> pb.AttemptEnd:
    """An end without an exit record."""
    end = pb.AttemptEnd(
        reason=reason,
        message=_utf8(message),
        advice=_utf8(advice),
        metadata={key: _utf8(value) for key, value in (metadata or {}).items()},
        stopped_by=stopped_by,
    )
    _set_ns(end.end_time, clock.unix_ns())
    return end


def spans_of(record: Mapping[str, Any]) -> Iterable[Span]:
    """The spans that an exit record tells of: the script, and its first part."""
    started = record.get("started_at_unix_ns")
    duration_ns = record.get("duration_ns") or 0
    if not started or record.get("reason") in {"spawn_failed", "never_started"}:
        return
    first_output = record.get("first_output_at_unix_ns")
    if first_output:
        yield Span("first_output", started, min(max(0, first_output - started), duration_ns))
    yield Span("script", started, duration_ns)


def _utf8(text: str) -> str:
    """Text without what a message can't carry."""
    return text.encode("utf-8", "backslashreplace").decode()
