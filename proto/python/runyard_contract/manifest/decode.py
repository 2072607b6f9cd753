"""Manifests to entries."""

from __future__ import annotations

import struct

from runyard_contract.errors import ManifestInvalid, PathCollision
from runyard_contract.limits import DIRECTORY_SPLIT_ENTRIES
from runyard_contract.manifest.entries import (
    COUNT,
    DIRECTORY_TAIL,
    ENTRY,
    FILE_TAIL,
    FLAG_CHUNKED,
    FLAG_EXECUTABLE,
    HEADER_BYTES,
    KIND_DIRECTORY,
    KIND_INDEX,
    LINK_TAIL,
    MAGIC,
    PART,
    SIZE_LIMIT_BYTES,
    TYPE_DIRECTORY,
    TYPE_FILE,
    TYPE_LINK,
    Directory,
    DirectoryEntry,
    Entry,
    FileEntry,
    Index,
    LinkEntry,
    Part,
    check_collisions,
    check_values,
    collision,
    invalid,
)
from runyard_contract.paths import check_component, shown

INDEX_MAX_PARTS = 1 << 16

_ENTRY_MIN_BYTES = ENTRY.size + 1 + LINK_TAIL.size + 1


def decode_directory(data: bytes) -> Directory | Index:
    """Decodes a directory manifest or the index of a large one.

    Raises ManifestInvalid, UnsafePath or PathCollision. Where links lead is checked by `iterate`,
    which knows their paths.
    """
    kind = data[len(MAGIC) : len(MAGIC) + 1]
    if data[: len(MAGIC)] != MAGIC or kind not in {KIND_DIRECTORY, KIND_INDEX}:
        raise invalid("unknown format")
    try:
        (count,) = COUNT.unpack_from(data, len(MAGIC) + 1)
        result = (
            _decode_entries(data, count) if kind == KIND_DIRECTORY else _decode_index(data, count)
        )
    except (struct.error, UnicodeDecodeError):
        raise invalid("it ends early or holds text that is not UTF-8") from None
    return result


def _decode_entries(data: bytes, count: int) -> Directory:
    """The entries of a directory manifest."""
    if count > min(DIRECTORY_SPLIT_ENTRIES, len(data) // _ENTRY_MIN_BYTES):
        raise invalid(f"{count} entries announced")
    entries: list[Entry] = []
    before = b""
    position = HEADER_BYTES
    for _ in range(count):
        kind, flags, length = ENTRY.unpack_from(data, position)
        position += ENTRY.size
        raw_name = data[position : position + length]
        position += length
        if raw_name <= before:
            raise _unsorted(raw_name, before)
        before = raw_name
        name = check_component(raw_name.decode())
        entry, position = _decode_entry(data, position, kind, flags, name)
        check_values(entry)
        entries.append(entry)
    if position != len(data):
        raise invalid(f"it ends at byte {position} of {len(data)}")
    check_collisions(entry.name for entry in entries)
    return Directory(tuple(entries))


def _decode_entry(
    data: bytes, position: int, kind: int, flags: int, name: str
) -> tuple[Entry, int]:
    """The entry whose name ends at `position`, and where it ends itself."""
    if kind == TYPE_FILE and flags <= FLAG_EXECUTABLE | FLAG_CHUNKED:
        size_bytes, digest = FILE_TAIL.unpack_from(data, position)
        is_executable, is_chunked = bool(flags & FLAG_EXECUTABLE), bool(flags & FLAG_CHUNKED)
        entry: Entry = FileEntry(name, digest.hex(), size_bytes, is_executable, is_chunked)
        return entry, position + FILE_TAIL.size
    if kind == TYPE_LINK and not flags:
        (length,) = LINK_TAIL.unpack_from(data, position)
        position += LINK_TAIL.size
        target = data[position : position + length].decode()
        return LinkEntry(name, target), position + length
    if kind == TYPE_DIRECTORY and not flags:
        files, size_bytes, digest = DIRECTORY_TAIL.unpack_from(data, position)
        entry = DirectoryEntry(name, digest.hex(), files, size_bytes)
        return entry, position + DIRECTORY_TAIL.size
    raise invalid(f"entry type {kind} with flags {flags}")


def _unsorted(name: bytes, before: bytes) -> ManifestInvalid | PathCollision:
    """The error for a name that does not come after the one before it."""
    if name == before and name:
        text = shown(name.decode("utf-8", "backslashreplace"))
        return collision(text, text)
    return invalid("its names are not sorted")


def _decode_index(data: bytes, count: int) -> Index:
    """The parts of an index."""
    if not 2 <= count <= min(INDEX_MAX_PARTS, len(data) // PART.size):
        raise invalid(f"{count} parts announced")
    parts: list[Part] = []
    before = b""
    position = HEADER_BYTES
    for _ in range(count):
        length, entries, files, size_bytes, digest = PART.unpack_from(data, position)
        position += PART.size
        raw_name = data[position : position + length]
        position += length
        if raw_name <= before:
            raise _unsorted(raw_name, before)
        before = raw_name
        if not 0 < entries <= DIRECTORY_SPLIT_ENTRIES or max(files, size_bytes) >= (
            SIZE_LIMIT_BYTES
        ):
            raise invalid("a part has an impossible size")
        name = check_component(raw_name.decode())
        parts.append(Part(name, entries, files, size_bytes, digest.hex()))
    if position != len(data) or sum(part.entries for part in parts) <= DIRECTORY_SPLIT_ENTRIES:
        raise invalid("the index has bytes left over or too few entries")
    return Index(tuple(parts))
