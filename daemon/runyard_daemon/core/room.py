"""What a node has left, and what exactly keeps a run from it."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

from runyard_contract.record import record
from runyard_daemon.core.types import Node, Resources


class Constraint(StrEnum):
    """What can keep a run from a node."""

    CONNECTED = "connected"
    ACCEPTING = "accepting"
    SLOTS = "slots"
    CPUS = "cpus"
    MEMORY = "memory"
    GPUS = "gpus"


@record
class Room:
    """What is free on a node; negative where a node shrank below what its attempts hold."""

    slots: int
    resources: Resources

    def without(self, held: Resources) -> Room:
        """Gives the room that is left after one more attempt."""
        return Room(self.slots - 1, self.resources - held)

    def plus(self, held: Resources) -> Room:
        """Gives the room after an attempt gave back what it held."""
        return Room(self.slots + 1, self.resources + held)


@record
class Obstacle:
    """One constraint that a node does not meet now.

    `need`, `free` and `total` are in the constraint's unit: slots, thousandths of a CPU, bytes,
    GPUs; all 0 for CONNECTED and ACCEPTING.
    """

    constraint: Constraint
    need: int = 0
    free: int = 0
    total: int = 0

    @property
    def is_lasting(self) -> bool:
        """Whether no end of another run can take it away: the node itself must change."""
        return self.need > self.total or self.constraint in (
            Constraint.CONNECTED,
            Constraint.ACCEPTING,
        )


def empty_room(node: Node) -> Room:
    """Gives the room of a node that nothing runs on."""
    return Room(node.slots, node.capacity)


def obstacles(request: Resources, node: Node, room: Room) -> Iterator[Obstacle]:
    """Gives what keeps a run with `request` from `node` while `room` is free there; none: it fits.

    The one definition of "fits": placing asks for the first, explaining for all.
    """
    if not node.is_connected:
        yield Obstacle(Constraint.CONNECTED)
    elif not node.is_accepting:
        yield Obstacle(Constraint.ACCEPTING)
    if room.slots < 1:
        yield Obstacle(Constraint.SLOTS, 1, max(0, room.slots), node.slots)
    free, total = room.resources, node.capacity
    if 0 < request.cpu_millis > free.cpu_millis:
        yield _lack(Constraint.CPUS, request.cpu_millis, free.cpu_millis, total.cpu_millis)
    if 0 < request.memory_bytes > free.memory_bytes:
        yield _lack(Constraint.MEMORY, request.memory_bytes, free.memory_bytes, total.memory_bytes)
    if 0 < request.gpus > free.gpus:
        yield _lack(Constraint.GPUS, request.gpus, free.gpus, total.gpus)


def fits(request: Resources, node: Node, room: Room) -> bool:
    """Says whether a run with `request` can be placed on `node` now."""
    return next(obstacles(request, node, room), None) is None


def could_fit(request: Resources, node: Node) -> bool:
    """Says whether a run with `request` can be placed on `node` once nothing else runs there."""
    return fits(request, node, empty_room(node))


def _lack(constraint: Constraint, need: int, free: int, total: int) -> Obstacle:
    return Obstacle(constraint, need, max(0, free), total)
