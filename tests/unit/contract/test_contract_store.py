from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pytest

from runyard_contract.content import batch as batches
from runyard_contract.content.batch import Batch, check_size
from runyard_contract.content.durable import sync_names
from runyard_contract.content.store import ContentStore
from runyard_contract.digest import Hasher, digest_bytes
from runyard_contract.errors import (
    BlobCorrupt,
    BlobMissing,
    DigestMismatch,
    MessageTooLarge,
    ReadOnly,
)
from runyard_contract.limits import CHUNKED_ABOVE_BYTES


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ContentStore]:
    with ContentStore(tmp_path / "blobs") as opened:
        yield opened


def blob(text: str) -> tuple[str, bytes]:
    return digest_bytes(text.encode()), text.encode()


def path_of(tmp_path: Path, digest: str) -> Path:
    return tmp_path / "blobs" / digest[:2] / digest[2:]


def test_digest_in_pieces_is_the_digest_of_the_whole() -> None:
    hasher = Hasher()
    hasher.update(b"ab")
    hasher.update(memoryview(b"c"))

    assert hasher.hexdigest() == digest_bytes(b"abc")
    assert digest_bytes(b"").startswith("af1349b9f5f9a1a6a0404dea36dcc949")  # BLAKE3's own vector


@pytest.mark.parametrize("count", [1, 100])
def test_stored_blobs_are_no_longer_missing_and_read_back(store: ContentStore, count: int) -> None:
    blobs = [blob(f"content {i}") for i in range(count)]
    digests = [digest for digest, _ in blobs]

    assert store.missing([*digests, *digests]) == digests
    assert store.put_many([*blobs, *blobs]) == count
    assert store.missing(digests) == []
    assert store.put_many(blobs) == 0
    assert [store.read(digest) for digest in digests] == [data for _, data in blobs]
    assert store.sizes(digests) == {digest: len(data) for digest, data in blobs}


def test_empty_blob_and_largest_blob_are_stored(store: ContentStore) -> None:
    largest = bytes(CHUNKED_ABOVE_BYTES)

    store.put_many([(digest_bytes(b""), b""), (digest_bytes(largest), memoryview(largest))])

    assert store.read(digest_bytes(b"")) == b""
    assert store.read(digest_bytes(largest)) == largest


def test_nothing_is_stored_when_one_blob_of_the_batch_is_wrong(
    store: ContentStore, tmp_path: Path
) -> None:
    good = blob("good")

    with pytest.raises(DigestMismatch):
        store.put_many([good, (digest_bytes(b"x"), b"y")])

    assert store.missing([good[0]]) == [good[0]]
    assert list((tmp_path / "blobs/tmp").iterdir()) == []


def test_blob_over_the_limit_is_refused(store: ContentStore) -> None:
    data = bytes(CHUNKED_ABOVE_BYTES + 1)

    with pytest.raises(MessageTooLarge):
        store.put_many([(digest_bytes(data), data)])


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64])
def test_what_is_not_there_is_missing(store: ContentStore, digest: str) -> None:
    assert store.missing([digest]) == [digest]
    with pytest.raises(BlobMissing):
        store.read(digest)
    assert store.sizes([digest]) == {}


