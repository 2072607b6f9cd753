"""Folders that runs have left as they were: given to later runs of the same snapshot.

To make a bundle's folder and to delete it again are some forty changes of the file system; on
ext4 they are most of what a short run costs. A folder that is free has a name that a starting agent
takes for abandoned, so nothing of one outlives the agent that knows it.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runyard_agent.bundles import RECORDS, STREAMS, Bundle
from runyard_agent.laid import LaidOut
from runyardpb.agent.v1 import agent_pb2 as pb

MAX_FOLDERS = 128
MAX_FILES = 20_000
"""Bounds of what lies free: folders, and snapshot files in them."""
KEEP_S = 60.0
"""A folder that was not used for so long is deleted."""
_NAMES = frozenset(
    {
        *STREAMS,
        *RECORDS,
        "job",
        "stderr.fifo",
        "stdout.fifo",
        "work",
        "work.index",
    }
)


@dataclass(frozen=True, slots=True)
class _Free:
    """A free folder. `laid` is None where it was built ahead, too large to be looked through."""

    path: str
    root_digest: str
    laid: LaidOut | None
    since_s: float

    @property
    def file_count(self) -> int:
        """Its share of the bound."""
        return self.laid.file_count if self.laid is not None else 0


@dataclass(frozen=True, slots=True)
class Claimed:
    """A folder that has become a bundle's."""

    laid: LaidOut | None


class Folders:
    """The free folders of this agent. Everything here is a few renames; nothing is read.

    Args:
        runs: where bundles lie.
        trash: takes a path that is to be deleted some time.
        boot_id: of the machine now.
    """

    def __init__(self, runs: Path, trash: Callable[[str], None], boot_id: str) -> None:
        self._runs = runs
        self._trash = trash
        self._boot_id = boot_id
        self._free: dict[str, list[_Free]] = {}
        self._count = 0
        self._files = 0
        self._number = 0
        self._timer: asyncio.TimerHandle | None = None

    def claim(self, bundle: Bundle, lease: pb.Lease) -> Claimed | None:
        """Makes a free folder the bundle's, with the lease in it; None where there is none.

        As with `Bundle.create` the name appears with the lease in it or not at all. Raises OSError.
        """
        free = self._free.get(_root_digest(lease))
        if not free:
            return None
        found = free.pop()
        self._forget(found)
        try:
            bundle.put_lease(found.path, lease)
            os.rename(found.path, bundle.path)
        except OSError:
            self._trash(found.path)
            raise
        return Claimed(found.laid)

    def take_back(self, bundle: Bundle, laid: LaidOut) -> None:
        """Takes the folder of a run that has ended and left everything as it was."""
        if self._count >= MAX_FOLDERS or self._files + laid.file_count > MAX_FILES:
            self._trash(bundle.path)
            return
        path = self.new_path()
        try:
            os.rename(bundle.path, path)
            self._clean(path)
        except OSError:
            self._trash(path if os.path.lexists(path) else bundle.path)
            return
        self._add(_Free(path, laid.root_digest, laid, time.monotonic()))

    def new_path(self) -> str:
        """Where a folder may be made that `add_built` or `discard` is told of."""
        self._number += 1
        return f"{self._runs}/.free.{os.getpid()}.{self._number}"

    def add_built(self, path: str, root_digest: str) -> None:
        """Keeps a folder that was built ahead for a snapshot."""
        self._add(_Free(path, root_digest, None, time.monotonic()))

    def discard(self, path: str) -> None:
        """Throws away what was to be built."""
        self._trash(path)

    def _add(self, found: _Free) -> None:
        """Keeps a folder that is free."""
        self._free.setdefault(found.root_digest, []).append(found)
        self._count += 1
        self._files += found.file_count
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(KEEP_S, self._expire)

    def has(self, root_digest: str) -> bool:
        """Whether a folder with this snapshot is free."""
        return bool(self._free.get(root_digest))

    def _expire(self) -> None:
        """Throws away what was not used for long. No timer runs while nothing is free."""
        self._timer = None
        limit_s = time.monotonic() - KEEP_S
        for found in [f for free in self._free.values() for f in free if f.since_s <= limit_s]:
            self._free[found.root_digest].remove(found)
            self._forget(found)
            self._trash(found.path)
        if self._count:
            self._timer = asyncio.get_running_loop().call_later(KEEP_S / 2, self._expire)

    def _forget(self, found: _Free) -> None:
        """A folder is free no more."""
        self._count -= 1
        self._files -= found.file_count
        if not self._free[found.root_digest]:
            del self._free[found.root_digest]

    def _clean(self, path: str) -> None:
        """Removes the traces of a run; files that each run needs stay, under other names."""
        Bundle.free_records(path, self._boot_id)
        for name in STREAMS:
            status = os.lstat(f"{path}/{name}")
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise FileExistsError(f"{path}/{name} is not what it was made as")
            if status.st_size:
                os.truncate(f"{path}/{name}", 0)
        if not set(os.listdir(path)) <= _NAMES:
            raise FileExistsError(f"{path} holds more than a run needs")


def _root_digest(lease: pb.Lease) -> str:
    """The snapshot that a lease wants; empty: none."""
    return lease.spec.snapshot.rpartition("/")[2]
