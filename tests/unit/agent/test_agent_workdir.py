import os
import stat
from pathlib import Path

import pytest

from runyard_agent.bundles import Bundle, Key
from runyard_agent.workdir import (
    Abandoned,
    InlineBlobs,
    LayoutFailed,
    NoBlobs,
    WorkIndex,
    changes,
    lay_out,
    open_file,
    plan,
)
from runyard_agent.workfiles import summary, to_collect
from runyard_contract.content.store import ContentStore
from runyard_contract.errors import DigestMismatch, UnsafePath
from runyard_contract.manifest import FileEntry
from support.trees import store_tree


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "blobs")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    (tmp_path / "bundle").mkdir()
    return Bundle(str(tmp_path / "bundle"), Key("t_1_00000001", 1))


def lay(store: ContentStore, tree: dict[str, object], work: str) -> WorkIndex:
    return lay_out(plan(store_tree(store, tree), store.read), store, work)


def test_lay_out_makes_what_the_snapshot_says(store: ContentStore, bundle: Bundle) -> None:
    large = os.urandom(9 << 20)
    tree = {
        "train.py": b"print()",
        "tool": (b"#!/bin/sh\n", True),
        "deep/er/data.bin": large,
        "link": "deep/er/data.bin",
        "empty": b"",
    }

    lay(store, tree, bundle.work)

    work = Path(bundle.work)
    assert (work / "train.py").read_bytes() == b"print()"
    assert (work / "deep/er/data.bin").read_bytes() == large
    assert os.readlink(work / "link") == "deep/er/data.bin"
    assert (work / "empty").read_bytes() == b""
    assert stat.S_IMODE((work / "tool").stat().st_mode) == 0o755
    assert stat.S_IMODE((work / "train.py").stat().st_mode) == 0o644
    assert sorted(os.listdir(work)) == [
        "deep", "empty", "link", "logs", "outputs", "tool", "train.py",
    ]  # fmt: skip


def test_lay_out_of_nothing_gives_an_empty_working_folder(bundle: Bundle) -> None:
    lay_out((), NoBlobs(), bundle.work)

    assert sorted(os.listdir(bundle.work)) == ["logs", "outputs"]


def test_lay_out_keeps_outputs_that_are_part_of_the_snapshot(
    store: ContentStore, bundle: Bundle
) -> None:
    lay(store, {"outputs/before.txt": b"b"}, bundle.work)

    assert Path(bundle.work, "outputs/before.txt").read_bytes() == b"b"


def test_lay_out_says_that_a_blob_is_missing(store: ContentStore, bundle: Bundle) -> None:
    entry = FileEntry("gone.bin", "ab" * 32, 3)

    with pytest.raises(LayoutFailed, match="not in the store"):
        lay_out([(("gone.bin",), entry)], store, bundle.work)


def test_lay_out_says_that_the_disk_is_full(store: ContentStore, bundle: Bundle) -> None:
    class Full:
        """A file system without room."""

        def read(self, digest: str) -> bytes:
            return store.read(digest)

        def copy_to(self, digest: str, dir_fd: int, name: str, mode: int) -> int:
            raise OSError(28, "No space left on device")

    root = store_tree(store, {"sub/a.bin": b"a"})

    with pytest.raises(LayoutFailed) as caught:
        lay_out(plan(root, store.read), Full(), bundle.work)

    assert caught.value.message == "the disk of the node is full: sub/a.bin could not be written"
    assert "free some space" in caught.value.advice
    assert caught.value.metadata == {"path": "sub/a.bin", "errno": "ENOSPC"}


def test_lay_out_stops_when_nobody_wants_it_any_more(store: ContentStore, bundle: Bundle) -> None:
    root = store_tree(store, {f"f{n}": b"x" for n in range(50)})
    left = iter(range(10))

    with pytest.raises(Abandoned):
        lay_out(plan(root, store.read), store, bundle.work, lambda: next(left, None) is not None)

    assert len(os.listdir(bundle.work)) == 10


def test_inline_manifests_are_verified(store: ContentStore) -> None:
    digest = store_tree(store, {"a": b"a"})

    with pytest.raises(DigestMismatch):
        InlineBlobs({digest: b"something else"}, store).read(digest)


def test_changes_lists_new_and_changed_files_only(store: ContentStore, bundle: Bundle) -> None:
    index = lay(store, {"same.txt": b"s", "changed.txt": b"old", "pkg/mod.py": b""}, bundle.work)
    work = Path(bundle.work)
    (work / "changed.txt").write_bytes(b"new!")
    (work / "model.pt").write_bytes(b"m")
    (work / "outputs/result.json").write_bytes(b"{}")
    (work / "logs/own.txt").write_bytes(b"l")
    (work / "pkg/__pycache__").mkdir()
    (work / "pkg/__pycache__/mod.cpython-311.pyc").write_bytes(b"c")
    (work / "venv").mkdir()
    (work / "venv/pyvenv.cfg").write_bytes(b"")
    (work / "lost.pyc").write_bytes(b"")

    found = changes(bundle.work, index, lambda _path, _is_folder: False)

    assert [node.path for node in found] == ["changed.txt", "model.pt"]


def test_changes_sees_a_file_that_was_replaced_by_an_equal_one(
    store: ContentStore, bundle: Bundle
) -> None:
    index = lay(store, {"a.txt": b"1"}, bundle.work)
    replaced = Path(bundle.work, "a.txt")
    os.utime(replaced, ns=(1, 1))

    assert [n.path for n in changes(bundle.work, index, lambda _p, _f: False)] == ["a.txt"]


def test_summary_counts_all_and_names_the_first_twenty(store: ContentStore, bundle: Bundle) -> None:
    lay(store, {".gitignore": b"*.tmp\nscratch/\n", "train.py": b""}, bundle.work).save(
        bundle.work_index
    )
    work = Path(bundle.work)
    for number in range(25):
        (work / f"part-{number:02}.csv").write_bytes(b"x" * number)
    (work / "a.tmp").write_bytes(b"")
    (work / "scratch").mkdir()
    (work / "scratch/b.csv").write_bytes(b"")

    found = summary(bundle)

    assert found.file_count == 25
    assert [file.path for file in found.files] == [f"part-{n:02}.csv" for n in range(20)]
    assert found.files[3].size_bytes == 3
    assert found.HasField("expire_time")


def test_summary_of_an_untouched_folder_is_empty(store: ContentStore, bundle: Bundle) -> None:
    lay(store, {"train.py": b"", "sub/data": b"d"}, bundle.work).save(bundle.work_index)

    found = summary(bundle)

    assert found.file_count == 0
    assert not found.HasField("expire_time")


def test_to_collect_leaves_out_names_that_no_record_can_have(
    store: ContentStore, bundle: Bundle
) -> None:
    lay(store, {"train.py": b""}, bundle.work).save(bundle.work_index)
    Path(bundle.work, "good.txt").write_bytes(b"")
    Path(os.fsdecode(os.fsencode(bundle.work) + b"/bad\xff")).write_bytes(b"")

    assert [file.name for file in to_collect(bundle, "workdir/")] == ["workdir/good.txt"]


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "through a link"])
def test_open_file_takes_plain_files_only(tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "x").write_text("s")
    root = tmp_path / "root"
    root.mkdir()
    path = "x"
    if kind == "link":
        (root / "x").symlink_to(secret / "x")
    elif kind == "fifo":
        os.mkfifo(root / "x")
    elif kind == "folder":
        (root / "x").mkdir()
    else:
        (root / "d").symlink_to(secret)
        path = "d/x"

    with pytest.raises(UnsafePath):
        open_file(str(root), path)
