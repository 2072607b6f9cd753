"""Files that only grow, by offset: one side appends and syncs, the other reads what is there.

No thread and no event loop here: both sides are driven by `appender` and `reader`.
"""

from __future__ import annotations

import os
from pathlib import Path

from runyard_contract.errors import of_disk
from runyard_contract.shipping import accept
from runyard_daemon.logs.layout import AttemptKey, LogFile, open_to_read

_BLOCK_BYTES = 1 << 20


class GrowingFile:
    """A file that is appended at its own length only.

    `written_bytes` is what readers may see; `durable_bytes` is what may be acknowledged. What an
    earlier process left is not durable before the first `sync`: it may be in memory only.

    Args:
        fd: open for writing; belongs to this object from now on.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.written_bytes = os.fstat(fd).st_size
        self.durable_bytes = 0
        self._kept_bytes = self.written_bytes
        self._is_doubtful = False

    @property
    def is_synced(self) -> bool:
        """Whether all that was written is durable."""
        return self.durable_bytes == self.written_bytes

    def take(self, offset_bytes: int, data: bytes | memoryview) -> None:
        """Writes what is new in a piece; nothing of a piece that would leave a gap.

        Raises OffsetOutOfRange for a negative offset, and OSError where the disk took none or only
        the beginning, which is kept.
        """
        append = accept(self.written_bytes, offset_bytes, data)
        if append is None:
            return
        rest = memoryview(append.data)
        while rest:
            count = os.pwrite(self._fd, rest, self.written_bytes)
            self.written_bytes += count
            rest = rest[count:]

    def sync(self) -> None:
        """Makes all that was written durable.

        Raises OSError, and then takes back what was written since the last sync: the kernel may
        have dropped it and would not say so again, and the sender sends it once more. What an
        earlier process left may have been acknowledged by it, so it stays, and is written again
        before the next sync counts.
        """
        if self.is_synced:
            return
        try:
            if self._is_doubtful:
                self._write_again()
            os.fdatasync(self._fd)
        except OSError:
            os.ftruncate(self._fd, self._kept_bytes)
            self.written_bytes = self._kept_bytes
            self._is_doubtful = self._kept_bytes > self.durable_bytes
            raise
        self.durable_bytes = self._kept_bytes = self.written_bytes
        self._is_doubtful = False

    def _write_again(self) -> None:
        """Writes what an earlier process left, so that the kernel takes it for new."""
        for offset in range(0, self._kept_bytes, _BLOCK_BYTES):
            count = min(_BLOCK_BYTES, self._kept_bytes - offset)
            os.pwrite(self._fd, os.pread(self._fd, count, offset), offset)

    def close(self) -> None:
        """Closes the file; what was not synced is not durable."""
        os.close(self._fd)


class GrowingFileReader:
    """Reads a file that grows, or that is not there yet.

    Args:
        root: the data directory's `runs`.
        key: of the attempt.
        file: which of its files.
    """

    def __init__(self, root: Path, key: AttemptKey, file: LogFile) -> None:
        self._root = root
        self._key = key
        self._file = file
        self._fd: int | None = None

    def size_bytes(self) -> int:
        """Gives the length now; 0 while there is no file."""
        if self._fd is None:
            self._fd = open_to_read(self._root, self._key, self._file.value)
        return 0 if self._fd is None else os.fstat(self._fd).st_size

    def read(self, offset_bytes: int, max_bytes: int) -> bytes:
        """Gives the bytes there are from an offset on, at most `max_bytes`."""
        if self.size_bytes() <= offset_bytes or self._fd is None:
            return b""
        return os.pread(self._fd, max_bytes, offset_bytes)

    def close(self) -> None:
        """Closes the file. Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def as_user_error(error: OSError) -> Exception:
    """Gives the error that a user should see for one of the disk; the error itself for others."""
    hint = "free space there; the agent keeps the bytes and sends them again"
    return of_disk(error, "the daemon's logs", full_hint=hint) or error