def test_copy_gives_a_verified_file_and_replaces_none(store: ContentStore, tmp_path: Path) -> None:
    digest, data = blob("print(1)")
    store.put_many([(digest, data)])
    dir_fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert store.copy_to(digest, dir_fd, "train.py", 0o755) == len(data)
        (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
        for name in ("train.py", "link"):
            with pytest.raises(FileExistsError):
                store.copy_to(digest, dir_fd, name)
    finally:
        os.close(dir_fd)

    assert (tmp_path / "train.py").read_bytes() == data
    assert os.access(tmp_path / "train.py", os.X_OK)
    assert not (tmp_path / "elsewhere").exists()


def test_damaged_blob_is_put_aside_and_can_be_sent_again(
    store: ContentStore, tmp_path: Path
) -> None:
    digest, data = blob("weights")
    store.put_many([(digest, data)])
    path_of(tmp_path, digest).write_bytes(b"weightz")

    with pytest.raises(BlobCorrupt) as caught:
        store.read(digest)

    assert (tmp_path / "blobs" / caught.value.metadata["kept_as"]).read_bytes() == b"weightz"
    assert store.missing([digest]) == [digest]
    store.put_many([(digest, data)])
    assert store.read(digest) == data


def test_reader_without_write_access_leaves_a_damaged_blob_in_place(
    store: ContentStore, tmp_path: Path
) -> None:
    digest, data = blob("weights")
    store.put_many([(digest, data)])
    path_of(tmp_path, digest).write_bytes(b"")

    with ContentStore(tmp_path / "blobs", read_only=True) as reader:
        with pytest.raises(BlobCorrupt):
            reader.read(digest)
        with pytest.raises(ReadOnly):
            reader.put_many([blob("new")])

    assert path_of(tmp_path, digest).exists()


def test_many_writers_of_the_same_blobs_all_succeed(store: ContentStore) -> None:
    blobs = [blob(f"shared {i}") for i in range(40)]
    start = threading.Barrier(6)
    failures: list[BaseException] = []

    def write() -> None:
        start.wait(timeout=10)
        try:
            store.put_many(blobs)
            assert store.missing(digest for digest, _ in blobs) == []
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    assert failures == []
    assert [store.read(digest) for digest, _ in blobs] == [data for _, data in blobs]


def test_leftovers_of_a_killed_writer_are_removed(store: ContentStore, tmp_path: Path) -> None:
    (tmp_path / "blobs/tmp/abc.0").write_bytes(b"half")

    assert store.remove_leftovers() == 1
    assert list((tmp_path / "blobs/tmp").iterdir()) == []


def test_folders_of_the_store_are_private(store: ContentStore, tmp_path: Path) -> None:
    store.put_many([blob("x")])

    folders = [p for p in (tmp_path / "blobs").rglob("*") if p.is_dir()]
    assert folders
    assert all(p.stat().st_mode & 0o077 == 0 for p in folders)


def test_announced_size_is_checked() -> None:
    digest, data = blob("abc")

    check_size(digest, 3, data)
    with pytest.raises(DigestMismatch):
        check_size(digest, 2, data)


def test_batch_becomes_visible_with_its_commit_and_can_be_filled_again(
    store: ContentStore, tmp_path: Path
) -> None:
    first, second, third = blob("first"), blob("second"), blob("third")
    store.put_many([first])
    with store.batch() as batch:
        batch.add([first, second])
        batch.add([second])
        waiting_bytes = batch.size_bytes
        before = store.missing([second[0]])
        committed = batch.commit()
        batch.add([third])
        again = batch.commit()

        assert waiting_bytes == len(second[1])
        assert before == [second[0]]
        assert (committed, again) == ((1, len(second[1])), (1, len(third[1])))
        assert batch.commit() == (0, 0)
    assert store.sizes([second[0], third[0], "0" * 64]) == {
        second[0]: len(second[1]),
        third[0]: len(third[1]),
    }
    assert list((tmp_path / "blobs/tmp").iterdir()) == []


def test_batch_that_is_left_without_a_commit_stores_nothing(
    store: ContentStore, tmp_path: Path
) -> None:
    with store.batch() as batch:
        batch.add([blob("x")])

    assert store.missing([blob("x")[0]]) == [blob("x")[0]]
    assert list((tmp_path / "blobs/tmp").iterdir()) == []
    with pytest.raises(RuntimeError):
        batch.add([blob("y")])


def test_batches_of_the_same_blob_count_it_once(store: ContentStore, tmp_path: Path) -> None:
    with store.batch() as one, store.batch() as other:
        one.add([blob("x")])
        other.add([blob("x"), blob("y")])

        assert one.commit().blobs == 1
        assert other.commit().blobs == 1
    assert store.missing([blob("x")[0], blob("y")[0]]) == []
    assert list((tmp_path / "blobs/tmp").iterdir()) == []


def test_a_blob_that_is_stored_is_not_missing_while_another_batch_stores_it_too(
    store: ContentStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, _ = blob("x")
    others: list[Batch] = []
    missing: list[str] = []

    def begin_another() -> None:
        if not others:
            others.append(store.batch())
            others[0].add([blob("x")])

    def sync_and(then: Callable[[], None]) -> Callable[[int, Collection[str]], None]:
        def sync(root_fd: int, names: Collection[str]) -> None:
            then()
            sync_names(root_fd, names)

        return sync

    # The other one begins while the first has no durable name yet, and ends after it.
    monkeypatch.setattr(batches, "sync_names", sync_and(begin_another))
    with store.batch() as one:
        one.add([blob("x")])
        one.commit()
    (other,) = others
    monkeypatch.setattr(
        batches, "sync_names", sync_and(lambda: missing.extend(store.missing([digest])))
    )
    with other:
        other.commit()

    assert missing == []
    assert store.missing([digest]) == []
