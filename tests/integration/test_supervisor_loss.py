"""kill -9 of every part in the middle of a run, and peers that vanish or talk nonsense."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.supervised import Bundle, Node, Peer, is_running, python, supervised_node, wait_gone


@pytest.fixture
def node() -> Iterator[Node]:
    with supervised_node() as node:
        yield node


@pytest.fixture
def slot(node: Node) -> Peer:
    return node.slot()


FAMILY = """
import os, signal
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execve('/bin/sleep', ['sleep', '1000'], {})
    os._exit(0)
os.wait()
os.write(1, b'some ')
os.write(2, b'words')
signal.pause()
"""


def _start_family(node: Node, slot: Peer) -> Bundle:
    bundle = node.bundle(python(FAMILY))
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for_bytes(bundle, b"words", "stderr")
    return bundle


def _pids_in(bundle: Bundle) -> list[int]:
    """Processes whose working folder is the run's."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{name}/cwd").startswith(str(bundle.path)):
                found.append(int(name))
        except OSError:
            continue
    return found


def test_supervisor_killed_in_a_run_ends_it_clearly(node: Node, slot: Peer) -> None:
    bundle = _start_family(node, slot)
    pids, old_pid = _pids_in(bundle), node.slot_pid()
    assert len(pids) == 2

    node.kill(old_pid)

    assert slot.receive() is None
    fresh = node.slot()
    assert fresh.wait_for("hello")["pid"] != old_pid
    assert not any(is_running(pid) for pid in pids)
    record = bundle.record("exit.json")
    assert (record["reason"], record["exit_code"]) == ("supervisor_lost", None)
    assert record["stopped_by"] == "supervisor_lost"
    assert (record["run_id"], record["epoch"]) == (f"{node.root.name}_1", 7)
    assert (bundle.read("stdout"), bundle.read("stderr")) == (b"some ", b"words")
    assert len(bundle.merged()) == record["stdout_bytes"] + record["stderr_bytes"] == 10
    assert node.run(fresh, ["true"])[1]["exit_code"] == 0


def test_supervisor_killed_leaves_the_bytes_in_the_pipe_to_its_parent(
    node: Node, slot: Peer
) -> None:
    """The job writes while the supervisor is stopped, and has ended before it is killed."""
    bundle = node.bundle(
        ["sh", "-c", "read _ < ../go.fifo; echo last words; echo end > ../end.fifo"]
    )
    for name in ("go.fifo", "end.fifo"):
        os.mkfifo(bundle.path / name)
    slot.send(op="spawn", bundle=str(bundle.path))
    job_pid = slot.wait_for("started")["pid"]
    pid = node.slot_pid()

    os.kill(pid, signal.SIGSTOP)
    (bundle.path / "go.fifo").write_text("\n")
    assert (bundle.path / "end.fifo").read_text() == "end\n"
    wait_gone(job_pid)
    assert bundle.read("stdout") == b""
    node.kill(pid)
    node.slot()

    assert bundle.record("exit.json")["reason"] == "supervisor_lost"
    assert bundle.read("stdout") == bundle.merged() == b"last words\n"


def test_supervisor_killed_does_not_touch_other_slots(node: Node, slot: Peer) -> None:
    bundle = _start_family(node, slot)
    other = node.slot(1)
    lost = node.bundle(["sleep", "1000"])
    other.send(op="spawn", bundle=str(lost.path))
    other.wait_for("started")

    node.kill(node.slot_pid(1))
    node.slot(1)

    assert lost.record("exit.json")["reason"] == "supervisor_lost"
    assert bundle.read("exit.json") == b""
    assert len(_pids_in(bundle)) == 2
    slot.send(op="stop", bundle=str(bundle.path), by="cancel", grace_s=0)
    assert slot.finish(bundle)["stopped_by"] == "cancel"


def test_supervisor_killed_with_waiting_runs_leaves_them_unstarted(node: Node, slot: Peer) -> None:
    first, second = node.bundle(["sleep", "1000"]), node.bundle(["echo", "second"])
    for bundle in (first, second):
        slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for("started")

    node.kill(node.slot_pid())
    fresh = node.slot()

    assert first.record("exit.json")["reason"] == "supervisor_lost"
    assert node.ask(op="recover", bundle=str(second.path)) == {"ok": False, "why": "never started"}
    fresh.send(op="spawn", bundle=str(second.path))
    assert fresh.finish(second)["exit_code"] == 0


