"""Scans a source directory: what it holds now, with as little reading as its last scan allows."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runyard.snapshot.changes import find_changes
from runyard.snapshot.index import Index
from runyard_contract.value import value_class

if TYPE_CHECKING:
    from runyard.snapshot.limits import Allowance

_DIRECTORY_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)


@value_class
class Scan:
    """A scanned source directory. `is_changed`: the index is not the one that was given."""

    index: Index
    is_changed: bool
    files_hashed: int
    bytes_hashed: int


def scan(source: str, before: Index | None, allowance: Allowance | None = None) -> Scan:
    """Scans the directory at `source` (a real path).

    Args:
        before: the index of the last scan; None reads everything.
        allowance: the limits. Default: those of a snapshot.

    Raises FileChanged, FileUnreadable, UnsafePath, PathCollision, SnapshotTooLarge, each naming
    the file.
    """
    known = before or Index()
    root_fd = os.open(source, _DIRECTORY_FLAGS)
    try:
        changes = find_changes(known.tree, root_fd)
    finally:
        os.close(root_fd)
    if before is not None and not changes:
        return Scan(before, False, 0, 0)
    # Reading files and ignore rules costs 20 ms of imports, and most scans find nothing new.
    from runyard.snapshot.rescan import rescan

    found = rescan(source, known, changes, allowance)
    return Scan(found.index, True, found.files_hashed, found.bytes_hashed)
