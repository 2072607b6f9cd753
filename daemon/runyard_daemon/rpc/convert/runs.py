"""Runs as clients see them."""

from __future__ import annotations

from collections.abc import Sequence

from runyard_contract.states import EndClass, RunState
from runyard_daemon.control.finish import phases_of
from runyard_daemon.control.live import run_name
from runyard_daemon.rpc.convert.times import set_instant, to_duration, to_timestamp
from runyard_daemon.store import Connection, attempts, runs, transitions, usage
from runyard_daemon.store.details import EndRecord, PhaseRecord, WorkdirRecord
from runyard_daemon.store.files import FileRecord
from runyard_daemon.store.runs import RunRecord, SpecRecord
from runyard_daemon.store.transitions import TransitionRecord
from runyard_daemon.store.usage import UsageRecord
from runyardpb.v1 import common_pb2
from runyardpb.v1 import runs_pb2 as pb

_STATES: dict[RunState, pb.Run.State.ValueType] = {
    state: pb.Run.State.Value(f"STATE_{state.name}")
    for state in RunState
    if state is not RunState.NOT_STARTED
}
_BY_NUMBER: dict[int, RunState] = {number: state for state, number in _STATES.items()}
_CLASSES = {
    end_class: (
        pb.End.CLASS_UNSPECIFIED
        if end_class is EndClass.NONE
        else pb.End.Class.Value(f"CLASS_{end_class.name}")
    )
    for end_class in EndClass
}


def from_state(number: int) -> RunState | None:
    """A state from the wire; None for one that is unset or unknown."""
    return _BY_NUMBER.get(number)


def read_run(
    conn: Connection, record: RunRecord, now_us: int, *, with_history: bool = True
) -> pb.Run:
    """The whole message of a run, its parts read from the store."""
    spec = runs.get_spec(conn, record.run_id)
    phases = record.phases
    if not record.state.is_final:
        newest = attempts.current(conn, record.run_id) if record.attempt else None
        phases = phases_of(record, newest, now_us)
    history = transitions.of_run(conn, record.run_id) if with_history else ()
    run = to_run(record, spec, phases, history)
    used = usage.of_run(conn, record, with_outputs=with_history)
    if used is not None:
        run.usage.CopyFrom(_to_usage(used))
    return run


def to_run(
    record: RunRecord,
    spec: SpecRecord,
    phases: Sequence[PhaseRecord],
    history: Sequence[TransitionRecord],
) -> pb.Run:
    """The message of a run."""
    return pb.Run(
        name=run_name(record.workspace, record.experiment, record.run_id),
        spec=pb.RunSpec.FromString(spec.spec),
        state=_STATES[record.state],
        attempt=record.attempt,
        create_time=to_timestamp(record.create_time_us),
        start_time=to_timestamp(record.start_time_us),
        end_time=to_timestamp(record.end_time_us),
        etag=str(record.revision),
        end=_to_end(record.end) if record.end else None,
        phases=map(to_phase, phases),
        tags=record.tags,
        properties=record.properties,
        display_name=record.display_name,
        node=record.node,
        status_message=record.status_message,
        warnings=record.warnings,
        workdir=_to_workdir(record.workdir) if record.workdir else None,
        number=record.number,
        transitions=[
            pb.Transition(
                state=_STATES[change.state],
                time=to_timestamp(change.time_us),
                cause=change.cause,
                actor=change.actor,
            )
            for change in history
        ],
    )


def to_phase(phase: PhaseRecord) -> pb.PhaseSpan:
    """A stretch of a run's time."""
    span = pb.PhaseSpan(phase=phase.phase)
    set_instant(span.start_time, phase.start_time_us)
    set_instant(span.duration, phase.duration_us)
    return span


def _to_end(end: EndRecord) -> pb.End:
    return pb.End(
        end_class=_CLASSES[end.end_class],
        exit_code=end.exit_code,
        signal=end.signal,
        message=end.message,
        advice=end.advice,
        metadata=end.metadata,
        outcome=end.outcome,
        last_lines=end.last_lines,
    )


def _to_usage(used: UsageRecord) -> pb.Usage:
    return pb.Usage(
        cpu_time=to_duration(used.cpu_time_us / 1e6),
        peak_memory_bytes=used.peak_memory_bytes,
        wall_time=to_duration(used.wall_time_us / 1e6),
        log_bytes=used.log_bytes,
        output_bytes=used.output_bytes,
        workdir_bytes=used.workdir_bytes,
    )


def _to_workdir(workdir: WorkdirRecord) -> pb.WorkdirSummary:
    return pb.WorkdirSummary(
        files=[
            pb.RunFile(path=file.path, size_bytes=file.size_bytes, is_executable=file.is_executable)
            for file in workdir.files
        ],
        file_count=workdir.file_count,
        expire_time=to_timestamp(workdir.expire_time_us or None),
        size_bytes=workdir.size_bytes,
    )


def to_file(file: FileRecord) -> pb.RunFile:
    """A file of a run by content."""
    return pb.RunFile(
        path=file.path,
        size_bytes=file.size_bytes,
        update_time=to_timestamp(file.update_time_us),
        content=common_pb2.FileContent(
            digest=bytes.fromhex(file.digest),
            size_bytes=file.size_bytes,
            is_chunked=file.is_chunked,
        ),
        is_executable=file.is_executable,
    )


def from_file(file: pb.RunFile, now_us: int) -> FileRecord:
    """A file to be registered."""
    return FileRecord(
        path=file.path,
        size_bytes=file.content.size_bytes,
        update_time_us=now_us,
        digest=file.content.digest.hex(),
        is_chunked=file.content.is_chunked,
        is_executable=file.is_executable,
    )
