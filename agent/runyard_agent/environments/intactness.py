"""Whether a built environment still is what was built: files that are gone, cut off or changed.

A build notes all files with size and change time. Programs write bytecode and files of their own
into environments; what was not noted does not count.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from runyard_contract.digest import digest_bytes

FILES_NAME = "runyard-files.txt"
LOOK_EVERY_S = 60.0
"""All files are looked at when an agent first gives an environment to a run, then beside the runs,
at most so often: ten thousand files take some 20 ms."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What is in an environment's folder.

    `size_bytes` is the sum of the lengths of all files. Bytecode and what changes with use apart,
    `file_count` is their number, and `listing` a digest of their paths and lengths.
    """

    size_bytes: int
    file_count: int
    listing: str


def note_files(folder: Path, left_out: frozenset[str] = frozenset()) -> Measured:
    """Writes the list of a new environment's files, and measures it. Blocks.

    Args:
        left_out: names of files at the top that change with use.
    """
    found, measured = _survey(folder, left_out)
    lines = (b"%d %d %b\n" % (one.st_size, one.st_mtime_ns, path) for path, one in found)
    (folder / FILES_NAME).write_bytes(b"".join(lines))
    return measured


def measure(folder: Path, left_out: frozenset[str] = frozenset()) -> Measured:
    """Measures an environment as `note_files` does, and writes nothing. Blocks."""
    return _survey(folder, left_out)[1]


def is_bytecode(folder: str) -> bool:
    """Whether a folder holds nothing but what an import writes, or lies in one that does."""
    return "__pycache__" in folder.split("/")


def _survey(
    folder: Path, left_out: frozenset[str]
) -> tuple[list[tuple[bytes, os.stat_result]], Measured]:
    """The files that count, by path, and their measures."""
    skipped = {os.fsencode(name) for name in (FILES_NAME, *left_out)}
    size_bytes, found = 0, []
    for path, status in _files(os.fsencode(folder)):
        size_bytes += status.st_size
        if path not in skipped and b"\n" not in path and b"__pycache__" not in path.split(b"/"):
            found.append((path, status))
    found.sort()
    listing = digest_bytes(b"".join(b"%b\0%d\n" % (path, one.st_size) for path, one in found))
    return found, Measured(size_bytes, len(found), listing)


def damage(folder: Path) -> str:
    """A noted file that is not as it was built, and how, for people; empty: none. Blocks.

    Empty, too, where nothing was noted.
    """
    try:
        noted = (folder / FILES_NAME).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return ""
    top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return next(filter(None, (_damage_of(line, top) for line in noted)), "")
    finally:
        os.close(top)


def _damage_of(line: bytes, top: int) -> str:
    """The same of one noted file, below the folder of a descriptor."""
    try:
        size, mtime_ns, path = line.split(b" ", 2)
        noted_size, noted_ns = int(size), int(mtime_ns)
    except ValueError:
        return f"{FILES_NAME} was changed"
    try:
        status = os.stat(path, dir_fd=top, follow_symlinks=False)
    except OSError:
        return f"{os.fsdecode(path)} is gone"
    if status.st_size != noted_size:
        return f"{os.fsdecode(path)} has {status.st_size} bytes instead of {noted_size}"
    if status.st_mtime_ns != noted_ns:
        return f"{os.fsdecode(path)} was changed"
    return ""


def _files(top: bytes, below: bytes = b"") -> Iterator[tuple[bytes, os.stat_result]]:
    """All files and links below a folder, by their path in it, as far as they can be seen."""
    try:
        entries = [*os.scandir(os.path.join(top, below))]
    except OSError:
        return
    for entry in entries:
        path = os.path.join(below, entry.name)
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                yield from _files(top, path)
            else:
                yield path, status


@dataclass(slots=True)
class _Look:
    """What the last look at an environment found, and when (monotonic clock)."""

    at_s: float
    damage: str = ""
    next: asyncio.Task[None] | None = None


class Looks:
    """What an agent knows of the files of its environments.

    Args:
        clock: seconds of a clock that never steps back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looks: dict[Path, _Look] = {}

    def built(self, folder: Path) -> None:
        """An environment was just built."""
        self._looks[folder] = _Look(self._clock())

    async def damage(self, folder: Path) -> str:
        """What is known to be damaged in an environment; empty: nothing.

        The first time all files are looked at. Later this takes no time: the next look is under
        way beside it, and what that finds is told to who asks then.
        """
        look = self._looks.get(folder)
        if look is None or look.damage:
            found = await asyncio.to_thread(damage, folder)
            self._looks[folder] = _Look(self._clock(), found)
            return found
        if look.next is None and self._clock() - look.at_s >= LOOK_EVERY_S:
            look.next = asyncio.create_task(self._look(folder), name="look at environment")
        return ""

    async def settled(self, folder: Path) -> None:
        """Waits for a look that is under way."""
        look = self._looks.get(folder)
        if look is not None and look.next is not None:
            await asyncio.wait([look.next])

    async def _look(self, folder: Path) -> None:
        found = await asyncio.to_thread(damage, folder)
        self._looks[folder] = _Look(self._clock(), found)
