"""The file format of backups and exported environments: plain files in a tar, packed with zstd.

A note comes first, such as `backup.json`; then, in a backup, `runyard.db`, `blobs/<digest>` and
`runs/<experiment>/<run>/<attempt>/<file>`, and last `end.json`, which has the digest of all bytes
of the tar before it. Any tar reads it. The reader here takes nothing but plain files whose names
are of the forms that its kind knows, so that no archive, however it was made, writes anywhere else.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Final

import blake3
import zstandard

from runyard_contract.digest import is_digest
from runyard_contract.errors import BackupInvalid, RunyardError, UnsafePath
from runyard_contract.limits import PATH_BYTES
from runyard_contract.paths import shown, split_rel

FORMAT: Final = 1
HEAD: Final = "backup.json"
DATABASE: Final = "runyard.db"
END: Final = "end.json"
_NOTE_BYTES: Final = 64 << 10
_BLOCK: Final = 512
_PIECE: Final = 1 << 20
_SIZE_FIELD: Final = slice(124, 136)
_CHECKSUM_FIELD: Final = slice(148, 156)


@dataclass(frozen=True, slots=True)
class ArchiveKind:
    """What an archive is of.

    Args:
        head: the name of its first member, a note with `format`.
        format: the one that is written and read.
        knows: whether a member may have a name of these parts.
        fault: the error for a file where something is not as it must be.
    """

    head: str
    format: int
    knows: Callable[[tuple[str, ...]], bool]
    fault: Callable[[str], RunyardError]


def is_blob(parts: tuple[str, ...]) -> bool:
    """Whether it is the name of a blob, `blobs/<digest>`."""
    return len(parts) == 2 and parts[0] == "blobs" and is_digest(parts[1])


def _no_backup(what: str) -> RunyardError:
    return BackupInvalid(
        f"the file is no whole backup: {what}",
        hint="use another backup; nothing was changed",
        what=what,
    )


BACKUP: Final = ArchiveKind(
    HEAD,
    FORMAT,
    lambda parts: (
        parts == (DATABASE,) or is_blob(parts) or (len(parts) == 5 and parts[0] == "runs")
    ),
    _no_backup,
)


class ArchiveWriter:
    """Gives the bytes of an archive, piece by piece, in the order in which members are added."""

    def __init__(self) -> None:
        self._packer = zstandard.ZstdCompressor(write_checksum=True).compressobj()
        self._digest = blake3.blake3()

    def add_note(self, name: str, note: dict[str, Any]) -> Iterator[bytes]:
        """Adds a small JSON document."""
        data = json.dumps(note, sort_keys=True).encode()
        return self.add(name, len(data), [data])

    def add(self, name: str, size_bytes: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Adds a member whose pieces have this size together; raises ValueError where not."""
        yield self._pack(_header(name, size_bytes))
        written = 0
        for piece in pieces:
            written += len(piece)
            yield self._pack(piece)
        if written != size_bytes:
            raise ValueError(f"{name} has {written} bytes instead of {size_bytes}")
        yield self._pack(bytes(-size_bytes % _BLOCK))

    def finish(self) -> Iterator[bytes]:
        """Seals the archive."""
        yield from self.add_note(END, {"digest": self._digest.hexdigest()})
        yield self._pack(bytes(2 * _BLOCK))
        yield self._packer.flush()

    def _pack(self, data: bytes) -> bytes:
        self._digest.update(data)
        return self._packer.compress(data)


def _header(name: str, size_bytes: int) -> bytes:
    """A member's header. Its size is in base 256, which knows no limit of 8 GiB."""
    info = tarfile.TarInfo(name)
    info.mode = 0o600
    header = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    header[_SIZE_FIELD] = b"\x80" + size_bytes.to_bytes(11, "big")
    header[_CHECKSUM_FIELD] = b" " * 8
    header[_CHECKSUM_FIELD] = b"%06o\0 " % sum(header)
    return bytes(header)


