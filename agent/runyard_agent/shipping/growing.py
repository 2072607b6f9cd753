"""The growing files of one attempt, cut into pieces in an order that a reader can follow.

Bytes of stdout and stderr go before the order records that name them, and not far ahead of them:
what the daemon has of the merged log is always a prefix of it, and it is never much behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from runyard_contract.errors import LogIndexCorrupt
from runyard_contract.limits import LOG_CHUNK_BYTES
from runyard_contract.orderindex import RECORD_BYTES, STDOUT, decode_records
from runyardpb.agent.v1 import agent_pb2 as pb

File = pb.AppendFilesRequest.File
STDOUT_FILE = pb.AppendFilesRequest.FILE_STDOUT
STDERR_FILE = pb.AppendFilesRequest.FILE_STDERR
ORDER_FILE = pb.AppendFilesRequest.FILE_ORDER

PATHS: Mapping[File.ValueType, str] = {
    pb.AppendFilesRequest.FILE_ENVIRONMENT: "environment.txt",
    pb.AppendFilesRequest.FILE_METRICS: "job/metrics.jsonl",
    pb.AppendFilesRequest.FILE_TAGS: "job/tags.jsonl",
    STDOUT_FILE: "stdout",
    STDERR_FILE: "stderr",
    ORDER_FILE: "order",
}
_PLAIN = (
    pb.AppendFilesRequest.FILE_ENVIRONMENT,
    pb.AppendFilesRequest.FILE_METRICS,
    pb.AppendFilesRequest.FILE_TAGS,
)
_ORDER_READ_BYTES = 4096 * RECORD_BYTES
_GOAL_BYTES = LOG_CHUNK_BYTES
_BLOCK_BYTES = 4096
_PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE

FreedCallback = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of a file to be sent. Empty: asks how much of it the daemon has."""

    file: File.ValueType
    offset_bytes: int
    data: bytes


