from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard_contract import manifest
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import (
    BlobMissing,
    DigestMismatch,
    Invalid,
    ManifestInvalid,
    PathCollision,
    RunyardError,
    SnapshotTooLarge,
    UnsafePath,
)
from runyard_contract.limits import (
    CHUNK_BYTES,
    CHUNKED_ABOVE_BYTES,
    DIRECTORY_SPLIT_ENTRIES,
    SNAPSHOT_MAX_FILES,
)
from runyard_contract.manifest import DirectoryEntry, FileEntry, LinkEntry

DIGEST = digest_bytes(b"")
names = st.text("abcdeäß._-0 ", min_size=1, max_size=6).filter(lambda n: n[-1] not in ". ")
sizes = st.integers(0, CHUNKED_ABOVE_BYTES)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
entries = st.lists(
    st.one_of(
        st.builds(FileEntry, names, digests, sizes, st.booleans()),
        st.builds(FileEntry, names, digests, sizes.map(lambda n: n + CHUNKED_ABOVE_BYTES + 1),
                  st.booleans(), st.just(True)),
        st.builds(LinkEntry, names, st.text("ab./", min_size=1)),
        st.builds(DirectoryEntry, names, digests, st.integers(0, 9), st.integers(0, 1 << 40)),
    ),
    max_size=12,
    unique_by=lambda e: manifest.name_collision_key(e.name),
)  # fmt: skip


def files(count: int, name: str = "img_{:05}.png") -> list[FileEntry]:
    return [FileEntry(name.format(i), DIGEST, 10) for i in range(count)]


@given(entries, st.randoms(use_true_random=False))
def test_same_entries_give_the_same_bytes_in_any_order(
    some: list[manifest.Entry], rng: random.Random
) -> None:
    shuffled = list(some)
    rng.shuffle(shuffled)

    one, two = manifest.encode_directory(some), manifest.encode_directory(shuffled)

    assert (one.digest, dict(one.blobs)) == (two.digest, dict(two.blobs))
    decoded = manifest.decode_directory(one.blobs[one.digest])
    assert isinstance(decoded, manifest.Directory)
    assert set(decoded.entries) == set(some)
    assert [e.name.encode() for e in decoded.entries] == sorted(e.name.encode() for e in some)


@given(entries, st.data())
def test_changed_bytes_are_refused_or_are_another_canonical_manifest(
    some: list[manifest.Entry], data: st.DataObject
) -> None:
    encoded = manifest.encode_directory(some)
    damaged = bytearray(encoded.blobs[encoded.digest])
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) + data.draw(st.binary())

    try:
        decoded = manifest.decode_directory(cut)
    except Invalid:
        return

    assert isinstance(decoded, manifest.Directory)
    again = manifest.encode_directory(decoded.entries)
    assert again.blobs[again.digest] == cut


@given(st.sampled_from([b"", b"RYM\x01D", b"RYM\x01I", b"RYM\x01C\x01"]), st.binary(max_size=300))
def test_garbage_is_refused_as_an_invalid_manifest(start: bytes, rest: bytes) -> None:
    for decode in (manifest.decode_directory, manifest.decode_chunks):
        try:
            decode(start + rest)
        except Invalid:
            continue


def test_announced_counts_are_checked_before_they_are_believed() -> None:
    for kind in b"DIC":
        data = b"RYM\x01" + bytes([kind]) + b"\xff\xff\xff\xff" + b"\0" * 64
        with pytest.raises(ManifestInvalid):
            (manifest.decode_chunks if kind == ord("C") else manifest.decode_directory)(data)


def test_512_entries_are_one_manifest_and_513_an_index_with_parts() -> None:
    flat = manifest.encode_directory(files(DIRECTORY_SPLIT_ENTRIES))
    split = manifest.encode_directory(files(DIRECTORY_SPLIT_ENTRIES + 1))

    assert len(flat.blobs) == 1
    index = manifest.decode_directory(split.blobs[split.digest])
    assert isinstance(index, manifest.Index)
    assert len(index.parts) == len(split.blobs) - 1 >= 2
    assert (split.files, split.size_bytes) == (513, 5130)


