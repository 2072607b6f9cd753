"""All blobs that records need, each once: trees of snapshots, files of runs, their chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from runyard_contract import manifest
from runyard_daemon.store.files import NeededFile

Read = Callable[[str], bytes]
"""The verified bytes of a blob."""


def needed_blobs(
    snapshots: Iterable[str], files: Iterable[NeededFile], read: Read
) -> Iterator[tuple[str, bytes]]:
    """Digest and bytes of every blob below these snapshots and of these files.

    Raises what `read` raises, and ManifestInvalid for what is no manifest.
    """
    seen: set[str] = set()
    for root in snapshots:
        yield from _tree(root, read, seen)
    for file in files:
        yield from _file(file.digest, file.is_chunked, read, seen)


def _tree(root: str, read: Read, seen: set[str]) -> Iterator[tuple[str, bytes]]:
    """A directory or a part of one, and all below it."""
    waiting = [root]
    while waiting:
        digest = waiting.pop()
        if digest in seen:
            continue
        seen.add(digest)
        data = read(digest)
        yield digest, data
        decoded = manifest.decode_directory(data)
        if isinstance(decoded, manifest.Index):
            waiting += [part.digest for part in decoded.parts]
            continue
        for entry in decoded.entries:
            if isinstance(entry, manifest.DirectoryEntry):
                waiting.append(entry.digest)
            elif isinstance(entry, manifest.FileEntry):
                yield from _file(entry.digest, entry.is_chunked, read, seen)


def _file(digest: str, is_chunked: bool, read: Read, seen: set[str]) -> Iterator[tuple[str, bytes]]:
    if digest in seen:
        return
    seen.add(digest)
    data = read(digest)
    yield digest, data
    if is_chunked:
        for chunk, _ in manifest.decode_chunks(data):
            if chunk not in seen:
                seen.add(chunk)
                yield chunk, read(chunk)
