"""Which snapshots have their manifests in the lease, and what finding out costs."""

from __future__ import annotations

from runyard_contract.digest import digest_bytes
from runyard_contract.limits import INLINE_MANIFEST_BYTES, INLINE_MANIFESTS
from runyard_contract.manifest import DirectoryEntry, Entry, FileEntry, encode_directory
from runyard_daemon.control.snapshots import inline_manifests


class Tree:
    """A snapshot in memory; notes what is read of it."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.reads: list[str] = []

    def folder(self, name: str, *entries: Entry) -> DirectoryEntry:
        encoded = encode_directory(list(entries))
        self.blobs |= encoded.blobs
        return DirectoryEntry(name, encoded.digest, encoded.files, encoded.size_bytes)

    def read(self, digest: str) -> bytes:
        self.reads.append(digest)
        return self.blobs[digest]

    def inline(self, root: DirectoryEntry) -> dict[str, bytes]:
        return dict(inline_manifests(root.digest, self.read))


def file(name: str) -> FileEntry:
    return FileEntry(name, digest_bytes(name.encode()), 1)


def test_all_manifests_of_a_small_snapshot_travel_each_once() -> None:
    tree = Tree()
    shared = [tree.folder(f"copy{n}", file("a")) for n in range(2 * INLINE_MANIFESTS)]
    root = tree.folder("", *shared, tree.folder("b", tree.folder("c", file("d"))))

    assert tree.inline(root) == tree.blobs
    assert len(tree.blobs) == 4


def test_of_many_manifests_none_travels_and_hardly_any_is_read() -> None:
    tree = Tree()
    root = tree.folder("", *(tree.folder(f"d{n}", file(f"f{n}")) for n in range(INLINE_MANIFESTS)))

    assert tree.inline(root) == {}
    assert tree.reads == [root.digest]


def test_of_large_manifests_none_travels() -> None:
    tree = Tree()
    names = [f"{n:05d}" + "x" * 200 for n in range(500)]
    folders = [tree.folder(f"d{n}", *(file(f"{n}{name}") for name in names)) for n in range(5)]
    root = tree.folder("", *folders)

    assert sum(map(len, tree.blobs.values())) > INLINE_MANIFEST_BYTES
    assert tree.inline(root) == {}
