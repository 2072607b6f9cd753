"""A laid out working folder, and whether its run has left everything in it as it was.

What a run has left alone holds no outputs, no changed files and nothing to clean up, so it can be
given to the next run of the same snapshot as it is.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from runyard_agent.workdir import OWN_FOLDERS, open_file
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import UnsafePath

TICK_NS = 20_000_000
"""Time stamps of files stand still for up to a kernel tick (10 ms at the longest)."""
_READ_BYTES = 8 << 20


class _Stamp(NamedTuple):
    """What changes whenever a file, or the list of a folder, or the rights on either change."""

    inode: int
    ctime_ns: int
    mode: int


def _stamp(path: str) -> _Stamp:
    """The stamp now. Raises OSError."""
    status = os.lstat(path)
    return _Stamp(status.st_ino, status.st_ctime_ns, status.st_mode)


class LaidOut:
    """The folders `work` and `job` of a bundle as they were made.

    A job can set modification times back but not change times. A change in the tick in which a
    folder was made has the old change time, though: a run that began so early is compared whole.
    """

    __slots__ = ("_digests", "_stamps", "root_digest")

    def __init__(self, root_digest: str, bundle: str, digests: Mapping[str, str]) -> None:
        """Takes the stamps of a bundle's folders.

        Args:
            root_digest: of the snapshot; empty: none.
            bundle: path of the bundle's folder.
            digests: the plain files and links of the snapshot by path; a file's content, empty
                for a link or a file in chunks.
        """
        self.root_digest = root_digest
        self._digests = dict(digests)
        folders = {"work", "job", *(f"work/{name}" for name in OWN_FOLDERS)}
        for path in digests:
            parts = path.split("/")
            folders.update("/".join(("work", *parts[:depth])) for depth in range(1, len(parts)))
        names = [*sorted(folders), *(f"work/{path}" for path in digests)]
        self._stamps = {name: _stamp(f"{bundle}/{name}") for name in names}

    @property
    def file_count(self) -> int:
        """Files and links of the snapshot."""
        return len(self._digests)

    def is_untouched(self, bundle: str, since_unix_ns: int) -> bool:
        """Whether nothing was made, changed or removed since a run began then. Blocks."""
        is_early = False
        try:
            for name, stamp in self._stamps.items():
                if _stamp(f"{bundle}/{name}") != stamp:
                    return False
                is_early = is_early or stamp.ctime_ns > since_unix_ns - TICK_NS
            return not is_early or self._is_whole(bundle)
        except (OSError, UnsafePath):
            return False

    def _is_whole(self, bundle: str) -> bool:
        """Compares every name and every byte."""
        for name, stamp in self._stamps.items():
            path = f"{bundle}/{name}"
            if os.listxattr(path, follow_symlinks=False):
                return False
            if stat.S_ISDIR(stamp.mode):
                if sorted(os.listdir(path)) != self._names_in(name):
                    return False
            elif not self._has_its_content(bundle, name.removeprefix("work/")):
                return False
        return True

    def _names_in(self, folder: str) -> list[str]:
        """What lies in a folder."""
        names = {n[len(folder) + 1 :] for n in self._stamps if n.startswith(folder + "/")}
        return sorted(name for name in names if "/" not in name)

    def _has_its_content(self, bundle: str, path: str) -> bool:
        """Whether a file has the content that it was made with."""
        digest = self._digests[path]
        if not digest:
            return False
        fd = open_file(f"{bundle}/work", path)
        try:
            return digest_bytes(os.read(fd, _READ_BYTES + 1)) == digest
        finally:
            os.close(fd)