def test_parent_killed_does_not_touch_the_run(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["sh", "-c", "echo one; read _ < ../go.fifo; echo two; exit 6"])
    os.mkfifo(bundle.path / "go.fifo")
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for_bytes(bundle, b"one")
    slot_pid, old_parent = node.slot_pid(), node.parent_pid

    node.kill(old_parent)
    assert node.start() != old_parent

    assert node.slot_pid() == slot_pid
    (bundle.path / "go.fifo").write_text("\n")
    assert slot.finish(bundle)["exit_code"] == 6
    assert bundle.read("stdout") == b"one\ntwo\n"
    assert node.run(slot, ["true"])[1]["exit_code"] == 0


def test_supervisor_that_nobody_wants_any_more_ends(node: Node, slot: Peer) -> None:
    """No parent, no agent, no run: nobody would ever end it."""
    slot.wait_for("hello")
    slot_pid = node.slot_pid()
    node.kill(node.parent_pid)
    assert node.run(slot, ["true"])[1]["exit_code"] == 0

    slot.close()

    wait_gone(slot_pid)
    node.start()
    assert node.run(node.slot(), ["true"])[1]["exit_code"] == 0


def test_supervisor_killed_after_its_parent_is_cleaned_up_by_the_next(
    node: Node, slot: Peer
) -> None:
    """The run descends from nobody of ours then: it is found by session and environment."""
    bundle = _start_family(node, slot)
    pids, slot_pid = _pids_in(bundle), node.slot_pid()
    node.kill(node.parent_pid)
    node.start()

    node.kill(slot_pid)
    fresh = node.slot()

    assert fresh.wait_for("hello")["pid"] != slot_pid
    assert bundle.record("exit.json")["reason"] == "supervisor_lost"
    assert bundle.merged() == b"some words"
    main_pid = bundle.record("state.json")["pid"]
    assert main_pid in pids
    assert not is_running(main_pid)
    for pid in _pids_in(bundle):  # env -i and a session of its own: beyond what can be found
        os.kill(pid, signal.SIGKILL)


def test_parent_and_supervisor_killed_together_leave_a_run_to_recover(
    node: Node, slot: Peer
) -> None:
    marked = "import os,signal\nif os.fork() == 0: os.setsid()\n"
    marked += "os.write(1, b'x'); signal.pause()"
    bundle = node.bundle(python(marked))
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for_bytes(bundle, b"xx")
    pids = _pids_in(bundle)
    assert len(pids) == 2

    for pid in (node.slot_pid(), node.parent_pid):
        node.kill(pid)
    node.start()
    reply = node.ask(op="recover", bundle=str(bundle.path))

    assert reply["exit"]["reason"] == "supervisor_lost"
    assert reply["exit"] == bundle.record("exit.json")
    assert not any(is_running(pid) for pid in pids)
    assert node.ask(op="recover", bundle=str(bundle.path)) == reply
    node.slot().send(op="spawn", bundle=str(bundle.path))


def test_parent_recovers_no_run_whose_supervisor_lives(node: Node, slot: Peer) -> None:
    bundle = _start_family(node, slot)

    reply = node.ask(op="recover", bundle=str(bundle.path))

    assert reply == {"ok": False, "why": "its supervisor lives"}
    assert len(_pids_in(bundle)) == 2


def test_parent_touches_no_process_of_another_boot(node: Node) -> None:
    """After a restart of the node the recorded pid belongs to anybody."""
    bundle = node.bundle(["true"])
    with subprocess.Popen(["sleep", "1000"]) as bystander:
        ticks = Path(f"/proc/{bystander.pid}/stat").read_text().rpartition(")")[2].split()[19]
        state = {"pid": bystander.pid, "start_ticks": int(ticks), "boot_id": "another"}
        (bundle.path / "state.json").write_text(json.dumps({"format": 1, **state}))

        record = node.ask(op="recover", bundle=str(bundle.path))["exit"]

        assert is_running(bystander.pid)
        bystander.kill()
    assert (record["reason"], record["stopped_by"]) == ("supervisor_lost", None)
    assert "restarted" in record["error"]["message"]


def test_agent_that_vanishes_finds_its_run_again(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["sh", "-c", "echo one; read _ < ../go.fifo; exit 8"])
    waiting = node.bundle(["true"])
    os.mkfifo(bundle.path / "go.fifo")
    for each in (bundle, waiting):
        slot.send(op="spawn", bundle=str(each.path))
    slot.wait_for_bytes(bundle, b"one")
    slot.close()

    again = node.slot()

    hello = again.wait_for("hello")
    assert (hello["bundle"], hello["phase"]) == (str(bundle.path), "running")
    assert hello["queued"] == [str(waiting.path)]
    assert again.wait_for("output")["stdout"] == 4
    (bundle.path / "go.fifo").write_text("\n")
    assert again.finish(bundle)["exit_code"] == 8
    assert again.finish(waiting)["exit_code"] == 0


