"""Trees of manifests in the content store: declaring one, looking into one.

Functions here block on the disk; they run in the disk executor.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from runyard_contract import manifest
from runyard_contract.content.store import ContentStore
from runyard_contract.errors import (
    BlobMissing,
    ManifestInvalid,
    SnapshotTooLarge,
    UnsafePath,
)
from runyard_contract.limits import (
    INLINE_MANIFEST_BYTES,
    INLINE_MANIFESTS,
    PATH_BYTES,
    PATH_COMPONENTS,
    SNAPSHOT_MAX_BYTES,
    SNAPSHOT_MAX_ENTRIES,
    SNAPSHOT_MAX_FILES,
)
from runyard_contract.nearest import nearest
from runyard_contract.paths import link_stays_inside, shown
from runyard_daemon.store.snapshots import DirectoryRecord

MISSING_NAMED = 1000
SUGGESTED_FROM = 10_000

FindKnown = Callable[[Sequence[DirectoryRecord]], Collection[str]]
"""Gives the digests of those directories that were found complete and safe before."""


@dataclass(frozen=True, slots=True)
class TreeLimits:
    """How much a tree may be: files and links, bytes, and all entries of its folders."""

    files: int = SNAPSHOT_MAX_FILES
    size_bytes: int = SNAPSHOT_MAX_BYTES
    entries: int = SNAPSHOT_MAX_ENTRIES


OF_SNAPSHOTS = TreeLimits()


@dataclass(slots=True)
class Checked:
    """What a walk over a tree found."""

    files: int
    size_bytes: int
    complete: list[DirectoryRecord]
    """Directories that need not be walked again, wherever they come: all below them is here, and
    no link in them leads out of them."""


def check_tree(
    root: str, content: ContentStore, find_known: FindKnown, limits: TreeLimits = OF_SNAPSHOTS
) -> Checked:
    """Makes sure that a tree is safe, within the limits and complete; walks what is not known.

    Raises BlobMissing, ManifestInvalid, UnsafePath, PathCollision, SnapshotTooLarge, BlobCorrupt.
    """
    entries = manifest.read_directory(root, lambda digest: _read_held(content, digest))
    files, size_bytes = _totals(entries)
    if files > limits.files or size_bytes > limits.size_bytes:
        raise too_large(f"{files} files and {size_bytes} bytes")
    walk = _Walk(content, find_known, limits)
    walk.directory((), DirectoryRecord(root, files, size_bytes), entries)
    if walk.missing:
        raise BlobMissing.of(walk.missing)
    return Checked(files, size_bytes, list(walk.complete.values()))


class _Walk:
    """The state of one walk."""

    def __init__(self, content: ContentStore, find_known: FindKnown, limits: TreeLimits) -> None:
        self._content = content
        self._find_known = find_known
        self._limits = limits
        self._entries = 0
        self.missing: list[str] = []
        self.complete: dict[str, DirectoryRecord] = {}

    def directory(
        self,
        path: tuple[str, ...],
        record: DirectoryRecord,
        entries: tuple[manifest.Entry, ...],
    ) -> int:
        """Checks a directory whose entries were read, then all below it.

        Gives the depth of the highest directory that a link in it leads to: where that is not above
        the directory itself, its links are safe wherever the directory comes.
        """
        self._entries += len(entries)
        if self._entries > self._limits.entries:
            raise too_large(f"more than {self._limits.entries} files and folders")
        self._files([entry for entry in entries if isinstance(entry, manifest.FileEntry)])
        reach = len(path)
        below: list[tuple[tuple[str, ...], DirectoryRecord]] = []
        for entry in entries:
            inner = (*path, entry.name)
            check_path(inner, entry)
            if isinstance(entry, manifest.DirectoryEntry):
                counted = DirectoryRecord(entry.digest, entry.files, entry.size_bytes)
                below.append((inner, counted))
            elif isinstance(entry, manifest.LinkEntry):
                reach = min(reach, len(path) - entry.target.split("/").count(".."))
        known = self._find_known([counted for _, counted in below])
        for inner, counted in below:
            if counted.digest not in known and self.complete.get(counted.digest) != counted:
                reach = min(reach, self._subdirectory(inner, counted))
        if reach >= len(path):
            self.complete[record.digest] = record
        return reach

    def _subdirectory(self, path: tuple[str, ...], record: DirectoryRecord) -> int:
        try:
            entries = manifest.read_directory(
                record.digest, lambda digest: _read_held(self._content, digest)
            )
        except BlobMissing as error:
            self._lacks([error.metadata["first"]])
            return len(path)
        if _totals(entries) != (record.file_count, record.size_bytes):
            raise ManifestInvalid(f"the counts of {shown('/'.join(path))!r} are wrong")
        return self.directory(path, record, entries)

    def _files(self, files: list[manifest.FileEntry]) -> None:
        """Notes the blobs that are lacking; those that are there must have the announced size."""
        held = self._content.sizes(entry.digest for entry in files)
        self._lacks(sorted({entry.digest for entry in files} - held.keys()))
        for entry in files:
            size_bytes = held.get(entry.digest)
            if size_bytes is None:
                continue
            if entry.is_chunked:
                self._chunks(entry)
            elif size_bytes != entry.size_bytes:
                raise ManifestInvalid(
                    f"{shown(entry.name)!r} is announced with {entry.size_bytes} bytes, its blob "
                    f"has {size_bytes}",
                    hint="submit again",
                    digest=entry.digest,
                )

    def _chunks(self, entry: manifest.FileEntry) -> None:
        chunks = manifest.decode_chunks(self._content.read(entry.digest))
        if manifest.chunked_size_bytes(chunks) != entry.size_bytes:
            raise ManifestInvalid(f"the chunks of {shown(entry.name)!r} have another size")
        self._lacks(self._content.missing(digest for digest, _ in chunks))

    def _lacks(self, digests: list[str]) -> None:
        self.missing.extend(digests)
        if len(self.missing) >= MISSING_NAMED:
            raise BlobMissing.of(self.missing)


def _read_held(content: ContentStore, digest: str) -> bytes:
    """The bytes of a manifest that is there to stay: one that is being removed can be read still.

    Raises BlobMissing, BlobCorrupt.
    """
    if content.missing([digest]):
        raise BlobMissing.of([digest])
    return content.read(digest)


def _totals(entries: tuple[manifest.Entry, ...]) -> tuple[int, int]:
    """(files and links, bytes) of these entries with all that they announce below them."""
    files = size_bytes = 0
    for entry in entries:
        if isinstance(entry, manifest.DirectoryEntry):
            files += entry.files
            size_bytes += entry.size_bytes
        else:
            files += 1
            size_bytes += entry.size_bytes if isinstance(entry, manifest.FileEntry) else 0
    return files, size_bytes


def check_path(path: tuple[str, ...], entry: manifest.Entry) -> None:
    """Raises UnsafePath for a path that is too long, and a link that leads out of the snapshot."""
    text = "/".join(path)
    if len(path) > PATH_COMPONENTS or len(text.encode()) > PATH_BYTES:
        raise UnsafePath(f"the path {shown(text[:80])!r}… is too long", path=shown(text[:80]))
    if isinstance(entry, manifest.LinkEntry) and not link_stays_inside(path, entry.target):
        raise UnsafePath(
            f"the link {shown(text)!r} leads out of its directory: {shown(entry.target)!r}",
            hint="replace the link by what it links to, or keep it out in the ignore file",
            path=shown(text),
            target=shown(entry.target),
        )


def too_large(what: str) -> SnapshotTooLarge:
    """The error for a snapshot over its limits."""
    return SnapshotTooLarge(
        f"the snapshot has {what}; the limits are {SNAPSHOT_MAX_FILES} files and "
        f"{SNAPSHOT_MAX_BYTES} bytes",
        hint="keep data out of the source directory with a line in the ignore file",
        max_files=str(SNAPSHOT_MAX_FILES),
        max_bytes=str(SNAPSHOT_MAX_BYTES),
    )


def find_file(root: str, parts: tuple[str, ...], content: ContentStore) -> bool:
    """Whether a snapshot holds a file at this path. A link on the way counts: where it leads is
    known to lie inside."""
    digest = root
    for index, part in enumerate(parts):
        entries = manifest.read_directory(digest, content.read)
        entry = next((entry for entry in entries if entry.name == part), None)
        if entry is None or isinstance(entry, manifest.LinkEntry):
            return entry is not None
        if isinstance(entry, manifest.FileEntry):
            return index == len(parts) - 1
        digest = entry.digest
    return False


def nearest_file(root: str, path: str, content: ContentStore) -> str | None:
    """The path in a snapshot that `path` was most likely meant to be."""
    paths: list[str] = []
    for parts, entry in manifest.iterate(root, content.read):
        if isinstance(entry, manifest.FileEntry):
            paths.append("/".join(parts))
        if len(paths) >= SUGGESTED_FROM:
            break
    same_name = [known for known in paths if known.rsplit("/", 1)[-1] == path.rsplit("/", 1)[-1]]
    return same_name[0] if len(same_name) == 1 else nearest(path, paths)


def inline_manifests(root: str, read: Callable[[str], bytes]) -> tuple[tuple[str, bytes], ...]:
    """All manifests of a snapshot where they are few and small enough to travel in a lease, else
    none."""
    found: dict[str, bytes] = {}
    size_bytes = 0
    queue = [root]
    while queue:
        digest = queue.pop()
        if digest in found:
            continue
        data = read(digest)
        size_bytes += len(data)
        if size_bytes > INLINE_MANIFEST_BYTES:
            return ()
        found[digest] = data
        queue.extend(_below(manifest.decode_directory(data)))
        if len({*found, *queue}) > INLINE_MANIFESTS:
            return ()
    return tuple(found.items())


def _below(decoded: manifest.Directory | manifest.Index) -> Iterator[str]:
    """The manifests that a manifest names."""
    if isinstance(decoded, manifest.Index):
        yield from (part.digest for part in decoded.parts)
    else:
        for entry in decoded.entries:
            if isinstance(entry, manifest.DirectoryEntry):
                yield entry.digest
