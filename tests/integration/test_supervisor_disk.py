"""Runs that fill the disk that their own output and end are written to."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import small_disk
from support.supervised import Node, Peer, python

FILL = (
    "import os\n"
    "fd = os.open('ballast', os.O_WRONLY | os.O_CREAT)\n"
    "def fill(size):\n"
    "    while True: os.write(fd, bytes(size))\n"
    "for size in (1 << 16, 1 << 12, 1):\n"
    "    try: fill(size)\n"
    "    except OSError: pass\n"
)


@pytest.fixture
def node() -> Iterator[Node]:
    if why := small_disk.lacking():
        pytest.skip(why)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-") as folder:
        with small_disk.small_disk(Path(folder), 8 << 20) as disk:
            (disk / "n").mkdir()
            node = Node(disk / "n")
            yield node
            node.close()


@pytest.fixture
def slot(node: Node) -> Peer:
    peer = node.slot()
    peer.wait_for("hello", phase="idle", bundle=None)
    return peer


def test_last_words_and_end_of_a_run_that_has_filled_the_disk_are_kept(
    node: Node, slot: Peer
) -> None:
    bundle, record = node.run(slot, python(FILL + "fill(1)"))

    assert (record["reason"], record["exit_code"], record["disk_full"]) == ("exited", 1, True)
    assert b"No space left on device" in bundle.read("stderr")
    assert bundle.record("exit.json") == record


def test_room_is_kept_again_for_the_next_run(node: Node, slot: Peer) -> None:
    first, _ = node.run(slot, python(FILL + "fill(1)"))
    (first.path / "work" / "ballast").unlink()

    second, record = node.run(slot, python(FILL + "fill(1)"))

    assert record["disk_full"] is True
    assert b"No space left on device" in second.read("stderr")


def test_output_that_finds_no_room_waits_and_is_told_of(node: Node, slot: Peer) -> None:
    bundle = node.bundle(python(FILL + "print('x' * (1 << 20), flush=True)"))

    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for("disk_full", bundle=str(bundle.path))
    os.truncate(bundle.path / "work" / "ballast", 0)
    record = slot.finish(bundle)

    assert (record["exit_code"], record["disk_full"]) == (0, None)
    assert bundle.read("stdout") == b"x" * (1 << 20) + b"\n"


def test_disk_with_room_is_not_full_for_a_run_that_fails(node: Node, slot: Peer) -> None:
    _, record = node.run(slot, ["false"])

    assert (record["exit_code"], record["disk_full"]) == (1, False)
