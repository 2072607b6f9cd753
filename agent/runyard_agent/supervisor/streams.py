"""A run's output: FIFOs on the job's side, spool files and their order index on ours.

Bytes go from the pipe to the file inside one system call (splice), so there is no moment in
which a killed supervisor holds bytes that are in neither. The order record follows the bytes;
what a crash leaves without one is indexed when the spool is opened again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from runyard_agent.supervisor.clock import boot_ns, unix_ns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

NAMES = ("stdout", "stderr")
ORDER = "order"
ORDER_RECORD = struct.Struct("<BxxxIQ")
"""Stream (1 stdout, 2 stderr), length, offset within the stream; as in the contract's index."""
PIECE_BYTES = 256 << 10
SPLICES_A_TURN = 4
"""How often one stream is read before the other gets its turn."""
PIPE_BYTES = 256 << 10
GROW_AFTER_BYTES = 1 << 20
"""A job that has written this much gets a pipe of PIPE_BYTES instead of 64 KiB."""
DISK_RETRY_NS = 1_000_000_000
F_SETPIPE_SZ = 1031
_FIFO_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_FILE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Stream:
    """One FIFO and its spool file. `is_watched` belongs to whoever waits for the FIFO."""

    __slots__ = (
        "_can_splice",
        "_held",
        "_is_grown",
        "acked_bytes",
        "fifo_fd",
        "file_fd",
        "is_watched",
        "number",
        "written_bytes",
    )

    def __init__(self, number: int, fifo_fd: int, file_fd: int) -> None:
        self.number = number
        self.fifo_fd = fifo_fd
        self.file_fd = file_fd
        self.written_bytes = os.fstat(file_fd).st_size
        self.acked_bytes = 0
        self.is_watched = False
        self._held = b""
        self._is_grown = False
        self._can_splice = hasattr(os, "splice")

    def move(self, limit_bytes: int) -> None:
        """Moves what is in the pipe to the file, at most `limit_bytes`; see `written_bytes`.

        OSError means that the file takes no more; nothing is lost then, and the next call goes
        on where this one stopped.
        """
        end = self.written_bytes + limit_bytes
        for _ in range(SPLICES_A_TURN):
            room = min(PIECE_BYTES, end - self.written_bytes)
            moved = self._step(room) if room > 0 else 0
            self.written_bytes += moved
            if self.written_bytes >= GROW_AFTER_BYTES and not self._is_grown:
                self._grow()
            if moved < 4096 and not self._held:
                break

    def _step(self, room: int) -> int:
        if self._can_splice and not self._held:
            try:
                return os.splice(
                    self.fifo_fd,
                    self.file_fd,
                    room,
                    offset_dst=self.written_bytes,
                    flags=os.SPLICE_F_NONBLOCK,
                )
            except BlockingIOError:
                return 0
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                self._can_splice = False  # this file system has no splice
        if not self._held:
            try:
                self._held = os.read(self.fifo_fd, room)
            except BlockingIOError:
                return 0
        moved = os.pwrite(self.file_fd, self._held, self.written_bytes)
        self._held = self._held[moved:]
        return moved

    def _grow(self) -> None:
        self._is_grown = True
        try:
            fcntl.fcntl(self.fifo_fd, F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            pass  # the user's pipe budget is used up: 64 KiB work too


class Spool:
    """Both streams of a run and the order index over them."""

    __slots__ = (
        "_is_capped",
        "_order_bytes",
        "_order_fd",
        "_unindexed",
        "bound_bytes",
        "first_output_at_unix_ns",
        "retry_at_ns",
        "streams",
    )

    def __init__(self, bundle: str, fifo_fds: Sequence[int], bound_bytes: int) -> None:
        self.bound_bytes = bound_bytes
        self.first_output_at_unix_ns: int | None = None
        self.retry_at_ns: int | None = None
        self._is_capped = True
        self.streams: list[Stream] = []
        self._unindexed = b""
        file_fds = _open_files(bundle)
        for number, file_fd in enumerate(file_fds[:2], start=1):
            fifo_fd = fifo_fds[number - 1] if number <= len(fifo_fds) else -1
            self.streams.append(Stream(number, fifo_fd, file_fd))
        self._order_fd = file_fds[2]
        self._order_bytes = os.fstat(self._order_fd).st_size
        if self._order_bytes or self.lengths() != (0, 0):
            self._index_rest()

    @property
    def order_bytes(self) -> int:
        """The length of the order index, whole records only."""
        return self._order_bytes - self._order_bytes % ORDER_RECORD.size

    def lengths(self) -> tuple[int, int]:
        """Bytes in the spool files of stdout and stderr."""
        return self.streams[0].written_bytes, self.streams[1].written_bytes

    def wants(self, stream: Stream) -> bool:
        """Whether the stream is to be read now: not while the disk is full or the spool is."""
        return (
            stream.fifo_fd >= 0
            and self.retry_at_ns is None
            and (not self._is_capped or self._room(stream) > 0)
        )

    def pump(self, stream: Stream) -> int:
        """Moves what a stream has now and indexes it; returns the bytes moved.

        A file system that takes no more sets `retry_at_ns`; nothing is lost.
        """
        offset = stream.written_bytes
        try:
            self._flush_index()
            try:
                stream.move(self._room(stream) if self._is_capped else 1 << 62)
            finally:
                moved = stream.written_bytes - offset
                if moved:
                    self._unindexed += ORDER_RECORD.pack(stream.number, moved, offset)
            self._flush_index()
            self.retry_at_ns = None
        except OSError:
            self.retry_at_ns = boot_ns() + DISK_RETRY_NS
        moved = stream.written_bytes - offset
        if moved and self.first_output_at_unix_ns is None:
            self.first_output_at_unix_ns = unix_ns()
        return moved

    def acknowledge(self, lengths: Sequence[int]) -> None:
        """Notes what is safe elsewhere; makes room for as much within the bound."""
        for stream, length in zip(self.streams, lengths, strict=True):
            stream.acked_bytes = min(max(stream.acked_bytes, length), stream.written_bytes)

    def drain(self) -> bool:
        """Empties the pipes of an ended run past the bound (they hold little).

        False while the file system takes no more: again at `retry_at_ns`.
        """
        self._is_capped = False
        for stream in self.streams:
            while stream.fifo_fd >= 0 and self.pump(stream):
                pass
            if self.retry_at_ns is not None and stream.fifo_fd >= 0:
                return False
        try:
            self._flush_index()  # where no FIFO is left, nothing else has written it
        except OSError:
            self.retry_at_ns = boot_ns() + DISK_RETRY_NS
            return False
        self.retry_at_ns = None
        return True

    def close(self) -> None:
        """Closes all descriptors."""
        for stream in self.streams:
            os.close(stream.file_fd)
            if stream.fifo_fd >= 0:
                os.close(stream.fifo_fd)
        os.close(self._order_fd)

    def _room(self, stream: Stream) -> int:
        return self.bound_bytes - (stream.written_bytes - stream.acked_bytes)

    def _flush_index(self) -> None:
        while self._unindexed:
            written = os.pwrite(self._order_fd, self._unindexed, self._order_bytes)
            self._order_bytes += written
            self._unindexed = self._unindexed[written:]

    def _index_rest(self) -> None:
        """Appends records for bytes that a dead supervisor had moved but not yet indexed."""
        self._order_bytes = self.order_bytes
        os.ftruncate(self._order_fd, self._order_bytes)
        indexed = [0, 0]
        data = os.pread(self._order_fd, self._order_bytes, 0)
        for number, length, _ in ORDER_RECORD.iter_unpack(data):
            if 1 <= number <= len(NAMES):
                indexed[number - 1] += length
        for stream in self.streams:
            offset = indexed[stream.number - 1]
            while offset < stream.written_bytes:
                length = min(stream.written_bytes - offset, 1 << 30)
                self._unindexed += ORDER_RECORD.pack(stream.number, length, offset)
                offset += length


def _open_files(bundle: str) -> list[int]:
    fds: list[int] = []
    try:
        for name in (*NAMES, ORDER):
            fds.append(os.open(f"{bundle}/{name}", _FILE_FLAGS, 0o600))
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    return fds


def make_fifos(bundle: str, is_merged: bool) -> list[int]:
    """Creates the FIFOs and opens their read ends: stdout, and stderr unless it is merged.

    O_RDWR, so that they never report a hang-up while the job has its ends closed.
    """
    fds: list[int] = []
    for name in NAMES[: 1 if is_merged else 2]:
        path = fifo_path(bundle, name)
        fd = _open_fifo(path)
        if fd < 0:
            os.mkfifo(path, 0o600)
            fd = os.open(path, _FIFO_FLAGS)
        fds.append(fd)
    return fds


def _open_fifo(path: str) -> int:
    """The FIFO there, of an earlier run in this folder perhaps; what is no FIFO of ours is removed.

    -1 where there is none now. A FIFO that nobody has open is empty.
    """
    try:
        fd = os.open(path, _FIFO_FLAGS)
    except FileNotFoundError:
        return -1
    except OSError:
        os.unlink(path)
        return -1
    status = os.fstat(fd)
    if stat.S_ISFIFO(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o600:
        return fd
    os.close(fd)
    os.unlink(path)
    return -1


def fifo_path(bundle: str, name: str) -> str:
    """Where the FIFO of a stream lies."""
    return f"{bundle}/{name}.fifo"
