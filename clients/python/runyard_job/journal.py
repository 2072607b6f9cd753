"""A file of JSON lines that threads and processes append to at the same time."""

from __future__ import annotations

import errno
import os

from runyard_job.notices import say_once

# A descriptor number that code which closes or reuses the low ones does not hit: a training script
# that makes itself a daemon closes 3 and up, and its next file would get our lines.
_FD_FLOOR = 512


class Journal:
    """Appends lines, each with one write, to a file that is opened at the first of them.

    Takes no lock: one write to a descriptor opened with O_APPEND is whole, also across threads and
    forked processes. A write that fails is said once on stderr and never raised.
    """

    __slots__ = ("_fds", "_is_torn", "_path")

    def __init__(self, path: str) -> None:
        self._path = path
        self._fds: dict[str, int] = {}
        self._is_torn = False

    def append(self, line: bytes) -> None:
        """Writes `line`, which ends in a newline."""
        if (
            self._is_torn
        ):  # end the piece that a full disk left, so that it costs no line but itself
            line = b"\n" + line
        try:
            written = self._write(line)
        except OSError as error:
            self._say(error.strerror or str(error))
            return
        self._is_torn = written < len(line)
        if self._is_torn:
            self._say("only part of a line could be written; the disk may be full")

    def _write(self, line: bytes) -> int:
        try:
            return os.write(self._fds["fd"], line)
        except KeyError:
            return os.write(self._open(), line)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            self._fds.clear()  # the script closed every descriptor it did not know
            return os.write(self._open(), line)

    def _open(self) -> int:
        fd = _raised(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        kept = self._fds.setdefault("fd", fd)
        if kept != fd:  # another thread was first; a lock could be held for ever across a fork
            os.close(fd)
        return kept

    def _say(self, why: str) -> None:
        what = os.path.basename(self._path)
        say_once(self._path, "%s: %s; values logged meanwhile are lost" % (what, why))


def _raised(fd: int) -> int:
    """The same open file under a descriptor number of 512 or more, where the limit allows one."""
    try:
        import fcntl

        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FD_FLOOR)
    except (ImportError, OSError):
        return fd
    os.close(fd)
    return high
