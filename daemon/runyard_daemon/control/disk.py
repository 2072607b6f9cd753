"""Refuses what would fill the disk, while there is room left for what must still be written.

Asked at each submit, upload and piece of a log: one system call, no state, so that it ends by
itself when there is space again. Ends of runs, cancels and removals are always taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from runyard_contract.errors import DiskFull
from runyard_daemon.settings import DiskLimits


class FileSystem(Protocol):
    """What `os.statvfs` says, as far as it counts here."""

    @property
    def f_frsize(self) -> int:
        """Bytes of a block."""
        ...

    @property
    def f_blocks(self) -> int:
        """All blocks."""
        ...

    @property
    def f_bfree(self) -> int:
        """Free blocks."""
        ...

    @property
    def f_bavail(self) -> int:
        """Free blocks that not only root may use."""
        ...


class DiskGuard:
    """Watches the file system of one data directory.

    Args:
        home: the data directory.
        limits: when it counts as full.
        look: gives the state of the file system at a path.
    """

    def __init__(
        self, home: Path, limits: DiskLimits, look: Callable[[Path], FileSystem] = os.statvfs
    ) -> None:
        self._home = home
        self._limits = limits
        self._look = look

    def check(self) -> None:
        """Raises DiskFull where the disk counts as full."""
        found = self._look(self._home)
        free_bytes = found.f_bavail * found.f_frsize
        if free_bytes >= self._limits.enough_free_bytes:
            return
        used = found.f_blocks - found.f_bfree
        usable = used + found.f_bavail
        if used * 100 < self._limits.full_percent * usable:
            return
        free_mib = free_bytes >> 20
        raise DiskFull(
            f"the disk of {self._home} is full but for {free_mib:,} MiB, which are kept for the "
            "ends of runs: nothing new is taken",
            hint="free space there, or remove runs with `runyard runs prune`; what waits "
            "goes on by itself then",
            home=str(self._home),
            free_bytes=str(free_bytes),
        )