def test_newest_connection_to_a_slot_wins(node: Node, slot: Peer) -> None:
    newer = node.slot()

    assert slot.wait_for("superseded")
    assert slot.receive() is None
    assert node.run(newer, ["true"])[1]["exit_code"] == 0


def test_supervisor_does_not_wait_for_an_agent_that_stops_reading(node: Node, slot: Peer) -> None:
    """It is told of far more than a socket holds; the run goes on all the same."""
    slot.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    bundle = node.bundle(["sh", "-c", "sleep 0.2; exit 3"])
    slot.send(op="spawn", bundle=str(bundle.path))
    nonsense = b'{"op":"acked"}\n' * 4000
    try:
        for _ in range(10):
            slot.socket.sendall(nonsense)
    except OSError:
        pass  # we were dropped

    again = node.slot()
    again.wait_for("hello")
    after = node.bundle(["true"])
    again.send(op="spawn", bundle=str(after.path))
    again.finish(after)

    assert bundle.record("exit.json")["exit_code"] == 3


@pytest.mark.parametrize(
    "noise",
    [
        b"\x00\xff\xfe not json\n",
        b"[1, 2, 3]\n",
        b'{"op": "spawn", "bundle": 7}\n{"op": ["x"], "bundle": "/x"}\n',
        b'{"op": "spawn", "bundle": "/x\\u0000y"}\n{"op": "spawn", "bundle": "relative"}\n',
        b'{"op": "stop", "bundle": "/x", "by": "cancel", "grace_s": NaN}\n',
        b'{"op": "stop", "bundle": "/x", "by": "cancel", "grace_s": -1}\n',
        b'{"op": "slot", "slot": "zero"}\n{"op": "slot", "slot": 99999}\n',
        b"[" * 60_000 + b"\n",
        b'{"op":' + b"9" * 50_000 + b"}\n",
    ],
)
def test_supervisor_outlives_nonsense_on_its_sockets(node: Node, slot: Peer, noise: bytes) -> None:
    slot.wait_for("hello")
    parent = node.connect(str(node.folder / "parent.sock"))

    slot.socket.sendall(noise)
    parent.socket.sendall(noise)

    assert slot.wait_for("refused")["why"]
    reply = parent.receive()
    assert reply is not None
    assert reply["ok"] is False
    assert node.run(slot, ["true"])[1]["exit_code"] == 0


def test_supervisor_hangs_up_on_an_endless_line(node: Node, slot: Peer) -> None:
    slot.wait_for("hello")

    with pytest.raises(OSError, match=r"Broken pipe|reset"):
        slot.socket.sendall(b"x" * (64 << 20))

    assert node.run(node.slot(), ["true"])[1]["exit_code"] == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b'{"format": 99}', b'{"format": 1, "run_id": 5}'],
)
def test_supervisor_refuses_a_spec_that_it_cannot_read(
    node: Node, slot: Peer, content: bytes
) -> None:
    bundle = node.bundle(["true"])
    (bundle.path / "spec.json").write_bytes(content)

    slot.send(op="spawn", bundle=str(bundle.path))

    assert "spec.json" in slot.wait_for("refused")["why"] or content.startswith(b'{"format": 1')
    assert bundle.read("state.json") == b""


def test_supervisor_refuses_a_bundle_that_is_not_there(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["true"])
    shutil.rmtree(bundle.path)

    slot.send(op="spawn", bundle=str(bundle.path))

    assert slot.wait_for("refused", bundle=str(bundle.path))["why"]


def test_shutdown_lets_a_run_end_first(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["sh", "-c", "echo up; read _ < ../go.fifo; exit 4"])
    os.mkfifo(bundle.path / "go.fifo")
    idle_pid = node.slot_pid(1)
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for_bytes(bundle, b"up")
    busy_pid = node.slot_pid()

    assert node.ask(op="shutdown")["ok"]
    wait_gone(node.parent_pid)
    wait_gone(idle_pid)
    (bundle.path / "go.fifo").write_text("\n")

    assert slot.finish(bundle)["exit_code"] == 4
    assert slot.receive() is None
    wait_gone(busy_pid)
    assert not list(node.folder.glob("*.sock"))
