"""Leases that the daemon sent before there was room: begun in their order, or given back in time.

Nothing of such a lease is on disk before it is begun, so an agent that dies has never had it. One
that is given back is forgotten in the same step: it can't be begun afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

HOLD_S = 1.0
"""A lease that could not begin within this time is given back: another node may have room."""

CLOSED_MAX = 1000
"""Grants that are remembered as closed; many more than a daemon has under way to one node."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a run wants of a node: thousandths of a core, bytes, whole GPUs. 0: not said."""

    cpu_millicores: int = 0
    memory_bytes: int = 0
    gpu_count: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether the slot is all that it wants, so that it may wait behind another run."""
        return self.cpu_millicores <= 1000 and not self.memory_bytes and not self.gpu_count

    def __add__(self, other: Need) -> Need:
        return Need(
            self.cpu_millicores + other.cpu_millicores,
            self.memory_bytes + other.memory_bytes,
            self.gpu_count + other.gpu_count,
        )

    def fits(self, capacity: Need) -> bool:
        """Whether all of it is there."""
        return (
            self.cpu_millicores <= capacity.cpu_millicores
            and self.memory_bytes <= capacity.memory_bytes
            and self.gpu_count <= capacity.gpu_count
        )


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[T]):
    """A lease and the moment at which it came."""

    lease: T
    epoch: int
    since_s: float


class LeasesAhead(Generic[T]):
    """The queue; a lease is named by its attempt, its epoch says which grant of it.

    Times are seconds of a clock that never steps.
    """

    def __init__(self, hold_s: float = HOLD_S) -> None:
        self._hold_s = hold_s
        self._waiting: dict[str, _Waiting[T]] = {}
        self._closed: dict[str, int] = {}
        """Grants of this session that were given back or ended here, newest last."""

    def __len__(self) -> int:
        return len(self._waiting)

    def offer(self, attempt: str, epoch: int, lease: T, now_s: float) -> None:
        """Takes a lease in. A newer grant takes the place of an older one, never the reverse.

        A repeat of one that was given back or ended is passed over.
        """
        if self._closed.get(attempt, -1) >= epoch:
            return
        known = self._waiting.get(attempt)
        if known is None or known.epoch < epoch:
            since_s = now_s if known is None else known.since_s
            self._waiting[attempt] = _Waiting(lease, epoch, since_s)

    def begin(self, has_room: Callable[[T], bool], now_s: float) -> list[T]:
        """Takes out what is to begin now: from the front, as far as there is room.

        `has_room` is asked once for each and takes the room that it grants. What is overdue is not
        begun any more: it is for `overdue`.
        """
        begun = []
        for attempt, waiting in list(self._waiting.items()):
            if now_s >= waiting.since_s + self._hold_s or not has_room(waiting.lease):
                break
            del self._waiting[attempt]
            begun.append(waiting.lease)
        return begun

    def overdue(self, now_s: float) -> list[T]:
        """Takes out what has waited too long: to be given back."""
        late = [a for a, w in self._waiting.items() if now_s >= w.since_s + self._hold_s]
        return [self._close(attempt).lease for attempt in late]

    def due_s(self) -> float | None:
        """When `overdue` has something to give next; None while nothing waits."""
        times = (waiting.since_s + self._hold_s for waiting in self._waiting.values())
        return min(times, default=None)

    def drop(self, attempt: str, epoch: int) -> None:
        """Forgets a lease that the daemon has ended, where it waits here.

        The daemon's word for a grant also ends all older ones.
        """
        known = self._waiting.get(attempt)
        if known is not None and known.epoch <= epoch:
            self._close(attempt)

    def _close(self, attempt: str) -> _Waiting[T]:
        """Takes a lease out for good."""
        waiting = self._waiting.pop(attempt)
        self._closed.pop(attempt, None)
        self._closed[attempt] = waiting.epoch
        if len(self._closed) > CLOSED_MAX:
            del self._closed[next(iter(self._closed))]
        return waiting

    def clear(self) -> None:
        """Forgets all. A Hello does not name them, so the daemon takes them back."""
        self._waiting.clear()
        self._closed.clear()
