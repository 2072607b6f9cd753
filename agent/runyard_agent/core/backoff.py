"""How long to wait before the next try: a window that doubles, and a uniform place in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """A window of `first_s` that doubles with each failure up to `cap_s`."""

    first_s: float = 0.05
    cap_s: float = 30.0

    def window_s(self, failures: int) -> float:
        """The longest wait after so many failures in a row (from 1)."""
        doublings = min(max(failures - 1, 0), 64)
        return min(self.cap_s, self.first_s * 2.0**doublings)

    def delay_s(self, failures: int, uniform: float) -> float:
        """The wait after so many failures; `uniform` is a random number from 0 to 1.

        Spread over the whole window, so that many agents that lost one daemon at the same moment
        don't come back at the same moment.
        """
        return self.window_s(failures) * uniform
