"""Whole lines of a file that grows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from runyard_daemon.logs.growing import GrowingFileReader

_BLOCK_BYTES: Final = 256 << 10
_LINE_MAX_BYTES: Final = 4 << 20  # a longer line is skipped, so that it takes no memory


class Lines:
    """Gives the whole lines of a file that grows, from an offset on.

    Args:
        reader: of the file; stays the caller's.
        offset_bytes: the beginning of a line.
    """

    def __init__(self, reader: GrowingFileReader, offset_bytes: int = 0) -> None:
        self._reader = reader
        self.offset_bytes = offset_bytes
        """Behind the last whole line that was given or skipped."""
        self.skipped = 0
        """Lines that were too long."""

    def __iter__(self) -> Iterator[bytes]:
        position = self.offset_bytes
        partial = bytearray()
        is_too_long = False
        while block := self._reader.read(position, _BLOCK_BYTES):
            position += len(block)
            head, newline, rest = block.rpartition(b"\n")
            if newline:
                first, *others = head.split(b"\n")
                for line in (bytes(partial) + first, *others):
                    self.offset_bytes += len(line) + 1
                    if not is_too_long and len(line) <= _LINE_MAX_BYTES:
                        yield line
                    else:
                        self.skipped += 1
                    is_too_long = False
                partial.clear()
                self.offset_bytes = position - len(rest)
            if len(partial) + len(rest) > _LINE_MAX_BYTES:
                is_too_long = True
                partial.clear()
            if not is_too_long:
                partial += rest
