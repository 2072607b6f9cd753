"""The end of a run: what the evidence says, and the transaction that makes it final."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Mapping

from runyard_contract import manifest
from runyard_contract.content.store import ContentStore
from runyard_contract.errors import RunyardError
from runyard_contract.ignore import KINDS, IgnoreRules
from runyard_contract.record import record
from runyard_daemon.control.advance import AGENT, DAEMON, advance
from runyard_daemon.core.end import (
    EndFacts,
    EndReason,
    KeptOut,
    StoppedBy,
    classify,
    final_event,
    outcome,
)
from runyard_daemon.core.lastwords import missed_paths
from runyard_daemon.core.lifecycle import WAITING, Event
from runyard_daemon.core.phases import Milestones, Phase, Span, waterfall
from runyard_daemon.core.shortage import Memory
from runyard_daemon.core.types import AttemptRef, Cause, WallTime
from runyard_daemon.store import Connection, attempts, computes, runs
from runyard_daemon.store.attempts import AttemptChange, AttemptRecord
from runyard_daemon.store.details import AttemptEndRecord, EndRecord, PhaseRecord, WorkdirRecord
from runyard_daemon.store.runs import RunChange, RunRecord, SpecRecord

TAIL_BYTES = 64 << 10
"""How much of the end of stderr is looked at."""
LAST_LINES_BYTES = 4096
WARNINGS_MAX = 50
_PHASES = {phase.value: phase for phase in Phase}


@record
class SpecFacts:
    """What the end of a run, or a cancel, needs to know of its specification."""

    program: str
    """What people call the program: the script's path or the command's first word."""
    interpreter: str
    """Of a user-managed environment; empty for any other."""
    max_duration_s: float | None
    grace_s: float
    merge_stderr: bool


ReadSpec = Callable[[SpecRecord], SpecFacts]


@record
class Evidence:
    """What was found beside the agent's word, before the transaction."""

    stderr_tail: bytes = b""
    kept_out: KeptOut | None = None


def wants_evidence(end: AttemptEndRecord | None) -> bool:
    """Whether the log and the snapshot can say more about this end."""
    if end is None or end.stopped_by:
        return False
    return end.reason == EndReason.SIGNALED.name or (
        end.reason == EndReason.EXITED.name and bool(end.exit_code)
    )


def find_kept_out(
    tail: bytes, working_directory: bytes, snapshot: str, content: ContentStore
) -> KeptOut | None:
    """The file that a script missed because an ignore rule kept it out, if the log names one.

    Blocks on the disk. A snapshot that can't be read gives None: the run's end must not fail on it.
    """
    if not snapshot:
        return None
    try:
        rules = _rules(snapshot, content)
        for missed in missed_paths(tail):
            path = _in_source(missed, working_directory)
            rule = rules.explain(path) if path else None
            if rule is not None:
                file = rule.file if rule.line else ""
                return KeptOut(path, file, rule.line, rule.pattern)
    except RunyardError:
        return None
    return None


def _in_source(missed: str, working_directory: bytes) -> str:
    """The missed path relative to the source directory; empty for one outside of it."""
    folder = working_directory.decode("utf-8", "surrogateescape").rstrip("/")
    if missed.startswith("/"):
        if not folder or not missed.startswith(folder + "/"):
            return ""
        missed = missed[len(folder) + 1 :]
    path = posixpath.normpath(missed)
    return "" if path.startswith("..") or path in {"", "."} else path


def _rules(snapshot: str, content: ContentStore) -> IgnoreRules:
    """The ignore rules of a snapshot, which always holds the deciding files itself."""

    def read(parts: tuple[str, ...]) -> bytes | None:
        digest = snapshot
        for index, part in enumerate(parts):
            entries = manifest.read_directory(digest, content.read)
            entry = next((entry for entry in entries if entry.name == part), None)
            if isinstance(entry, manifest.DirectoryEntry):
                digest = entry.digest
            elif isinstance(entry, manifest.FileEntry) and index == len(parts) - 1:
                return None if entry.is_chunked else content.read(entry.digest)
            else:
                return None
        return None

    kind = next((kind for kind in KINDS if read((kind,)) is not None), None)
    return IgnoreRules(kind, read)


@record
class Ending:
    """How an attempt ended, from whoever knows: its agent, or the daemon itself."""

    ref: AttemptRef
    end: AttemptEndRecord
    workdir: WorkdirRecord | None = None
    warnings: tuple[str, ...] = ()
    evidence: Evidence = Evidence()
    is_agents_word: bool = True


@record
class Conclusion:
    """What makes attempt and run final."""

    cause: Cause
    facts: AttemptChange
    happened: tuple[tuple[Event, str], ...]
    changes: RunChange


@record
class LastSeen:
    """What was known of a run before its end."""

    granted_us: int
    """When its attempt was granted."""
    phases: tuple[PhaseRecord, ...]
    """What the agent measured."""
    warnings: tuple[str, ...]


def conclusion(
    run: RunRecord, seen: LastSeen, ending: Ending, spec: SpecFacts, now_us: int
) -> Conclusion:
    """Draws the conclusion from how an attempt ended; writes nothing."""
    cause = classify(_facts(run, ending, spec))
    return Conclusion(
        cause,
        {"phase": "ENDED", "end": ending.end, "end_time_us": now_us, "is_sealed": True},
        ((Event.EXITED, cause.message), (final_event(cause), cause.message)),
        {
            "end_time_us": now_us,
            "status_message": "",
            "end": end_record(cause, ending.end.metadata),
            "workdir": ending.workdir,
            "warnings": merged_warnings(seen.warnings, ending.warnings),
            "phases": _phases(run, seen.granted_us, seen.phases, now_us, is_final=True),
        },
    )


