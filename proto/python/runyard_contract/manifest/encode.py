"""Entries to manifests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from blake3 import blake3

from runyard_contract.digest import digest_bytes
from runyard_contract.limits import DIRECTORY_SPLIT_ENTRIES
from runyard_contract.manifest.entries import (
    COUNT,
    DIRECTORY_TAIL,
    ENTRY,
    FILE_TAIL,
    FLAG_CHUNKED,
    FLAG_EXECUTABLE,
    KIND_DIRECTORY,
    KIND_INDEX,
    LINK_TAIL,
    MAGIC,
    PART,
    TYPE_DIRECTORY,
    TYPE_FILE,
    TYPE_LINK,
    DirectoryEntry,
    Encoded,
    Entry,
    FileEntry,
    Part,
    check_collisions,
    check_values,
    totals,
)
from runyard_contract.paths import check_component

_PART_MIN_ENTRIES = 64
_PART_BOUNDARY_MASK = 0x7F


def encode_directory(entries: Iterable[Entry]) -> Encoded:
    """Encodes a directory, in whatever order its entries come.

    Raises UnsafePath for a name, PathCollision for two names that are one somewhere, and
    ManifestInvalid for a value that no entry can have.
    """
    ordered = sorted(
        ((check_component(entry.name).encode(), entry) for entry in entries),
        key=lambda pair: pair[0],
    )
    check_collisions(entry.name for _, entry in ordered)
    if len(ordered) <= DIRECTORY_SPLIT_ENTRIES:
        data, files, size_bytes = _encode_entries(ordered)
        digest = digest_bytes(data)
        return Encoded(digest, files, size_bytes, {digest: data})
    blobs: dict[str, bytes] = {}
    parts: list[Part] = []
    for run in _split(ordered):
        data, files, size_bytes = _encode_entries(run)
        digest = digest_bytes(data)
        blobs[digest] = data
        parts.append(Part(run[0][1].name, len(run), files, size_bytes, digest))
    data = _encode_index(parts)
    digest = digest_bytes(data)
    blobs[digest] = data
    files, size_bytes = sum(p.files for p in parts), sum(p.size_bytes for p in parts)
    return Encoded(digest, files, size_bytes, blobs)


def _split(ordered: Sequence[tuple[bytes, Entry]]) -> Iterator[Sequence[tuple[bytes, Entry]]]:
    """The parts of a large directory (see the module's text)."""
    start = 0
    for position, (name, _) in enumerate(ordered):
        length = position - start
        if length >= _PART_MIN_ENTRIES and (
            length >= DIRECTORY_SPLIT_ENTRIES
            or not blake3(name).digest(length=1)[0] & _PART_BOUNDARY_MASK
        ):
            yield ordered[start:position]
            start = position
    yield ordered[start:]


def _encode_entries(ordered: Sequence[tuple[bytes, Entry]]) -> tuple[bytes, int, int]:
    """(bytes, files, size) of the manifest of sorted entries."""
    pieces = [MAGIC, KIND_DIRECTORY, COUNT.pack(len(ordered))]
    for name, entry in ordered:
        check_values(entry)
        if isinstance(entry, FileEntry):
            flags = entry.is_executable * FLAG_EXECUTABLE | entry.is_chunked * FLAG_CHUNKED
            pieces += (
                ENTRY.pack(TYPE_FILE, flags, len(name)),
                name,
                FILE_TAIL.pack(entry.size_bytes, bytes.fromhex(entry.digest)),
            )
        elif isinstance(entry, DirectoryEntry):
            pieces += (
                ENTRY.pack(TYPE_DIRECTORY, 0, len(name)),
                name,
                DIRECTORY_TAIL.pack(entry.files, entry.size_bytes, bytes.fromhex(entry.digest)),
            )
        else:
            target = entry.target.encode()
            pieces += (
                ENTRY.pack(TYPE_LINK, 0, len(name)),
                name,
                LINK_TAIL.pack(len(target)),
                target,
            )
    files, size_bytes = totals(entry for _, entry in ordered)
    return b"".join(pieces), files, size_bytes


def _encode_index(parts: Sequence[Part]) -> bytes:
    """The bytes of an index."""
    pieces = [MAGIC, KIND_INDEX, COUNT.pack(len(parts))]
    for part in parts:
        name = part.first_name.encode()
        pieces += (
            PART.pack(
                len(name), part.entries, part.files, part.size_bytes, bytes.fromhex(part.digest)
            ),
            name,
        )
    return b"".join(pieces)
