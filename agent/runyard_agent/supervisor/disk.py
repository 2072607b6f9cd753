"""Disks that runs have filled: whether one is full, and room for the last words of such a run."""

from __future__ import annotations

import os

FULL_BYTES = 1 << 20
"""A disk with less free space counts as full: nothing that a training writes fits."""
RESERVE_BYTES = 256 << 10
"""For what is in a run's pipes when it ends, and its exit record. Below what counts as full."""


def is_disk_full(folder: str) -> bool:
    """Whether the disk that a folder lies on has no room left for this account."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    free_bytes = disk.f_bavail * disk.f_frsize
    return free_bytes < FULL_BYTES or (disk.f_files > 0 and disk.f_favail == 0)


class Reserve:
    """A file that takes the room until it is needed."""

    __slots__ = ("_is_kept", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._is_kept = False

    def keep(self) -> None:
        """Takes the room, if it is not taken; a disk that has none is left alone."""
        if self._is_kept:
            return
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return
        try:
            os.posix_fallocate(fd, 0, RESERVE_BYTES)
            self._is_kept = True
        except OSError:
            self._remove()
        finally:
            os.close(fd)

    def release(self) -> bool:
        """Gives the room back to the disk. True: there was some, so it is worth another try."""
        was_kept, self._is_kept = self._is_kept, False
        if was_kept:
            self._remove()
        return was_kept

    def _remove(self) -> None:
        try:
            os.unlink(self.path)
        except OSError:
            return  # somebody has tidied the folder
