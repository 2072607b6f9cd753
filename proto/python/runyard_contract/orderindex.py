"""The merged log: which bytes of stdout and stderr came in which order.

The index is an append-only file of 16-byte records (stream, offset in that stream, length), in the
order in which the supervisor saw the bytes. The merged log is what the records name, one after
another; it is the same at every reading.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from runyard_contract.errors import LogIndexCorrupt

STDOUT = 1
STDERR = 2

_RECORD = struct.Struct("<BxxxIQ")
RECORD_BYTES = _RECORD.size
_CHECKPOINT_RECORDS = 1024
_READ_RECORDS = 4096


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes `[offset_bytes, offset_bytes + length_bytes)` of a stream (STDOUT or STDERR)."""

    stream: int
    offset_bytes: int
    length_bytes: int


def encode_record(stream: int, offset_bytes: int, length_bytes: int) -> bytes:
    """One record of the index."""
    return _RECORD.pack(stream, length_bytes, offset_bytes)


def decode_records(data: bytes | memoryview) -> Iterator[Piece]:
    """The records in these bytes (whole records only). LogIndexCorrupt for an unknown stream."""
    for stream, length_bytes, offset_bytes in _RECORD.iter_unpack(data):
        if stream not in (STDOUT, STDERR):
            raise _corrupt(f"a record names stream {stream}", stream=str(stream))
        yield Piece(stream, offset_bytes, length_bytes)


def _corrupt(what: str, **metadata: str) -> LogIndexCorrupt:
    """The error for a record that cannot be."""
    return LogIndexCorrupt(
        f"the log's order index is damaged: {what}",
        hint="read the streams apart: `runyard runs files RUN` names them",
        **metadata,
    )


class MergedView:
    """Finds the pieces of the merged log, from an index that grows.

    Memory is bounded: of the records only the merged offset of every 1,024th is kept; the others
    are read again where they are needed.

    Args:
        read_records: gives the bytes of `count` records from record number `first` of the index
            file. Only asked for records that `extend` has seen.
    """

    def __init__(self, read_records: Callable[[int, int], bytes]) -> None:
        self._read_records = read_records
        self._checkpoints = array("Q")
        self._records = 0
        self._ends = {STDOUT: 0, STDERR: 0}
        self._partial = b""

    @property
    def total_bytes(self) -> int:
        """Length of the merged log as far as the index is known."""
        return self._ends[STDOUT] + self._ends[STDERR]

    @property
    def records(self) -> int:
        """Number of whole records seen."""
        return self._records

    @property
    def stdout_bytes(self) -> int:
        """Bytes of stdout that the index covers."""
        return self._ends[STDOUT]

    @property
    def stderr_bytes(self) -> int:
        """Bytes of stderr that the index covers."""
        return self._ends[STDERR]

    def extend(self, records_bytes: bytes) -> None:
        """Adds the next bytes of the index file; a record may be cut between two calls.

        Raises LogIndexCorrupt for a record that does not continue its stream; the view then holds
        what came before that record.
        """
        data = self._partial + records_bytes
        whole = len(data) - len(data) % RECORD_BYTES
        self._partial = b""
        for piece in decode_records(memoryview(data)[:whole]):
            if piece.offset_bytes != self._ends[piece.stream]:
                raise _corrupt(
                    f"record {self._records} starts at byte {piece.offset_bytes} of stream "
                    f"{piece.stream}, which ends at {self._ends[piece.stream]}",
                    record=str(self._records),
                    offset_bytes=str(piece.offset_bytes),
                    stream=str(piece.stream),
                    expected_bytes=str(self._ends[piece.stream]),
                )
            if self._records % _CHECKPOINT_RECORDS == 0:
                self._checkpoints.append(self.total_bytes)
            self._records += 1
            self._ends[piece.stream] += piece.length_bytes
        self._partial = data[whole:]

    def pieces(
        self,
        offset_bytes: int,
        max_bytes: int,
        available_stdout_bytes: int,
        available_stderr_bytes: int,
    ) -> list[Piece]:
        """The pieces of the merged log from `offset_bytes`, at most `max_bytes` together.

        Ends before the first byte that is not available yet: nothing behind it may be shown, or
        the order would differ from one reading to the next. Neighbours in one stream are joined.
        Empty at the end of what can be read.
        """
        if not 0 <= offset_bytes < self.total_bytes or max_bytes <= 0:
            return []
        available = {STDOUT: available_stdout_bytes, STDERR: available_stderr_bytes}
        found: list[Piece] = []
        wanted = max_bytes
        for piece in self._from(offset_bytes):
            readable = min(
                piece.length_bytes, wanted, max(0, available[piece.stream] - piece.offset_bytes)
            )
            if readable:
                _join(found, Piece(piece.stream, piece.offset_bytes, readable))
                wanted -= readable
            if readable < piece.length_bytes or not wanted:
                break
        return found

    def _from(self, offset_bytes: int) -> Iterable[Piece]:
        """The records from a merged offset on; the first is cut at its start."""
        checkpoint = bisect_right(self._checkpoints, offset_bytes) - 1
        position = self._checkpoints[checkpoint]
        record = checkpoint * _CHECKPOINT_RECORDS
        count = _CHECKPOINT_RECORDS
        while record < self._records:
            count = min(count, self._records - record)
            for piece in decode_records(self._read_records(record, count)):
                skipped = min(piece.length_bytes, max(0, offset_bytes - position))
                position += piece.length_bytes
                if skipped < piece.length_bytes:
                    yield Piece(
                        piece.stream, piece.offset_bytes + skipped, piece.length_bytes - skipped
                    )
            record += count
            count = _READ_RECORDS


def _join(pieces: list[Piece], piece: Piece) -> None:
    """Appends a piece, joined to the last where it continues it."""
    if pieces:
        last = pieces[-1]
        if (
            last.stream == piece.stream
            and last.offset_bytes + last.length_bytes == piece.offset_bytes
        ):
            pieces[-1] = Piece(
                last.stream, last.offset_bytes, last.length_bytes + piece.length_bytes
            )
            return
    pieces.append(piece)
