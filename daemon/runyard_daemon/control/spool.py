"""The files of a folder as they come over the wire, kept on disk until all are there.

Which of them count is known at the end only: ignore files come in any order, and a folder turns out
to be a virtual environment by one of its names.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from runyard_contract.errors import PathCollision, SnapshotTooLarge, SpecInvalid, UnsafePath
from runyard_contract.limits import PATH_COMPONENTS, SNAPSHOT_MAX_BYTES, SNAPSHOT_MAX_ENTRIES
from runyard_contract.paths import shown, split_rel, write_all

SPOOL_MAX_BYTES = 4 * SNAPSHOT_MAX_BYTES
"""Bytes of all files together, those that ignore rules keep out included."""
GIT = ".git"


@dataclass(frozen=True, slots=True)
class Piece:
    """An entry as sent, or a part of it."""

    path: str
    is_link: bool
    is_directory: bool
    is_executable: bool
    data: bytes
    has_more: bool


@dataclass(slots=True)
class File:
    """A file in the spool."""

    offset: int
    size_bytes: int
    is_executable: bool


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(slots=True)
class Folder:
    """A folder, by name what is in it."""

    below: dict[str, File | Link | Folder] = field(default_factory=dict)


class Spool:
    """Takes the pieces of one folder. Methods block; close it.

    Args:
        folder: where to keep the bytes, in a file without a name.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self.root = Folder()
        self.has_git = False
        """Whether anything below a `.git` came, which is dropped at once."""
        self._writing = threading.Lock()
        self._entries = 0
        self._size_bytes = 0
        self._open: tuple[str, File | None] | None = None

    def close(self) -> None:
        """Frees the bytes. Waits for `add` on another thread, whose caller is gone. Idempotent."""
        with self._writing:
            self._file.close()

    def add(self, pieces: Iterable[Piece]) -> None:
        """Takes pieces. Raises UnsafePath, PathCollision, SnapshotTooLarge, SpecInvalid."""
        with self._writing:
            for piece in pieces:
                self._take(piece)

    def _take(self, piece: Piece) -> None:
        if self._open is not None:
            self._go_on(piece)
            return
        parts = _parts(piece.path)
        if GIT in parts:
            self.has_git = True
            self._open = (piece.path, None) if piece.has_more else None
            return
        self._count(len(piece.data))
        if piece.is_directory:
            self._folder(parts, piece.path)
        elif piece.is_link:
            self._place(parts, piece.path, Link(_target(piece)))
        else:
            file = File(self._size_bytes, 0, piece.is_executable)
            self._place(parts, piece.path, file)
            self._append(file, piece)

    def finish(self) -> None:
        """Raises SpecInvalid where the last file is not whole."""
        if self._open is not None:
            raise _violation(f"{shown(self._open[0])!r} has more, but the stream ended")

    def read(self, file: File, offset_bytes: int = 0, limit_bytes: int | None = None) -> bytes:
        """The bytes of a file from an offset on."""
        left = file.size_bytes - offset_bytes
        wanted = left if limit_bytes is None else min(left, limit_bytes)
        data = os.pread(self._file.fileno(), wanted, file.offset + offset_bytes)
        while len(data) < wanted:
            at = file.offset + offset_bytes + len(data)
            more = os.pread(self._file.fileno(), wanted - len(data), at)
            if not more:
                raise OSError("the spool of an upload lost its end")
            data += more
        return data

    def _go_on(self, piece: Piece) -> None:
        """Takes the next part of the file before it."""
        assert self._open is not None  # noqa: S101 - the caller looked
        path, file = self._open
        if piece.path != path or piece.is_link or piece.is_directory:
            raise _violation(f"{shown(path)!r} has more, but {shown(piece.path)!r} came")
        if file is not None:
            self._count(len(piece.data))
            self._append(file, piece)
        elif not piece.has_more:
            self._open = None

    def _append(self, file: File, piece: Piece) -> None:
        write_all(self._file.fileno(), piece.data)
        file.size_bytes += len(piece.data)
        self._size_bytes += len(piece.data)
        self._open = (piece.path, file) if piece.has_more else None

    def _count(self, size_bytes: int) -> None:
        self._entries += 1
        if self._entries > SNAPSHOT_MAX_ENTRIES or self._size_bytes + size_bytes > SPOOL_MAX_BYTES:
            raise SnapshotTooLarge(
                f"the folder has more than {SNAPSHOT_MAX_ENTRIES} pieces or {SPOOL_MAX_BYTES} "
                "bytes, with what ignore rules keep out",
                hint="don't send what is not needed",
                max_bytes=str(SPOOL_MAX_BYTES),
            )

    def _folder(self, parts: tuple[str, ...], path: str) -> Folder:
        """The folder at this path, made where there is none."""
        folder = self.root
        for part in parts:
            below = folder.below.setdefault(part, Folder())
            if not isinstance(below, Folder):
                raise _collision(path, part)
            folder = below
        return folder

    def _place(self, parts: tuple[str, ...], path: str, entry: File | Link) -> None:
        folder = self._folder(parts[:-1], path)
        if parts[-1] in folder.below:
            raise _collision(path, parts[-1])
        folder.below[parts[-1]] = entry


def _parts(path: str) -> tuple[str, ...]:
    """The components of a path; whether a name is safe is checked for what is kept only."""
    parts = tuple(path.split("/"))
    if len(parts) > PATH_COMPONENTS or not {"", ".", ".."}.isdisjoint(parts):
        split_rel(path)  # raises
    return parts


def _target(piece: Piece) -> str:
    try:
        return piece.data.decode()
    except UnicodeDecodeError:
        raise UnsafePath(
            f"the target of the link {shown(piece.path)!r} is not UTF-8", path=shown(piece.path)
        ) from None


def _collision(path: str, part: str) -> PathCollision:
    return PathCollision(
        f"{shown(path)!r} comes twice, or {shown(part)!r} is a file and a folder",
        hint="send each path once",
        path=shown(path),
    )


def _violation(what: str) -> SpecInvalid:
    return SpecInvalid(violations=[("entries", what)])