@dataclass(frozen=True, slots=True)
class Member:
    """A plain file of an archive."""

    name: str
    parts: tuple[str, ...]
    """Of the name, checked."""
    size_bytes: int
    pieces: Iterator[bytes]
    """Its bytes; to be used up before the next member."""
    fault: Callable[[str], RunyardError] = field(repr=False)

    def read(self, max_bytes: int) -> bytes:
        """All of it. Raises the archive's error for more than that."""
        if self.size_bytes > max_bytes:
            raise self.fault(f"{self.name} has {self.size_bytes} bytes, over {max_bytes}")
        return b"".join(self.pieces)


class ArchiveReader:
    """Reads an archive once, from its first byte to its last; checks every word of it.

    Every fault is raised as the error of its kind.
    """

    def __init__(self, file: IO[bytes], kind: ArchiveKind = BACKUP) -> None:
        self._kind = kind
        self.note: dict[str, Any] = {}
        """What its first member says, once there is a member behind it."""
        self._stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(file)
        self._digest = blake3.blake3()

    def members(self) -> Iterator[Member]:
        """All members between the first note and `end.json`; the latter is checked at the end.

        Raises for whatever is not as `ArchiveWriter` writes it, cut off or changed.
        """
        kind, fault = self._kind, self._kind.fault
        head = self._next()
        if head.name != kind.head:
            raise fault(f"it begins with {shown(head.name)!r}")
        self.note = _note(head)
        found = self.note.get("format")
        if found != kind.format:
            raise fault(f"it is of format {found!r:.40}, this version reads {kind.format}")
        while True:
            so_far = self._digest.hexdigest()
            member = self._next()
            if member.name == END:
                break
            yield member
            for _ in member.pieces:
                raise fault(f"{member.name} was not read to its end")
        if _note(member).get("digest") != so_far:
            raise fault("its bytes do not have the digest that its end names")

    def _next(self) -> Member:
        """The next member; the one before must be used up."""
        try:
            info = tarfile.TarInfo.frombuf(self._take(_BLOCK), "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError, ValueError) as error:
            raise self._kind.fault(f"a member can't be read: {error}") from None
        if info.type not in {tarfile.REGTYPE, tarfile.AREGTYPE} or info.size < 0:
            raise self._kind.fault(f"{shown(info.name[:PATH_BYTES])!r} is no plain file")
        parts = self._checked(info.name)
        return Member(info.name, parts, info.size, self._content(info.size), self._kind.fault)

    def _checked(self, name: str) -> tuple[str, ...]:
        """The parts of a name of one of the known forms."""
        try:
            parts = split_rel(name)
        except UnsafePath as error:
            raise self._kind.fault(error.message) from None
        if name not in {self._kind.head, END} and not self._kind.knows(parts):
            raise self._kind.fault(f"{shown(name)!r} does not belong in it")
        return parts

    def _content(self, size_bytes: int) -> Iterator[bytes]:
        left = size_bytes
        while left:
            piece = self._take(min(left, _PIECE))
            left -= len(piece)
            yield piece
        self._take(-size_bytes % _BLOCK)

    def _take(self, size_bytes: int) -> bytes:
        """Exactly so many bytes of the tar."""
        pieces = []
        left = size_bytes
        while left:
            try:
                piece = self._stream.read(left)
            except zstandard.ZstdError as error:
                raise self._kind.fault(f"it can't be unpacked: {error}") from None
            if not piece:
                raise self._kind.fault("it is cut off")
            pieces.append(piece)
            left -= len(piece)
        data = b"".join(pieces)
        self._digest.update(data)
        return data


def _note(member: Member) -> dict[str, Any]:
    try:
        note = json.loads(member.read(_NOTE_BYTES))
    except ValueError:
        note = None
    if not isinstance(note, dict):
        raise member.fault(f"{member.name} can't be read")
    return note
