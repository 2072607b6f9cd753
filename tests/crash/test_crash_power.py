"""The model of a power loss, and the daemon under it."""

from __future__ import annotations

import functools
import random
import tempfile
from pathlib import Path

import pytest

from crash.campaign import run_case
from crash.cases import Campaign, Case
from crash.daemon_power import after_cut
from support import faults
from support.diskrecord import Disk, Operation, Step

ROOT = Path("/r")


def step(operation: Operation, path: str, other: str = "", data: bytes = b"", at: int = 0) -> Step:
    return Step(operation, f"{ROOT}{path}", f"{ROOT}{other}", at, data, 0)


CREATE = step(Operation.CREATE, "/a")
WRITE = step(Operation.WRITE, "/a", data=b"abc")
SYNC = step(Operation.SYNC, "/a")
SYNC_FOLDER = step(Operation.SYNC, "")
RENAME = step(Operation.RENAME, "/a", "/b")


def left(tmp_path: Path, *steps: Step, chance: random.Random | None = None) -> dict[str, bytes]:
    disk = Disk(ROOT)
    for one in steps:
        disk.apply(one)
    target = Path(tempfile.mkdtemp(dir=tmp_path))
    disk.lose_power(target, chance)
    return {
        str(path.relative_to(target)): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((CREATE, WRITE), {}),
        ((CREATE, WRITE, SYNC), {}),
        ((CREATE, WRITE, SYNC_FOLDER), {"a": b""}),
        ((CREATE, WRITE, SYNC, SYNC_FOLDER), {"a": b"abc"}),
        ((CREATE, WRITE, step(Operation.SYNC_ALL, "")), {"a": b"abc"}),
        ((CREATE, SYNC_FOLDER, WRITE, RENAME), {"a": b""}),
        ((CREATE, WRITE, SYNC, SYNC_FOLDER, RENAME), {"a": b"abc"}),
        ((CREATE, WRITE, SYNC, RENAME, SYNC_FOLDER), {"b": b"abc"}),
        ((CREATE, WRITE, SYNC, SYNC_FOLDER, step(Operation.UNLINK, "/a")), {"a": b"abc"}),
        (
            (
                step(Operation.MKDIR, "/d"),
                step(Operation.CREATE, "/d/a"),
                step(Operation.SYNC, "/d/a"),
                step(Operation.SYNC, "/d"),
            ),
            {},
        ),
        (
            (CREATE, WRITE, SYNC, SYNC_FOLDER, step(Operation.SIZE, "/a", at=1), SYNC),
            {"a": b"a"},
        ),
    ],
)
def test_only_what_was_synced_is_sure(
    tmp_path: Path, steps: tuple[Step, ...], expected: dict[str, bytes]
) -> None:
    assert left(tmp_path, *steps) == expected


def test_what_is_not_sure_may_survive_whole_in_part_or_not(tmp_path: Path) -> None:
    steps = (CREATE, SYNC_FOLDER, WRITE, step(Operation.WRITE, "/a", data=b"def", at=3))

    found = {left(tmp_path, *steps, chance=random.Random(n))["a"] for n in range(200)}

    assert {b"", b"abc", b"abcdef", b"\0\0\0def"} <= found
    assert b"ab" in found


@pytest.mark.slow
@pytest.mark.skipif(bool(faults.lacking()), reason=faults.lacking() or "possible")
def test_a_daemon_keeps_what_it_acknowledged_through_a_power_loss() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    run_case(Campaign("power", "", functools.partial(after_cut, cuts=5), 1), 1, seed)


@pytest.mark.slow
@pytest.mark.skipif(bool(faults.lacking()), reason=faults.lacking() or "possible")
def test_a_disk_that_lies_about_syncs_is_found_out() -> None:
    with (
        tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-") as folder,
        pytest.raises(AssertionError, match="lost"),
    ):
        after_cut(Case("lying", 1, 1, Path(folder)), cuts=5, drops_syncs=True)
