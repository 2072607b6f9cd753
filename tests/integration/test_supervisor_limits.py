"""Limits of a run, kept by control groups of the kernel that runs the tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import memory_group
from support.supervised import Node, Peer, python, supervised_node, wait_gone

HOG = "held = b'x' * (512 << 20)\nprint('held it')"


def limits(*, cpu_millicores: int = 0, memory_bytes: int = 0) -> dict[str, Any]:
    return {"cpu_millicores": cpu_millicores, "memory_bytes": memory_bytes}


@pytest.fixture
def node() -> Iterator[Node]:
    if why := memory_group.lacking():
        pytest.skip(why)
    with supervised_node() as node:
        yield node


@pytest.fixture
def slot(node: Node) -> Peer:
    peer = node.slot()
    peer.wait_for("hello", phase="idle", bundle=None)
    return peer


def groups_of(node: Node) -> list[Path]:
    return [*Path("/sys/fs/cgroup").rglob(f"runyard-{node.root.name}_*")]


def test_run_over_its_memory_limit_is_ended_and_leaves_no_group(node: Node, slot: Peer) -> None:
    bundle, record = node.run(slot, python(HOG), limits=limits(memory_bytes=64 << 20))

    assert (record["reason"], record["signal"], record["oom"]) == ("signaled", 9, "limit")
    assert record["limits"].startswith("cgroup v")
    assert bundle.read("stdout") == b""
    assert groups_of(node) == []


def test_processes_of_a_run_share_its_memory_limit(node: Node, slot: Peer) -> None:
    source = (
        "import os, signal\n"
        "for _ in range(4):\n"
        "    if os.fork() == 0:\n"
        "        held = b'x' * (48 << 20)\n"
        "        signal.pause()\n"
        "_, status = os.wait()\n"
        "os._exit(3 if os.WTERMSIG(status) == 9 else 0)"
    )

    _, record = node.run(slot, python(source), limits=limits(memory_bytes=128 << 20))

    assert record["oom"] == "limit"
    assert record["exit_code"] == 3 or record["signal"] == 9


def test_run_is_ended_though_its_main_process_waits_for_one_that_the_kernel_has_killed(
    node: Node, slot: Peer
) -> None:
    """As a launcher whose worker is gone: without an end of the whole it would wait for ever."""
    source = (
        "import signal, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'held = bytearray(512 << 20)'])\n"
        "while True: signal.pause()"
    )

    _, record = node.run(slot, python(source), limits=limits(memory_bytes=64 << 20))

    assert (record["reason"], record["signal"], record["oom"]) == ("signaled", 9, "limit")
    assert record["stopped_by"] is None
    assert groups_of(node) == []


def test_run_within_its_limit_ends_by_itself(node: Node, slot: Peer) -> None:
    _, record = node.run(slot, python("print('small')"), limits=limits(memory_bytes=256 << 20))

    assert (record["exit_code"], record["oom"]) == (0, None)


def test_run_without_limits_has_no_group(node: Node, slot: Peer) -> None:
    _, record = node.run(slot, ["cat", "/proc/self/cgroup"])

    assert record["limits"] is None


def test_cpu_limit_is_set_and_inherited(node: Node, slot: Peer) -> None:
    burn = (
        "import time\nend = time.monotonic() + 1.0\n"
        "while time.monotonic() < end: pass\nprint(time.process_time())"
    )

    bundle, record = node.run(slot, python(burn), limits=limits(cpu_millicores=200))

    assert record["exit_code"] == 0
    assert float(bundle.read("stdout")) < 0.5


def test_killed_supervisor_leaves_neither_process_nor_group(node: Node, slot: Peer) -> None:
    source = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    bundle = node.bundle(python(source), limits=limits(memory_bytes=256 << 20))
    slot.send(op="spawn", bundle=str(bundle.path))
    pid = int(slot.wait_for_bytes(bundle, b"\n"))
    assert groups_of(node)

    os.kill(node.slot_pid(), signal.SIGKILL)
    wait_gone(pid)
    answer = node.ask(op="recover", bundle=str(bundle.path))

    assert answer["exit"]["reason"] == "supervisor_lost"
    assert groups_of(node) == []
    assert not (bundle.path / "cgroups").exists()


def test_limits_that_are_none_are_refused(node: Node, slot: Peer) -> None:
    for wrong in ([], {"cpu_millicores": 1}, limits(memory_bytes=-1)):
        bundle = node.bundle(["true"], limits=wrong)
        slot.send(op="spawn", bundle=str(bundle.path))

        assert slot.wait_for("refused", bundle=str(bundle.path))["why"]


def test_limit_over_what_the_node_has_starts_nothing_and_leaves_nothing(
    node: Node, slot: Peer
) -> None:
    bundle, record = node.run(slot, ["true"], limits=limits(memory_bytes=1 << 60))

    assert record["reason"] == "spawn_failed"
    assert "its limits can't be kept on this node" in record["error"]["message"]
    assert groups_of(node) == []
    assert not (bundle.path / "cgroups").exists()
