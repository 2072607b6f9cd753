"""Walks a whole snapshot through its manifests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runyard_contract.digest import digest_bytes
from runyard_contract.errors import DigestMismatch, RunyardError, SnapshotTooLarge, UnsafePath
from runyard_contract.limits import (
    PATH_BYTES,
    PATH_COMPONENTS,
    SNAPSHOT_MAX_BYTES,
    SNAPSHOT_MAX_ENTRIES,
    SNAPSHOT_MAX_FILES,
)
from runyard_contract.manifest.decode import decode_directory
from runyard_contract.manifest.entries import (
    Directory,
    DirectoryEntry,
    Entry,
    Index,
    LinkEntry,
    check_collisions,
    invalid,
    totals,
)
from runyard_contract.paths import link_stays_inside, shown

Parts = tuple[str, ...]


def iterate(
    root_digest: str,
    read: Callable[[str], bytes],
    *,
    max_entries: int = SNAPSHOT_MAX_ENTRIES,
) -> Iterator[tuple[Parts, Entry]]:
    """All entries of a snapshot with their paths: depth first, parents before children.

    `read` gives the bytes of a manifest blob. Verified on the way, whoever wrote the manifests:
    digests, names, collisions, counts, where links lead, path lengths, and the limits of a
    snapshot: of files and bytes before the walk, of all entries on the way (one small manifest,
    named often enough, would unfold without end). Memory grows with the depth and the size of the
    directories on one path only.
    """
    walked = 0
    entries = read_directory(root_digest, read)
    files, size_bytes = totals(entries)
    if files > SNAPSHOT_MAX_FILES or size_bytes > SNAPSHOT_MAX_BYTES:
        raise _too_large(f"{files} files and {size_bytes} bytes")
    stack: list[tuple[Parts, Iterator[Entry]]] = [((), iter(entries))]
    while stack:
        parent, rest = stack[-1]
        entry = next(rest, None)
        if entry is None:
            stack.pop()
            continue
        walked += 1
        if walked > max_entries:
            raise _too_large(f"more than {max_entries} files and folders")
        path = (*parent, entry.name)
        _check_path(path, entry)
        yield path, entry
        if isinstance(entry, DirectoryEntry):
            below = read_directory(entry.digest, read)
            if totals(below) != (entry.files, entry.size_bytes):
                raise invalid(f"the counts of {shown('/'.join(path))!r} are wrong")
            stack.append((path, iter(below)))


def read_directory(digest: str, read: Callable[[str], bytes]) -> tuple[Entry, ...]:
    """The entries of one directory, its parts joined where it is split."""
    decoded = decode_directory(_read_verified(digest, read))
    if isinstance(decoded, Directory):
        return decoded.entries
    return _join(decoded, read)


def _read_verified(digest: str, read: Callable[[str], bytes]) -> bytes:
    """The bytes of a manifest blob, which have this digest."""
    data = read(digest)
    if digest_bytes(data) != digest:
        raise DigestMismatch(f"a manifest does not have its digest {digest}", digest=digest)
    return data


def _join(index: Index, read: Callable[[str], bytes]) -> tuple[Entry, ...]:
    """The entries of all parts, which must be what the index says."""
    entries: list[Entry] = []
    for part in index.parts:
        decoded = decode_directory(_read_verified(part.digest, read))
        if (
            not isinstance(decoded, Directory)
            or len(decoded.entries) != part.entries
            or totals(decoded.entries) != (part.files, part.size_bytes)
            or decoded.entries[0].name != part.first_name
            or (entries and entries[-1].name.encode() >= part.first_name.encode())
        ):
            raise invalid(f"the part at {shown(part.first_name)!r} is not what its index says")
        entries += decoded.entries
        if len(entries) > SNAPSHOT_MAX_ENTRIES:
            raise _too_large(f"a folder with more than {SNAPSHOT_MAX_ENTRIES} entries")
    check_collisions(entry.name for entry in entries)
    return tuple(entries)


def _check_path(path: Parts, entry: Entry) -> None:
    """What only the whole path tells: its length, and where a link leads."""
    text = "/".join(path)
    if len(path) > PATH_COMPONENTS or len(text.encode()) > PATH_BYTES:
        raise UnsafePath(f"the path {shown(text[:80])!r}… is too long", path=shown(text[:80]))
    if isinstance(entry, LinkEntry) and not link_stays_inside(path, entry.target):
        raise UnsafePath(
            f"the link {shown(text)!r} leads out of its directory: {shown(entry.target)!r}",
            hint="replace the link by what it links to, or keep it out in the ignore file",
            path=shown(text),
            target=shown(entry.target),
        )


def _too_large(what: str) -> RunyardError:
    """The error for a snapshot over its limits."""
    return SnapshotTooLarge(
        f"the snapshot has {what}; the limits are {SNAPSHOT_MAX_FILES} files and "
        f"{SNAPSHOT_MAX_BYTES} bytes",
        hint="keep data out of the source directory with a line in the ignore file",
        what=what,
        max_files=str(SNAPSHOT_MAX_FILES),
        max_bytes=str(SNAPSHOT_MAX_BYTES),
    )
