"""The runs that wait for one compute target, in order."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field

from runyard_daemon.core.types import QueuedRun, Resources

OrderKey = tuple[int, int, str]
"""Sorts runs: higher priority first, then first come. The id makes it total."""


def order_key(run: QueuedRun) -> OrderKey:
    """Gives what runs are sorted by: the smaller goes first."""
    return (-run.priority, run.sequence, run.run_id)


@dataclass(slots=True)
class _Alike:
    """The waiting runs of a line that ask for the same."""

    keys: list[OrderKey] = field(default_factory=list)
    """A heap; those of removed runs stay until they surface or become the majority."""
    count: int = 0
    """Of the runs that wait."""


class Line:
    """Waiting runs of one compute target.

    Runs that ask for the same resources share a heap: where one of them finds no room, none behind
    it in that heap does, so that a decision looks at one run for each different request, not at the
    queue.
    """

    def __init__(self) -> None:
        self._runs: dict[str, QueuedRun] = {}
        self._alike: dict[Resources, _Alike] = {}
        self._heads: list[OrderKey] = []
        """A heap that has the first key of every heap, among keys that were first once."""

    def __len__(self) -> int:
        return len(self._runs)

    def get(self, run_id: str) -> QueuedRun:
        """Gives a waiting run. Raises KeyError where it does not wait."""
        return self._runs[run_id]

    def add(self, run: QueuedRun) -> None:
        """Puts a run in its place, in O(log n). It must not be in the line."""
        self._runs[run.run_id] = run
        alike = self._alike.get(run.request)
        if alike is None:
            alike = self._alike[run.request] = _Alike()
        alike.count += 1
        key = order_key(run)
        heapq.heappush(alike.keys, key)
        if alike.keys[0] is key:
            heapq.heappush(self._heads, key)

    def remove(self, run_id: str) -> QueuedRun:
        """Takes a run out, in amortised O(log n). Raises KeyError where it does not wait."""
        run = self._runs.pop(run_id)
        alike = self._alike[run.request]
        alike.count -= 1
        if not alike.count:
            del self._alike[run.request]
        else:
            self._tidy(run.request, alike)
        if len(self._heads) > 2 * len(self._alike) + 16:
            self._heads = sorted(alike.keys[0] for alike in self._alike.values())
        return run

    def heads(self) -> list[OrderKey]:
        """Gives a heap with the key of the first run of each request, and of some other runs.

        A copy: the caller takes from it. `first_at` tells which keys are of a first run.
        """
        while self._heads and self.first_at(self._heads[0]) is None:
            heapq.heappop(self._heads)
        return self._heads.copy()

    def first_at(self, key: OrderKey) -> QueuedRun | None:
        """Gives the run with this key if it is the first of those with its request, else None."""
        run = self._runs.get(key[2])
        if run is None or order_key(run) != key or self._alike[run.request].keys[0] != key:
            return None
        return run

    def behind(self, first: QueuedRun) -> Iterator[QueuedRun]:
        """Gives the runs with the request of `first`, the first of its request, that follow it.

        Each costs O(log n); none is taken out. The line must not change meanwhile.
        """
        # Walks the heap from its top: the next smallest is among the children of those given.
        heap = self._alike[first.request].keys
        border = [(heap[0], 0)]
        last = heap[0]
        while border:
            key, index = heapq.heappop(border)
            for child in (2 * index + 1, 2 * index + 2):
                if child < len(heap):
                    heapq.heappush(border, (heap[child], child))
            if key != last and self._is_live(key, first.request):
                last = key
                yield self._runs[key[2]]

    def ahead_of(self, run_id: str, first: int) -> tuple[int, tuple[str, ...]]:
        """Counts the runs ahead of one, in O(n), and names the `first` of them."""
        limit = order_key(self._runs[run_id])
        ahead = [key for key in map(order_key, self._runs.values()) if key < limit]
        return len(ahead), tuple(key[2] for key in heapq.nsmallest(first, ahead))

    def priorities_ahead(self, run_id: str) -> tuple[int, ...]:
        """Gives the priorities of the runs ahead of one, each once, the lowest first; in O(n)."""
        limit = order_key(self._runs[run_id])
        return tuple(
            sorted({run.priority for run in self._runs.values() if order_key(run) < limit})
        )

    def _tidy(self, request: Resources, alike: _Alike) -> None:
        """Drops dead keys from the top of a heap, and all of them when they are the majority."""
        heap = alike.keys
        was_first = heap[0]
        if len(heap) > 2 * alike.count + 16:
            heap[:] = sorted(key for key in set(heap) if self._is_live(key, request))
        while not self._is_live(heap[0], request):
            heapq.heappop(heap)
        if heap[0] != was_first:
            heapq.heappush(self._heads, heap[0])

    def _is_live(self, key: OrderKey, request: Resources) -> bool:
        run = self._runs.get(key[2])
        return run is not None and run.request == request and order_key(run) == key
