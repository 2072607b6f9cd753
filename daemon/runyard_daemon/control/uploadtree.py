"""Makes a folder that came as a stream a snapshot: ignore rules, digests, manifests, as clients do
for their own folders."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from runyard_contract.content.batch import Batch, Committed
from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import BlobMissing, FileUnreadable, SpecInvalid
from runyard_contract.ignore import KINDS, IgnoreRules
from runyard_contract.limits import (
    CHUNK_BYTES,
    CHUNKED_ABOVE_BYTES,
    IGNORE_FILE_BYTES,
    SNAPSHOT_MAX_BYTES,
    SNAPSHOT_MAX_FILES,
)
from runyard_contract.manifest import (
    DirectoryEntry,
    Entry,
    FileEntry,
    LinkEntry,
    encode_chunks,
    encode_directory,
)
from runyard_contract.paths import shown
from runyard_daemon.content import Content
from runyard_daemon.control.declare import Declarer
from runyard_daemon.control.snapshots import check_path, too_large
from runyard_daemon.control.spool import GIT, File, Folder, Link, Spool
from runyard_daemon.store.snapshots import SnapshotRecord

LEFT_OUT_NAMED = 1000
_TRIES = 2


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A path that is not part of the snapshot, and the rule that keeps it out."""

    path: str
    rule: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What became of a folder."""

    snapshot: SnapshotRecord
    left_out: list[LeftOut]
    """The first `LEFT_OUT_NAMED`, by path."""
    left_out_count: int


async def declare_spool(
    content: Content, declarer: Declarer, workspace: str, spool: Spool, takes_ignored: bool
) -> Uploaded:
    """Makes the folder in the spool a snapshot.

    Raises UnsafePath, PathCollision, SnapshotTooLarge, SpecInvalid for an ignore file that can't be
    read, DiskFull, WorkspaceNotFound.
    """
    sifted = Sifted(spool, takes_ignored=takes_ignored)
    try:
        await content.run(lambda _: sifted.sift())
    except FileUnreadable as error:
        raise SpecInvalid(violations=[("entries", error.message)]) from error
    for attempt in range(1, _TRIES + 1):
        root, stored = await content.run(lambda store: _store(store, spool))
        content.stored_bytes += stored.size_bytes
        try:
            record = await declarer.declare(workspace, root)
            break
        except BlobMissing:  # what was there was just about to be removed: now it is stored again
            if attempt == _TRIES:
                raise
    return Uploaded(record, sifted.left_out, sifted.left_out_count)


class Sifted:
    """What of a folder goes in, and what the rules keep out."""

    def __init__(self, spool: Spool, *, takes_ignored: bool) -> None:
        self._spool = spool
        self._takes_ignored = takes_ignored
        files = spool.root.below
        kind = next((kind for kind in KINDS if isinstance(files.get(kind), File)), None)
        self._rules = IgnoreRules(kind, self._read)
        self._files = 0
        self._size_bytes = 0
        self.left_out: list[LeftOut] = []
        self.left_out_count = 0

    def sift(self) -> None:
        """Takes what is out off the tree. Raises SnapshotTooLarge, UnsafePath, FileUnreadable."""
        if self._spool.has_git:
            self._leave_out(GIT + "/", f"built-in rule: {GIT}")
        self._folder((), self._spool.root)
        self.left_out.sort(key=lambda left: left.path)

    def _folder(self, parts: tuple[str, ...], folder: Folder) -> bool:
        """Sifts a folder; False where all of it is out."""
        rules = self._rules.enter(parts, folder.below.keys())
        if rules.itself is not None and not self._takes_ignored:
            self._leave_out("/".join(parts) + "/", str(rules.itself))
            return False
        for name, entry in sorted(folder.below.items()):
            here = (*parts, name)
            is_dir = isinstance(entry, Folder)
            rule = None if self._takes_ignored else rules.decide(name, is_dir)
            if rule is not None:
                self._leave_out("/".join(here) + "/" * is_dir, str(rule))
                del folder.below[name]
            elif isinstance(entry, Folder):
                if not self._folder(here, entry):
                    del folder.below[name]
            else:
                if isinstance(entry, Link):
                    check_path(here, LinkEntry(name, entry.target))
                self._count(entry)
        return True

    def _leave_out(self, path: str, rule: str) -> None:
        self.left_out_count += 1
        if len(self.left_out) < LEFT_OUT_NAMED:
            self.left_out.append(LeftOut(path, rule))

    def _count(self, entry: File | Link) -> None:
        self._files += 1
        self._size_bytes += entry.size_bytes if isinstance(entry, File) else 0
        if self._files > SNAPSHOT_MAX_FILES or self._size_bytes > SNAPSHOT_MAX_BYTES:
            raise too_large(f"at least {self._files} files and {self._size_bytes} bytes")

    def _read(self, parts: tuple[str, ...]) -> bytes | None:
        """The bytes of an ignore file."""
        entry: File | Link | Folder | None = self._spool.root
        for part in parts:
            entry = entry.below.get(part) if isinstance(entry, Folder) else None
        if not isinstance(entry, File):
            return None
        if entry.size_bytes > IGNORE_FILE_BYTES:
            path = shown("/".join(parts))
            raise FileUnreadable(
                f"the ignore file {path} is larger than {IGNORE_FILE_BYTES} bytes",
                hint="ignore folders instead of single files",
                path=path,
                limit_bytes=str(IGNORE_FILE_BYTES),
            )
        return self._spool.read(entry)


def _store(store: ContentStore, spool: Spool) -> tuple[str, Committed]:
    """Stores all content and manifests, durable on return; gives the root's digest."""
    with store.batch() as batch:
        digest = _Writer(spool, batch).folder(spool.root).digest
        return digest, batch.commit()


class _Writer:
    """Stores a sifted tree."""

    def __init__(self, spool: Spool, batch: Batch) -> None:
        self._spool = spool
        self._batch = batch

    def folder(self, folder: Folder, name: str = "") -> DirectoryEntry:
        """Stores a folder with all below it."""
        entries: list[Entry] = []
        for below, entry in folder.below.items():
            if isinstance(entry, Folder):
                entries.append(self.folder(entry, below))
            elif isinstance(entry, Link):
                entries.append(LinkEntry(below, entry.target))
            else:
                entries.append(self._file(entry, below))
        encoded = encode_directory(entries)
        self._batch.add(encoded.blobs.items())
        return DirectoryEntry(name, encoded.digest, encoded.files, encoded.size_bytes)

    def _file(self, file: File, name: str) -> FileEntry:
        if file.size_bytes <= CHUNKED_ABOVE_BYTES:
            data = self._spool.read(file)
            digest = digest_bytes(data)
            self._batch.add([(digest, data)])
            return FileEntry(name, digest, file.size_bytes, file.is_executable)
        chunks: list[tuple[str, int]] = []
        for chunk in self._chunks(file):
            digest = digest_bytes(chunk)
            chunks.append((digest, len(chunk)))
            self._batch.add([(digest, chunk)])
        listed = encode_chunks(chunks)
        digest = digest_bytes(listed)
        self._batch.add([(digest, listed)])
        return FileEntry(name, digest, file.size_bytes, file.is_executable, is_chunked=True)

    def _chunks(self, file: File) -> Iterator[bytes]:
        for offset in range(0, file.size_bytes, CHUNK_BYTES):
            yield self._spool.read(file, offset, CHUNK_BYTES)
