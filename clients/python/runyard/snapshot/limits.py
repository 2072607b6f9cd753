"""Counts a source directory while it is walked, so that a wrong one is refused within a second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from runyard_contract.errors import SnapshotTooLarge
from runyard_contract.limits import SNAPSHOT_MAX_BYTES, SNAPSHOT_MAX_FILES
from runyard_contract.paths import shown

_NAMED_PARTS = 3
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def size_text(size_bytes: float) -> str:
    """A size for people, such as "1.5 GiB"."""
    unit = 0
    while size_bytes >= 1024 and unit < len(_UNITS) - 1:
        size_bytes /= 1024
        unit += 1
    return f"{size_bytes:.0f} {_UNITS[unit]}" if unit < 2 else f"{size_bytes:.1f} {_UNITS[unit]}"


class Allowance:
    """What a snapshot may still hold.

    Args:
        max_files: most files and links.
        max_bytes: most bytes of all files together.
    """

    def __init__(
        self, max_files: int = SNAPSHOT_MAX_FILES, max_bytes: int = SNAPSHOT_MAX_BYTES
    ) -> None:
        self._max_files = max_files
        self._max_bytes = max_bytes
        self.files = 0
        self.size_bytes = 0
        self._files_by_part: Counter[str] = Counter()
        self._bytes_by_part: Counter[str] = Counter()

    def add(self, parts: Sequence[str], files: int, size_bytes: int) -> None:
        """Counts what lies at these components; SnapshotTooLarge names the largest parts so far."""
        self.files += files
        self.size_bytes += size_bytes
        self._files_by_part[parts[0]] += files
        self._bytes_by_part[parts[0]] += size_bytes
        if self.size_bytes > self._max_bytes:
            raise self._too_large("bytes", size_text(self._max_bytes), self._bytes_by_part)
        if self.files > self._max_files:
            raise self._too_large("files", f"{self._max_files:,} files", self._files_by_part)

    def _too_large(self, what: str, limit: str, by_part: Counter[str]) -> SnapshotTooLarge:
        """The error, with the largest entries of the root."""
        largest = ", ".join(
            f"{shown(part)} ({size_text(count) if what == 'bytes' else f'{count:,} files'})"
            for part, count in by_part.most_common(_NAMED_PARTS)
        )
        return SnapshotTooLarge(
            f"the source directory holds more than {limit}; the largest parts so far: {largest}",
            hint="keep data and results out with a line in .runyardignore, or choose a smaller "
            "folder with --source",
            limit=limit,
            largest=largest,
        )
