"""A run's lifecycle across daemon, agent and node, any of which may die at any point.

Earns its place because what must hold (one final state, the script's own exit code, no attempt
executed twice, no two at once) depends on the order of reports, leases, reconnections and reboots.
The model is a thin daemon and a thin agent around the core's decisions; every decision comes from
`runyard_daemon.core`. Each seeded bug replaces one of them and must be found.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from runyard_contract.states import RunState
from runyard_daemon.core.attempts import (
    Action,
    AttemptPhase,
    AttemptRecord,
    Decision,
    Judgement,
    Report,
    Return,
    Standing,
    event_of,
    judge,
    judge_return,
    next_epoch,
    reconcile,
)
from runyard_daemon.core.end import (
    EndFacts,
    EndReason,
    StoppedBy,
    classify,
    final_event,
    outcome,
)
from runyard_daemon.core.lifecycle import Event, next_state
from runyard_daemon.core.types import AttemptRef, Cause, NodeId

NODE = NodeId("node1")
RUN = "iris_1"


@dataclass(frozen=True)
class Message:
    """From the agent: a report with the facts of the end, once there are any."""

    report: Report
    facts: EndFacts | None


@dataclass(frozen=True)
class Order:
    """From the daemon, within one session."""

    kind: str  # lease, cancel, stop, forget
    ref: AttemptRef
    session: int


@dataclass
class Bundle:
    """An attempt's folder on the node's disk."""

    boot: int
    phase: AttemptPhase = AttemptPhase.ACCEPTED
    was_started: bool = False
    facts: EndFacts | None = None

    def message(self, ref: AttemptRef) -> Message:
        return Message(Report(ref, self.phase, self.was_started), self.facts)


@dataclass(frozen=True)
class GivenBack:
    """From the agent: a lease that it had ahead, never began and never will."""

    ref: AttemptRef


class AttemptsMachine(RuleBasedStateMachine):
    """One run, one node. Reports come late, twice and in any order; orders come in a session."""

    def __init__(self) -> None:
        super().__init__()
        # The daemon's durable records.
        self.state = RunState.QUEUED
        self.records: dict[AttemptRef, AttemptRecord] = {}
        self.current: AttemptRef | None = None
        self.cause: Cause | None = None
        self.last_epoch = 0
        self.boot_on_record = ""
        self.was_abandoned = False
        self.replacements = 0
        # The node.
        self.boot = 1
        self.disk: dict[AttemptRef, Bundle] = {}
        self.ahead: list[AttemptRef] = []
        """Leases in the agent's memory that wait for room."""
        self.alive: set[AttemptRef] = set()
        self.executed: list[AttemptRef] = []
        self.results: dict[AttemptRef, int] = {}
        # Between them.
        self.session = 0
        self.is_connected = False
        self.orders: list[Order] = []
        self.reports: list[Message | GivenBack] = []
        # What was seen.
        self.final: tuple[RunState, Cause | None] | None = None

    # ---- what a seeded bug replaces

    def judge(self, report: Report) -> Judgement:
        return judge(report, NODE, self.records.get(report.ref))

    def reconcile(self, reports: Iterable[Report]) -> tuple[Decision, ...]:
        return reconcile(NODE, f"boot{self.boot}", reports, self.records.values())

    def next_state(self, event: Event) -> RunState:
        return next_state(self.state, event)

    def agent_obeys(self, order: Order) -> bool:
        return self.is_connected and order.session == self.session

    def leave_session(self) -> None:
        """What the agent does before it says Hello: what it has not begun it never will."""
        self.ahead.clear()

    def judge_return(self, ref: AttemptRef) -> Return:
        return judge_return(ref, NODE, self.records.get(ref))

    # ---- the daemon

    def apply(self, event: Event) -> None:
        self.state = self.next_state(event)

    def send(self, kind: str, ref: AttemptRef) -> None:
        self.orders.append(Order(kind, ref, self.session))

    @property
    def is_ahead(self) -> bool:
        """Whether the run waits although a node has its lease."""
        return self.current is not None and self.records[self.current].phase is AttemptPhase.AHEAD

    @precondition(lambda self: self.state is RunState.QUEUED and not self.is_ahead)
    @rule(
        is_delivered=st.booleans(),
        is_ahead=st.booleans(),
        steps=st.sampled_from([None, None, 0, 2]),
    )
    def start(self, is_delivered: bool, is_ahead: bool, steps: int | None) -> None:
        """Grants the run. `steps`: how far the agent gets at once with what is ahead."""
        if not self.is_connected:
            self.connect()
        self.grant(is_ahead=is_ahead)
        if is_delivered:
            self.deliver_orders()
        if self.ahead and steps is not None:
            ref = self.ahead[0]
            self.begin(ref)
            for _ in range(steps):
                self.step(ref, 0)

    def grant(self, *, is_ahead: bool = False) -> None:
        self.last_epoch = next_epoch(0, self.last_epoch)
        if self.current is not None:
            self.change(self.current, is_current=False)
        attempt = self.current.attempt + 1 if self.current else 1
        self.current = AttemptRef(RUN, attempt, self.last_epoch)
        self.records[self.current] = AttemptRecord(self.current, NODE, self.boot_on_record)
        if is_ahead:
            self.change(self.current, phase=AttemptPhase.AHEAD)
        else:
            self.apply(Event.GRANTED)
        self.send("lease, ahead" if is_ahead else "lease", self.current)

    def wait_again(self, ref: AttemptRef) -> None:
        """The attempt never was: the run waits, the attempt before is its newest again."""
        assert ref == self.current
        del self.records[ref]
        self.current = max(self.records, key=lambda known: known.attempt, default=None)
        if self.current is not None:
            self.change(self.current, is_current=True)

    def take_back(self, ref: AttemptRef) -> None:
        decision = self.judge_return(ref)
        if decision is Return.WAIT:
            self.apply(Event.REQUEUED)
            self.wait_again(ref)
        elif decision is Return.END:
            facts = EndFacts(EndReason.NEVER_STARTED, RUN, stopped_by=StoppedBy.CANCEL)
            self.cause = classify(facts)
            self.apply(Event.EXITED)
            self.finish(ref)

    def change(self, ref: AttemptRef, **changes: object) -> None:
        self.records[ref] = replace(self.records[ref], **changes)  # type: ignore[arg-type]

    def receive(self, message: Message | GivenBack) -> None:
        if isinstance(message, GivenBack):
            self.take_back(message.ref)
            return
        report = message.report
        judgement = self.judge(report)
        if judgement.standing is Standing.SUPERSEDED:
            self.send("stop", report.ref)
        if judgement.standing is not Standing.COUNTS:
            return
        assert judgement.phase is not None
        for event in judgement.events:
            self.apply(event)
        self.change(report.ref, phase=judgement.phase)
        if judgement.phase >= AttemptPhase.EXITED and self.cause is None:
            assert message.facts is not None
            self.cause = classify(message.facts)
        if judgement.phase is AttemptPhase.ENDED:
            self.finish(report.ref)
            self.send("forget", report.ref)

    def finish(self, ref: AttemptRef) -> None:
        assert self.cause is not None
        self.change(ref, is_over=True)
        self.apply(final_event(self.cause))

    def settle(self, decision: Decision) -> None:
        ref, report = decision.ref, decision.report
        match decision.action:
            case Action.ADOPT:
                assert report is not None
                self.apply(event_of(self.records[ref].phase))
                self.receive(self.disk[ref].message(ref))
                if decision.is_cancel_wanted:
                    self.send("cancel", ref)
            case Action.RESEND:
                self.apply(Event.STARTING)
                self.send("lease", ref)
            case Action.END:
                assert decision.reason is not None
                was_canceled = decision.reason is EndReason.NEVER_STARTED
                stopped_by = StoppedBy.CANCEL if was_canceled else StoppedBy.NOBODY
                self.cause = classify(EndFacts(decision.reason, RUN, stopped_by=stopped_by))
                if self.records[ref].phase is AttemptPhase.AHEAD:
                    self.apply(Event.GRANTED)
                self.apply(Event.EXITED)
                self.finish(ref)
                if report is not None:
                    self.send("stop", ref)
            case Action.SEAL:
                self.finish(ref)
            case Action.FORGET:
                self.send("forget", ref)
            case Action.STOP:
                self.send("stop", ref)
            case Action.WAIT:
                self.wait_again(ref)
            case Action.FOUND:
                raise AssertionError(f"the records lost {ref}")

    @precondition(lambda self: not self.state.is_final)
    @rule(is_session_lost=st.booleans())
    def cancel(self, is_session_lost: bool) -> None:
        """Somebody cancels; the session may break before the agent hears of it."""
        if self.is_ahead:
            assert self.current is not None
            self.change(self.current, phase=AttemptPhase.GRANTED)
            self.apply(Event.GRANTED)
        self.apply(Event.CANCEL_REQUESTED)
        if self.state is RunState.CANCEL_REQUESTED:
            assert self.current is not None
            self.change(self.current, is_cancel_wanted=True)
            self.send("cancel", self.current)
            if is_session_lost:
                self.connect()

    def notice_silence(self, then: str) -> None:
        """Silence is noticed; a person gives the attempt up, or its lease was bounded and ended."""
        self.apply(Event.OUT_OF_TOUCH)
        if self.state is not RunState.NOT_RESPONDING:
            return
        assert self.current is not None
        if then == "replaced":
            self.change(self.current, is_over=True)
            self.end_processes(self.current, RunState.FAILED)
            self.replacements += 1
            self.apply(Event.REQUEUED)
        elif then == "abandoned":
            self.change(self.current, is_over=True)
            self.was_abandoned = True
            self.apply(Event.ABANDONED)

    # ---- the node and its agent

    @precondition(lambda self: self.orders)
    @rule()
    def deliver_orders(self) -> None:
        """All that was sent, each session's in its order; an agent ignores sessions it left."""
        while self.orders:
            order = self.orders.pop(0)
            if self.agent_obeys(order):
                self.obey(order)

    def obey(self, order: Order) -> None:
        ref = order.ref
        if order.kind == "lease":
            if ref not in self.disk:
                self.disk[ref] = Bundle(self.boot)
                self.say(ref)
        elif order.kind == "lease, ahead":
            if ref not in self.disk and ref not in self.ahead:
                self.ahead.append(ref)
        elif order.kind == "cancel" and ref in self.ahead:
            self.give_back(ref)
        elif order.kind == "cancel" and ref in self.disk:
            if self.disk[ref].phase < AttemptPhase.EXITED:
                self.end_processes(ref, RunState.CANCELED)
                self.say(ref)
        elif order.kind in ("stop", "forget"):
            self.alive.discard(ref)
            self.disk.pop(ref, None)
            if ref in self.ahead:
                self.ahead.remove(ref)

    @precondition(lambda self: self.ahead)
    @rule(is_given_back=st.sampled_from([False, False, True]), steps=st.sampled_from([0, 2, 3]))
    def settle_ahead(self, is_given_back: bool, steps: int) -> None:
        """There is room for what was ahead, or there was none for too long."""
        ref = self.ahead[0]
        if is_given_back and self.is_connected:
            self.give_back(ref)
            return
        self.begin(ref)
        for _ in range(steps):
            self.step(ref, 0)

    def begin(self, ref: AttemptRef) -> None:
        self.ahead.remove(ref)
        self.disk[ref] = Bundle(self.boot)
        self.say(ref)

    def give_back(self, ref: AttemptRef) -> None:
        self.ahead.remove(ref)
        self.reports.append(GivenBack(ref))

    def end_processes(self, ref: AttemptRef, why: RunState) -> None:
        if ref not in self.disk or self.disk[ref].phase >= AttemptPhase.EXITED:
            return
        self.alive.discard(ref)
        bundle = self.disk[ref]
        bundle.phase = AttemptPhase.EXITED
        reason = EndReason.SIGNALED if bundle.was_started else EndReason.NEVER_STARTED
        stopped_by = StoppedBy.CANCEL if why is RunState.CANCELED else StoppedBy.NOBODY
        bundle.facts = EndFacts(reason, RUN, signal=15, stopped_by=stopped_by)

    @precondition(lambda self: self.disk)
    @rule(steps=st.sampled_from([1, 3, 4]), exit_code=st.sampled_from([0, 7]))
    def proceed(self, steps: int, exit_code: int) -> None:
        """The newest attempt on the disk gets further; works without a session, too."""
        ref = max(self.disk, key=lambda ref: ref.epoch)
        for _ in range(steps):
            self.step(ref, exit_code)

    def step(self, ref: AttemptRef, exit_code: int) -> None:
        bundle = self.disk[ref]
        if bundle.phase < AttemptPhase.EXITED and bundle.boot != self.boot:
            return  # an agent goes on with nothing of an earlier boot, whatever the disk says
        if bundle.phase is AttemptPhase.ACCEPTED:
            bundle.phase = AttemptPhase.PREPARING
        elif bundle.phase is AttemptPhase.PREPARING:
            bundle.phase, bundle.was_started = AttemptPhase.RUNNING, True
            self.alive.add(ref)
            self.executed.append(ref)
        elif bundle.phase is AttemptPhase.RUNNING:
            self.alive.discard(ref)
            self.results[ref] = exit_code
            bundle.phase = AttemptPhase.EXITED
            bundle.facts = EndFacts(EndReason.EXITED, RUN, exit_code=exit_code)
        elif bundle.phase is AttemptPhase.EXITED and self.is_connected:
            bundle.phase = AttemptPhase.ENDED
        self.say(ref)

    def say(self, ref: AttemptRef) -> None:
        if self.is_connected:
            self.reports.append(self.disk[ref].message(ref))

    @precondition(lambda self: self.reports)
    @rule(which=st.sampled_from(["all", "newest", "newest, again"]))
    def deliver_reports(self, which: str) -> None:
        """In order, or the newest before the older ones, which then come late."""
        if which == "newest, again":
            self.receive(self.reports[-1])
        elif which == "newest":
            self.receive(self.reports.pop())
        else:
            late, self.reports = self.reports, []
            for message in late:
                self.receive(message)

    # ---- what breaks, and what mends it

    @precondition(lambda self: self.is_connected)
    @rule(
        fault=st.sampled_from(["session", "power", "power, unsynced", "power, bare"]),
        then=st.sampled_from(["back", "back, in order", "away", "abandoned", "replaced"]),
    )
    def break_down(self, fault: str, then: str) -> None:
        """A session ends (network, daemon, agent): records, folders and processes stay.

        Or the node loses power: of what had not exited, the disk may have less than happened.
        """
        self.is_connected = False
        if fault != "session":
            self.boot += 1
            self.alive.clear()
            self.ahead.clear()
            for ref, bundle in list(self.disk.items()):
                if bundle.phase < AttemptPhase.EXITED and fault == "power, bare":
                    del self.disk[ref]
                elif bundle.phase < AttemptPhase.EXITED and fault == "power, unsynced":
                    self.disk[ref] = Bundle(bundle.boot)
        if then not in ("back", "back, in order"):
            self.notice_silence(then)
            return
        self.connect()
        if then == "back, in order":
            self.deliver_orders()

    @precondition(lambda self: not self.is_connected)
    @rule()
    def connect(self) -> None:
        """The agent says Hello with what its disk has; all is settled before the session counts."""
        self.session += 1
        self.is_connected = True
        self.leave_session()
        decisions = self.reconcile([b.message(ref).report for ref, b in self.disk.items()])
        self.boot_on_record = f"boot{self.boot}"
        for decision in decisions:
            self.settle(decision)

    # ---- what must hold

    @invariant()
    def no_attempt_is_executed_twice(self) -> None:
        assert len(set(self.executed)) == len(self.executed), ("executed twice", self.executed)
        assert len(self.executed) <= 1 + self.replacements, ("executed again", self.executed)

    @invariant()
    def at_most_one_attempt_is_alive(self) -> None:
        assert len(self.alive) <= 1, ("two alive", self.alive)

    @invariant()
    def a_final_run_stays_as_it_is_and_has_no_process(self) -> None:
        if not self.state.is_final:
            assert self.final is None, ("final left", self.final, self.state)
            return
        if self.final is None:
            self.final = (self.state, self.cause)
        assert (self.state, self.cause) == self.final, ("final changed", self.final, self.state)
        assert self.was_abandoned or not self.alive, ("alive after the end", self.alive)

    @invariant()
    def the_result_is_that_of_the_current_attempt(self) -> None:
        if self.cause is None or self.current is None or self.cause.exit_code is None:
            return
        true_code = self.results.get(self.current)
        assert self.cause.exit_code == true_code, ("wrong exit code", self.cause, self.results)
        if self.state.is_final and not self.was_abandoned:
            assert outcome(self.cause).exit_status == true_code
            assert self.state is (RunState.FAILED if true_code else RunState.COMPLETED)

    def teardown(self) -> None:
        """Calm after the storm: the run reaches a final state and the node keeps nothing."""
        for _ in range(60):
            if not self.is_connected:
                self.connect()
            elif self.state is RunState.QUEUED and not self.is_ahead:
                self.grant()
            elif self.orders:
                order = self.orders.pop(0)
                if self.agent_obeys(order):
                    self.obey(order)
            elif self.reports:
                self.receive(self.reports.pop(0))
            elif self.ahead:
                self.begin(self.ahead[0])
            elif unfinished := [r for r in self.disk if self.disk[r].phase < AttemptPhase.ENDED]:
                self.step(unfinished[0], 0)
            elif self.disk:
                self.is_connected = False  # the next Hello names what is left
        assert self.state.is_final, ("stuck", self.state, self.records, self.disk)
        assert not self.disk, ("left on the node", self.disk)
        self.no_attempt_is_executed_twice()
        assert not self.alive


