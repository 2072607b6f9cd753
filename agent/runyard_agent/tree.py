"""Folders that a job writes to, read without trusting a name or a link in them."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

MAX_DEPTH = 256
"""Folders deeper than this are not looked into."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file is still the same, without reading it."""

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """The state that a stat shows."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class Node:
    """Something in a folder: its path from the root (with `/`), and what lstat says of it."""

    path: str
    status: os.stat_result

    @property
    def is_file(self) -> bool:
        """Whether it is a plain file."""
        return stat.S_ISREG(self.status.st_mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.status.st_mode)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder that could not be looked into."""
        return stat.S_ISDIR(self.status.st_mode)

    @property
    def is_executable(self) -> bool:
        """Whether its owner may execute it."""
        return bool(self.status.st_mode & stat.S_IXUSR)

    @property
    def state(self) -> FileState:
        """What tells whether it is still the same."""
        return FileState.of(self.status)


def walk(root: str, skip: Callable[[str, bool], bool] | None = None) -> Iterator[Node]:
    """Everything below a folder that is no folder, by path; links are given, never followed.

    `skip(path, is_folder)` leaves out a file, or a folder with all below it. A folder that can't
    be read, or lies too deep, is given as a node itself. A root that is missing, a link or no
    folder has nothing below it. Names that are not UTF-8 come with escaped bytes (PEP 383).
    """
    try:
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    yield from _below(fd, "", 1, skip)


def _below(
    fd: int, prefix: str, depth: int, skip: Callable[[str, bool], bool] | None
) -> Iterator[Node]:
    """What lies below an open folder, which is closed in the end."""
    try:
        with os.scandir(fd) as entries:
            names = sorted(entry.name for entry in entries)
        for name in names:
            path = prefix + name
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            is_folder = stat.S_ISDIR(status.st_mode)
            if skip is not None and skip(path, is_folder):
                continue
            if is_folder:
                below = _open_folder(fd, name) if depth < MAX_DEPTH else None
                if below is not None:
                    yield from _below(below, path + "/", depth + 1, skip)
                    continue
            yield Node(path, status)
    finally:
        os.close(fd)


def _open_folder(fd: int, name: str) -> int | None:
    """Opens a folder; None where it can't be read or is a link by now."""
    try:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, dir_fd=fd)
    except OSError:
        return None
