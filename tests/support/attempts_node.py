"""A node and its agent, as far as they count for the attempts of one run."""

from __future__ import annotations

from dataclasses import dataclass

from runyard_contract.states import RunState
from runyard_daemon.core.attempts import AttemptPhase, Report
from runyard_daemon.core.end import EndFacts, EndReason, StoppedBy
from runyard_daemon.core.types import AttemptRef

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


class NodeModel:
    """Folders on a disk, processes, leases in the agent's memory; works without a session, too."""

    def __init__(self) -> None:
        self.boot = 1
        self.disk: dict[AttemptRef, Bundle] = {}
        self.ahead: list[AttemptRef] = []
        """Leases in the agent's memory that wait for room."""
        self.alive: set[AttemptRef] = set()
        self.executed: list[AttemptRef] = []
        self.results: dict[AttemptRef, int] = {}
        self.is_connected = False
        self.reports: list[Message | GivenBack] = []
        """Said, and not delivered yet."""

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

    def lose_power(self, fault: str) -> None:
        """Of what had not exited, the disk may have less than happened, or nothing."""
        self.boot += 1
        self.alive.clear()
        self.ahead.clear()
        for ref, bundle in list(self.disk.items()):
            if bundle.phase < AttemptPhase.EXITED and fault == "power, bare":
                del self.disk[ref]
            elif bundle.phase < AttemptPhase.EXITED and fault == "power, unsynced":
                self.disk[ref] = Bundle(bundle.boot)
