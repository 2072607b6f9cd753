"""Attacks on names, manifests and stored content, at the contract that every side goes through."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard_contract import manifest, paths
from runyard_contract.content.batch import check_size
from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import (
    BlobCorrupt,
    BlobMissing,
    DigestMismatch,
    Invalid,
    ManifestInvalid,
    MessageTooLarge,
    OffsetOutOfRange,
    PathCollision,
    UnsafePath,
)
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_contract.manifest import DirectoryEntry, FileEntry, LinkEntry
from runyard_contract.shipping import accept

DIGEST = digest_bytes(b"x")

REFUSED = [
    "../x", "a/../../x", "/etc/passwd", "//x", "./a", "a//b", "a/", "", ".", "..", "a/./b",
    "C:\\x", "C:/x", "c:x", "\\\\srv\\x", "..\\x", "a\\..\\b", "a\0b", "a\nb", "a\rb", "a\x1b[2J",
    "a\x7f", "a\x85b", "dot./x", "dot.", "space ", "...", "CON", "con", "aux.txt", "NUL.tar.gz",
    "COM1", "LPT9.log", "com¹", "CONIN$", "a:stream", "a::$DATA", "\ud800", os.fsdecode(b"\xff.py"),
    "x" * 256, "/".join("a" * 1000), "a/" * 2000 + "a",
]  # fmt: skip

LITERAL = [
    "%2e%2e/x", "%252e%252e/x", "..;/x", "..%c0%af", "..%2fx", "\u2024\u2024/x", "\uff0e\uff0e/x",
    "\uff0fetc/x", "…/x", "~/x", "$HOME/x", "-rf/x", "console.py", "a.aux", "null", "com10",
    "{{7*7}}", "<img src=x>", "a;b|c&d`e`", "'\"", " leading", ".hidden", "..a", "a..b",
]  # fmt: skip


def one_file(name: str) -> manifest.Encoded:
    return manifest.encode_directory([FileEntry(name, DIGEST, 1)])


def forged(name: bytes) -> bytes:
    """A directory manifest with one file of this name, as an attacker's encoder writes it."""
    data = one_file("N").blobs[one_file("N").digest]
    return data.replace(b"\x01\x00N", len(name).to_bytes(2, "little") + name)


@pytest.mark.parametrize("path", REFUSED)
def test_sec_13_unsafe_path_is_refused_with_its_name(path: str) -> None:
    with pytest.raises(UnsafePath) as caught:
        paths.split_rel(path)

    assert caught.value.reason == "PATH_UNSAFE"
    assert "path" in caught.value.metadata
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", [path for path in REFUSED if len(path) < 60_000])
def test_sec_13_unsafe_name_is_refused_in_a_manifest_when_written_and_when_read(name: str) -> None:
    with pytest.raises(UnsafePath):
        one_file(name)
    with pytest.raises(Invalid):
        manifest.decode_directory(forged(name.encode("utf-8", "surrogatepass")))


@pytest.mark.parametrize("path", LITERAL)
def test_sec_13_harmless_spelling_is_a_literal_name_inside_the_root(
    tmp_path: Path, path: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    *folders, name = paths.split_rel(path)
    root_fd = os.open(root, os.O_RDONLY)
    try:
        dir_fd = paths.open_dir(root_fd, folders, create=True)
        paths.write_file_at(dir_fd, name, b"x")
        os.close(dir_fd)
    finally:
        os.close(root_fd)

    assert [p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()] == [path]
    assert [p.name for p in tmp_path.iterdir()] == ["root"]


def test_sec_13_nothing_is_made_outside_when_a_component_is_unsafe(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    root_fd = os.open(root, os.O_RDONLY)
    try:
        for parts in (("..", "x"), ("a", "..", "..", "x"), ("/tmp",), ("",)):
            with pytest.raises(UnsafePath):
                paths.open_dir(root_fd, parts, create=True)
        for name in ("../x", "/tmp/x", "..", ""):
            with pytest.raises(UnsafePath):
                paths.write_file_at(root_fd, name, b"x")
    finally:
        os.close(root_fd)

    assert [p.name for p in tmp_path.iterdir()] == ["root"]


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("README", "readme"),
        ("é", unicodedata.normalize("NFD", "é")),
        ("É", unicodedata.normalize("NFD", "é")),
        ("straße", "STRASSE"),
        ("same", "same"),
    ],
)
def test_sec_14_names_that_are_one_on_some_file_system_are_refused(one: str, two: str) -> None:
    with pytest.raises(PathCollision) as caught:
        manifest.encode_directory([FileEntry(one, DIGEST, 1), FileEntry(two, DIGEST, 1)])

    assert (caught.value.reason, caught.value.code) == ("PATH_COLLISION", "INVALID_ARGUMENT")