class TakesSupersededReports(AttemptsMachine):
    """Seeded: a report counts although its attempt was fenced."""

    def judge(self, report: Report) -> Judgement:
        record = self.records[report.ref]
        return judge(report, NODE, replace(record, is_current=True, is_over=False))


class ForgetsTheBoot(AttemptsMachine):
    """Seeded: a lease that the disk does not show is sent again after a power loss, too."""

    def reconcile(self, reports: Iterable[Report]) -> tuple[Decision, ...]:
        records = [replace(r, boot_id=f"boot{self.boot}") for r in self.records.values()]
        return reconcile(NODE, f"boot{self.boot}", reports, records)


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
            replace(r, boot_id=f"boot{self.boot}") if r.phase is AttemptPhase.AHEAD else r
            for r in self.records.values()
        ]
        return reconcile(NODE, f"boot{self.boot}", reports, records)


def check(machine: type[RuleBasedStateMachine], examples: int, *, is_seeded: bool) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=14,
            deadline=None,
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
            phases=[Phase.generate] if is_seeded else [Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_run_ends_once_with_its_own_exit_code_whatever_breaks() -> None:
    check(AttemptsMachine, 400, is_seeded=False)


@pytest.mark.slow
def test_run_ends_once_with_its_own_exit_code_in_many_histories() -> None:
    check(AttemptsMachine, 3_000, is_seeded=False)


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
        check(bug, 6_000, is_seeded=True)
