"""The folder of built environments: which are ready, and who builds which.

An environment is built where it stays, because its programs hold their own path. It counts only
with `ready.json`, which is written last and by a rename: without it the folder is a leftover and is
removed. A lock file beside it keeps builders of other processes out; the installer inherits its
descriptor, so one that outlives a killed agent still keeps the folder for itself until it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from runyard_contract.paths import atomic_write

READY_NAME = "ready.json"
LAST_USED_NAME = "last-used"
FORMAT = 1
KEY_DIGITS = 16
LOCK_POLL_S = 0.1
_TRASH = ".trash-"


@dataclass(frozen=True, slots=True)
class Record:
    """What ready.json says of an environment.

    `created_at_unix_ns` is wall clock, `size_bytes` the sum of its files' lengths, `python` the
    version of its interpreter, `packages` their number.
    """

    lock_hash: str
    platform: str
    created_at_unix_ns: int
    size_bytes: int
    python: str
    packages: int


class EnvironmentCache:
    """Environments by the hash of their lock, below `root` (absolute)."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._ready: dict[str, tuple[int, Record]] = {}

    def folder(self, lock_hash: str) -> Path:
        """Where the environment of a lock is, or will be."""
        return self._root / lock_hash[:KEY_DIGITS]

    def python(self, lock_hash: str) -> Path:
        """Its interpreter."""
        return self.folder(lock_hash) / "bin" / "python"

    def ready(self, lock_hash: str) -> Record | None:
        """What is built for a lock; None where nothing is, or its Python was removed since."""
        path = self.folder(lock_hash) / READY_NAME
        try:
            mtime_ns = path.stat().st_mtime_ns
            os.stat(self.python(lock_hash))  # a link to the Python that it was built on
            known = self._ready.get(lock_hash)
            if known is not None and known[0] == mtime_ns:
                return known[1]
            fields = json.loads(path.read_bytes())
            if fields.pop("format") != FORMAT:
                return None
            record = Record(**fields)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if record.lock_hash != lock_hash:
            return None
        self._ready[lock_hash] = (mtime_ns, record)
        return record

    def touch(self, lock_hash: str) -> None:
        """Notes that it is used now: the file `last-used` bears the time."""
        path = self.folder(lock_hash) / LAST_USED_NAME
        try:
            os.utime(path)
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                path.touch(mode=0o600)

    @contextlib.asynccontextmanager
    async def reserved(self, lock_hash: str, waits: Callable[[], None]) -> AsyncIterator[int]:
        """Keeps all others from building this environment; gives the descriptor of the lock.

        Pass the descriptor on to what is started to build. `waits` is called once when another
        process is building.
        """
        path = self._root / f"{lock_hash[:KEY_DIGITS]}.lock"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            has_said = False
            while not _try_lock(fd):
                if not has_said:
                    has_said = True
                    waits()
                # flock gives no event, and a thread that blocks in it could not be cancelled.
                await asyncio.sleep(LOCK_POLL_S)
            try:
                yield fd
            finally:
                # Not just by closing: what a package's build left running may hold the descriptor.
                fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def seal(self, record: Record) -> None:
        """Makes a finished environment count, durably."""
        content = json.dumps({"format": FORMAT, **asdict(record)}, indent=1).encode() + b"\n"
        atomic_write(self.folder(record.lock_hash) / READY_NAME, content)

    async def discard(self, lock_hash: str) -> None:
        """Removes what is there of an environment; at once it can't be taken for one any more."""
        folder = self.folder(lock_hash)
        doomed = self._root / f"{_TRASH}{folder.name}-{secrets.token_hex(4)}"
        try:
            folder.rename(doomed)
        except FileNotFoundError:
            return
        await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)

    async def sweep(self) -> None:
        """Removes what a killed agent had not finished removing."""
        for doomed in self._root.glob(f"{_TRASH}*"):
            await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Sum of the lengths of all files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(parent, name)).st_size
    return total


def _try_lock(fd: int) -> bool:
    """Takes the lock unless another open file has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
