"""Messages of the contract to plain values and back: the only place that reads their fields."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from runyard.records import (
    Estimate,
    Explanation,
    Phase,
    RunEnd,
    RunFile,
    RunRecord,
    StartChange,
    Transition,
    Usage,
    Workdir,
)
from runyard_contract.ids import RunName
from runyard_contract.states import EndClass, RunState
from runyard_contract.value import later
from runyardpb.v1 import runs_pb2

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NS = 1_000_000_000

_STATES = {
    number: RunState[name.removeprefix("STATE_")]
    for name, number in runs_pb2.Run.State.items()
    if number != runs_pb2.Run.STATE_UNSPECIFIED
}
_STATE_NUMBERS = {state: number for number, state in _STATES.items()}
_CLASSES = {
    number: EndClass[name.removeprefix("CLASS_")]
    for name, number in runs_pb2.End.Class.items()
    if number != runs_pb2.End.CLASS_UNSPECIFIED
}


def state_number(state: RunState) -> runs_pb2.Run.State.ValueType | None:
    """The number of a state on the wire; None for NOT_STARTED, which is a client's word."""
    return _STATE_NUMBERS.get(state)


def run_record(run: runs_pb2.Run) -> RunRecord:
    """The record of a run. It keeps the message for what is seldom asked of a record."""
    return RunRecord(
        name=RunName.parse(run.name),
        state=_STATES.get(run.state, RunState.NOT_STARTED),
        attempt=run.attempt,
        number=run.number,
        display_name=run.display_name,
        compute_target=run.spec.compute_target,
        create_time=_time(run, "create_time"),
        start_time=_time(run, "start_time"),
        end_time=_time(run, "end_time"),
        end=later(lambda: _end(run.end)) if run.HasField("end") else None,
        phases=later(lambda: _phases(run)),
        transitions=later(lambda: _transitions(run)),
        tags=dict(run.tags),
        properties=dict(run.properties),
        node=run.node,
        status_message=run.status_message,
        warnings=tuple(run.warnings),
        workdir=_workdir(run.workdir) if run.HasField("workdir") else None,
        snapshot=run.spec.snapshot,
        definition=later(lambda: _definition(run.spec.run_definition_json)),
        etag=run.etag,
        usage=later(lambda: _usage(run.usage)) if run.HasField("usage") else None,
    )


def _phases(run: runs_pb2.Run) -> tuple[Phase, ...]:
    """What a run's time went to."""
    return tuple(Phase(p.phase, _time(p, "start_time"), _seconds(p.duration)) for p in run.phases)


def _transitions(run: runs_pb2.Run) -> tuple[Transition, ...]:
    """A run's changes of state."""
    return tuple(
        Transition(_STATES.get(t.state, RunState.NOT_STARTED), _time(t, "time"), t.cause, t.actor)
        for t in run.transitions
    )


def _time(message: Message, field: str) -> datetime | None:
    """A point in time, None where it is not set."""
    if not message.HasField(field):
        return None
    stamp: Timestamp = getattr(message, field)
    # As `ToDatetime`, in a part of its time.
    return _EPOCH + timedelta(0, stamp.seconds, stamp.nanos // 1000)


def _seconds(duration: Duration) -> float:
    """The length of a duration."""
    return (duration.seconds * _NS + duration.nanos) / _NS


def _end(end: runs_pb2.End) -> RunEnd:
    """How a run ended."""
    return RunEnd(
        end_class=_CLASSES.get(end.end_class, EndClass.NONE),
        message=end.message,
        advice=end.advice,
        outcome=end.outcome,
        exit_code=end.exit_code if end.HasField("exit_code") else None,
        signal=end.signal if end.HasField("signal") else None,
        metadata=dict(end.metadata),
        last_lines=end.last_lines,
    )


def _usage(usage: runs_pb2.Usage) -> Usage:
    """What a run used."""
    return Usage(
        cpu_time_s=_seconds(usage.cpu_time),
        peak_memory_bytes=usage.peak_memory_bytes,
        wall_time_s=_seconds(usage.wall_time),
        log_bytes=usage.log_bytes,
        output_bytes=usage.output_bytes if usage.HasField("output_bytes") else None,
        workdir_bytes=usage.workdir_bytes,
    )


def _workdir(workdir: runs_pb2.WorkdirSummary) -> Workdir | None:
    """What a script left in its working folder; None where it left nothing."""
    if not workdir.file_count:
        return None
    files = tuple(run_file(file) for file in workdir.files)
    return Workdir(files, workdir.file_count, _time(workdir, "expire_time"))


def _definition(text: str) -> dict[str, Any]:
    """The run configuration as submitted; empty where another client sent something else."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def run_file(file: runs_pb2.RunFile) -> RunFile:
    """A file of a run."""
    has_content = file.HasField("content")
    return RunFile(
        path=file.path,
        size_bytes=file.size_bytes,
        update_time=_time(file, "update_time"),
        digest=file.content.digest.hex() if has_content else None,
        is_chunked=file.content.is_chunked if has_content else False,
        is_executable=file.is_executable,
    )


def explanation(answer: runs_pb2.ExplainRunResponse) -> Explanation:
    """An explanation."""
    return Explanation(
        summary=answer.summary,
        verdicts=tuple((verdict.node, tuple(verdict.reasons)) for verdict in answer.verdicts),
        queue_position=answer.queue_position,
        ahead=tuple(answer.ahead),
        details=tuple(answer.details),
        changes=tuple(_change(change) for change in answer.changes),
        estimate=_estimate(answer.estimate) if answer.HasField("estimate") else None,
    )


def _change(change: runs_pb2.StartChange) -> StartChange:
    """A change that would let a run start."""
    has_resources = change.HasField("resources")
    return StartChange(
        text=change.text,
        is_at_once=change.is_at_once,
        cpus=change.resources.cpu_millicores / 1000 if has_resources else None,
        memory_bytes=change.resources.memory_bytes if has_resources else None,
        gpus=change.resources.gpu_count if has_resources else None,
        priority=change.priority if change.HasField("priority") else None,
        cancel=tuple(change.cancel),
    )


def _estimate(estimate: runs_pb2.Estimate) -> Estimate:
    """When a run may start or end."""
    low, likely, high = (
        _seconds(duration)
        for duration in (
            estimate.low_duration,
            estimate.likely_duration,
            estimate.high_duration,
        )
    )
    return Estimate(
        text=estimate.text,
        sample_count=estimate.sample_count,
        durations_s=(low, likely, high) if estimate.sample_count else None,
        earliest_start_time=_time(estimate, "earliest_start_time"),
        latest_start_time=_time(estimate, "latest_start_time"),
        earliest_end_time=_time(estimate, "earliest_end_time"),
        latest_end_time=_time(estimate, "latest_end_time"),
    )
