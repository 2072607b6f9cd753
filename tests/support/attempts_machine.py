"""Random histories of one run: a thin daemon, a thin agent and a node, around the core's decisions.

Every decision comes from `runyard_daemon.core`, by a method that a seeded bug can replace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
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
from support.attempts_node import RUN, GivenBack, Message, NodeModel, Order

NODE = NodeId("node1")


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
        self.node = NodeModel()
        # Between them.
        self.session = 0
        self.orders: list[Order] = []
        # What was seen.
        self.final: tuple[RunState, Cause | None] | None = None

    # ---- what a seeded bug replaces

    def judge(self, report: Report) -> Judgement:
        return judge(report, NODE, self.records.get(report.ref))

    def reconcile(self, reports: Iterable[Report]) -> tuple[Decision, ...]:
        return reconcile(NODE, f"boot{self.node.boot}", reports, self.records.values())

    def next_state(self, event: Event) -> RunState:
        return next_state(self.state, event)

    def agent_obeys(self, order: Order) -> bool:
        return self.node.is_connected and order.session == self.session

    def leave_session(self) -> None:
        """What the agent does before it says Hello: what it has not begun it never will."""
        self.node.ahead.clear()

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
        if not self.node.is_connected:
            self.connect()
        self.grant(is_ahead=is_ahead)
        if is_delivered:
            self.deliver_orders()
        if self.node.ahead and steps is not None:
            ref = self.node.ahead[0]
            self.node.begin(ref)
            for _ in range(steps):
                self.node.step(ref, 0)

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
                self.receive(self.node.disk[ref].message(ref))
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
            self.node.end_processes(self.current, RunState.FAILED)
            self.replacements += 1
            self.apply(Event.REQUEUED)
        elif then == "abandoned":
            self.change(self.current, is_over=True)
            self.was_abandoned = True
            self.apply(Event.ABANDONED)

    # ---- the agent

    @precondition(lambda self: self.orders)
    @rule()
    def deliver_orders(self) -> None:
        """All that was sent, each session's in its order; an agent ignores sessions it left."""
        while self.orders:
            order = self.orders.pop(0)
            if self.agent_obeys(order):
                self.node.obey(order)

    @precondition(lambda self: self.node.ahead)
    @rule(is_given_back=st.sampled_from([False, False, True]), steps=st.sampled_from([0, 2, 3]))
    def settle_ahead(self, is_given_back: bool, steps: int) -> None:
        """There is room for what was ahead, or there was none for too long."""
        ref = self.node.ahead[0]
        if is_given_back and self.node.is_connected:
            self.node.give_back(ref)
            return
        self.node.begin(ref)
        for _ in range(steps):
            self.node.step(ref, 0)

    @precondition(lambda self: self.node.disk)
    @rule(steps=st.sampled_from([1, 3, 4]), exit_code=st.sampled_from([0, 7]))
    def proceed(self, steps: int, exit_code: int) -> None:
        """The newest attempt on the disk gets further; works without a session, too."""
        ref = max(self.node.disk, key=lambda ref: ref.epoch)
        for _ in range(steps):
            self.node.step(ref, exit_code)

    @precondition(lambda self: self.node.reports)
    @rule(which=st.sampled_from(["all", "newest", "newest, again"]))
    def deliver_reports(self, which: str) -> None:
        """In order, or the newest before the older ones, which then come late."""
        if which == "newest, again":
            self.receive(self.node.reports[-1])
        elif which == "newest":
            self.receive(self.node.reports.pop())
        else:
            late, self.node.reports = self.node.reports, []
            for message in late:
                self.receive(message)

    # ---- what breaks, and what mends it

    @precondition(lambda self: self.node.is_connected)
    @rule(
        fault=st.sampled_from(["session", "power", "power, unsynced", "power, bare"]),
        then=st.sampled_from(["back", "back, in order", "away", "abandoned", "replaced"]),
    )
    def break_down(self, fault: str, then: str) -> None:
        """A session ends (network, daemon, agent): records, folders and processes stay.

        Or the node loses power: of what had not exited, the disk may have less than happened.
        """
        self.node.is_connected = False
        if fault != "session":
            self.node.lose_power(fault)
        if then not in ("back", "back, in order"):
            self.notice_silence(then)
            return
        self.connect()
        if then == "back, in order":
            self.deliver_orders()

    @precondition(lambda self: not self.node.is_connected)
    @rule()
    def connect(self) -> None:
        """The agent says Hello with what its disk has; all is settled before the session counts."""
        self.session += 1
        self.node.is_connected = True
        self.leave_session()
        decisions = self.reconcile([b.message(ref).report for ref, b in self.node.disk.items()])
        self.boot_on_record = f"boot{self.node.boot}"
        for decision in decisions:
            self.settle(decision)

    # ---- what must hold

    @invariant()
    def no_attempt_is_executed_twice(self) -> None:
        executed = self.node.executed
        assert len(set(executed)) == len(executed), ("executed twice", executed)
        assert len(executed) <= 1 + self.replacements, ("executed again", executed)

    @invariant()
    def at_most_one_attempt_is_alive(self) -> None:
        assert len(self.node.alive) <= 1, ("two alive", self.node.alive)

    @invariant()
    def a_final_run_stays_as_it_is_and_has_no_process(self) -> None:
        if not self.state.is_final:
            assert self.final is None, ("final left", self.final, self.state)
            return
        if self.final is None:
            self.final = (self.state, self.cause)
        assert (self.state, self.cause) == self.final, ("final changed", self.final, self.state)
        assert self.was_abandoned or not self.node.alive, ("alive after the end", self.node.alive)

    @invariant()
    def the_result_is_that_of_the_current_attempt(self) -> None:
        if self.cause is None or self.current is None or self.cause.exit_code is None:
            return
        true_code = self.node.results.get(self.current)
        assert self.cause.exit_code == true_code, ("wrong exit code", self.cause, self.node.results)
        if self.state.is_final and not self.was_abandoned:
            assert outcome(self.cause).exit_status == true_code
            assert self.state is (RunState.FAILED if true_code else RunState.COMPLETED)

    def teardown(self) -> None:
        """Calm after the storm: the run reaches a final state and the node keeps nothing."""
        node = self.node
        for _ in range(60):
            if not node.is_connected:
                self.connect()
            elif self.state is RunState.QUEUED and not self.is_ahead:
                self.grant()
            elif self.orders:
                order = self.orders.pop(0)
                if self.agent_obeys(order):
                    node.obey(order)
            elif node.reports:
                self.receive(node.reports.pop(0))
            elif node.ahead:
                node.begin(node.ahead[0])
            elif unfinished := [r for r in node.disk if node.disk[r].phase < AttemptPhase.ENDED]:
                node.step(unfinished[0], 0)
            elif node.disk:
                node.is_connected = False  # the next Hello names what is left
        assert self.state.is_final, ("stuck", self.state, self.records, node.disk)
        assert not node.disk, ("left on the node", node.disk)
        self.no_attempt_is_executed_twice()
        assert not node.alive