@pytest.mark.parametrize("change", ["modify", "insert", "remove"])
def test_one_change_in_a_flat_folder_of_20000_rewrites_little(change: str) -> None:
    before = files(20_000)
    after = list(before)
    if change == "modify":
        after[777] = dataclasses.replace(after[777], size_bytes=11)
    elif change == "insert":
        after.insert(777, FileEntry("img_00776b.png", DIGEST, 1))
    else:
        del after[777]

    old, new = manifest.encode_directory(before), manifest.encode_directory(after)

    fresh = {digest: len(data) for digest, data in new.blobs.items() if digest not in old.blobs}
    assert len(fresh) <= 4
    assert sum(fresh.values()) < 64 << 10
    assert sum(map(len, old.blobs.values())) > 1 << 20


@settings(max_examples=25)
@given(st.integers(513, 3000), st.integers(0, 1 << 30))
def test_parts_keep_their_bounds_and_join_to_all_entries(count: int, salt: int) -> None:
    some = files(count, f"f{salt}_{{}}")
    encoded = manifest.encode_directory(some)

    index = manifest.decode_directory(encoded.blobs[encoded.digest])
    assert isinstance(index, manifest.Index)
    assert all(64 <= part.entries <= 512 for part in index.parts[:-1])
    assert set(manifest.read_directory(encoded.digest, encoded.blobs.__getitem__)) == set(some)


# ---- whole snapshots


