"""The one table of a run's states: what happened, from which state, to which.

`next_state` is total: whatever happens in whatever state, it answers, and a final state stays. What
is not in the table changes nothing, which is what makes repeated and late reports harmless. Every
state that is not final names who moves it on and by when, so that no run can be stuck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from runyard_contract.states import FINAL, RunState


class Event(StrEnum):
    """What can happen to a run."""

    SUBMITTED = "submitted"
    """The submit is durable."""
    NODE_ORDERED = "node ordered"
    """A node is being made for it."""
    GRANTED = "granted"
    """An attempt was granted to a node; durable before the lease is sent."""
    STARTING = "starting"
    """The node is back in touch; the attempt was granted to it and is no further."""
    PREPARING = "preparing"
    """The agent lays out snapshot and environment."""
    RUNNING = "running"
    """The script was started."""
    EXITED = "exited"
    """The attempt is over and how is known; logs and outputs may still come."""
    COMPLETED = "completed"
    """Everything is here; the script ended well."""
    FAILED = "failed"
    """Everything is here, or will never come; the run ended otherwise."""
    CANCELED = "canceled"
    """Everything is here; the run was stopped because somebody asked for it."""
    OUT_OF_TOUCH = "out of touch"
    """The node was not heard of for longer than a lease. What it reports next ends this."""
    REQUEUED = "requeued"
    """The attempt is over without a result (never started, or its lease ended)."""
    CANCEL_REQUESTED = "cancel requested"
    """Somebody asked for the run to end."""
    RESTORED = "restored"
    """The records went back to a backup, and nobody knows what became of the run since."""
    ABANDONED = "abandoned"
    """Somebody gave up on an attempt whose node is out of touch; it is fenced for good."""


@dataclass(frozen=True, slots=True)
class Duty:
    """Who moves a run out of a state, and by when."""

    owner: str
    deadline: str


_S = RunState

DUTIES: Mapping[RunState, Duty] = MappingProxyType(
    {
        _S.NOT_STARTED: Duty("the submitting client", "its call's deadline; never stored"),
        _S.QUEUED: Duty(
            "the scheduler", "as soon as a node has room and no earlier run claims it; explained"
        ),
        _S.PROVISIONING: Duty("the autoscaler", "the node provider's boot timeout, then QUEUED"),
        _S.STARTING: Duty(
            "the agent", "one session round trip; else NOT_RESPONDING after ttl + margin"
        ),
        _S.PREPARING: Duty(
            "the agent", "end of the environment build; else NOT_RESPONDING after ttl + margin"
        ),
        _S.RUNNING: Duty(
            "the script, then its supervisor",
            "the run's max_duration if set; NOT_RESPONDING after ttl + margin without its node",
        ),
        _S.FINALIZING: Duty(
            "the agent's shipping",
            "all logs and outputs are durable; without its node a person abandons what is missing",
        ),
        _S.CANCEL_REQUESTED: Duty(
            "the supervisor",
            "the grace period, then SIGKILL; without its node, a person's abandon",
        ),
        _S.NOT_RESPONDING: Duty(
            "the lease",
            "requeue: the lease's end + margin; continue: the node's return or a person's abandon",
        ),
    }
)
"""One entry for each state that is not final."""


def _row(**targets: RunState) -> Mapping[Event, RunState]:
    return MappingProxyType({Event[name]: state for name, state in targets.items()})


TABLE: Mapping[RunState, Mapping[Event, RunState]] = MappingProxyType(
    {
        _S.NOT_STARTED: _row(SUBMITTED=_S.QUEUED, CANCEL_REQUESTED=_S.CANCELED),
        _S.QUEUED: _row(
            NODE_ORDERED=_S.PROVISIONING,
            GRANTED=_S.STARTING,
            CANCEL_REQUESTED=_S.CANCELED,
            RESTORED=_S.FAILED,
        ),
        _S.PROVISIONING: _row(
            GRANTED=_S.STARTING,
            REQUEUED=_S.QUEUED,
            CANCEL_REQUESTED=_S.CANCELED,
            RESTORED=_S.FAILED,
        ),
        _S.STARTING: _row(
            PREPARING=_S.PREPARING,
            RUNNING=_S.RUNNING,
            EXITED=_S.FINALIZING,
            OUT_OF_TOUCH=_S.NOT_RESPONDING,
            REQUEUED=_S.QUEUED,
            CANCEL_REQUESTED=_S.CANCEL_REQUESTED,
            ABANDONED=_S.CANCELED,
        ),
        _S.PREPARING: _row(
            RUNNING=_S.RUNNING,
            EXITED=_S.FINALIZING,
            OUT_OF_TOUCH=_S.NOT_RESPONDING,
            REQUEUED=_S.QUEUED,
            CANCEL_REQUESTED=_S.CANCEL_REQUESTED,
            ABANDONED=_S.CANCELED,
        ),
        _S.RUNNING: _row(
            EXITED=_S.FINALIZING,
            OUT_OF_TOUCH=_S.NOT_RESPONDING,
            REQUEUED=_S.QUEUED,
            CANCEL_REQUESTED=_S.CANCEL_REQUESTED,
            ABANDONED=_S.CANCELED,
        ),
        _S.NOT_RESPONDING: _row(
            STARTING=_S.STARTING,
            PREPARING=_S.PREPARING,
            RUNNING=_S.RUNNING,
            EXITED=_S.FINALIZING,
            REQUEUED=_S.QUEUED,
            CANCEL_REQUESTED=_S.CANCEL_REQUESTED,
            ABANDONED=_S.CANCELED,
        ),
        # A cancel is not forgotten when the node goes out of touch, and reports of the attempt's
        # progress don't take it back. A script that ended by itself first keeps its own result.
        _S.CANCEL_REQUESTED: _row(
            EXITED=_S.FINALIZING, REQUEUED=_S.CANCELED, ABANDONED=_S.CANCELED
        ),
        # The script is gone: there is nothing to cancel, and nothing can change the result.
        _S.FINALIZING: _row(COMPLETED=_S.COMPLETED, FAILED=_S.FAILED, CANCELED=_S.CANCELED),
        _S.COMPLETED: _row(),
        _S.FAILED: _row(),
        _S.CANCELED: _row(),
    }
)
"""All that can happen. An event that a state's row lacks changes nothing there."""

