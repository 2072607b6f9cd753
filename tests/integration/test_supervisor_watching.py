"""Limits of a run on a node without control groups: its processes are watched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from support import no_groups
from support.supervised import Node, Peer, python, supervised_node

STEP_BY_STEP = (
    "import time\nheld = []\n"
    "while True:\n"
    "    held.append(b'x' * (4 << 20))\n"
    "    print(len(held) * 4, flush=True)\n"
    "    time.sleep(0.02)"
)


def memory(mib: int) -> dict[str, Any]:
    return {"cpu_millicores": 0, "memory_bytes": mib << 20}


def cpus(millicores: int) -> dict[str, Any]:
    return {"cpu_millicores": millicores, "memory_bytes": 0}


@pytest.fixture
def node() -> Iterator[Node]:
    if why := no_groups.lacking():
        pytest.skip(why)
    with supervised_node(no_groups.start_supervisor) as node:
        yield node


@pytest.fixture
def slot(node: Node) -> Peer:
    peer = node.slot()
    peer.wait_for("hello", phase="idle", bundle=None)
    return peer


def test_run_that_grows_over_its_limit_is_ended(node: Node, slot: Peer) -> None:
    bundle, record = node.run(slot, python(STEP_BY_STEP), limits=memory(128))

    assert (record["reason"], record["signal"], record["oom"]) == ("signaled", 9, "limit")
    assert record["stopped_by"] is None
    assert record["limits"] == "memory: watched (no control groups for memory)"
    assert 64 <= int(bundle.read("stdout").split()[-1]) <= 512
    assert not (bundle.path / "cgroups").exists()


def test_all_processes_of_a_run_count_whoever_has_started_them(node: Node, slot: Peer) -> None:
    """Children, and one of a child that is gone, in a session of its own: 40 MiB each."""
    source = (
        "import os, signal\n"
        "def hold():\n"
        "    held = bytearray(b'x') * (40 << 20)\n"
        "    while True: signal.pause()\n"
        "for _ in range(2):\n"
        "    if os.fork() == 0: hold()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: hold()\n"
        "    os._exit(0)\n"
        "os.waitpid(child, 0)\n"
        "while True: signal.pause()"
    )

    _, record = node.run(slot, python(source), limits=memory(100))

    assert (record["reason"], record["signal"], record["oom"]) == ("signaled", 9, "limit")


def test_pages_that_processes_share_count_once(node: Node, slot: Peer) -> None:
    source = (
        "import os, time\n"
        "held = b'x' * (96 << 20)\n"
        "children = []\n"
        "for _ in range(4):\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        time.sleep(1.5)\n"
        "        os._exit(held[-1] != 120)\n"
        "    children.append(pid)\n"
        "for pid in children:\n"
        "    if os.waitpid(pid, 0)[1]: os._exit(3)\n"
    )

    _, record = node.run(slot, python(source), limits=memory(192))

    assert (record["exit_code"], record["oom"]) == (0, None)


def test_pages_of_a_mapped_file_do_not_count(node: Node, slot: Peer) -> None:
    source = (
        "import mmap, time\n"
        "with open('data', 'wb') as file:\n"
        "    for _ in range(64): file.write(b'x' * (4 << 20))\n"
        "with open('data', 'rb') as file:\n"
        "    data = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "total = sum(data[at] for at in range(0, len(data), 4096))\n"
        "time.sleep(1.5)\n"
        "print(total)"
    )

    bundle, record = node.run(slot, python(source), limits=memory(128))

    assert (record["exit_code"], record["oom"]) == (0, None)
    assert int(bundle.read("stdout")) == ord("x") * (256 << 20) // 4096


def test_shared_memory_counts(node: Node, slot: Peer) -> None:
    source = (
        "import mmap, signal\n"
        "held = mmap.mmap(-1, 256 << 20)\n"
        "for at in range(0, len(held), 4096): held[at] = 1\n"
        "while True: signal.pause()"
    )

    _, record = node.run(slot, python(source), limits=memory(128))

    assert (record["signal"], record["oom"]) == (9, "limit")


def test_cpu_limit_bounds_the_number_of_cpus_and_says_what_was_rounded(
    node: Node, slot: Peer
) -> None:
    source = "import os\nprint(len(os.sched_getaffinity(0)))"

    bundle, record = node.run(slot, python(source), limits=cpus(600))

    assert bundle.read("stdout") == b"1\n"
    assert record["limits"] == (
        "cpu: affinity to 1 CPU, rounded up from 0.6 (no control groups for cpu)"
    )


def test_slots_take_turns_with_the_cpus(node: Node) -> None:
    source = "import os\nprint(*os.sched_getaffinity(0))"
    used = set()
    for number in range(len(os.sched_getaffinity(0))):
        bundle, _ = node.run(node.slot(number), python(source), limits=cpus(1000))
        used.add(int(bundle.read("stdout")))

    assert used == os.sched_getaffinity(0)


def test_run_after_a_bounded_one_may_use_all_cpus(node: Node, slot: Peer) -> None:
    source = "import os\nprint(len(os.sched_getaffinity(0)))"
    node.run(slot, python(source), limits=cpus(1000))

    bundle, record = node.run(slot, python(source))

    assert int(bundle.read("stdout")) == len(os.sched_getaffinity(0))
    assert record["limits"] is None
