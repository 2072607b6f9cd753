"""The folder of built environments: which are ready, and who builds which.

An environment is built where it stays, because its programs hold their own path. It counts only
with `ready.json`, which is written last and by a rename: without it the folder is a leftover and is
removed. A lock file beside it keeps builders of other processes out; the installer inherits its
descriptor, so one that outlives a killed agent still keeps the folder for itself until it ends.

The folder is bounded: beyond that, what was used longest ago makes room, never what is in use.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from runyard_agent import journal
from runyard_agent.core.eviction import Stored, to_evict, to_prune
from runyard_agent.environments.intactness import Looks
from runyard_agent.environments.records import (
    FORMAT,
    LAST_USED_NAME,
    READY_NAME,
    Found,
    Pruned,
    Record,
    read_record,
    uses_of,
)
from runyard_agent.environments.uses import Uses
from runyard_contract.paths import atomic_write

KEY_DIGITS = 16
LOCK_POLL_S = 0.1
_TRASH = ".trash-"
_SCRATCH = ".scratch"
_KEY = re.compile(rf"[0-9a-f]{{{KEY_DIGITS}}}")


Choose = Callable[[Sequence[Stored]], list[str]]
"""Gives the keys of those that are to go."""


class EnvironmentCache:
    """Environments by the hash of their lock. One serves all builders of an agent.

    Args:
        root: absolute path of an existing folder.
        bound_bytes: how much `make_room` leaves in it. None: everything.
        told: hears what is built, after each round of `make_room`.
    """

    def __init__(
        self,
        root: Path,
        bound_bytes: int | None = None,
        told: Callable[[Sequence[Found]], None] = lambda found: None,
    ) -> None:
        self.root = root
        self.uses = Uses()
        self.looks = Looks()
        self.rebuilt: set[str] = set()
        """Hashes of locks that are built again because of damage. The files of packages in the
        installers' caches are the same as those of the damaged environment: they don't count."""
        self.was_used = asyncio.Event()
        """Set with each use, for who tells of them."""
        self._told = told
        self._bound_bytes = bound_bytes
        self._ready: dict[str, tuple[int, Record]] = {}
        self._making_room = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None
        self.cleaners: list[Callable[[], Awaitable[None]]] = []
        """Called with each sweep, to remove what lies elsewhere of environments that are gone."""

    def folder(self, lock_hash: str) -> Path:
        """Where the environment of a lock is, or will be."""
        return self.root / lock_hash[:KEY_DIGITS]

    def python(self, lock_hash: str) -> Path:
        """Its interpreter."""
        return self.folder(lock_hash) / "bin" / "python"

    def ready(self, lock_hash: str) -> Record | None:
        """What is built for a lock; None where nothing is, or its Python was removed since."""
        path = self.folder(lock_hash) / READY_NAME
        try:
            mtime_ns = path.stat().st_mtime_ns
        except OSError:
            return None
        known = self._ready.get(lock_hash)
        record = known[1] if known and known[0] == mtime_ns else read_record(path)
        if record is None or record.lock_hash != lock_hash:
            return None
        # Its Python is a link to the one that it was built on; an image's is in the image.
        if not record.image and not os.path.exists(self.python(lock_hash)):
            return None
        self._ready[lock_hash] = (mtime_ns, record)
        return record

    def condemn(self, lock_hash: str) -> None:
        """Has a damaged environment built again by who asks for it next."""
        self.rebuilt.add(lock_hash)
        with contextlib.suppress(OSError):
            (self.folder(lock_hash) / READY_NAME).unlink()

    def used(self, lock_hash: str) -> None:
        """Notes that a run gets it: the file `last-used` bears the time, and a byte for each."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self.was_used.set()
        with contextlib.suppress(OSError):
            fd = os.open(self.folder(lock_hash) / LAST_USED_NAME, flags, 0o600)
            try:
                os.write(fd, b".")
            finally:
                os.close(fd)

    def release(self, user: str) -> None:
        """A run has no environment any more; until now it has used the one that it had."""
        for lock_hash in self.uses.release(user):
            self.was_used.set()
            with contextlib.suppress(OSError):
                os.utime(self.folder(lock_hash) / LAST_USED_NAME)

    @contextlib.asynccontextmanager
    async def reserved(self, lock_hash: str, waits: Callable[[], None]) -> AsyncIterator[int]:
        """Keeps all others from building this environment; gives the descriptor of the lock.

        Pass the descriptor on to what is started to build. `waits` is called once when another
        process is building.
        """
        fd = self._open_lock(lock_hash[:KEY_DIGITS])
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

    def finish(self, record: Record) -> None:
        """Makes a finished environment count, durably."""
        content = json.dumps({"format": FORMAT, **asdict(record)}, indent=1).encode() + b"\n"
        atomic_write(self.folder(record.lock_hash) / READY_NAME, content)
        self.looks.built(self.folder(record.lock_hash))
        self.rebuilt.discard(record.lock_hash)

    async def discard(self, lock_hash: str) -> None:
        """Removes what is there of an environment; at once it can't be taken for one any more."""
        doomed = self._throw_away(lock_hash[:KEY_DIGITS])
        if doomed is not None:
            await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)

    def scratch(self, lock_hash: str) -> Path:
        """A folder for what only the build of this environment needs; a sweep removes it."""
        return self.root / f"{lock_hash[:KEY_DIGITS]}{_SCRATCH}"

    async def sweep(self) -> None:
        """Removes what was thrown away, also what a killed agent had not finished removing."""
        for scratch in self.root.glob(f"*{_SCRATCH}"):
            with self._reserved_now(scratch.name.removesuffix(_SCRATCH)) as is_mine:
                if is_mine:
                    self._throw_away(scratch.name)
        for doomed in self.root.glob(f"{_TRASH}*"):
            await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)
        for clean in self.cleaners:
            await clean()

    def is_wanted(self, key: str) -> bool:
        """Whether an environment's folder is there or being built, by the folder's name."""
        if (self.folder(key) / READY_NAME).exists():
            return True
        with self._reserved_now(key) as is_mine:
            return not is_mine

    async def _sweep_after(self, earlier: asyncio.Task[None] | None) -> None:
        """Sweeps once more when an earlier sweep is over: it may have missed the newest."""
        if earlier is not None and not earlier.done():
            await asyncio.wait([earlier])
        await self.sweep()

    async def make_room(self) -> None:
        """Removes what is used least until the bound is kept, and what killed builds left.

        Nothing of it can be taken for an environment when this returns; the files go afterwards.
        What can't be read or removed is named in the agent's log.
        """
        async with self._making_room:
            try:
                found = await asyncio.to_thread(self.found)
                evicted = self._evict(found, self._choose)
                self._told([one for one in found if one.record.lock_hash not in evicted])
                await asyncio.to_thread(self._throw_away_leftovers, self.uses.lock_hashes())
            except OSError as error:
                journal.failure("environments_not_bounded", error, folder=str(self.root))
        sweeping = self._sweep_after(self._sweeping)
        loop = asyncio.get_running_loop()
        self._sweeping = loop.create_task(sweeping, name="sweep environments")

    async def prune(
        self, older_than_ns: int | None, bound_bytes: int | None, *, is_dry_run: bool
    ) -> Pruned:
        """Removes what is not in use, as `core.eviction.to_prune` chooses.

        Their space is free when this returns. Raises OSError where the folder can't be read.
        """

        def choose(stored: Sequence[Stored]) -> list[str]:
            return to_prune(stored, time.time_ns(), older_than_ns, bound_bytes)

        async with self._making_room:
            found = await asyncio.to_thread(self.found)
            in_use = self.uses.lock_hashes()
            if is_dry_run:
                gone = [one.record.lock_hash for one in _chosen(found, (), in_use, choose)]
            else:
                gone = self._evict(found, choose)
            left = [one for one in found if one.record.lock_hash not in set(gone)]
            self._told(found if is_dry_run else left)
        if not is_dry_run:
            await self.sweep()
        by_hash = {one.record.lock_hash: one for one in found}
        return Pruned(
            tuple(by_hash[lock_hash] for lock_hash in gone),
            tuple(left),
            sum(one.record.lock_hash in in_use for one in left),
        )

    def found(self) -> list[Found]:
        """All environments that are built, whether their Python still is there or not. Blocks."""
        found = []
        for folder in self._folders():
            record = read_record(folder / READY_NAME)
            if record is not None and record.lock_hash[:KEY_DIGITS] == folder.name:
                found.append(Found(record, *uses_of(folder, record)))
        return found

    def _choose(self, stored: Sequence[Stored]) -> list[str]:
        """What is to make room."""
        return [] if self._bound_bytes is None else to_evict(stored, self._bound_bytes)

    def _evict(self, found: list[Found], choose: Choose) -> list[str]:
        """Throws away what is chosen; gives the hashes of the locks.

        No other task runs between decision and removal.
        """
        evicted: list[str] = []
        in_use = set(self.uses.lock_hashes())
        while doomed := _chosen(found, evicted, in_use, choose):
            for one in doomed:
                if self._evict_one(one):
                    evicted.append(one.record.lock_hash)
                else:
                    in_use.add(one.record.lock_hash)  # others have to go instead
        return evicted

    def _evict_one(self, found: Found) -> bool:
        """Throws an environment away; False where another process has it, or it can't be."""
        record = found.record
        key = record.lock_hash[:KEY_DIGITS]
        try:
            with self._reserved_now(key) as is_mine:
                if is_mine:
                    self._throw_away(key)
        except OSError as error:
            journal.failure("environment_not_evicted", error, lock=record.lock_hash)
            return False
        if is_mine:
            journal.info("environment_evicted", lock=record.lock_hash, size_bytes=record.size_bytes)
        return is_mine

    def _throw_away_leftovers(self, in_use: frozenset[str]) -> None:
        """Throws away folders that nobody builds and that are no environment. Blocks."""
        kept = {lock_hash[:KEY_DIGITS] for lock_hash in in_use}
        for folder in self._folders():
            ready = folder / READY_NAME
            if folder.name in kept or read_record(ready) is not None:
                continue
            with self._reserved_now(folder.name) as is_mine:
                if is_mine and read_record(ready) is None:
                    self._throw_away(folder.name)

    def _folders(self) -> list[Path]:
        """Where environments are, were, or are being built."""
        return [path for path in self.root.iterdir() if _KEY.fullmatch(path.name)]

    def _throw_away(self, key: str) -> Path | None:
        """Takes a folder out of the way by one rename; gives where it is then, None: it is gone."""
        doomed = self.root / f"{_TRASH}{key}-{secrets.token_hex(4)}"
        try:
            (self.root / key).rename(doomed)
        except FileNotFoundError:
            return None
        return doomed

    @contextlib.contextmanager
    def _reserved_now(self, key: str) -> Iterator[bool]:
        """As `reserved`, but without waiting: whether nobody else has it."""
        fd = self._open_lock(key)
        try:
            is_mine = _try_lock(fd)
            try:
                yield is_mine
            finally:
                if is_mine:
                    fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def _open_lock(self, key: str) -> int:
        """A descriptor of the file that the lock is on."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(self.root / f"{key}.lock", flags, 0o600)


def _chosen(
    found: Sequence[Found], gone: Collection[str], in_use: Collection[str], choose: Choose
) -> list[Found]:
    """What is to go, of all but those that are gone."""
    left = {one.record.lock_hash: one for one in found if one.record.lock_hash not in gone}
    stored = [
        Stored(key, one.record.size_bytes, one.last_used_unix_ns, is_in_use=key in in_use)
        for key, one in left.items()
    ]
    return [left[key] for key in choose(stored)]


def _try_lock(fd: int) -> bool:
    """Takes the lock unless another open file has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