def test_sec_14_file_and_folder_of_one_name_are_refused() -> None:
    with pytest.raises(PathCollision):
        manifest.encode_directory([FileEntry("a", DIGEST, 1), DirectoryEntry("a", DIGEST, 0, 0)])


@pytest.mark.parametrize(("one", "two"), [("a", "a"), ("B", "b"), ("é", "e\u0301")])
def test_sec_14_forged_manifest_with_a_collision_is_refused(one: str, two: str) -> None:
    first, second = sorted((one.encode(), two.encode()))
    data = manifest.encode_directory([FileEntry("M", DIGEST, 1), FileEntry("N", DIGEST, 1)])
    raw = next(iter(data.blobs.values()))
    for name, other in ((b"M", first), (b"N", second)):
        raw = raw.replace(b"\x01\x00" + name, len(other).to_bytes(2, "little") + other)

    with pytest.raises(PathCollision):
        manifest.decode_directory(raw)


def test_sec_14_collision_across_the_parts_of_a_large_folder_is_refused() -> None:
    many = manifest.encode_directory(FileEntry(f"n{i:04}", DIGEST, 1) for i in range(700))
    index = manifest.decode_directory(many.blobs[many.digest])
    assert isinstance(index, manifest.Index)
    first = index.parts[0]
    raw = many.blobs[first.digest]
    changed = raw.replace(b"n0000", b"N0699")
    index_raw = many.blobs[many.digest]
    index_raw = index_raw.replace(b"n0000", b"N0699").replace(
        bytes.fromhex(first.digest), bytes.fromhex(digest_bytes(changed))
    )
    blobs = {
        **many.blobs, digest_bytes(changed): changed, digest_bytes(index_raw): index_raw
    }  # fmt: skip

    with pytest.raises(PathCollision):
        list(manifest.iterate(digest_bytes(index_raw), blobs.__getitem__))


# ---- links in snapshots


@pytest.mark.parametrize(
    ("folder", "target"),
    [
        ((), "/etc/passwd"),
        ((), "/proc/self/root"),
        ((), ".."),
        ((), "../x"),
        (("d",), "../../x"),
        (("d",), "e/../../../x"),
        ((), "other-link/.."),
        ((), "d/../../x"),
        ((), "a\0b"),
        ((), "..\\x"),
    ],
)
def test_sec_15_link_that_can_lead_out_is_refused_when_a_snapshot_is_walked(
    folder: tuple[str, ...], target: str
) -> None:
    blobs: dict[str, bytes] = {}
    try:
        encoded = manifest.encode_directory([LinkEntry("link", target)])
        blobs.update(encoded.blobs)
        for name in reversed(folder):
            below = DirectoryEntry(name, encoded.digest, encoded.files, encoded.size_bytes)
            encoded = manifest.encode_directory([below])
            blobs.update(encoded.blobs)
    except ManifestInvalid:
        return  # a target that no link can have is refused even earlier

    with pytest.raises(UnsafePath):
        list(manifest.iterate(encoded.digest, blobs.__getitem__))


def test_sec_15_chain_and_loop_of_links_inside_are_kept_as_links() -> None:
    links = [LinkEntry("a", "b"), LinkEntry("b", "c"), LinkEntry("c", "a"), LinkEntry("self", ".")]
    encoded = manifest.encode_directory(links)

    walked = [entry for _, entry in manifest.iterate(encoded.digest, encoded.blobs.__getitem__)]

    assert walked == links


def test_sec_15_file_is_never_written_through_a_linked_folder(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    root.mkdir()
    (root / "link").symlink_to(outside)
    (root / "file").touch()
    (root / "dangling").symlink_to(outside / "new")
    root_fd = os.open(root, os.O_RDONLY)
    try:
        for name in ("link", "file"):
            for create in (False, True):
                with pytest.raises(UnsafePath, match=name):
                    paths.open_dir(root_fd, (name,), create=create)
        with pytest.raises(FileExistsError):
            paths.write_file_at(root_fd, "dangling", b"x")
    finally:
        os.close(root_fd)

    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(("kind", "flags"), [(0, 0), (4, 0), (255, 0), (1, 4), (1, 255)])
def test_sec_15_manifest_has_no_entry_for_devices_pipes_or_mode_bits(kind: int, flags: int) -> None:
    data = bytearray(one_file("N").blobs[one_file("N").digest])
    at = data.index(b"\x01\x00N") - 2
    data[at : at + 2] = bytes([kind, flags])

    with pytest.raises(ManifestInvalid):
        manifest.decode_directory(bytes(data))


# ---- blobs


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ContentStore]:
    with ContentStore(tmp_path / "blobs") as opened:
        yield opened


