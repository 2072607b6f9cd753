"""Answers why a run waits, what it does, or why it ended, and what may become of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from runyard_contract.states import EndClass
from runyard_daemon.control.finish import cause_of
from runyard_daemon.control.live import Live
from runyard_daemon.core.estimate import (
    AHEAD_PLAYED,
    SAMPLES,
    Estimate,
    Running,
    Scene,
    Took,
    estimate_active,
    estimate_waiting,
    took,
)
from runyard_daemon.core.explain import (
    ActiveFacts,
    Explanation,
    explain_active,
    explain_ahead,
    explain_ended,
    explain_waiting,
)
from runyard_daemon.core.lifecycle import WAITING
from runyard_daemon.core.types import ActiveAttempt, Cause, Node, QueuedRun, WallTime
from runyard_daemon.store import Connection, history, transitions
from runyard_daemon.store.runs import RunRecord


async def explain(live: Live, run: RunRecord) -> Explanation:
    """Explains a run as it is now."""
    now = WallTime(live.now_us() / 1e6)
    if run.state.is_final:
        none = Cause(EndClass.NONE, f"the run ended as {run.state.value}")
        return explain_ended(run.run_id, cause_of(run.end) if run.end else none)
    estimate: Callable[[Connection], Estimate]
    if (queued := live.board.waiting_run(run.run_id)) is not None:
        explanation = explain_waiting(live.board, run.run_id, now)
        queue = _Queue.of(live, queued)

        def estimate(conn: Connection) -> Estimate:
            return queue.estimate(conn, run.workspace, now)
    else:
        explanation = _active(live, run, now)

        def estimate(conn: Connection) -> Estimate:
            elapsed_s = 0.0 if run.start_time_us is None else now - run.start_time_us / 1e6
            known = _history(conn, run.workspace, run.compute, [run.experiment])
            return estimate_active(run.experiment, known.get(run.experiment), elapsed_s)

    # Playing the queue forward may take milliseconds: on a reader's thread, from copies.
    return replace(explanation, estimate=await live.store.read(estimate))


def _active(live: Live, run: RunRecord, now: WallTime) -> Explanation:
    held = live.attempts.get(run.run_id)
    if run.state in WAITING and held is not None and held.node in live.nodes:
        return explain_ahead(run.run_id, live.nodes[held.node], now)
    past = live.store.peek(lambda conn: transitions.of_run(conn, run.run_id))
    since = WallTime((past[-1].time_us if past else run.create_time_us) / 1e6)
    facts = ActiveFacts(
        run_id=run.run_id,
        state=run.state,
        node_name=run.node,
        attempt=run.attempt,
        since=since,
        status_message=run.status_message,
    )
    return explain_active(facts, now)


@dataclass(frozen=True, slots=True)
class _Queue:
    """What a waiting run stands behind, copied from the live state."""

    run: QueuedRun
    nodes: tuple[Node, ...]
    active: tuple[ActiveAttempt, ...]
    ahead: tuple[QueuedRun, ...]

    @classmethod
    def of(cls, live: Live, run: QueuedRun) -> _Queue:
        """Copies what one run stands behind."""
        board = live.board
        nodes = board.nodes_of(run.compute)
        active = [
            ActiveAttempt(live.attempts[run_id].ref, node.id, held)
            for node in nodes
            for run_id, held in board.held_on(node.id).items()
            if run_id in live.attempts
        ]
        # One more than is played, so that the estimate says that there are too many.
        _, ids = board.ahead_of(run.run_id, AHEAD_PLAYED + 1)
        ahead = [board.waiting_run(run_id) for run_id in ids]
        return cls(run, nodes, tuple(active), tuple(other for other in ahead if other is not None))

    def estimate(self, conn: Connection, workspace: str, now: WallTime) -> Estimate:
        """Plays the queue forward, from what the records tell of its runs."""
        ids = [attempt.ref.run_id for attempt in self.active]
        ids += [run.run_id for run in (*self.ahead, self.run)]
        known = history.started(conn, ids)
        running = []
        for attempt in self.active:
            found = known.get(attempt.ref.run_id)
            if found is None:
                continue
            start_s = now if found.start_time_us is None else found.start_time_us / 1e6
            running.append(Running(attempt, found.experiment, max(0.0, now - start_s)))
        scene = Scene(
            run=self.run,
            nodes=self.nodes,
            running=running,
            ahead=[run for run in self.ahead if run.run_id in known],
            experiments={run_id: found.experiment for run_id, found in known.items()},
        )
        names = list(dict.fromkeys(scene.experiments.values()))
        return estimate_waiting(scene, _history(conn, workspace, self.run.compute, names))


def _history(
    conn: Connection, workspace: str, compute: str, experiments: list[str]
) -> Mapping[str, Took]:
    """How long runs of these experiments took on one target; without those that had none."""
    found = {
        name: took(history.durations_s(conn, workspace, name, compute, SAMPLES))
        for name in experiments
    }
    return {name: known for name, known in found.items() if known is not None}
