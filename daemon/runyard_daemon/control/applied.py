"""What agents' reports change on record: judged and written in the caller's transaction."""

from __future__ import annotations

from runyard_contract.record import record
from runyard_daemon.control.advance import AGENT, advance
from runyard_daemon.control.finish import (
    Ending,
    LastSeen,
    ReadSpec,
    conclude,
    conclusion,
    left_queue,
    merged_warnings,
)
from runyard_daemon.control.reported import AttemptReport
from runyard_daemon.core import attempts as core
from runyard_daemon.core.attempts import (
    AttemptPhase,
    Judgement,
    Return,
    Standing,
    judge,
    judge_return,
)
from runyard_daemon.core.lifecycle import WAITING, Event
from runyard_daemon.core.types import AttemptRef, NodeId, QueuedRun
from runyard_daemon.store import Connection, attempts, labels, runs
from runyard_daemon.store.attempts import AttemptChange, AttemptRecord
from runyard_daemon.store.details import AttemptEndRecord
from runyard_daemon.store.runs import RunChange, RunRecord

_CAUSES = {
    Event.STARTING: "the agent has the lease",
    Event.PREPARING: "the agent lays out snapshot and environment",
    Event.RUNNING: "the program was started",
    Event.EXITED: "the program ended",
}
NO_END = AttemptEndRecord(reason="AGENT_FAILED", message="the agent did not say how it ended")
NEVER_STARTED = AttemptEndRecord(reason="NEVER_STARTED")


@record
class Applied:
    """What a report did."""

    standing: Standing
    has_changed: bool = False
    """Something was written."""


@record
class TakenBack:
    """What became of an attempt that was given back."""

    decision: Return
    run: QueuedRun | None = None
    """As it waits again."""


@record
class Known:
    """What is on record of the attempt that an agent names."""

    run: RunRecord
    record: AttemptRecord
    judged: core.AttemptRecord
    """As the core sees it."""


def known(conn: Connection, ref: AttemptRef) -> Known | None:
    """What is on record; None: nothing."""
    newest = attempts.current(conn, ref.run_id)
    is_current = newest is not None and newest.attempt == ref.attempt
    record = newest if is_current else attempts.get(conn, ref.run_id, ref.attempt)
    run = runs.get(conn, ref.run_id)
    if record is None or run is None:
        return None
    return Known(run, record, core_record(record, run, is_current=is_current))


def apply(
    conn: Connection,
    node: NodeId,
    report: AttemptReport,
    now_us: int,
    ending: Ending | None = None,
    read_spec: ReadSpec | None = None,
) -> Applied:
    """Judges a report and writes what counts, in the caller's transaction.

    With `ending` the report makes its run final as well. A report of the phase that is on record
    may still bring news of it: a message, a warning, a finished span.
    """
    found = known(conn, report.ref)
    if found is None:
        return Applied(Standing.UNKNOWN)
    run = found.run
    judged = judge(report.summary, node, found.judged)
    if judged.standing is Standing.COUNTS:
        _write(conn, found, report, judged, now_us, ending, read_spec)
        return Applied(judged.standing, has_changed=True)
    has_news = (
        judged.standing is Standing.REPEATED
        and not found.judged.is_over
        and report.phase == found.judged.phase
        and bool(_news(run, report))
    )
    if has_news:
        runs.update(conn, run.run_id, **_news(run, report))
    return Applied(judged.standing, has_changed=has_news)


def take_back(
    conn: Connection, node: NodeId, ref: AttemptRef, read_spec: ReadSpec, now_us: int
) -> TakenBack:
    """Judges an attempt that its agent gives back, and writes what that means."""
    found = known(conn, ref)
    if found is None:
        return TakenBack(Return.NOTHING)
    run = found.run
    decision = judge_return(ref, node, found.judged)
    if decision is Return.WAIT:
        attempts.remove(conn, ref)
        if run.state not in WAITING:
            # The agent named it in a Hello before it gave it back.
            happened = [(Event.REQUEUED, "its node had no room for it in time")]
            before = found.record.attempt - 1
            advance(conn, run, happened, AGENT, now_us, attempt=before, node="")
    elif decision is Return.END:
        conclude(conn, Ending(ref, NEVER_STARTED), read_spec, now_us)
    queued = QueuedRun(run.run_id, run.compute, run.priority, run.sequence, run.resources)
    return TakenBack(decision, queued)


def core_record(
    record: AttemptRecord,
    run: RunRecord,
    *,
    is_current: bool,
    boot_id: str = "",
    incarnation: int = 0,
) -> core.AttemptRecord:
    """An attempt's record as the core judges it."""
    return core.AttemptRecord(
        ref=record.ref,
        node=NodeId(record.node_id),
        boot_id=boot_id,
        phase=AttemptPhase[record.phase],
        is_current=is_current,
        is_over=record.end_time_us is not None,
        is_cancel_wanted=bool(run.canceled_by) and not run.state.is_final,
        is_restored=core.is_of_earlier(incarnation, record.epoch),
    )


def _write(
    conn: Connection,
    found: Known,
    report: AttemptReport,
    judged: Judgement,
    now_us: int,
    ending: Ending | None,
    read_spec: ReadSpec | None,
) -> None:
    """Takes over a report that counts."""
    run, record = found.run, found.record
    facts: AttemptChange = {"phase": report.phase.name}
    if report.start_time_us is not None:
        facts["start_time_us"] = report.start_time_us
    if report.phase >= AttemptPhase.EXITED:
        facts["lengths"] = report.lengths
        facts["end"] = report.end or NO_END
    granted_us = record.grant_time_us
    if record.phase == AttemptPhase.AHEAD.name:
        # It waited on until it began: at its first span, by the agent's clock, or by now.
        began_us = min((span.start_time_us for span in report.phases), default=now_us)
        granted_us = facts["grant_time_us"] = max(granted_us, min(began_us, now_us))
    opening, changes = left_queue(conn, run, record)
    news = _news(run, report)
    changes.update(news)
    happened = [
        *opening,
        *((event, _CAUSES.get(event, str(event))) for event in judged.events),
    ]
    if ending is not None and read_spec is not None:
        spec = read_spec(runs.get_spec(conn, run.run_id))
        seen = LastSeen(
            granted_us, news.get("phases", run.phases), news.get("warnings", run.warnings)
        )
        end = conclusion(run, seen, ending, spec, now_us)
        facts.update(end.facts)
        happened.extend(end.happened)
        changes.update(end.changes)
    attempts.update(conn, report.ref, **facts)
    executed = {f"runyard.{name}": text for name, text in report.execution.items()}
    if not executed.items() <= run.properties.items():
        labels.set_properties(conn, run.run_id, executed)
    advance(conn, run, happened, AGENT, now_us, **changes)


def _news(run: RunRecord, report: AttemptReport) -> RunChange:
    """What a report says of its run that is not on record yet."""
    news: RunChange = {}
    if report.status_message != run.status_message:
        news["status_message"] = report.status_message
    if report.start_time_us is not None and run.start_time_us is None:
        news["start_time_us"] = report.start_time_us
    if report.phases and report.phases != run.phases:
        news["phases"] = report.phases
    warnings = merged_warnings(run.warnings, report.warnings)
    if warnings != run.warnings:
        news["warnings"] = warnings
    return news
