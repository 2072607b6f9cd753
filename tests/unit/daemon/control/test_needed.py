"""What a backup takes along: every blob that a record leads to, once."""

from __future__ import annotations

from collections import Counter

from runyard_contract.digest import digest_bytes
from runyard_contract.limits import CHUNK_BYTES, CHUNKED_ABOVE_BYTES
from runyard_contract.manifest import (
    DirectoryEntry,
    Entry,
    FileEntry,
    encode_chunks,
    encode_directory,
)
from runyard_daemon.control.needed import needed_blobs
from runyard_daemon.store.files import NeededFile

CHUNK_DATA = [b"chunk %d" % number for number in range(CHUNKED_ABOVE_BYTES // CHUNK_BYTES + 1)]
CHUNKS = [(digest_bytes(data), CHUNK_BYTES) for data in CHUNK_DATA]


class Blobs:
    """A store in memory; counts how often each blob is read."""

    def __init__(self) -> None:
        self.held = {digest_bytes(data): data for data in CHUNK_DATA}
        self.reads: Counter[str] = Counter()

    def file(self, name: str, data: bytes) -> FileEntry:
        self.held[digest_bytes(data)] = data
        return FileEntry(name, digest_bytes(data), len(data))

    def large_file(self, name: str) -> FileEntry:
        listed = self.file(name, encode_chunks(CHUNKS)).digest
        return FileEntry(name, listed, len(CHUNKS) * CHUNK_BYTES, is_chunked=True)

    def folder(self, name: str, entries: list[Entry]) -> DirectoryEntry:
        encoded = encode_directory(entries)
        self.held |= encoded.blobs
        return DirectoryEntry(name, encoded.digest, encoded.files, encoded.size_bytes)

    def read(self, digest: str) -> bytes:
        self.reads[digest] += 1
        return self.held[digest]

    def needed(self, roots: list[str], files: list[NeededFile]) -> dict[str, bytes]:
        found = list(needed_blobs(roots, files, self.read))
        assert len(dict(found)) == len(found), "a blob comes twice"
        return dict(found)


def test_every_blob_below_snapshots_and_of_files_comes_once_and_is_read_once() -> None:
    blobs = Blobs()
    shared = blobs.folder("shared", [blobs.file("a", b"a"), blobs.large_file("large")])
    roots = [
        blobs.folder("", [shared, blobs.file("b", b"b")]).digest,
        blobs.folder("", [shared]).digest,
    ]
    output = blobs.file("c", b"c").digest

    needed = blobs.needed(roots, [NeededFile(output, is_chunked=False)] * 2)

    assert needed == blobs.held
    assert set(blobs.reads.values()) == {1}


def test_file_with_the_bytes_of_a_manifest_hides_nothing_below_that() -> None:
    blobs = Blobs()
    below = blobs.folder("below", [blobs.file("a", b"a"), blobs.large_file("large")])
    copies = [
        blobs.file("manifest", blobs.held[below.digest]),
        blobs.file("chunks", encode_chunks(CHUNKS)),
    ]
    first = blobs.folder("", [*copies])

    needed = blobs.needed([first.digest, below.digest], [])

    assert needed == blobs.held
