"""Asking a run to end: at once where no agent holds it, else by its agent."""

from __future__ import annotations

from runyard_contract.states import RunState
from runyard_daemon.control import catalog
from runyard_daemon.control.advance import USER, advance
from runyard_daemon.control.callers import caller
from runyard_daemon.control.finish import ReadSpec, end_record, final_phases, left_queue
from runyard_daemon.control.live import Live
from runyard_daemon.control.orders import Cancel
from runyard_daemon.core.attempts import AttemptPhase
from runyard_daemon.core.end import EndFacts, EndReason, StoppedBy, classify
from runyard_daemon.core.lifecycle import WAITING, Event, applies
from runyard_daemon.store import Connection, attempts, runs
from runyard_daemon.store.runs import RunRecord

REASON_CHARS = 1000


class Canceler:
    """Takes wishes to end runs."""

    def __init__(self, live: Live, read_spec: ReadSpec) -> None:
        self._live = live
        self._read_spec = read_spec

    async def cancel(self, workspace: str, experiment: str, run_id: str, reason: str) -> RunRecord:
        """Asks a run to end and gives it as it is then; a run that has ended stays as it is.

        Raises RunNotFound.
        """
        work = self._cancel(workspace, experiment, run_id, reason[:REASON_CHARS])
        return await self._live.background.whole(work, "cancel")

    async def _cancel(self, workspace: str, experiment: str, run_id: str, reason: str) -> RunRecord:
        live = self._live
        by = caller().name

        def write(conn: Connection) -> tuple[RunRecord, float]:
            run = catalog.run(conn, workspace, experiment, run_id)
            self._write(conn, run, reason, by)
            grace_s = self._read_spec(runs.get_spec(conn, run_id)).grace_s
            return runs.get(conn, run_id) or run, grace_s

        run, grace_s = await live.store.write(write)
        live.changed(run_id)
        held = live.attempts.get(run_id)
        if held is not None:
            live.board.begin(run_id)
        if run.state.is_final:
            if held is None:
                live.let_go(run_id)
                live.wake_dispatch.set()
        elif held is not None and run.state is RunState.CANCEL_REQUESTED:
            live.order(held.node, Cancel(held.target, grace_s))
        return run

    def _write(self, conn: Connection, run: RunRecord, reason: str, by: str) -> None:
        """Moves the run; where nobody holds it, to its end."""
        if not applies(run.state, Event.CANCEL_REQUESTED):
            return
        now_us = self._live.now_us()
        cause = f"canceled by {by}" + (f": {reason}" if reason else "")
        happened = [(Event.CANCEL_REQUESTED, cause)]
        ahead = attempts.current(conn, run.run_id) if run.state in WAITING else None
        if ahead is not None and ahead.phase == AttemptPhase.AHEAD.name:
            # Its agent may begin it this moment: it is asked, as for any run that it holds.
            attempts.update(conn, ahead.ref, phase=AttemptPhase.GRANTED.name)
            opening, changes = left_queue(conn, run, ahead)
            changes.update({"canceled_by": by, "cancel_reason": reason})
            advance(conn, run, (*opening, *happened), USER, now_us, **changes)
            return
        if run.state not in WAITING:
            advance(conn, run, happened, USER, now_us, canceled_by=by, cancel_reason=reason)
            return
        facts = EndFacts(EndReason.NEVER_STARTED, run.run_id, stopped_by=StoppedBy.CANCEL, by=by)
        advance(
            conn,
            run,
            happened,
            USER,
            now_us,
            canceled_by=by,
            cancel_reason=reason,
            end_time_us=now_us,
            end=end_record(classify(facts)),
            phases=final_phases(run, now_us),
        )