class _Tail:
    """One file: how much of it was sent, and how much is durable at the daemon."""

    __slots__ = ("_fd", "_path", "acked_bytes", "goal_bytes", "has_asked", "is_known", "sent_bytes")

    def __init__(self, path: str, is_known: bool) -> None:
        self._path = path
        self._fd = -1
        self.sent_bytes = 0
        self.acked_bytes = 0
        self.goal_bytes = 0
        self.is_known = is_known
        self.has_asked = False

    def size_bytes(self) -> int:
        """How much of it there is now."""
        if not self._open():
            return 0
        return os.fstat(self._fd).st_size

    def read(self, length_bytes: int, offset_bytes: int) -> bytes:
        """Bytes from an offset on; fewer at the end of the file."""
        return os.pread(self._fd, length_bytes, offset_bytes) if self._open() else b""

    def _open(self) -> bool:
        """Opens the file once it exists."""
        if self._fd < 0:
            with contextlib.suppress(OSError):
                self._fd = os.open(
                    self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                )
        return self._fd >= 0

    def free(self, start_bytes: int, end_bytes: int) -> None:
        """Gives the disk blocks in this range back, where the file system can."""
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _fallocate(fd, _PUNCH_HOLE, start_bytes, end_bytes - start_bytes)
            finally:
                os.close(fd)

    def close(self) -> None:
        """Gives back the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class GrowingFiles:
    """The files of one attempt that grow, and where the daemon is with each.

    Args:
        ref: which attempt.
        bundle: path of its folder.
        is_new: the daemon can't have anything of it yet. Else it is asked first.
        free_each_bytes: after so many bytes more are durable, their disk space is given back
            and `freed` is told the durable lengths of stdout and stderr.
    """

    def __init__(
        self,
        ref: pb.AttemptRef,
        bundle: str,
        *,
        is_new: bool,
        free_each_bytes: int = 4 << 20,
        freed: FreedCallback = lambda _stdout, _stderr: None,
    ) -> None:
        self.ref = ref
        self.is_refused = False
        """The daemon takes nothing of this attempt, as far as this connection goes."""
        self._tails = {file: _Tail(f"{bundle}/{path}", is_new) for file, path in PATHS.items()}
        self._final: dict[File.ValueType, int] | None = None
        self._may_have_grown = True
        self._is_order_damaged = False
        self._free_each_bytes = free_each_bytes
        self._freed = freed
        self._freed_bytes = {STDOUT_FILE: 0, STDERR_FILE: 0}

    @property
    def unacknowledged_bytes(self) -> int:
        """Bytes that were sent and are not durable yet."""
        return sum(tail.sent_bytes - tail.acked_bytes for tail in self._tails.values())

    @property
    def is_complete(self) -> bool:
        """Whether the files are final and all of them is durable."""
        return self._final is not None and all(
            self._tails[file].acked_bytes >= length for file, length in self._final.items()
        )

    def grown(self) -> None:
        """The files may have grown: looks at all of them before the next piece."""
        self._may_have_grown = True

    def finish(self, empty: Collection[File.ValueType] = ()) -> dict[File.ValueType, int]:
        """The files grow no more: their final lengths, without an order record cut short.

        `empty`: files that are known to hold nothing.
        """
        if self._final is None:
            lengths = {}
            for file, tail in self._tails.items():
                length = 0 if file in empty else tail.size_bytes()
                if file == ORDER_FILE:
                    length = 0 if self._is_order_damaged else length - length % RECORD_BYTES
                lengths[file] = max(length, tail.acked_bytes, tail.sent_bytes)
            self._final = lengths
            self._may_have_grown = True
        return dict(self._final)

    def rest(self, limit_bytes: int) -> tuple[Piece, ...] | None:
        """All that the daemon lacks of the finished files, to be sent with the last report.

        None where that is more than the limit, or where some of it is on its way already.
        """
        if self._final is None:
            return None
        wanted = {}
        for file, length in self._final.items():
            tail = self._tails[file]
            if not tail.is_known or tail.sent_bytes != tail.acked_bytes:
                return None
            if length > tail.acked_bytes:
                wanted[file] = length - tail.acked_bytes
        if sum(wanted.values()) > limit_bytes:
            return None
        pieces = []
        for file, length in wanted.items():
            offset = self._tails[file].acked_bytes
            data = self._tails[file].read(length, offset)
            if len(data) < length:
                return None  # the spool is damaged: the long way says what is left of it
            pieces.append(Piece(file, offset, data))
        return tuple(pieces)

    def give_up(self) -> None:
        """The files can't be read any more: what is durable is all there will be."""
        self._final = {file: tail.acked_bytes for file, tail in self._tails.items()}

    def rewind(self) -> None:
        """A new connection: what was not acknowledged is sent again."""
        self.is_refused = False
        for tail in self._tails.values():
            tail.sent_bytes = tail.acked_bytes
            tail.has_asked = False
        self._tails[ORDER_FILE].goal_bytes = 0  # the goals of the streams still hold

    def acknowledge(self, file: File.ValueType, committed_bytes: int) -> bool:
        """The daemon has so much of a file. Less than before means that it lost some: again.

        True where there may be more to send now, because it tells from where on.
        """
        tail = self._tails[file]
        is_new_place = not tail.is_known or committed_bytes < tail.acked_bytes
        if is_new_place:
            tail.sent_bytes = committed_bytes
            if file == ORDER_FILE:
                tail.goal_bytes = 0
                end = committed_bytes - committed_bytes % RECORD_BYTES
                start = max(0, end - _ORDER_READ_BYTES)
                self._take_records(tail.read(end - start, start))
        tail.is_known = True
        tail.acked_bytes = committed_bytes
        tail.sent_bytes = max(tail.sent_bytes, committed_bytes)
        if file in self._freed_bytes:
            self._free(file, committed_bytes)
        return is_new_place

    def next_piece(self, room_bytes: int) -> Piece | None:
        """The next piece of at most `room_bytes`; None while there is nothing to send."""
        for file, tail in self._tails.items():
            if not tail.is_known and not tail.has_asked:
                tail.has_asked = True
                return Piece(file, 0, b"")
        limit = min(room_bytes, LOG_CHUNK_BYTES)
        if limit <= 0 or not all(tail.is_known for tail in self._tails.values()):
            return None
        if self._may_have_grown:
            self._may_have_grown = False
            for file in _PLAIN:
                tail = self._tails[file]
                tail.goal_bytes = min(tail.size_bytes(), self._final_bytes(file))
        for file in _PLAIN:
            piece = self._cut(file, self._tails[file].goal_bytes, limit)
            if piece is not None:
                return piece
        return self._next_of_log(limit)

    def _next_of_log(self, limit: int) -> Piece | None:
        """The next piece of stdout, stderr or their order."""
        for _ in range(2):
            for file in (STDOUT_FILE, STDERR_FILE, ORDER_FILE):
                piece = self._cut(file, self._tails[file].goal_bytes, limit)
                if piece is not None:
                    return piece
            if not self._set_goals():
                return None
        return None

    def _cut(self, file: File.ValueType, end_bytes: int, limit: int) -> Piece | None:
        """What is not sent yet of a file up to an end; None where nothing is."""
        tail = self._tails[file]
        wanted = min(end_bytes - tail.sent_bytes, limit)
        data = tail.read(wanted, tail.sent_bytes) if wanted > 0 else b""
        if not data:
            return None
        piece = Piece(file, tail.sent_bytes, data)
        tail.sent_bytes += len(data)
        return piece

    def _set_goals(self) -> bool:
        """Takes the next order records, and the stream bytes that they name; False: none left."""
        order = self._tails[ORDER_FILE]
        if self._is_order_damaged and self._final is not None:
            self._final[ORDER_FILE] = order.sent_bytes
        start = order.sent_bytes - order.sent_bytes % RECORD_BYTES  # a piece may end within one
        wanted = min(_ORDER_READ_BYTES, self._final_bytes(ORDER_FILE) - start)
        data = order.read(wanted, start) if wanted > 0 else b""
        taken = self._take_records(data, _GOAL_BYTES)
        if taken:
            order.goal_bytes = start + taken
            return True
        if self._final is None:
            return False
        # At the end also what no record names: a killed supervisor may leave such bytes.
        has_more = False
        for file in (STDOUT_FILE, STDERR_FILE):
            tail = self._tails[file]
            if tail.goal_bytes < self._final[file]:
                tail.goal_bytes = self._final[file]
                has_more = True
        return has_more

    def _take_records(self, data: bytes, budget_bytes: int = 1 << 62) -> int:
        """Makes what these order records name the goal of the streams; the bytes of them taken.

        Stops once the records name more than the budget.
        """
        taken = 0
        try:
            for piece in decode_records(data[: len(data) - len(data) % RECORD_BYTES]):
                if budget_bytes <= 0:
                    break
                tail = self._tails[STDOUT_FILE if piece.stream == STDOUT else STDERR_FILE]
                tail.goal_bytes = max(tail.goal_bytes, piece.offset_bytes + piece.length_bytes)
                budget_bytes -= piece.length_bytes
                taken += RECORD_BYTES
        except LogIndexCorrupt:
            self._is_order_damaged = True
        return taken

    def _final_bytes(self, file: File.ValueType) -> int:
        """The length at which a file ends, as far as that is known."""
        return self._final[file] if self._final is not None else 1 << 62

    def _free(self, file: File.ValueType, committed_bytes: int) -> None:
        """Gives back disk space of what is durable elsewhere, in large steps."""
        start = self._freed_bytes[file]
        end = committed_bytes - committed_bytes % _BLOCK_BYTES
        if end - start >= self._free_each_bytes:
            self._tails[file].free(start, end)
            self._freed_bytes[file] = end
            self._freed(self._tails[STDOUT_FILE].acked_bytes, self._tails[STDERR_FILE].acked_bytes)

    def close(self) -> None:
        """Gives back the descriptors."""
        for tail in self._tails.values():
            tail.close()


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def _fallocate(fd: int, mode: int, offset_bytes: int, length_bytes: int) -> None:
    """fallocate(2), which Python's os module lacks; a file system without it is no error."""
    _LIBC.fallocate(fd, mode, offset_bytes, length_bytes)