def conclude(conn: Connection, ending: Ending, read_spec: ReadSpec, now_us: int) -> Cause | None:
    """Makes attempt and run final, in the caller's transaction; None: somebody else did.

    The run must have an attempt, which `ending` names. All logs and outputs are here, or will
    never come.
    """
    run = runs.get(conn, ending.ref.run_id)
    record = attempts.get(conn, ending.ref.run_id, ending.ref.attempt)
    if run is None or record is None or run.state.is_final or record.end_time_us is not None:
        return None
    spec = read_spec(runs.get_spec(conn, run.run_id))
    seen = LastSeen(record.grant_time_us, run.phases, run.warnings)
    found = conclusion(run, seen, ending, spec, now_us)
    if not attempts.update(conn, ending.ref, **found.facts):
        return None
    actor = AGENT if ending.is_agents_word else DAEMON
    happened, changes = left_queue(conn, run, record)
    changes.update(found.changes)
    advance(conn, run, (*happened, *found.happened), actor, now_us, **changes)
    return found.cause


def left_queue(
    conn: Connection, run: RunRecord, record: AttemptRecord
) -> tuple[tuple[tuple[Event, str], ...], RunChange]:
    """What it means for a waiting run that its attempt, which was sent ahead, is taken up.

    Nothing for a run that does not wait.
    """
    if run.state not in WAITING:
        return (), {}
    name = computes.node_name(conn, run.workspace, record.node_id)
    happened = ((Event.GRANTED, f"leased to {name}"),)
    return happened, {"attempt": record.attempt, "node": name}


def merged_warnings(known: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """All different warnings in the order in which they came, bounded."""
    return tuple(dict.fromkeys((*known, *more)))[:WARNINGS_MAX] if more else known


def _facts(run: RunRecord, ending: Ending, spec: SpecFacts) -> EndFacts:
    end = ending.end
    stopped_by = StoppedBy[end.stopped_by] if end.stopped_by else StoppedBy.NOBODY
    if end.reason == EndReason.NEVER_STARTED.name and run.canceled_by:
        stopped_by = StoppedBy.CANCEL
    number = end.metadata.get("errno", "")
    return EndFacts(
        reason=EndReason[end.reason],
        run_id=run.run_id,
        program=spec.program,
        exit_code=end.exit_code,
        signal=end.signal,
        stopped_by=stopped_by,
        by=run.canceled_by,
        max_duration_s=spec.max_duration_s,
        errno=int(number) if number.isdecimal() else 0,
        message=end.message,
        advice=end.advice,
        stderr_tail=ending.evidence.stderr_tail,
        kept_out=ending.evidence.kept_out,
        interpreter=spec.interpreter,
        out_of_memory=Memory(end.out_of_memory),
        is_disk_full=end.is_disk_full,
    )


def end_record(cause: Cause, metadata: Mapping[str, str] | None = None) -> EndRecord:
    """A cause as it is kept and shown."""
    named = {
        "exception": cause.exception,
        "module": cause.module,
        "path": cause.path,
        "rule": cause.rule,
        "by": cause.by,
        "memory": cause.memory,
    }
    lines = "\n".join(cause.last_lines).encode("utf-8", "surrogateescape")
    return EndRecord(
        end_class=cause.end_class,
        message=cause.message,
        advice=cause.advice,
        exit_code=cause.exit_code,
        signal=cause.signal,
        metadata={**(metadata or {}), **{name: text for name, text in named.items() if text}},
        outcome=outcome(cause).exit_status,
        last_lines=lines[-LAST_LINES_BYTES:],
    )


def cause_of(end: EndRecord) -> Cause:
    """The cause that was kept, for its explanation."""
    text = end.last_lines.decode("utf-8", "replace")
    return Cause(
        end_class=end.end_class,
        message=end.message,
        advice=end.advice,
        exit_code=end.exit_code,
        signal=end.signal,
        last_lines=tuple(text.splitlines()),
        rule=end.metadata.get("rule", ""),
    )


def final_phases(run: RunRecord, now_us: int) -> tuple[PhaseRecord, ...]:
    """The waterfall of a run that ends now and was never granted."""
    return _phases(run, None, run.phases, now_us, is_final=True)


def phases_of(run: RunRecord, record: AttemptRecord | None, now_us: int) -> tuple[PhaseRecord, ...]:
    """The waterfall of a run that has not ended yet, from what its agent reported so far."""
    granted_us = record.grant_time_us if record else None
    return _phases(run, granted_us, run.phases, now_us, is_final=False)


def _phases(
    run: RunRecord,
    granted_us: int | None,
    reported: tuple[PhaseRecord, ...],
    now_us: int,
    *,
    is_final: bool,
) -> tuple[PhaseRecord, ...]:
    now = _wall(now_us)
    marks = Milestones(
        submitted=_wall(run.create_time_us),
        granted=None if granted_us is None else _wall(granted_us),
        finished=now if is_final else None,
        client_snapshot_s=run.client_snapshot_us / 1e6,
    )
    measured = [
        Span(_PHASES[known.phase], _wall(known.start_time_us), known.duration_us / 1e6)
        for known in reported
    ]
    return tuple(
        [
            PhaseRecord(span.phase.value, round(span.start * 1e6), round(span.duration_s * 1e6))
            for span in waterfall(marks, measured, now)
        ]
    )


def _wall(at_us: int) -> WallTime:
    return WallTime(at_us / 1e6)
