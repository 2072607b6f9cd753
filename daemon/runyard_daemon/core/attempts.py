"""Attempts of runs: their fencing numbers, which reports count, and what a returning agent means.

A report counts when it is of the run's current attempt and goes further than what is on record.
So repeated, late and reordered reports are harmless, and a superseded attempt changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType

from runyard_contract.record import record
from runyard_daemon.core.end import EndReason
from runyard_daemon.core.lifecycle import Event
from runyard_daemon.core.types import AttemptRef, NodeId

COUNTER_BITS = 32


class AttemptPhase(IntEnum):
    """How far an attempt is; only grows."""

    AHEAD = -1
    """On record and sent before its node has room. Its run still waits, and waits again without a
    trace of the attempt where the agent gives it back."""
    GRANTED = 0
    """On record; the agent has not said that it knows."""
    ACCEPTED = 1
    """The lease is on the agent's disk."""
    PREPARING = 2
    RUNNING = 3
    EXITED = 4
    """All processes are gone and the end is known; logs and outputs are on their way."""
    ENDED = 5
    """Logs and outputs are durable at the daemon."""


@record
class AttemptRecord:
    """What the daemon's records say of an attempt."""

    ref: AttemptRef
    node: NodeId
    boot_id: str
    """The node's boot that it was granted in."""
    phase: AttemptPhase = AttemptPhase.GRANTED
    is_current: bool = True
    """No newer attempt of the run was granted."""
    is_over: bool = False
    """The run is final, or the attempt was given up: nothing more is wanted of it."""
    is_cancel_wanted: bool = False
    is_restored: bool = False
    """Granted before the records went back to a backup: its agent may have ended and forgotten it
    since."""


@record
class Report:
    """What an agent says of an attempt, in a Hello or when something happened."""

    ref: AttemptRef
    phase: AttemptPhase
    was_started: bool = False
    """The script's process was started."""


class Standing(StrEnum):
    """What a report is worth."""

    COUNTS = "counts"
    REPEATED = "repeated"
    """Nothing new: acknowledge it, change nothing."""
    SUPERSEDED = "superseded"
    """Of an attempt that was fenced: refuse with LEASE_SUPERSEDED; the agent stops and drops it."""
    UNKNOWN = "unknown"
    """Not in the records (restored from a backup): show it as found, touch nothing."""


@record
class Judgement:
    """The effect of one report."""

    standing: Standing
    events: tuple[Event, ...] = ()
    """For the run's lifecycle, in order. The final event comes from the cause, not from here."""
    phase: AttemptPhase | None = None
    """The new phase of the record, if the report counts."""


class Action(StrEnum):
    """What to do about an attempt when its agent is (back) in touch."""

    ADOPT = "adopt"
    """It goes on: judge its report as if it had just come."""
    RESEND = "resend"
    """The agent never heard of it and nothing can have been started: send the same lease again."""
    END = "end"
    """It is over and nothing more of it will come: finish the run for `reason`, and tell the agent
    to stop and drop it if it named it."""
    SEAL = "seal"
    """Its end is on record, the rest of its logs and outputs is lost: finish with what is here."""
    FORGET = "forget"
    """Everything of it is here: the agent may delete its folder."""
    STOP = "stop"
    """It is fenced or given up: the agent ends its processes and drops it."""
    WAIT = "wait"
    """Sent ahead, and the agent never began it: its run waits again, in its old place."""
    FOUND = "found"
    """The records don't know it: shown to people, neither ended nor started again."""


@record
class Decision:
    """What to do about one attempt."""

    action: Action
    ref: AttemptRef
    report: Report | None = None
    """What the agent said of it; None: it did not name it."""
    reason: EndReason | None = None
    """For END."""
    is_cancel_wanted: bool = False
    """For ADOPT: tell the agent (again) to end it."""


def next_epoch(incarnation: int, last_epoch: int) -> int:
    """Gives the epoch of the next grant: above all earlier ones of this data directory."""
    return max(last_epoch, incarnation << COUNTER_BITS) + 1


def is_of_earlier(incarnation: int, epoch: int) -> bool:
    """Says whether an epoch was given before the data directory came to this incarnation."""
    return epoch >> COUNTER_BITS < incarnation


def incarnation_after_restore(incarnations: Iterable[int], epochs: Iterable[int]) -> int:
    """Gives the incarnation of a restored data directory.

    Arguments are what the backup and, where there is one, the replaced directory knew, and a
    number that grows with time, for a directory that is lost: the result is above them all, so
    that no grant made after the backup shares an epoch with one made now.
    """
    return max((*incarnations, *(epoch >> COUNTER_BITS for epoch in epochs)), default=0) + 1


def is_current(ref: AttemptRef, current: AttemptRef | None) -> bool:
    """Says whether a message about `ref` may change the run whose newest attempt is `current`."""
    return ref == current


_PRESENT: Mapping[AttemptPhase, Event] = MappingProxyType(
    {
        AttemptPhase.AHEAD: Event.STARTING,
        AttemptPhase.GRANTED: Event.STARTING,
        AttemptPhase.ACCEPTED: Event.STARTING,
        AttemptPhase.PREPARING: Event.PREPARING,
        AttemptPhase.RUNNING: Event.RUNNING,
        AttemptPhase.EXITED: Event.EXITED,
        AttemptPhase.ENDED: Event.EXITED,
    }
)


def event_of(phase: AttemptPhase) -> Event:
    """Gives the event that says "it is this far": what ends NOT_RESPONDING."""
    return _PRESENT[phase]


