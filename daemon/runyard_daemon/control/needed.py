"""The blobs that records need: trees of snapshots and sealed environments, files of runs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from runyard_contract import manifest
from runyard_contract.errors import BlobCorrupt, BlobMissing
from runyard_daemon.store.files import NeededFile

Read = Callable[[str], bytes]
"""The verified bytes of a blob."""
Reached = tuple[str, bytes | None]
"""A digest, and the bytes of its blob where they had to be read to go on; else None."""


class Reach:
    """Follows what records lead to; what was followed once is not followed again.

    A blob may come more than once: somebody's file can have the bytes of a manifest, and only as a
    manifest does it lead anywhere. Raises what `read` raises, and ManifestInvalid.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self.followed: set[str] = set()
        """Manifests and chunk lists."""

    def tree(self, root: str) -> Iterator[Reached]:
        """A directory or a part of one, and all below it."""
        waiting = [root]
        while waiting:
            digest = waiting.pop()
            if digest in self.followed:
                continue
            data = self._follow(digest)
            yield digest, data
            decoded = manifest.decode_directory(data)
            if isinstance(decoded, manifest.Index):
                waiting += [part.digest for part in decoded.parts]
                continue
            for entry in decoded.entries:
                if isinstance(entry, manifest.DirectoryEntry):
                    waiting.append(entry.digest)
                elif isinstance(entry, manifest.FileEntry):
                    yield from self.file(entry.digest, is_chunked=entry.is_chunked)

    def file(self, digest: str, *, is_chunked: bool) -> Iterator[Reached]:
        """A file's content: one blob, or the list of its chunks and these."""
        if not is_chunked:
            yield digest, None
        elif digest not in self.followed:
            data = self._follow(digest)
            yield digest, data
            for chunk, _ in manifest.decode_chunks(data):
                yield chunk, None

    def _follow(self, digest: str) -> bytes:
        data = self._read(digest)
        self.followed.add(digest)
        return data


def needed_blobs(
    snapshots: Iterable[str],
    files: Iterable[NeededFile],
    read: Read,
    sealed: Iterable[str] = (),
) -> Iterator[tuple[str, bytes]]:
    """Digest and bytes of every blob that these records lead to, each once.

    What a sealed environment lacks is passed over: it can be made again. Else it raises what `read`
    raises, and ManifestInvalid for what is no manifest.
    """
    reach = Reach(read)
    reached = chain(
        chain.from_iterable(reach.tree(root) for root in snapshots),
        chain.from_iterable(reach.file(file.digest, is_chunked=file.is_chunked) for file in files),
    )
    seen: set[str] = set()
    for digest, data in reached:
        if digest not in seen:
            seen.add(digest)
            yield digest, read(digest) if data is None else data
    for root in sealed:
        for digest, data in whole_only(reach.tree(root)):
            if digest in seen:
                continue
            seen.add(digest)
            with contextlib.suppress(BlobMissing, BlobCorrupt):
                yield digest, read(digest) if data is None else data


def whole_only(reached: Iterable[Reached]) -> Iterator[Reached]:
    """The same up to what is missing or damaged."""
    with contextlib.suppress(BlobMissing, BlobCorrupt):
        yield from reached
