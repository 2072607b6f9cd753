"""Digests that clients were told of lately: they may be about to name them.

Between "the store holds this blob" and a snapshot or file that names it nothing in the records
tells that it is needed. A pin does.
"""

from __future__ import annotations

from collections.abc import Iterable

PINNED_S = 3600.0


class Pins:
    """Keeps what it is given for at least `PINNED_S`, and as long as an upload goes on.

    Two generations make it cheap: when the newer one is old enough it becomes the older one.
    Times are seconds of one clock.
    """

    def __init__(self) -> None:
        self._newer: set[str] = set()
        self._older: set[str] = set()
        self._since_s: float | None = None
        self._uploads = 0

    def add(self, digests: Iterable[str], now_s: float) -> None:
        """Pins blobs. To be called before the store is asked for them."""
        self._age(now_s)
        self._newer.update(digests)

    def held(self, now_s: float) -> frozenset[str]:
        """All that is pinned."""
        self._age(now_s)
        return frozenset(self._newer | self._older)

    def begin_upload(self) -> None:
        """Keeps all pins until as many uploads have ended."""
        self._uploads += 1

    def end_upload(self) -> None:
        """Lets pins age again when it was the last upload."""
        self._uploads -= 1

    def _age(self, now_s: float) -> None:
        if self._since_s is None:
            self._since_s = now_s
        if self._uploads or now_s - self._since_s < PINNED_S:
            return
        if now_s - self._since_s >= 2 * PINNED_S:
            self._newer.clear()
        self._older, self._newer = self._newer, set()
        self._since_s = now_s
