"""Packs: many small blobs in one file, seen by readers in other processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runyard_contract.content.batch import LOOSE_AT_MOST, PACKED_UP_TO_BYTES
from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import BlobCorrupt, BlobMissing, DiskFailed, DiskFull

Blob = tuple[str, bytes]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def store(root: Path) -> Iterator[ContentStore]:
    with ContentStore(root) as opened:
        yield opened


def small(name: str, count: int = 40) -> list[Blob]:
    blobs = [f"{name} {number} ".encode() * (number + 1) for number in range(count)]
    return [(digest_bytes(data), data) for data in blobs]


def packs(root: Path, kind: str = "pack") -> list[Path]:
    return sorted((root / "packs").glob(f"*.{kind}"))


def readable(store: ContentStore, blobs: list[Blob]) -> bool:
    return all(store.read(digest) == data for digest, data in blobs)


def test_many_small_blobs_become_one_pack_and_large_ones_files(
    store: ContentStore, root: Path
) -> None:
    large = bytes(PACKED_UP_TO_BYTES + 1)
    blobs = [*small("a"), (digest_bytes(large), large)]

    assert store.put_many(blobs) == 41

    assert len(packs(root)) == len(packs(root, "idx")) == 1
    assert len(list(root.glob("??/*"))) == 1
    assert readable(store, blobs)
    assert store.sizes(digest for digest, _ in blobs) == {d: len(data) for d, data in blobs}
    assert {(b.digest, b.size_bytes) for b in store.walk()} == {(d, len(x)) for d, x in blobs}
    assert os.listdir(root / "tmp") == []


def test_a_few_blobs_make_no_pack(store: ContentStore, root: Path) -> None:
    blobs = small("a", LOOSE_AT_MOST)

    store.put_many(blobs)

    assert packs(root) == []
    assert readable(store, blobs)


def test_digests_that_begin_alike_are_told_apart(store: ContentStore) -> None:
    wanted: list[Blob] = []
    number = 0
    while len(wanted) < 60:  # more than are searched byte by byte
        data = b"%d" % number
        if digest_bytes(data).startswith("00"):
            wanted.append((digest_bytes(data), data))
        number += 1

    store.put_many(wanted[::2])

    assert readable(store, wanted[::2])
    assert store.missing(d for d, _ in wanted) == [d for d, _ in wanted[1::2]]


def test_another_process_sees_packs_that_come_and_go(store: ContentStore, root: Path) -> None:
    first, second = small("first"), small("second")
    with ContentStore(root, read_only=True) as reader:
        store.put_many(first)
        assert readable(reader, first)
        store.put_many(second)
        assert reader.missing(d for d, _ in second) == []
        store.condemn([d for d, _ in first])
        store.sweep()
        store.condemn([d for d, _ in second[:30]])
        store.sweep()
        store.merge_packs()

        assert readable(reader, second[30:])
        with pytest.raises(BlobMissing):
            reader.read(first[0][0])


def test_a_reader_tells_what_is_missing_while_the_folder_changes(
    store: ContentStore, root: Path
) -> None:
    absent, _ = small("absent", 1)[0]
    with ContentStore(root, read_only=True) as reader:
        store.put_many(small("a"))
        assert reader.missing([absent]) == [absent]
        os.utime(root / "packs", (1 << 32, 1 << 32))  # the clock was set back since
        assert reader.missing([absent]) == [absent]


@pytest.mark.parametrize("look", ["read", "missing"])
def test_a_blob_is_found_though_another_thread_has_looked_for_new_packs(
    store: ContentStore, root: Path, monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    first, second = small("a")[:2]
    with ContentStore(root, read_only=True) as reader:
        store.put_many(small("a"))
        os.utime(root / "packs", (1, 1))  # long ago, so one look is enough
        name = "open" if look == "read" else "stat"
        plain = getattr(os, name)

        def interrupted(path: object, *arguments: object, **options: object) -> object:
            monkeypatch.setattr(os, name, plain)
            assert reader.read(first[0]) == first[1]
            return plain(path, *arguments, **options)

        monkeypatch.setattr(os, name, interrupted)
        assert (
            reader.missing([second[0]]) == [] if look == "missing" else readable(reader, [second])
        )


def test_readers_in_other_processes_read_while_packs_are_merged(
    store: ContentStore, root: Path
) -> None:
    kept = small("kept", 200)
    store.put_many(kept)
    program = (
        "import sys; from pathlib import Path\n"
        "from runyard_contract.content.store import ContentStore\n"
        "store = ContentStore(Path(sys.argv[1]), read_only=True)\n"
        "print('ready', flush=True); count = 0\n"
        "while not sys.stdin.closed and count < 40:\n"
        "    for digest in sys.argv[2:]: store.read(digest)\n"
        "    count += 1\n"
        "print(count)\n"
    )
    arguments = [sys.executable, "-c", program, str(root), *(digest for digest, _ in kept)]
    reader = subprocess.Popen(arguments, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "ready\n"
    rounds = 0
    while reader.poll() is None:
        dropped = small(f"dropped {rounds}", 400)
        store.put_many(dropped)
        store.condemn([digest for digest, _ in dropped])
        store.sweep()
        store.put_many(small(f"more {rounds}"))
        store.merge_packs()
        rounds += 1
    out, _ = reader.communicate(timeout=30)

    assert (reader.returncode, out) == (0, "40\n")
    assert rounds > 0


def test_damaged_blob_in_a_pack_is_put_aside_and_can_be_sent_again(
    store: ContentStore, root: Path
) -> None:
    blobs = small("a")
    digest, data = blobs[7]
    store.put_many(blobs)
    (pack,) = packs(root)
    pack.write_bytes(pack.read_bytes().replace(data, data[:-1] + b"!"))

    with pytest.raises(BlobCorrupt) as caught:
        store.read(digest)

    assert (root / caught.value.metadata["kept_as"]).read_bytes() == data[:-1] + b"!"
    assert store.missing(d for d, _ in blobs) == [digest]
    assert readable(store, blobs[:7] + blobs[8:])
    store.put_many([(digest, data)])
    assert store.read(digest) == data


def test_a_reader_leaves_a_damaged_pack_as_it_is(store: ContentStore, root: Path) -> None:
    blobs = small("a")
    store.put_many(blobs)
    (pack,) = packs(root)
    pack.write_bytes(bytes(pack.stat().st_size))
    before = packs(root, "idx")[0].read_bytes()

    with ContentStore(root, read_only=True) as reader, pytest.raises(BlobCorrupt):
        reader.read(blobs[0][0])

    assert packs(root, "idx")[0].read_bytes() == before


@pytest.mark.parametrize("plant", ["link", "fifo", "folder"])
def test_what_lies_in_a_packs_place_is_not_followed_or_waited_for(
    store: ContentStore, root: Path, tmp_path: Path, plant: str
) -> None:
    blobs = small("a")
    store.put_many(blobs)
    (pack,) = packs(root)
    pack.rename(tmp_path / "real")
    plants = {"link": lambda: pack.symlink_to(tmp_path / "real")}
    plants |= {"fifo": lambda: os.mkfifo(pack), "folder": pack.mkdir}
    plants[plant]()

    with pytest.raises(BlobCorrupt):
        store.read(blobs[0][0])


def fails(error: int) -> Callable[..., bytes]:
    def fail(*_: object, **__: object) -> bytes:
        raise OSError(error, os.strerror(error))

    return fail


@pytest.mark.parametrize("call", ["open", "pread"])
def test_a_blob_that_cannot_be_read_now_is_not_taken_for_damaged(
    store: ContentStore, root: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    blobs = small("a")
    store.put_many(blobs)

    with monkeypatch.context() as patched:
        patched.setattr(os, call, fails(errno.EMFILE if call == "open" else errno.EIO))
        with pytest.raises(OSError, match=r"files|error") as caught:
            store.read(blobs[0][0])

    assert caught.value.errno in {errno.EMFILE, errno.EIO}
    assert list((root / "quarantine").iterdir()) == []
    assert readable(store, blobs)


def test_a_merge_that_cannot_read_a_pack_keeps_all_and_leaves_nothing(
    store: ContentStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = small("a")
    store.put_many(blobs)
    store.condemn([digest for digest, _ in blobs[10:]])
    store.sweep()

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", fails(errno.EIO))
        with pytest.raises(DiskFailed):
            store.merge_packs()

    assert list((root / "tmp").iterdir()) == []
    assert readable(store, blobs[:10])
    assert store.merge_packs() == 1
    assert readable(store, blobs[:10])


def test_a_merge_whose_bytes_cannot_be_synced_leaves_nothing(
    store: ContentStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = small("a")
    store.put_many(blobs)
    store.condemn([digest for digest, _ in blobs[10:]])
    store.sweep()

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails(errno.ENOSPC))
        with pytest.raises(DiskFull):
            store.merge_packs()

    assert list((root / "tmp").iterdir()) == []
    assert readable(store, blobs[:10])


@pytest.mark.parametrize("damage", [b"", b"RYI\x01", bytes(2000)])
def test_an_index_that_is_damaged_is_made_again_from_its_pack(
    store: ContentStore, root: Path, damage: bytes
) -> None:
    blobs = small("a")
    store.put_many(blobs)
    store.close()
    packs(root, "idx")[0].write_bytes(damage)

    with ContentStore(root) as again:
        again.remove_leftovers()
        assert readable(again, blobs)


def test_a_pack_that_lost_its_end_keeps_what_is_whole(store: ContentStore, root: Path) -> None:
    blobs = small("a")
    store.put_many(blobs)
    store.close()
    (pack,) = packs(root)
    os.truncate(pack, pack.stat().st_size - 3)

    with ContentStore(root) as again:
        again.remove_leftovers()
        lost = again.missing(digest for digest, _ in blobs)
        assert len(lost) == 1
        assert readable(again, [blob for blob in blobs if blob[0] not in lost])
        assert again.put_many(blobs) == 1


def test_what_nobody_needs_goes_and_its_space_with_it(store: ContentStore, root: Path) -> None:
    kept, gone = small("kept", 20), small("gone", 400)
    store.put_many([*kept, *gone])
    before = packs(root)[0].stat().st_size

    store.condemn([digest for digest, _ in gone])
    assert len(store.missing(digest for digest, _ in gone)) == 400
    assert readable(store, gone)  # readable until the sweep
    store.sweep()
    replaced = store.merge_packs()

    assert replaced == 1
    assert packs(root)[0].stat().st_size < before / 10
    assert readable(store, kept)
    assert store.merge_packs() == 0
    assert store.put_many(gone) == 400


def test_a_blob_stored_again_while_condemned_stays(store: ContentStore) -> None:
    blobs = small("a")
    single = small("single", 1)
    store.put_many(blobs)
    store.put_many(single)

    store.condemn([digest for digest, _ in (*blobs, *single)])
    assert store.put_many([*blobs[:20], *single]) == 21
    store.sweep()

    assert readable(store, [*blobs[:20], *single])
    assert len(store.missing(digest for digest, _ in blobs)) == 20


def test_what_is_spared_is_held_again(store: ContentStore) -> None:
    blobs = small("a")
    digests = [digest for digest, _ in blobs]
    store.put_many(blobs)

    store.condemn(digests)
    store.spare(digests)
    store.sweep()

    assert store.missing(digests) == []


def test_small_packs_are_merged_so_that_there_are_never_many(
    store: ContentStore, root: Path
) -> None:
    written: list[Blob] = []
    for number in range(40):
        blobs = small(f"commit {number}", 10)
        written += blobs
        store.put_many(blobs)
        store.merge_packs()

    assert len(packs(root)) <= 12
    assert readable(store, written)


def test_writers_that_share_blobs_all_find_them(store: ContentStore) -> None:
    blobs = small("shared", 60)
    start = threading.Barrier(4)
    failures: list[BaseException] = []

    def write() -> None:
        start.wait(timeout=10)
        try:
            store.put_many(blobs)
            assert store.missing(digest for digest, _ in blobs) == []
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)

    assert failures == []
    assert readable(store, blobs)