HELD: frozenset[RunState] = frozenset(
    {
        _S.STARTING,
        _S.PREPARING,
        _S.RUNNING,
        _S.NOT_RESPONDING,
        _S.CANCEL_REQUESTED,
        _S.FINALIZING,
    }
)
"""The states in which an agent holds, or may hold, an attempt of the run."""

WAITING: frozenset[RunState] = frozenset({_S.QUEUED, _S.PROVISIONING})
"""The states in which a run waits for a node."""


def next_state(state: RunState, event: Event) -> RunState:
    """Gives the state after `event`; `state` itself where the event changes nothing."""
    return TABLE[state].get(event, state)


def applies(state: RunState, event: Event) -> bool:
    """Says whether `event` changes a run in `state`."""
    return event in TABLE[state]


def states_allowing(event: Event) -> tuple[RunState, ...]:
    """Lists the states that `event` changes, for the error that names them."""
    return tuple(state for state in RunState if event in TABLE[state])


def render_table() -> str:
    """Renders the table as Markdown for the documentation: one row for each state."""
    lines = [
        "| state | moved on by | deadline | what happens → next state |",
        "| --- | --- | --- | --- |",
    ]
    for state in RunState:
        if state in FINAL:
            lines.append(f"| {state} | nobody: final | none | |")
            continue
        duty = DUTIES[state]
        edges = ", ".join(f"{event} → {target}" for event, target in TABLE[state].items())
        lines.append(f"| {state} | {duty.owner} | {duty.deadline} | {edges} |")
    return "\n".join(lines) + "\n"
