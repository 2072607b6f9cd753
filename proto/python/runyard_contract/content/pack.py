"""The format of a pack: many small blobs in one file, with an index beside it.

`NAME.pack` is a mark, then for each blob its digest (32 bytes), its size (4) and its bytes. It is
written once, under another name, and never changed. `NAME.idx` is what makes the pack count: a
sorted table of the blobs in it, with a checksum. It is replaced as a whole where blobs are taken
out, so every reader sees the table before or after; a pack without one is nothing yet. Numbers are
little-endian. The pack says enough for its index to be made again.
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from runyard_contract.digest import DIGEST_BYTES, digest_bytes
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_contract.paths import write_all

PACK_MARK = b"RYP\x01"
_INDEX_MARK = b"RYI\x01"
RECORD = struct.Struct(f"<{DIGEST_BYTES}sI")  # digest, size; the bytes follow
_INDEX_HEAD = struct.Struct("<4sIQ")  # mark, blobs, size of the pack in bytes
_FAN = struct.Struct("<256I")  # how many digests begin with this byte or a lower one
_PLACE = struct.Struct("<QII")  # offset of the bytes, size, second of storing
_DIGESTS = _INDEX_HEAD.size + _FAN.size
_SCANNED_ENTRIES = 16  # few enough for a search byte by byte
_BUFFER_BYTES = 256 << 10
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
READ_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class PackDamaged(Exception):
    """Bytes that are no pack or no index of one."""


class Place(NamedTuple):
    """Where a blob's bytes lie in its pack."""

    offset: int
    size_bytes: int
    stored_s: int
    """Seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True, eq=False)
class PackIndex:
    """The table of one pack, in memory that the system shares between processes."""

    name: str
    count: int
    pack_bytes: int
    live_bytes: int
    """Of the records in the table; the rest of the pack is nobody's."""
    _fan: tuple[int, ...]
    _table: mmap.mmap | bytes

    @classmethod
    def load(cls, name: str, table: mmap.mmap | bytes) -> PackIndex:
        """Reads a table. Raises PackDamaged."""
        if len(table) < _DIGESTS + DIGEST_BYTES:
            raise PackDamaged(f"the index {name} is too short")
        mark, count, pack_bytes = _INDEX_HEAD.unpack_from(table)
        end = _DIGESTS + count * (DIGEST_BYTES + _PLACE.size)
        if mark != _INDEX_MARK or len(table) != end + DIGEST_BYTES:
            raise PackDamaged(f"the index {name} has another form")
        with memoryview(table) as view, view[:end] as covered:
            if digest_bytes(covered) != bytes(table[end:]).hex():
                raise PackDamaged(f"the index {name} does not have its checksum")
        fan = _FAN.unpack_from(table, _INDEX_HEAD.size)
        places = _DIGESTS + count * DIGEST_BYTES
        with memoryview(table) as view, view[places:end] as covered:
            live_bytes = sum(RECORD.size + size for _, size, _ in _PLACE.iter_unpack(covered))
        return cls(name, count, pack_bytes, live_bytes, fan, table)

    @classmethod
    def open(cls, dir_fd: int, name: str) -> PackIndex:
        """Opens the index of a pack in this folder. Raises PackDamaged, FileNotFoundError."""
        fd = os.open(f"{name}.idx", READ_FLAGS, dir_fd=dir_fd)
        try:
            if not os.fstat(fd).st_size:
                raise PackDamaged(f"the index {name} is empty")
            table = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        return cls.load(name, table)

    @classmethod
    def open_whole(cls, dir_fd: int, name: str) -> PackIndex:
        """Opens an index that has all of its pack beside it, as `open` does.

        A power loss between the two names may leave one without the other.
        """
        index = cls.open(dir_fd, name)
        status = os.stat(f"{name}.pack", dir_fd=dir_fd, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size < index.pack_bytes:
            raise PackDamaged(f"the pack {name} is shorter than its index says")
        return index

    @property
    def index_bytes(self) -> int:
        """Size of the index."""
        return len(self._table)

    def find(self, digest: bytes) -> Place | None:
        """Where a blob lies; None: not here."""
        first = digest[0]
        low, high = self._fan[first - 1] if first else 0, self._fan[first]
        table = self._table
        while high - low > _SCANNED_ENTRIES:
            middle = (low + high) // 2
            at = _DIGESTS + middle * DIGEST_BYTES
            if table[at : at + DIGEST_BYTES] <= digest:
                low = middle
            else:
                high = middle
        end = _DIGESTS + high * DIGEST_BYTES
        at = table.find(digest, _DIGESTS + low * DIGEST_BYTES, end)
        while at >= 0:
            number, rest = divmod(at - _DIGESTS, DIGEST_BYTES)
            if not rest:
                return self._place(number)
            at = table.find(digest, at + 1, end)
        return None

    def _place(self, number: int) -> Place:
        start = _DIGESTS + self.count * DIGEST_BYTES
        return Place(*_PLACE.unpack_from(self._table, start + number * _PLACE.size))

    def __iter__(self) -> Iterator[tuple[bytes, Place]]:
        """All blobs in it with their places, by digest."""
        for number in range(self.count):
            at = _DIGESTS + number * DIGEST_BYTES
            yield bytes(self._table[at : at + DIGEST_BYTES]), self._place(number)


def encode_index(places: Iterable[tuple[bytes, Place]], pack_bytes: int) -> bytes:
    """The bytes of an index."""
    ordered = sorted(places)
    fan = [0] * 256
    for digest, _ in ordered:
        fan[digest[0]] += 1
    for number in range(1, 256):
        fan[number] += fan[number - 1]
    table = b"".join(
        (
            _INDEX_HEAD.pack(_INDEX_MARK, len(ordered), pack_bytes),
            _FAN.pack(*fan),
            *(digest for digest, _ in ordered),
            *(_PLACE.pack(*place) for _, place in ordered),
        )
    )
    return table + bytes.fromhex(digest_bytes(table))


def scan(fd: int) -> tuple[dict[bytes, Place], int]:
    """The whole blobs of an open pack, as its records tell, and where the last one ends.

    A record that was cut off is left out. What a record says of its bytes is checked when they are
    read. Raises PackDamaged for a file that is no pack.
    """
    size_bytes = os.fstat(fd).st_size
    if os.pread(fd, len(PACK_MARK), 0) != PACK_MARK:
        raise PackDamaged("it does not begin as a pack")
    stored_s = int(os.fstat(fd).st_mtime)
    found: dict[bytes, Place] = {}
    at = len(PACK_MARK)
    while len(head := os.pread(fd, RECORD.size, at)) == RECORD.size:
        digest, blob_bytes = RECORD.unpack(head)
        end = at + RECORD.size + blob_bytes
        if blob_bytes > CHUNKED_ABOVE_BYTES or end > size_bytes:
            break
        found[digest] = Place(at + RECORD.size, blob_bytes, stored_s)
        at = end
    return found, at


class PackFile:
    """A pack that is being written, under a temporary path below an open folder.

    `close` ends the writing; who made it publishes or removes it.
    """

    def __init__(self, dir_fd: int, path: str) -> None:
        self.path = path
        self.places: dict[bytes, Place] = {}
        self.size_bytes = len(PACK_MARK)
        self._buffer = bytearray(PACK_MARK)
        self._fd = os.open(path, _CREATE, 0o600, dir_fd=dir_fd)

    def add(self, digest: bytes, data: bytes | memoryview, stored_s: int) -> None:
        """Appends a blob that is not in it yet."""
        self._buffer += RECORD.pack(digest, len(data))
        self._buffer += data
        self.places[digest] = Place(self.size_bytes + RECORD.size, len(data), stored_s)
        self.size_bytes += RECORD.size + len(data)
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        write_all(self._fd, bytes(self._buffer))
        self._buffer.clear()

    def finish(self) -> None:
        """Writes what is buffered and closes the file; not durable yet."""
        self._flush()
        self.close()

    def close(self) -> None:
        """Closes the file. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
