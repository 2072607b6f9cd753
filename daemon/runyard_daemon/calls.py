"""What the daemon counts of the calls that it answers."""

from __future__ import annotations

from collections import Counter

from runyard_daemon.core.histogram import Histogram


class CallFigures:
    """Calls by method and code, and how long they took. Belongs to the event loop.

    Only methods that exist are counted, so that no peer makes it grow.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        """By method ("RunService/CreateRun") and code ("OK")."""
        self.durations: dict[str, Histogram] = {}
        """Of unary calls, by method."""
        self.under_way = 0

    def ended(self, method: str, code: str, duration_s: float | None) -> None:
        """Counts a call that ended; None for the duration of a stream, which lasts as long as its
        caller likes."""
        self.counts[method, code] += 1
        if duration_s is None:
            return
        histogram = self.durations.get(method)
        if histogram is None:
            histogram = self.durations[method] = Histogram()
        histogram.observe(duration_s)
