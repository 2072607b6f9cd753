"""Takes the snapshot of a source directory and makes sure that the daemon has it."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from runyard.snapshot import index as stat_index
from runyard.snapshot.index import Index
from runyard.snapshot.scan import Scan, scan
from runyard_contract.errors import FileChanged
from runyard_contract.paths import shown
from runyard_contract.value import replace, value_class

if TYPE_CHECKING:
    from runyard.channel import Connection

_TRIES = 3
_SAVED_AT_ONCE = 1000  # entries: an index of more is written while the daemon is asked


@value_class
class SnapshotStatistics:
    """What a snapshot cost. Sent bytes are as packed for the way; durations are seconds."""

    files_scanned: int = 0
    bytes_scanned: int = 0
    files_hashed: int = 0
    bytes_hashed: int = 0
    blobs_sent: int = 0
    bytes_sent: int = 0
    duration_s: float = 0.0


class LocalSnapshot:
    """A source directory as it is now. `statistics` says what was read and sent for it.

    Args:
        source: the directory's real path.
        folder: where the client keeps its stat indexes; None keeps none.
    """

    def __init__(self, source: str, folder: Path | None) -> None:
        self._source = source
        self._file = stat_index.index_file(folder, source) if folder is not None else None
        self.statistics = SnapshotStatistics()
        self._index = Index()
        self._saving: threading.Thread | None = None
        self._scan()

    def _scan(self) -> None:
        """Scans the directory; a file that changes meanwhile makes it start again."""
        started_s = time.monotonic()
        before = stat_index.load(self._file, self._source) if self._file is not None else None
        scanned = _scan_steadily(self._source, before)
        self._index = scanned.index
        if scanned.is_changed and self._file is not None:
            self._save(self._file, scanned.index)
        self.statistics = replace(
            self.statistics,
            files_scanned=self._index.tree.files,
            bytes_scanned=self._index.tree.size_bytes,
            files_hashed=self.statistics.files_hashed + scanned.files_hashed,
            bytes_hashed=self.statistics.bytes_hashed + scanned.bytes_hashed,
            duration_s=self.statistics.duration_s + time.monotonic() - started_s,
        )

    def _save(self, file: Path, index: Index) -> None:
        """Keeps the index for the next scan; `_finish_saving` waits for a large one."""

        def save() -> None:
            with contextlib.suppress(OSError):  # a cache: without it the next scan is slower
                stat_index.save(file, self._source, index)

        self._finish_saving()
        if len(index.tree) <= _SAVED_AT_ONCE:
            save()
        else:
            self._saving = threading.Thread(target=save, name="runyard-index")
            self._saving.start()

    def _finish_saving(self) -> None:
        """Waits until the index is kept."""
        if self._saving is not None:
            self._saving.join()
            self._saving = None

    @property
    def root_digest(self) -> str:
        """The digest of the root's manifest: it names the whole content."""
        return self._index.tree.root_digest.hex()

    @property
    def files(self) -> int:
        """Files and links in the snapshot."""
        return self._index.tree.files

    def holds(self, path: str) -> bool:
        """Whether there is an entry at this relative path."""
        return path.encode() in self._index.tree.paths

    def notices(self) -> list[str]:
        """One line each: what people should know of what is in it and what is not."""
        notices: list[str] = []
        if self._index.large_left_out:
            parts = [f"{shown(p)} ({n})" for p, n in sorted(self._index.large_left_out.items())]
            notices.append(f"left out: {_first(parts)}")
        notices += [
            f"left out: {shown(path)} is {what}" for path, what in self._index.skipped.items()
        ]
        if self._index.secrets:
            names = _first([shown(path) for path in self._index.secrets])
            notices.append(
                f"the snapshot holds files that usually hold credentials: {names}; "
                "keep them out with a line in the ignore file"
            )
        return notices

    def is_known_to(self, connection: Connection) -> bool:
        """Whether the daemon was seen to hold this very snapshot."""
        if self._file is None:
            return False
        stored = stat_index.stored_digest(self._file, str(connection.address))
        if stored != self.root_digest:
            return False
        self._finish_saving()
        return True

    def upload(self, connection: Connection, workspace: str) -> None:
        """Sends what the daemon lacks and declares the snapshot."""
        from runyard.snapshot.upload import upload_tree

        started_s = time.monotonic()
        for attempt in range(1, _TRIES + 1):
            try:
                sent = upload_tree(connection, workspace, self._source, self._index.tree)
                break
            except FileChanged:
                if attempt == _TRIES:
                    raise
                self._scan()
        self.statistics = replace(
            self.statistics,
            blobs_sent=self.statistics.blobs_sent + sent.blobs,
            bytes_sent=self.statistics.bytes_sent + sent.packed_bytes,
            duration_s=self.statistics.duration_s + time.monotonic() - started_s,
        )
        self._finish_saving()
        if self._file is not None:
            with contextlib.suppress(OSError):
                stat_index.remember_stored(self._file, str(connection.address), self.root_digest)


def _scan_steadily(source: str, before: Index | None) -> Scan:
    """Scans; where a file was replaced in the middle, once more from the start."""
    for _ in range(_TRIES - 1):
        try:
            return scan(source, before)
        except FileChanged:
            continue
    return scan(source, before)


def _first(parts: list[str], most: int = 4) -> str:
    """The first parts and how many there are besides."""
    more = f" and {len(parts) - most} more" if len(parts) > most else ""
    return ", ".join(parts[:most]) + more
