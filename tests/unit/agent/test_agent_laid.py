"""What a run can do to its folders without being noticed: nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runyard_agent.bundles import Bundle, Key, file_size
from runyard_agent.folders import Claimed, Folders
from runyard_agent.laid import TICK_NS, LaidOut
from runyard_agent.workdir import contents, lay_out, plan
from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyardpb.agent.v1 import agent_pb2 as pb
from support.agent_process import in_loop
from support.trees import store_tree

KEY = Key("t_1764000000_00000001", 1)
TREE = {"train.py": b"print(1)\n", "sub/data.bin": b"12345", "link": "train.py"}


def laid_out(root: Path, tree: dict[str, bytes | tuple[str, str]]) -> tuple[Bundle, LaidOut]:
    """A bundle as it is when its run begins."""
    store = ContentStore(root / "blobs")
    digest = store_tree(store, dict(tree))
    entries = plan(digest, store.read)
    bundle = Bundle(str(root / "runs" / str(KEY)), KEY)
    os.makedirs(bundle.job)
    lay_out(entries, store, bundle.work)
    return bundle, LaidOut(digest, bundle.path, contents(entries))


def start_of(bundle: Bundle, *, is_early: bool) -> int:
    """When a run began: in the tick in which its folder was made, or later."""
    newest = max(
        os.lstat(os.path.join(folder, name)).st_ctime_ns
        for folder, folders, files in os.walk(bundle.path)
        for name in [*folders, *files]
    )
    return newest + (0 if is_early else 2 * TICK_NS)


def write_same_size(work: str) -> None:
    path = f"{work}/train.py"
    before = os.stat(path)
    fd = os.open(path, os.O_WRONLY)
    os.pwrite(fd, b"print(2)\n", 0)
    os.close(fd)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[str], None]] = {
    "same size, time set back": write_same_size,
    "mode": lambda work: os.chmod(f"{work}/train.py", 0o600),
    "mode of a folder": lambda work: os.chmod(f"{work}/outputs", 0o700),
    "new file": lambda work: Path(work, "new").touch(),
    "new file in a folder": lambda work: Path(work, "sub/new").touch(),
    "output": lambda work: Path(work, "outputs/model").touch(),
    "metric": lambda work: Path(work, "../job/metrics.jsonl").touch(),
    "removed": lambda work: os.unlink(f"{work}/sub/data.bin"),
    "removed and made again": lambda work: (
        os.unlink(f"{work}/train.py"),
        Path(work, "train.py").write_bytes(b"print(3)\n"),
    )[0],
    "link": lambda work: (os.unlink(f"{work}/link"), os.symlink("sub", f"{work}/link"))[0],
    "folder replaced": lambda work: (
        os.rename(f"{work}/logs", f"{work}/../logs"),
        os.mkdir(f"{work}/logs"),
    )[0],
}


@pytest.mark.parametrize("change", CHANGES)
def test_change_is_noticed(tmp_path: Path, change: str) -> None:
    bundle, laid = laid_out(tmp_path, dict(TREE))
    start = start_of(bundle, is_early=False)
    assert laid.is_untouched(bundle.path, start)

    CHANGES[change](bundle.work)

    assert not laid.is_untouched(bundle.path, start)


def test_change_within_a_tick_of_the_layout_is_noticed_by_content(tmp_path: Path) -> None:
    bundle, laid = laid_out(tmp_path, {"train.py": b"print(1)\n", "sub/data.bin": b"12345"})
    start = start_of(bundle, is_early=True)
    assert laid.is_untouched(bundle.path, start)

    fd = os.open(f"{bundle.work}/train.py", os.O_WRONLY)
    os.pwrite(fd, b"print(2)\n", 0)
    os.close(fd)
    made_of = {"train.py": b"print(1)\n", "sub/data.bin": b"12345"}
    digests = {path: digest_bytes(data) for path, data in made_of.items()}
    same_tick = LaidOut(laid.root_digest, bundle.path, digests)

    assert not same_tick.is_untouched(bundle.path, start_of(bundle, is_early=True))


def ended(bundle: Bundle) -> None:
    """Leaves a bundle as a supervisor does at the end of a run."""
    for name in ("stdout", "stderr", "order", "state.json", "exit.json"):
        Path(bundle.path, name).write_text("{}")


def traces(bundle: Bundle) -> list[str]:
    """What a new run could see of an earlier one."""
    logs = [name for name in ("stdout", "stderr", "order") if file_size(f"{bundle.path}/{name}")]
    return logs + [name for name in ("state.json", "exit.json") if name in os.listdir(bundle.path)]


def lease(laid: LaidOut, run: str = "t_1764000000_00000002") -> pb.Lease:
    made = pb.Lease(ref=pb.AttemptRef(run=f"workspaces/default/experiments/t/runs/{run}"))
    made.spec.snapshot = f"workspaces/default/snapshots/{laid.root_digest}"
    return made


@in_loop
async def test_folder_goes_to_the_next_run_of_its_snapshot_without_a_trace_of_the_last(
    tmp_path: Path,
) -> None:
    bundle, laid = laid_out(tmp_path, dict(TREE))
    trashed: list[str] = []
    folders = Folders(tmp_path / "runs", trashed.append, "boot")
    ended(bundle)
    inode = os.stat(bundle.work).st_ino

    folders.take_back(bundle, laid)
    other = Bundle(str(tmp_path / "runs/other"), Key("t_1764000000_00000002", 1))
    unlike = pb.Lease()
    unlike.spec.snapshot = "workspaces/default/snapshots/" + "0" * 64

    assert folders.claim(other, unlike) is None
    assert folders.claim(other, lease(laid)) == Claimed(laid)
    assert folders.claim(Bundle("/nowhere", KEY), lease(laid)) is None
    assert os.stat(other.work).st_ino == inode
    assert not traces(other)
    assert trashed == []


@in_loop
async def test_folder_that_cannot_become_a_bundle_is_thrown_away(tmp_path: Path) -> None:
    bundle, laid = laid_out(tmp_path, dict(TREE))
    trashed: list[str] = []
    folders = Folders(tmp_path / "runs", trashed.append, "boot")
    ended(bundle)
    folders.take_back(bundle, laid)
    (free,) = (tmp_path / "runs").iterdir()

    with pytest.raises(FileNotFoundError):
        folders.claim(Bundle(str(tmp_path / "nowhere/other"), KEY), lease(laid))

    assert trashed == [str(free)]
    assert not folders.has(laid.root_digest)


TRICKS: dict[str, Callable[[str, Path], object]] = {
    "link": lambda log, precious: (os.unlink(log), os.symlink(precious, log)),
    "second name": lambda log, precious: (os.unlink(log), os.link(precious, log)),
    "more": lambda log, _: Path(log).with_name("more").touch(),
}


@pytest.mark.parametrize("trick", TRICKS)
@in_loop
async def test_folder_that_was_tampered_with_is_thrown_away(tmp_path: Path, trick: str) -> None:
    bundle, laid = laid_out(tmp_path, dict(TREE))
    precious = tmp_path / "precious"
    precious.write_text("kept")
    trashed: list[str] = []
    folders = Folders(tmp_path / "runs", trashed.append, "boot")
    ended(bundle)
    TRICKS[trick](f"{bundle.path}/stdout", precious)

    folders.take_back(bundle, laid)

    assert len(trashed) == 1
    assert folders.claim(Bundle("/nowhere", KEY), lease(laid)) is None
    assert precious.read_text() == "kept"
