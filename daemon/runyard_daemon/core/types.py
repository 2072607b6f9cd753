"""The values that the daemon's core works on.

Instants are `WallTime` (for people and records) or `BootTime` (for deadlines); both are seconds and
mypy refuses to mix them.
"""

from __future__ import annotations

from typing import NamedTuple, NewType

from runyard_contract.record import record
from runyard_contract.states import EndClass

NodeId = NewType("NodeId", str)
"""One machine with an agent, as the daemon's records name it."""

WallTime = NewType("WallTime", float)
"""Seconds since the Unix epoch. Steps when the clock is set: never used for a deadline."""

BootTime = NewType("BootTime", float)
"""Seconds of CLOCK_BOOTTIME of *one* machine: suspended time counts, setting the clock does not.

Means nothing on another machine or after a reboot.
"""


@record
class Resources:
    """An amount of what a node offers or a run asks for; 0 means none of it."""

    cpu_millis: int = 0
    """Thousandths of a CPU."""
    memory_bytes: int = 0
    gpus: int = 0
    """Whole GPUs."""

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            self.cpu_millis + other.cpu_millis,
            self.memory_bytes + other.memory_bytes,
            self.gpus + other.gpus,
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            self.cpu_millis - other.cpu_millis,
            self.memory_bytes - other.memory_bytes,
            self.gpus - other.gpus,
        )


NO_RESOURCES = Resources()


@record
class Node:
    """A node as the scheduler sees it."""

    id: NodeId
    name: str
    """What people call it; shown in explanations."""
    compute: str
    """The compute target it belongs to, as records spell it."""
    slots: int
    """How many attempts it executes at the same time."""
    capacity: Resources
    is_connected: bool = True
    """Whether its agent has a session now."""
    is_accepting: bool = True
    """False while it may take no new run (draining, quarantined)."""
    reason: str = ""
    """Why it is not connected or not accepting; a clause, shown in explanations."""
    since: WallTime | None = None
    """Since when `is_connected` or `is_accepting` is false."""
    max_ahead: int = 0
    """How many leases its agent takes beyond what it has room for."""

    @property
    def is_usable(self) -> bool:
        """Whether a run may be placed here now, room permitting."""
        return self.is_connected and self.is_accepting


class QueuedRun(NamedTuple):
    """A run that waits for a node.

    A tuple, because a start may have to make 100,000 of them: a frozen dataclass takes five times
    as long.
    """

    run_id: str
    compute: str
    priority: int
    """Higher goes first."""
    sequence: int
    """Grows with each submit, unique; a run that is queued again keeps its own."""
    request: Resources = NO_RESOURCES
    """What it asks for beside one slot."""


@record
class AttemptRef:
    """The fencing token: what every message about an attempt carries."""

    run_id: str
    attempt: int
    """Counts from 1 in each run; RUNYARD_ATTEMPT."""
    epoch: int
    """Grows with every grant of the data directory, whatever the run."""


@record
class ActiveAttempt:
    """An attempt that holds a slot of a node and what its run asked for."""

    ref: AttemptRef
    node: NodeId
    held: Resources = NO_RESOURCES


@record
class Grant:
    """The scheduler's decision: this run goes to this node now, and holds `held` there."""

    run: QueuedRun
    node: NodeId
    held: Resources
    is_ahead: bool = False
    """The node has no room yet: the run begins there when it has, and holds nothing until then."""


@record
class Cause:
    """Why a run ended, in words for people and in values for programs."""

    end_class: EndClass
    message: str
    """One sentence: what happened."""
    advice: str = ""
    """The next thing to try, an imperative sentence; empty where there is nothing to do."""
    exit_code: int | None = None
    """What the script returned, whoever stopped it; None where it did not return."""
    signal: int | None = None
    """The signal that ended the script."""
    last_lines: tuple[str, ...] = ()
    """The end of the script's stderr."""
    exception: str = ""
    """The Python exception's type, as the traceback spells it."""
    module: str = ""
    """The module that could not be imported."""
    path: str = ""
    """The file that the script missed."""
    rule: str = ""
    """The ignore rule that kept `path` out: file, line and pattern."""
    by: str = ""
    """Who canceled or abandoned the run."""
    memory: str = ""
    """Whose memory ran out: "limit", "host" or "gpu"."""