def judge(report: Report, sender: NodeId, record: AttemptRecord | None) -> Judgement:
    """Decides on one report from the agent of node `sender`.

    `record` is what is known of exactly this (run, attempt, epoch), None for nothing. A node can
    only speak for what was granted to it.
    """
    if record is None or record.ref != report.ref:
        return Judgement(Standing.UNKNOWN)
    if not record.is_current or record.node != sender:
        return Judgement(Standing.SUPERSEDED)
    if record.is_over:
        # Its last words may come twice; more than those means that it was given up.
        is_last = report.phase >= AttemptPhase.EXITED
        return Judgement(Standing.REPEATED if is_last else Standing.SUPERSEDED)
    if report.phase <= record.phase:
        return Judgement(Standing.REPEATED)
    # The first word of an attempt that was sent ahead: only now its run stops waiting.
    events = [Event.GRANTED] if record.phase is AttemptPhase.AHEAD else []
    events += [
        event_of(phase)
        for phase in (AttemptPhase.PREPARING, AttemptPhase.RUNNING)
        if record.phase < phase and (phase <= report.phase < AttemptPhase.EXITED)
    ]
    if report.phase >= AttemptPhase.EXITED:
        if report.was_started and record.phase < AttemptPhase.RUNNING:
            events.append(Event.RUNNING)
        events.append(Event.EXITED)
    elif report.phase is AttemptPhase.ACCEPTED:
        events.append(Event.STARTING)
    return Judgement(Standing.COUNTS, tuple(events), report.phase)


class Return(StrEnum):
    """What becomes of an attempt whose agent gives it back."""

    WAIT = "wait"
    """Its run waits again, in its old place, and the attempt never was."""
    END = "end"
    """Somebody asked for the run to end: it does, without having been started."""
    NOTHING = "nothing"
    """Not the agent's to give back, or its program was started before."""


def judge_return(ref: AttemptRef, sender: NodeId, record: AttemptRecord | None) -> Return:
    """Decides on an attempt that the agent of node `sender` says it never began and never will.

    `record` is as in `judge`.
    """
    if record is None or record.ref != ref or record.node != sender:
        return Return.NOTHING
    if not record.is_current or record.is_over or record.phase >= AttemptPhase.RUNNING:
        return Return.NOTHING
    return Return.END if record.is_cancel_wanted else Return.WAIT


def reconcile(
    node: NodeId,
    boot_id: str,
    reports: Iterable[Report],
    records: Iterable[AttemptRecord],
    *,
    is_only_node: bool = False,
) -> tuple[Decision, ...]:
    """Settles everything between a node that said Hello and the records, in one go.

    `reports` is every attempt that the agent found on its disk. `records` is every attempt on
    record that is not over on this node, and every one that `reports` names, of whatever node.
    On a target that has one node only, this node stands in for those that restored records name:
    they are gone with the data directory that was lost.
    The decisions are ordered by (run, attempt, epoch) and are the same when asked again.
    """
    known = {record.ref: record for record in records}
    said = {report.ref: report for report in reports}
    mine = {
        ref
        for ref, record in known.items()
        if (record.node == node or (is_only_node and record.is_restored))
        and record.is_current
        and not record.is_over
    }
    decisions = []
    for ref in sorted(mine | said.keys(), key=lambda ref: (ref.run_id, ref.attempt, ref.epoch)):
        record, report = known.get(ref), said.get(ref)
        if record is None:
            decisions.append(Decision(Action.FOUND, ref, report))
        elif report is None:
            decisions.append(_not_on_disk(record, boot_id))
        else:
            decisions.append(_on_disk(record, report, node, boot_id))
    return tuple(decisions)


def _on_disk(record: AttemptRecord, report: Report, node: NodeId, boot_id: str) -> Decision:
    """The agent has it and the records know it."""
    if not record.is_current or record.is_over or record.node != node:
        has_exited = report.phase >= AttemptPhase.EXITED
        return Decision(Action.FORGET if has_exited else Action.STOP, record.ref, report)
    if boot_id != record.boot_id and report.phase < AttemptPhase.EXITED:
        # "Started" may have been lost with the power while "accepted" was not: it is over, however
        # little the disk says.
        return Decision(Action.END, record.ref, report, EndReason.NODE_RESTARTED)
    wants_cancel = record.is_cancel_wanted and report.phase < AttemptPhase.EXITED
    return Decision(Action.ADOPT, record.ref, report, is_cancel_wanted=wants_cancel)


def _not_on_disk(record: AttemptRecord, boot_id: str) -> Decision:
    """The records count on it and the agent has nothing of it."""
    if record.phase >= AttemptPhase.EXITED:
        return Decision(Action.SEAL, record.ref)
    if record.is_restored:
        return Decision(Action.END, record.ref, reason=EndReason.RESTORED)
    if boot_id != record.boot_id:
        # Also one that was sent ahead: it may have begun, and the disk lost it with the power.
        return Decision(Action.END, record.ref, reason=EndReason.NODE_RESTARTED)
    if record.phase is AttemptPhase.AHEAD:
        return Decision(Action.WAIT, record.ref)
    if record.phase > AttemptPhase.GRANTED:
        return Decision(Action.END, record.ref, reason=EndReason.ATTEMPT_LOST)
    if record.is_cancel_wanted:
        return Decision(Action.END, record.ref, reason=EndReason.NEVER_STARTED)
    return Decision(Action.RESEND, record.ref)