class Tree:
    """Manifest blobs of a snapshot under construction."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    def folder(self, name: str, *below: manifest.Entry) -> DirectoryEntry:
        encoded = manifest.encode_directory(below)
        self.blobs.update(encoded.blobs)
        return DirectoryEntry(name, encoded.digest, encoded.files, encoded.size_bytes)

    def walk(self, root: DirectoryEntry) -> list[tuple[str, manifest.Entry]]:
        return [("/".join(p), e) for p, e in manifest.iterate(root.digest, self.blobs.__getitem__)]


def test_walk_gives_parents_before_children_with_their_paths() -> None:
    tree = Tree()
    inner = tree.folder("b", FileEntry("z", DIGEST, 3, True), LinkEntry("l", "../a"))
    root = tree.folder("", FileEntry("a", DIGEST, 1), inner, *files(600), tree.folder("empty"))

    walked = tree.walk(root)

    assert [path for path, _ in walked][:5] == ["a", "b", "b/l", "b/z", "empty"]
    assert len(walked) == 605
    assert (root.files, root.size_bytes) == (603, 6004)


def test_walk_refuses_a_link_that_leads_out() -> None:
    tree = Tree()
    root = tree.folder("", tree.folder("d", LinkEntry("l", "../../x")))

    with pytest.raises(UnsafePath, match="d/l"):
        tree.walk(root)


def test_walk_refuses_counts_that_are_not_those_of_the_folder() -> None:
    tree = Tree()
    folder = tree.folder("d", FileEntry("a", DIGEST, 5))
    root = tree.folder("", dataclasses.replace(folder, size_bytes=4))

    with pytest.raises(ManifestInvalid, match="'d'"):
        tree.walk(root)


def test_walk_refuses_another_manifest_than_the_named_one() -> None:
    tree = Tree()
    root = tree.folder("", FileEntry("a", DIGEST, 5))
    other = manifest.encode_directory([]).blobs

    with pytest.raises(DigestMismatch):
        list(manifest.iterate(root.digest, lambda _: next(iter(other.values()))))


def test_walk_passes_on_that_a_manifest_is_missing() -> None:
    def read(digest: str) -> bytes:
        raise BlobMissing.of([digest])

    with pytest.raises(BlobMissing):
        list(manifest.iterate(DIGEST, read))


def test_walk_ends_when_a_small_manifest_unfolds_beyond_the_limit() -> None:
    tree = Tree()
    empty = tree.folder("x")
    bomb = tree.folder("x", *(dataclasses.replace(empty, name=f"d{i}") for i in range(500)))
    for _ in range(5):
        bomb = tree.folder("x", *(dataclasses.replace(bomb, name=f"d{i}") for i in range(500)))

    with pytest.raises(SnapshotTooLarge):
        for _ in manifest.iterate(bomb.digest, tree.blobs.__getitem__, max_entries=20_000):
            pass


def test_walk_refuses_too_many_files_before_the_first_one() -> None:
    tree = Tree()
    root = tree.folder("", DirectoryEntry("d", DIGEST, SNAPSHOT_MAX_FILES + 1, 0))

    with pytest.raises(SnapshotTooLarge):
        next(manifest.iterate(root.digest, tree.blobs.__getitem__))


def test_walk_refuses_parts_that_are_not_what_the_index_says() -> None:
    encoded = manifest.encode_directory(files(600))
    index = encoded.blobs[encoded.digest]
    decoded = manifest.decode_directory(index)
    assert isinstance(decoded, manifest.Index)
    one, two = (bytes.fromhex(part.digest) for part in decoded.parts[:2])
    swapped = index.replace(one, b"?" * 32).replace(two, one).replace(b"?" * 32, two)
    blobs = {**encoded.blobs, digest_bytes(swapped): swapped}

    with pytest.raises(ManifestInvalid):
        list(manifest.iterate(digest_bytes(swapped), blobs.__getitem__))


@pytest.mark.parametrize(
    "entry",
    [
        FileEntry("a", "00", 1),
        FileEntry("a", DIGEST, -1),
        FileEntry("a", DIGEST, 1 << 63),
        FileEntry("a", DIGEST, 5, is_chunked=True),
        FileEntry("a", DIGEST, CHUNKED_ABOVE_BYTES + 1),
        LinkEntry("a", ""),
        LinkEntry("a", "\ud800"),
        DirectoryEntry("a", DIGEST, -1, 0),
        FileEntry("../a", DIGEST, 1),
    ],
)
def test_impossible_entry_is_refused_when_encoded(entry: manifest.Entry) -> None:
    with pytest.raises(RunyardError):
        manifest.encode_directory([entry])


@pytest.mark.parametrize(("one", "two"), [("a", "A"), ("ß", "SS"), ("é", "e\u0301"), ("x", "x")])
def test_names_that_are_one_somewhere_are_refused(one: str, two: str) -> None:
    with pytest.raises(PathCollision) as caught:
        manifest.encode_directory([FileEntry(one, DIGEST, 1), FileEntry(two, DIGEST, 1)])
    assert {caught.value.metadata["first"], caught.value.metadata["second"]} == {one, two}


# ---- chunk lists


@given(st.integers(CHUNKED_ABOVE_BYTES + 1, CHUNKED_ABOVE_BYTES * 5))
def test_chunk_list_reads_back_what_it_writes(size_bytes: int) -> None:
    full, rest = divmod(size_bytes, CHUNK_BYTES)
    chunks = ((DIGEST, CHUNK_BYTES),) * full + (((DIGEST, rest),) if rest else ())

    decoded = manifest.decode_chunks(manifest.encode_chunks(chunks))

    assert decoded == chunks
    assert manifest.chunked_size_bytes(decoded) == size_bytes


@pytest.mark.parametrize(
    "sizes_bytes",
    [[], [CHUNK_BYTES], [CHUNK_BYTES] * 2, [1, CHUNK_BYTES, CHUNK_BYTES], [CHUNK_BYTES] * 2 + [0],
     [CHUNK_BYTES] * 2 + [CHUNK_BYTES + 1]],
)  # fmt: skip
def test_chunks_that_the_chunker_never_makes_are_refused(sizes_bytes: list[int]) -> None:
    with pytest.raises(ManifestInvalid):
        manifest.encode_chunks([(DIGEST, size) for size in sizes_bytes])
