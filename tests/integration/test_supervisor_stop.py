"""No process of a run outlives it: not its end, not its cancel, not its time limit."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from support.supervised import Node, Peer, is_running, python, supervised_node


@pytest.fixture
def node() -> Iterator[Node]:
    with supervised_node() as node:
        yield node


@pytest.fixture
def slot(node: Node) -> Peer:
    return node.slot()


ESCAPE = """
import os, signal, sys
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)
        os.write(1, b'%d\\n' % os.getpid())
        while True: signal.pause()
    os._exit(0)
os.wait()
"""


def test_supervisor_kills_what_a_job_leaves_behind(node: Node, slot: Peer) -> None:
    bundle, record = node.run(slot, python(ESCAPE + "while not os.stat('../stdout').st_size: pass"))

    left_pid = int(bundle.read("stdout"))
    assert (record["exit_code"], record["survivors"], record["stopped_by"]) == (0, 0, None)
    assert not is_running(left_pid)


def test_supervisor_kills_many_processes_in_many_sessions(node: Node, slot: Peer) -> None:
    script = "for i in $(seq 30); do setsid sh -c 'echo $$; sleep 1000' & done; "
    script += "while [ $(wc -l < ../stdout) -lt 30 ]; do :; done; exit 5"

    bundle, record = node.run(slot, ["sh", "-c", script])

    assert record["exit_code"] == 5
    pids = [int(line) for line in bundle.read("stdout").split()]
    assert len(pids) == 30
    assert not any(is_running(pid) for pid in pids)


def test_supervisor_ends_a_job_that_forks_faster_than_it_is_killed(node: Node, slot: Peer) -> None:
    """Each child makes a session of its own and dies when it has made the next one."""
    script = """
import os
for _ in range(4):
    if os.fork() == 0:
        while True:
            os.setsid()
            if os.fork(): os._exit(0)
while not os.path.exists('../go'): os.write(1, b'.')
"""
    bundle = node.bundle(python(script))
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for_bytes(bundle, b".")
    (bundle.path / "go").touch()

    record = slot.finish(bundle)

    assert (record["exit_code"], record["survivors"]) == (0, 0)
    assert node.run(slot, ["true"])[1]["exit_code"] == 0


def test_supervisor_asks_all_processes_to_end_and_lets_them(node: Node, slot: Peer) -> None:
    script = "trap 'echo main; wait; exit 21' TERM; "
    script += "(trap 'echo child; exit' TERM; echo ready; while :; do sleep 0.01; done) & "
    script += "while :; do wait; done"
    bundle = node.bundle(["bash", "-c", script])
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for_bytes(bundle, b"ready")

    slot.send(op="stop", bundle=str(bundle.path), by="cancel", grace_s=30)
    record = slot.finish(bundle)

    assert (record["reason"], record["exit_code"]) == ("exited", 21)
    assert record["stopped_by"] == "cancel"
    assert {b"main", b"child"} <= set(bundle.read("stdout").split())


STUBBORN = "trap '' TERM INT HUP; echo ready; while :; do sleep 0.05; done"


def test_supervisor_kills_a_job_that_ignores_sigterm_after_the_grace(
    node: Node, slot: Peer
) -> None:
    bundle = node.bundle(["sh", "-c", STUBBORN])
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for_bytes(bundle, b"ready")
    begin = time.monotonic()

    slot.send(op="stop", bundle=str(bundle.path), by="cancel", grace_s=0.4)
    slot.send(op="stop", bundle=str(bundle.path), by="timeout", grace_s=1000)
    record = slot.finish(bundle)

    assert (record["reason"], record["signal"]) == ("signaled", signal.SIGKILL)
    assert record["stopped_by"] == "cancel"
    assert 0.4 <= time.monotonic() - begin < 5


def test_supervisor_shortens_the_grace_when_asked_again(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["sh", "-c", STUBBORN])
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for_bytes(bundle, b"ready")

    slot.send(op="stop", bundle=str(bundle.path), by="cancel", grace_s=1000)
    slot.send(op="stop", bundle=str(bundle.path), by="cancel", grace_s=0)

    assert slot.finish(bundle)["signal"] == signal.SIGKILL


def test_supervisor_ends_a_stopped_job_gently(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["bash", "-c", "trap 'echo bye; exit 0' TERM; echo ready; kill -STOP $$"])
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for_bytes(bundle, b"ready")

    slot.send(op="stop", bundle=str(bundle.path), by="cancel", grace_s=30)
    record = slot.finish(bundle)

    assert record["exit_code"] == 0
    assert bundle.read("stdout") == b"ready\nbye\n"


def test_supervisor_ends_a_run_at_its_time_limit_without_an_agent(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["sh", "-c", STUBBORN], max_duration_s=0.3, grace_s=0.2)
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for("started")
    slot.close()
    after = node.bundle(["true"])

    again = node.slot()
    again.send(op="spawn", bundle=str(after.path))
    again.finish(after)

    record = bundle.record("exit.json")
    assert (record["stopped_by"], record["signal"]) == ("timeout", signal.SIGKILL)
    assert 0.5e9 <= record["duration_ns"] < 10e9


def test_supervisor_takes_a_waiting_run_out_of_its_queue(node: Node, slot: Peer) -> None:
    first, second = node.bundle(["sleep", "1000"]), node.bundle(["true"])
    for bundle in (first, second):
        slot.send(op="spawn", bundle=str(bundle.path))

    slot.send(op="stop", bundle=str(second.path), by="cancel", grace_s=30)
    record = slot.finish(second)

    assert (record["reason"], record["stopped_by"]) == ("never_started", "cancel")
    assert (record["started_at_unix_ns"], record["exit_code"]) == (None, None)
    assert second.record("exit.json") == record
    assert second.read("state.json") == b""


def test_supervisor_refuses_to_stop_what_it_does_not_have(node: Node, slot: Peer) -> None:
    slot.send(op="stop", bundle="/nowhere", by="cancel", grace_s=1)

    assert slot.wait_for("refused", op="stop", bundle="/nowhere")["why"] == "not in this slot"
