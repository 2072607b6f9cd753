"""Walks the merged log of an attempt: stdout and stderr in the order of their index.

Reads only the records that it has not seen, so that following costs what is new. Where a log is
complete and its index ends early (its writer was killed between a write and its record), the rest
of stdout and then of stderr follows: no byte is left out.
"""

from __future__ import annotations

from collections import deque

from runyard_contract.errors import LogIndexCorrupt
from runyard_contract.orderindex import RECORD_BYTES, STDERR, STDOUT, Piece, decode_records
from runyard_daemon.logs.growing import GrowingFileReader

_BLOCK_BYTES = 4096 * RECORD_BYTES


class MergedWalk:
    """Gives the pieces of the merged log from an offset on, each once.

    Args:
        order: reads the order index.
        offset_bytes: where to begin in the merged log.
    """

    def __init__(self, order: GrowingFileReader, offset_bytes: int) -> None:
        self._order = order
        self._index_bytes = 0
        self._skip_bytes = offset_bytes
        self._ends = {STDOUT: 0, STDERR: 0}
        self._pieces: deque[Piece] = deque()

    def next_piece(
        self, available: dict[int, int], max_bytes: int, *, is_complete: bool
    ) -> Piece | None:
        """Gives the next piece that can be read, at most `max_bytes`; None: nothing for now.

        `available` are the lengths of the streams now. With `is_complete` they are final, and None
        is the end. Raises LogIndexCorrupt.
        """
        while self._pieces or self._read_block() or (is_complete and self._take_rest(available)):
            piece = self._pieces.popleft()
            if self._skip_bytes >= piece.length_bytes:
                self._skip_bytes -= piece.length_bytes
                continue
            piece = _cut(piece, self._skip_bytes)
            self._skip_bytes = 0
            readable = min(available[piece.stream] - piece.offset_bytes, max_bytes)
            if readable >= piece.length_bytes:
                return self._join(piece, available[piece.stream], max_bytes)
            if readable > 0:
                self._pieces.appendleft(_cut(piece, readable))
                return Piece(piece.stream, piece.offset_bytes, readable)
            if not is_complete:
                # Its bytes are still to come; nothing behind them may be shown before.
                self._pieces.appendleft(piece)
                return None
        return None

    def _join(self, piece: Piece, available_bytes: int, max_bytes: int) -> Piece:
        """Adds what directly continues a piece: many small records make one read."""
        length_bytes = piece.length_bytes
        while self._pieces and self._pieces[0].stream == piece.stream:
            end_bytes = piece.offset_bytes + length_bytes
            added = self._pieces[0].length_bytes
            if length_bytes + added > max_bytes or end_bytes + added > available_bytes:
                break
            self._pieces.popleft()
            length_bytes += added
        return Piece(piece.stream, piece.offset_bytes, length_bytes)

    def _read_block(self) -> bool:
        """Reads records that were not seen yet; False: there are none."""
        data = self._order.read(self._index_bytes, _BLOCK_BYTES)
        whole = len(data) - len(data) % RECORD_BYTES
        for piece in decode_records(memoryview(data)[:whole]):
            if piece.offset_bytes != self._ends[piece.stream]:
                raise LogIndexCorrupt(
                    "the log's order index is damaged: a record does not continue its stream",
                    hint="read the streams apart: `runyard runs files RUN` names them",
                    offset_bytes=str(piece.offset_bytes),
                    expected_bytes=str(self._ends[piece.stream]),
                )
            self._ends[piece.stream] += piece.length_bytes
            self._pieces.append(piece)
        self._index_bytes += whole
        return whole > 0

    def _take_rest(self, available: dict[int, int]) -> bool:
        """Takes what no record names in a complete log; False: there is nothing."""
        for stream in (STDOUT, STDERR):
            rest = available[stream] - self._ends[stream]
            if rest > 0:
                self._pieces.append(Piece(stream, self._ends[stream], rest))
                self._ends[stream] += rest
        return bool(self._pieces)


def _cut(piece: Piece, count: int) -> Piece:
    """A piece without its first bytes."""
    if not count:
        return piece
    return Piece(piece.stream, piece.offset_bytes + count, piece.length_bytes - count)
