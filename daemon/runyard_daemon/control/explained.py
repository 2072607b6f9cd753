"""Answers why a run waits, what it does, or why it ended."""

from __future__ import annotations

from runyard_contract.states import EndClass
from runyard_daemon.control.finish import cause_of
from runyard_daemon.control.live import Live
from runyard_daemon.core.explain import (
    ActiveFacts,
    Explanation,
    explain_active,
    explain_ended,
    explain_waiting,
)
from runyard_daemon.core.types import Cause, WallTime
from runyard_daemon.store import transitions
from runyard_daemon.store.runs import RunRecord


def explain(live: Live, run: RunRecord) -> Explanation:
    """Explains a run as it is now."""
    now = WallTime(live.now_us() / 1e6)
    if run.state.is_final:
        none = Cause(EndClass.NONE, f"the run ended as {run.state.value}")
        return explain_ended(run.run_id, cause_of(run.end) if run.end else none)
    if live.board.waiting_run(run.run_id) is not None:
        return explain_waiting(live.board, run.run_id, now)
    history = live.store.peek(lambda conn: transitions.of_run(conn, run.run_id))
    since = WallTime((history[-1].time_us if history else run.create_time_us) / 1e6)
    facts = ActiveFacts(
        run_id=run.run_id,
        state=run.state,
        node_name=run.node,
        attempt=run.attempt,
        since=since,
        status_message=run.status_message,
    )
    return explain_active(facts, now)
