"""A run's lifecycle across daemon, agent and node, any of which may die at any point.

Earns its place because what must hold (one final state, the script's own exit code, no attempt
executed twice, no two at once) depends on the order of reports, leases, reconnections and reboots.
The model is a thin daemon and a thin agent around the core's decisions; every decision comes from
`runyard_daemon.core`. Each seeded bug replaces one of them and must be found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from runyard_contract.states import RunState
from runyard_daemon.core.attempts import AttemptPhase, Decision, Judgement, Report, judge, reconcile
from runyard_daemon.core.lifecycle import Event
from support.attempts_machine import NODE, AttemptsMachine
from support.attempts_node import Order
from support.stateful import check

STEPS = 14


class TakesSupersededReports(AttemptsMachine):
    """Seeded: a report counts although its attempt was fenced."""

    def judge(self, report: Report) -> Judgement:
        record = self.records[report.ref]
        return judge(report, NODE, replace(record, is_current=True, is_over=False))


class ForgetsTheBoot(AttemptsMachine):
    """Seeded: a lease that the disk does not show is sent again after a power loss, too."""

    def reconcile(self, reports: Iterable[Report]) -> tuple[Decision, ...]:
        records = [replace(r, boot_id=f"boot{self.node.boot}") for r in self.records.values()]
        return reconcile(NODE, f"boot{self.node.boot}", reports, records)


class ObeysOldSessions(AttemptsMachine):
    """Seeded: the agent takes a lease from a session that it has left."""

    def agent_obeys(self, order: Order) -> bool:
        return True


class CancelsWhatHasEnded(AttemptsMachine):
    """Seeded: a cancel takes a run away whose script has its result already."""

    def next_state(self, event: Event) -> RunState:
        if self.state is RunState.FINALIZING and event is Event.CANCEL_REQUESTED:
            return RunState.CANCELED
        return super().next_state(event)


class KeepsLeasesOverHello(AttemptsMachine):
    """Seeded: the agent still begins what it had ahead in the session before."""

    def leave_session(self) -> None:
        pass


class TakesBackWhatBegan(AttemptsMachine):
    """Seeded: a lease that the disk does not show waits again after a power loss, too."""

    def reconcile(self, reports: Iterable[Report]) -> tuple[Decision, ...]:
        records = [
            replace(r, boot_id=f"boot{self.node.boot}") if r.phase is AttemptPhase.AHEAD else r
            for r in self.records.values()
        ]
        return reconcile(NODE, f"boot{self.node.boot}", reports, records)


def test_run_ends_once_with_its_own_exit_code_whatever_breaks() -> None:
    check(AttemptsMachine, 400, steps=STEPS, is_seeded=False)


@pytest.mark.slow
def test_run_ends_once_with_its_own_exit_code_in_many_histories() -> None:
    check(AttemptsMachine, 3_000, steps=STEPS, is_seeded=False)


@pytest.mark.parametrize(
    "bug",
    [
        pytest.param(TakesSupersededReports, marks=pytest.mark.slow),
        ForgetsTheBoot,
        pytest.param(ObeysOldSessions, marks=pytest.mark.slow),
        CancelsWhatHasEnded,
        KeepsLeasesOverHello,
        TakesBackWhatBegan,
    ],
)
def test_attempts_model_finds_a_broken_decision(bug: type[AttemptsMachine]) -> None:
    with pytest.raises(AssertionError):
        check(bug, 6_000, steps=STEPS, is_seeded=True)
