"""When to look at the memory of a run that no control group bounds, and when it is too much."""

from __future__ import annotations

SECOND_NS = 1_000_000_000
LONGEST_NS = SECOND_NS
SHORTEST_NS = 2_000_000
BURST_BYTES = 1 << 30
"""So much a second any run may take without notice: what a core fills of fresh pages."""
COST_SHARE = 200
"""Looks take at most this part of a CPU's time, and so do exact readings,"""
URGENT_SHARE = 10
"""which take this part while the run seems to be over its limit, until that is certain."""


class Sum:
    """What processes have in memory, each page once for each process that has it."""

    __slots__ = ("anonymous_bytes", "pids", "resident_bytes")

    def __init__(self, pids: frozenset[int], resident_bytes: int, anonymous_bytes: int) -> None:
        self.pids = pids
        self.resident_bytes = resident_bytes
        """Pages of files among them."""
        self.anonymous_bytes = anonymous_bytes
        """Those that neither a file nor shared memory stands behind."""


class Watch:
    """Decides on amounts that others read; all times are nanoseconds of one clock.

    Sums are cheap to read, and never too little. Only where one is over the limit is the exact
    amount worth reading, which walks the page tables. From then on growth of the sums is added to
    that, until one of the processes ends or the time for the next exact reading comes.
    """

    __slots__ = (
        "_amount_bytes",
        "_at_ns",
        "_exact_at_ns",
        "_growth",
        "_last",
        "_limit_bytes",
        "_measured",
        "_measured_bytes",
        "_urgent_at_ns",
        "next_at_ns",
    )

    def __init__(self, limit_bytes: int, now_ns: int) -> None:
        self._limit_bytes = limit_bytes
        self.next_at_ns = now_ns + SHORTEST_NS
        """When to look next."""
        self._at_ns = now_ns
        self._amount_bytes = 0
        self._growth = 0.0
        self._last = Sum(frozenset(), 0, 0)
        self._measured: Sum | None = None
        self._measured_bytes = 0
        self._exact_at_ns = self._urgent_at_ns = now_ns

    def look(self, now_ns: int, found: Sum, cost_ns: int) -> bool:
        """Notes what the processes have. True: `measure` wants to hear the exact amount now.

        `cost_ns` is the CPU time that it took to read.
        """
        self._last = found
        amount = self._estimate(found)
        passed_s = max(1, now_ns - self._at_ns) / SECOND_NS
        self._growth = max((amount - self._amount_bytes) / passed_s, self._growth / 2)
        self._at_ns, self._amount_bytes = now_ns, amount
        self._plan(now_ns, cost_ns)
        if found.resident_bytes <= self._limit_bytes:
            return False
        is_over = amount > self._limit_bytes
        due_ns = self._urgent_at_ns if is_over else self._exact_at_ns
        if now_ns >= due_ns:
            return True
        self.next_at_ns = due_ns if is_over else min(self.next_at_ns, due_ns)
        return False

    def measure(self, now_ns: int, used_bytes: int, cost_ns: int) -> bool:
        """Notes what those processes have, each page once. True: the run is over its limit."""
        self._measured, self._measured_bytes = self._last, used_bytes
        self._exact_at_ns = now_ns + max(LONGEST_NS, cost_ns * COST_SHARE)
        self._urgent_at_ns = now_ns + min(LONGEST_NS, cost_ns * URGENT_SHARE)
        self._amount_bytes = used_bytes
        self._plan(now_ns, 0)
        return used_bytes > self._limit_bytes

    def _estimate(self, found: Sum) -> int:
        then = self._measured
        if then is None or not then.pids <= found.pids:
            return found.resident_bytes
        more = max(
            found.resident_bytes - then.resident_bytes,
            found.anonymous_bytes - then.anonymous_bytes,
        )
        return min(found.resident_bytes, self._measured_bytes + more)

    def _plan(self, now_ns: int, cost_ns: int) -> None:
        """The next look: before what is left can be gone by growth as it was, or by a burst."""
        left_bytes = max(0, self._limit_bytes - self._amount_bytes)
        pause_ns = int(left_bytes / max(BURST_BYTES, 2 * self._growth) * SECOND_NS)
        shortest_ns = max(SHORTEST_NS, cost_ns * COST_SHARE)
        self.next_at_ns = now_ns + min(LONGEST_NS, max(shortest_ns, pause_ns))
