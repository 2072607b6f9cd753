"""Agents' reports: judged, applied in one transaction with the grants that they make possible."""

from __future__ import annotations

from dataclasses import dataclass

from runyard_contract.content.store import ContentStore
from runyard_daemon.content import Content
from runyard_daemon.control.advance import AGENT, advance
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.finish import (
    TAIL_BYTES,
    Ending,
    Evidence,
    ReadSpec,
    conclude,
    find_kept_out,
    merged_warnings,
    wants_evidence,
)
from runyard_daemon.control.grants import Granted, Grants
from runyard_daemon.control.live import HeldAttempt, Live
from runyard_daemon.control.orders import Cancel, Forget
from runyard_daemon.control.reported import AttemptReport
from runyard_daemon.control.tags import JobTags
from runyard_daemon.core import attempts as core
from runyard_daemon.core.attempts import AttemptPhase, Judgement, Standing, judge
from runyard_daemon.core.lifecycle import Event
from runyard_daemon.core.types import ActiveAttempt, NodeId
from runyard_daemon.logs.layout import LogFile
from runyard_daemon.store import Connection, attempts, runs
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


@dataclass(frozen=True, slots=True)
class Applied:
    """What a report did."""

    standing: Standing
    has_changed: bool = False
    """Something was written."""


class Reports:
    """Takes reports from sessions."""

    def __init__(
        self,
        live: Live,
        grants: Grants,
        logs: AttemptLogs,
        content: Content,
        tags: JobTags,
        read_spec: ReadSpec,
        workdir_keep_s: float,
    ) -> None:
        self._live = live
        self._grants = grants
        self._logs = logs
        self._content = content
        self._tags = tags
        self._read_spec = read_spec
        self._workdir_keep_s = workdir_keep_s

    async def take(self, node: NodeId, report: AttemptReport) -> None:
        """Applies a report; returns after its effect is durable. A repeated one changes nothing."""
        await self._live.background.whole(self._take(node, report), "report")

    async def _take(self, node: NodeId, report: AttemptReport) -> None:
        live = self._live
        ending = await self._prepare_end(node, report)
        released = self._release(report)
        decided = self._grants.decide() if released else ()

        def write(conn: Connection) -> tuple[Applied, list[Granted | None]]:
            now_us = live.now_us()
            applied = apply(conn, node, report, now_us)
            if ending is not None and applied.standing is Standing.COUNTS:
                conclude(conn, ending, self._read_spec, now_us)
            return applied, self._grants.write(conn, decided)

        try:
            applied, granted = await live.store.write(write)
        except BaseException:
            self._grants.undo(decided)
            if released is not None:
                live.board.hold(released)
            raise
        held = live.attempts.get(report.ref.run_id)
        if ending is not None and held is not None and applied.standing is Standing.COUNTS:
            live.let_go(report.ref.run_id)
            self._logs.seal(held.key)
        if applied.has_changed:
            live.changed(report.ref.run_id)
        await self._grants.settle(decided, granted)
        self._answer(node, report, applied)

    async def _prepare_end(self, node: NodeId, report: AttemptReport) -> Ending | None:
        """Waits until everything of an ended attempt is here, and looks for why it failed."""
        held = self._live.attempts.get(report.ref.run_id)
        is_last = report.phase is AttemptPhase.ENDED
        if not is_last or held is None or held.ref != report.ref or held.node != node:
            return None
        key = held.key
        await self._logs.complete(key, report.lengths)
        await self._tags.drain(held)
        end = report.end or NO_END
        evidence = await self._evidence(held, end) if wants_evidence(end) else Evidence()
        return Ending(report.ref, end, report.workdir, report.warnings, evidence)

    async def _evidence(self, held: HeldAttempt, end: AttemptEndRecord) -> Evidence:
        """The end of stderr (of stdout where both are one) and what it says of missing files."""
        run_id = held.ref.run_id
        run = self._live.store.peek(lambda conn: runs.get(conn, run_id))
        spec = self._read_spec(self._live.store.peek(lambda conn: runs.get_spec(conn, run_id)))
        key, snapshot = held.key, run.snapshot if run else ""
        file = LogFile.STDOUT if spec.merge_stderr else LogFile.STDERR

        def look(content: ContentStore) -> Evidence:
            tail = self._logs.tail(key, file, TAIL_BYTES)
            kept_out = find_kept_out(tail, end.working_directory, snapshot, content)
            return Evidence(tail, kept_out)

        return await self._content.run(look)

    def _release(self, report: AttemptReport) -> ActiveAttempt | None:
        """Frees the slot of an attempt whose processes are gone; gives what it held."""
        live = self._live
        held = live.attempts.get(report.ref.run_id)
        if held is None or held.ref != report.ref or report.phase < AttemptPhase.EXITED:
            return None
        amount = live.board.held_on(held.node).get(report.ref.run_id)
        if amount is None:
            return None
        live.board.release(report.ref.run_id)
        return ActiveAttempt(held.ref, held.node, amount)

    def _answer(self, node: NodeId, report: AttemptReport, applied: Applied) -> None:
        """Tells the agent what its report means for the attempt's folder."""
        ref, target = report.ref, report.target
        if applied.standing in {Standing.UNKNOWN, Standing.SUPERSEDED}:
            self._live.journal.warning(
                f"attempt_{applied.standing.value}",
                node=node,
                run=ref.run_id,
                attempt=ref.attempt,
                epoch=ref.epoch,
            )
        if applied.standing is Standing.SUPERSEDED:
            self._live.order(node, Cancel(target, 0.0, is_superseded=True))
        is_last = report.phase is AttemptPhase.ENDED and applied.standing is not Standing.UNKNOWN
        if is_last and applied.standing is not Standing.SUPERSEDED:
            self._live.order(node, Forget(target, self._workdir_keep_s))


def apply(conn: Connection, node: NodeId, report: AttemptReport, now_us: int) -> Applied:
    """Judges a report and writes what counts, in the caller's transaction.

    A report of the phase that is on record may still bring news of it: a message, a warning, a
    finished span.
    """
    record = attempts.get(conn, report.ref.run_id, report.ref.attempt)
    run = runs.get(conn, report.ref.run_id)
    if record is None or run is None:
        return Applied(Standing.UNKNOWN)
    newest = attempts.current(conn, report.ref.run_id)
    known = core_record(record, run, is_current=newest is not None and newest.ref == record.ref)
    judged = judge(report.summary, node, known)
    if judged.standing is Standing.COUNTS:
        _write(conn, run, report, judged, now_us)
        return Applied(judged.standing, has_changed=True)
    has_news = (
        judged.standing is Standing.REPEATED
        and not known.is_over
        and report.phase == known.phase
        and bool(_news(run, report))
    )
    if has_news:
        runs.update(conn, run.run_id, **_news(run, report))
    return Applied(judged.standing, has_changed=has_news)


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
    run: RunRecord,
    report: AttemptReport,
    judged: Judgement,
    now_us: int,
) -> None:
    """Takes over a report that counts."""
    facts: AttemptChange = {"phase": report.phase.name}
    if report.start_time_us is not None:
        facts["start_time_us"] = report.start_time_us
    if report.phase >= AttemptPhase.EXITED:
        facts["lengths"] = report.lengths
        facts["end"] = report.end or NO_END
    attempts.update(conn, report.ref, **facts)
    happened = [(event, _CAUSES.get(event, str(event))) for event in judged.events]
    advance(conn, run, happened, AGENT, now_us, **_news(run, report))


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
