"""What a disk may hold after a power loss, from the record of what was written and synced.

The rules are those of POSIX, stricter than ext4's: the bytes of a file are sure after a sync of it,
a name is sure after a sync of its folder (not of the file, as on ext4), `syncfs` makes all sure.
What is not sure may be lost, or survive: bytes in any choice of writes, the last of them torn;
names in the order in which they were given, as a journal keeps them.
"""

from __future__ import annotations

import itertools
import os
import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

_HEADER = struct.Struct("=IIIIq")
_VOLATILE = "-shm"  # SQLite's, made anew at each start; written through mmap


class Operation(IntEnum):
    """`enum operation` of faults.c."""

    WRITE = 0
    SYNC = 1
    CREATE = 2
    MKDIR = 3
    RENAME = 4
    UNLINK = 5
    LINK = 6
    SIZE = 7
    SYNC_ALL = 8


@dataclass(frozen=True, slots=True)
class Step:
    """Something that a process did to its files."""

    operation: Operation
    path: str
    other: str
    """The new name, of RENAME and LINK."""
    offset_bytes: int
    """Of WRITE; the new length of SIZE."""
    data: bytes
    end_bytes: int
    """Where its record ends: before that, a look at the record's length did not see it."""


def read_record(path: Path) -> Iterator[Step]:
    """The steps, in order; a last one that a kill cut short is left out."""
    record = path.read_bytes()
    at = 0
    while at + _HEADER.size <= len(record):
        operation, path_bytes, other_bytes, data_bytes, offset = _HEADER.unpack_from(record, at)
        cuts = [at + _HEADER.size]
        for length in (path_bytes, other_bytes, data_bytes):
            cuts.append(cuts[-1] + length)
        at = cuts[-1]
        if at > len(record):
            return
        name, other, data = (record[a:b] for a, b in itertools.pairwise(cuts))
        yield Step(Operation(operation), os.fsdecode(name), os.fsdecode(other), offset, data, at)


@dataclass(slots=True, eq=False)
class _File:
    """A file or folder, whatever names it has."""

    is_folder: bool = False
    sure: bytearray = field(default_factory=bytearray)
    unsure: list[tuple[int, bytes | None]] = field(default_factory=list)
    """(offset, bytes) of writes, (length, None) of changes of size, since the last sync."""

    def sync(self) -> None:
        for change in self.unsure:
            _apply(self.sure, *change)
        self.unsure.clear()

    def survivor(self, chance: random.Random | None) -> bytes:
        """What a power loss may leave; without chance, all that is not sure is lost."""
        content = bytearray(self.sure)
        for offset, data in self.unsure if chance is not None else ():
            fate = chance.random() if chance is not None else 0.0
            if data is not None and fate < 0.2:
                data = data[: chance.randrange(len(data))] if chance is not None else data
            if fate < 0.6:
                _apply(content, offset, data)
        return bytes(content)


def _apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


class Disk:
    """The files below `root`, which exists and is empty at first."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._live: dict[str, _File] = {self._root: _File(is_folder=True)}
        self._sure: dict[str, _File] = {}
        self._unsure: list[tuple[str, _File | None]] = []
        """Names given (or, None, taken away) since their folder was synced."""

    def apply(self, step: Step, *, drops_syncs: bool = False) -> None:
        """Does a step. `drops_syncs` takes a sync for nothing, as a lying disk does."""
        path = step.path
        match step.operation:
            case Operation.CREATE:
                self._name(path, _File())
            case Operation.MKDIR:
                self._name(path, _File(is_folder=True))
            case Operation.UNLINK:
                self._name(path, None)
            case Operation.RENAME if path in self._live:
                self._name(step.other, self._live[path])
                self._name(path, None)
            case Operation.LINK if path in self._live:
                self._name(step.other, self._live[path])
            case Operation.WRITE if path in self._live:
                self._live[path].unsure.append((step.offset_bytes, step.data))
            case Operation.SIZE if path in self._live:
                self._live[path].unsure.append((step.offset_bytes, None))
            case Operation.SYNC if path in self._live and not drops_syncs:
                self._sync(path)
            case Operation.SYNC_ALL if not drops_syncs:
                for name in self._live:
                    self._sync(name)
            case _:
                pass  # of a file that has no name any more, or of a sync that is dropped

    def _name(self, path: str, file: _File | None) -> None:
        if file is None:
            self._live.pop(path, None)
        else:
            self._live[path] = file
        self._unsure.append((path, file))

    def _sync(self, path: str) -> None:
        file = self._live[path]
        if not file.is_folder:
            file.sync()
            return
        here = [change for change in self._unsure if os.path.dirname(change[0]) == path]
        self._unsure = [change for change in self._unsure if os.path.dirname(change[0]) != path]
        _rename(self._sure, here)

    def lose_power(self, target: Path, chance: random.Random | None = None) -> None:
        """Writes into `target` what is left below `root`.

        Args:
            target: an existing, empty folder.
            chance: decides what survives of what is not sure; None: nothing does.
        """
        names = dict(self._sure)
        if chance is not None:
            _rename(names, self._unsure[: chance.randint(0, len(self._unsure))])
        for path in sorted(names):
            left = target / os.path.relpath(path, self._root)
            if not left.parent.is_dir() or path.endswith(_VOLATILE):
                continue  # its folder's own name is lost
            if names[path].is_folder:
                left.mkdir(mode=0o700)
            else:
                left.write_bytes(names[path].survivor(chance))
                left.chmod(0o600)


def _rename(names: dict[str, _File], changes: list[tuple[str, _File | None]]) -> None:
    for path, file in changes:
        if file is None:
            names.pop(path, None)
        else:
            names[path] = file
