"""One file that only grows, by offset: the state between two syncs. No thread, no event loop."""

from __future__ import annotations

import errno
import os

from runyard_contract.errors import DiskFull
from runyard_contract.shipping import accept

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


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

    @property
    def is_synced(self) -> bool:
        """Whether all that was written is durable."""
        return self.durable_bytes == self.written_bytes

    def take(self, offset_bytes: int, data: bytes | memoryview) -> None:
        """Writes what is new in a piece; nothing of a piece that would leave a gap.

        Raises OffsetOutOfRange for a negative offset and DiskFull where the disk took none or only
        the beginning, which is kept.
        """
        append = accept(self.written_bytes, offset_bytes, data)
        if append is None:
            return
        rest = memoryview(append.data)
        while rest:
            try:
                count = os.pwrite(self._fd, rest, self.written_bytes)
            except OSError as error:
                if error.errno in _FULL:
                    raise _disk_full(error) from error
                raise
            self.written_bytes += count
            rest = rest[count:]

    def sync(self) -> None:
        """Makes all that was written durable.

        An error of the disk takes back what was not durable before, for the kernel may have dropped
        it: the sender sends it again. Raises OSError, or DiskFull where that is the cause.
        """
        if self.is_synced:
            return
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            os.ftruncate(self._fd, self.durable_bytes)
            self.written_bytes = self.durable_bytes
            if error.errno in _FULL:
                raise _disk_full(error) from error
            raise
        self.durable_bytes = self.written_bytes

    def close(self) -> None:
        """Closes the file; what was not synced is not durable."""
        os.close(self._fd)


def _disk_full(error: OSError) -> DiskFull:
    return DiskFull(
        f"the daemon's disk is full: a log can't grow ({error.strerror})",
        hint="free space in the data directory; the agent keeps the bytes and sends them again",
        errno=errno.errorcode.get(error.errno or 0, ""),
    )