def visible(tmp_path: Path) -> list[Path]:
    return [p for p in (tmp_path / "blobs").rglob("*") if not p.is_dir()]


@pytest.mark.parametrize("digest", [DIGEST[:-1] + "0", DIGEST.upper(), "../../x", "", "0" * 64])
def test_sec_19_wrong_hash_is_refused_and_leaves_nothing(
    store: ContentStore, tmp_path: Path, digest: str
) -> None:
    with pytest.raises(DigestMismatch) as caught:
        store.put_many([(digest, b"x")])

    assert (caught.value.reason, caught.value.code) == ("DIGEST_MISMATCH", "INVALID_ARGUMENT")
    assert visible(tmp_path) == []


@pytest.mark.parametrize("size_bytes", [0, 2, -1, 1 << 63])
def test_sec_19_right_hash_with_a_wrong_size_is_refused(size_bytes: int) -> None:
    with pytest.raises(DigestMismatch):
        check_size(DIGEST, size_bytes, b"x")


def test_sec_19_more_bytes_than_a_blob_can_have_are_refused(
    store: ContentStore, tmp_path: Path
) -> None:
    data = bytes(CHUNKED_ABOVE_BYTES + 1)

    with pytest.raises(MessageTooLarge):
        store.put_many([(digest_bytes(data), data)])

    assert visible(tmp_path) == []


def test_sec_19_offset_gap_and_negative_offset_append_nothing() -> None:
    assert accept(10, 11, b"x") is None
    assert accept(10, 1 << 63, b"x") is None
    with pytest.raises(OffsetOutOfRange):
        accept(10, -(1 << 63), b"x")


def test_sec_19_overlap_with_other_data_changes_no_stored_byte() -> None:
    append = accept(3, 1, b"XXnew")

    assert append is not None
    assert (bytes(append.data), append.committed_bytes) == (b"new", 6)


# ---- damage at rest


@pytest.mark.parametrize("damage", [b"", b"y", b"xx", bytes(CHUNKED_ABOVE_BYTES + 1)])
def test_sec_21_changed_blob_is_never_served(
    store: ContentStore, tmp_path: Path, damage: bytes
) -> None:
    store.put_many([(DIGEST, b"x")])
    path = tmp_path / "blobs" / DIGEST[:2] / DIGEST[2:]
    path.write_bytes(damage)
    out_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(BlobCorrupt) as caught:
            store.copy_to(DIGEST, out_fd, "out")
    finally:
        os.close(out_fd)

    assert (caught.value.reason, caught.value.code) == ("BLOB_CORRUPT", "DATA_LOSS")
    assert not (tmp_path / "out").exists()
    assert not path.exists()
    assert len(list((tmp_path / "blobs/quarantine").iterdir())) == 1
    with pytest.raises(BlobMissing):
        store.read(DIGEST)


def test_sec_21_link_fifo_or_folder_in_a_blobs_place_is_never_followed_or_waited_for(
    store: ContentStore, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"x")  # even with the right content
    store.put_many([(DIGEST, b"x")])
    path = tmp_path / "blobs" / DIGEST[:2] / DIGEST[2:]
    for plant in (lambda: path.symlink_to(secret), lambda: os.mkfifo(path), path.mkdir):
        path.unlink(missing_ok=True)
        plant()
        assert store.missing([DIGEST]) == [DIGEST]
        with pytest.raises(BlobCorrupt):
            store.read(DIGEST)
        assert not path.is_symlink()
        assert not path.exists()

    assert secret.read_bytes() == b"x"


def test_sec_21_truncated_manifest_is_refused_at_every_length() -> None:
    encoded = manifest.encode_directory(
        [FileEntry("a", DIGEST, 1), LinkEntry("b", "a"), DirectoryEntry("c", DIGEST, 0, 0)]
    )
    data = encoded.blobs[encoded.digest]

    for length in range(len(data)):
        with pytest.raises(Invalid):
            manifest.decode_directory(data[:length])


def test_sec_21_manifest_that_was_swapped_in_the_store_is_not_walked(store: ContentStore) -> None:
    real = manifest.encode_directory([FileEntry("a", DIGEST, 1)])
    other = manifest.encode_directory([FileEntry("b", DIGEST, 1)])

    with pytest.raises(DigestMismatch):
        list(manifest.iterate(real.digest, lambda _: other.blobs[other.digest]))
