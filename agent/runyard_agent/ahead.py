"""The node's queue of leases that came ahead: asks for room, keeps the time, gives back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from runyard_agent.bundles import Key
from runyard_agent.core.ahead import LeasesAhead, Need
from runyard_agent.outbox import Outbox
from runyardpb.agent.v1 import agent_pb2 as pb

MAX_LEASES_AHEAD = 64
"""How many the daemon may send: what a node of two slots ends within twice a report's hold."""


class Offer(NamedTuple):
    """A lease that came ahead, whose attempt it is, and what it wants of the node."""

    key: Key
    need: Need
    lease: pb.Lease


class Ahead:
    """Leases that wait for room on this node.

    Args:
        outbox: told what is given back.
        begin: begins a lease, if there is room for it now; False: there is none.
    """

    def __init__(self, outbox: Outbox, begin: Callable[[Offer], bool]) -> None:
        self._outbox = outbox
        self._begin = begin
        self._leases: LeasesAhead[Offer] = LeasesAhead()
        self._timer: asyncio.TimerHandle | None = None
        outbox.is_busy = self.is_busy

    def is_busy(self) -> bool:
        """Whether leases wait, so that the daemon need not hear of room at once."""
        return len(self._leases) > 0

    def offer(self, key: Key, lease: pb.Lease) -> None:
        """Takes a lease in; `go_on` begins it where there is room."""
        offer = Offer(key, need_of(lease), lease)
        self._leases.offer(_name(lease.ref), lease.ref.epoch, offer, _now_s())

    def go_on(self) -> None:
        """There may be room: begins what can begin."""
        if not self.is_busy():
            return
        self._leases.begin(self._begin, _now_s())
        if not self.is_busy():
            self._outbox.hurry()
        self._set_timer()

    def drop(self, ref: pb.AttemptRef) -> None:
        """The daemon has ended a lease, which may wait here."""
        self._leases.drop(_name(ref), ref.epoch)

    def clear(self) -> None:
        """A Hello is being made: the daemon takes back what is not in it."""
        self._leases.clear()

    def _set_timer(self) -> None:
        """Wakes up when the oldest has waited too long."""
        if self._timer is not None:
            return
        due_s = self._leases.due_s()
        if due_s is not None:
            self._timer = asyncio.get_running_loop().call_at(due_s, self._on_time)

    def _on_time(self) -> None:
        """Gives back what could not begin."""
        self._timer = None
        for offer in self._leases.overdue(_now_s()):
            self._outbox.give_back(offer.lease.ref)
        self._set_timer()
        if not self.is_busy():
            self._outbox.hurry()


def need_of(lease: pb.Lease) -> Need:
    """What a lease wants of the node."""
    wanted = lease.spec.resources
    return Need(wanted.cpu_millicores, wanted.memory_bytes, wanted.gpu_count)


def _name(ref: pb.AttemptRef) -> str:
    """What names an attempt, whatever its grant."""
    return f"{ref.run}.{ref.attempt}"


def _now_s() -> float:
    """The loop's clock, seconds."""
    return asyncio.get_running_loop().time()
