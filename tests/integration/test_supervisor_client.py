"""The agent's side of the supervisor: `runyard_agent.slots` against a real one."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from runyard_agent.slots import (
    Event,
    Exited,
    Hello,
    Output,
    Refused,
    Slot,
    SlotLost,
    SlotTaken,
    Started,
    Supervisor,
    SupervisorUnavailable,
    parse_event,
)
from support.supervised import Bundle, Node, is_running, supervised_node, wait_gone

LIMIT_S = 20.0


@pytest.fixture
def node() -> Iterator[Node]:
    with supervised_node() as node:
        yield node


async def _until(slot: Slot, kind: type[Event]) -> list[Event]:
    """The events of a slot up to the first of a kind, that one included."""
    events: list[Event] = []
    async with asyncio.timeout(LIMIT_S), aclosing(aiter(slot)) as source:
        async for event in source:
            events.append(event)
            if isinstance(event, kind):
                break
    assert isinstance(events[-1], kind), events
    return events


def test_slot_reports_a_run_from_start_to_end(node: Node) -> None:
    bundle = node.bundle(["sh", "-c", "echo words; exit 5"])
    path = str(bundle.path)

    async def scenario() -> tuple[Hello, list[Event]]:
        slot = await node.supervisor.slot(0)
        await slot.spawn(path)
        events = await _until(slot, Exited)
        await slot.close()
        return slot.hello, events

    hello, events = asyncio.run(scenario())

    assert hello == Hello(0, node.slot_pid(), None, "idle", ())
    pid = bundle.record("state.json")["pid"]
    assert isinstance(events[0], Started)
    assert (events[0].bundle, events[0].pid) == (path, pid)
    assert all(event == Output(path, 6, 0, 16) for event in events[1:-1])
    assert events[-1] == Exited(path, bundle.record("exit.json"))


def test_slot_stops_a_run_and_acknowledges_its_output(node: Node) -> None:
    bundle = node.bundle(["yes"], spool_bound_bytes=4096)
    path = str(bundle.path)

    async def scenario() -> Event:
        slot = await node.supervisor.slot(0)
        await slot.spawn(path)
        length = 0
        async with asyncio.timeout(LIMIT_S), aclosing(aiter(slot)) as source:
            async for event in source:
                if isinstance(event, Output) and event.stdout_bytes - length == 4096:
                    length += 4096
                    await slot.acked(path, length, 0)
                if length == 5 * 4096:
                    break
        await slot.stop(path, "cancel", 30.0)
        events = await _until(slot, Exited)
        await slot.close()
        return events[-1]

    event = asyncio.run(scenario())

    assert isinstance(event, Exited)
    assert (event.record["stopped_by"], event.record["signal"]) == ("cancel", signal.SIGTERM)


def test_slot_reports_the_loss_of_its_supervisor(node: Node) -> None:
    bundle = node.bundle(["sleep", "1000"])

    async def scenario() -> tuple[list[Event], int, str]:
        slot = await node.supervisor.slot(0)
        await slot.spawn(str(bundle.path))
        await _until(slot, Started)
        os.kill(slot.pid, signal.SIGKILL)
        lost = await _until(slot, SlotLost)
        record = await node.supervisor.recover(str(bundle.path))
        fresh = await node.supervisor.slot(0)
        await slot.close()
        await fresh.close()
        return lost, fresh.pid, record["reason"]

    lost, fresh_pid, reason = asyncio.run(scenario())

    assert isinstance(lost[-1], SlotLost)
    assert fresh_pid != lost[-1].pid
    assert reason == "supervisor_lost"


def test_slot_says_that_a_newer_connection_has_taken_it(node: Node) -> None:
    async def scenario() -> list[Event]:
        older = await node.supervisor.slot(0)
        newer = await node.supervisor.slot(0)
        events = await _until(older, SlotTaken)
        await older.close()
        await newer.close()
        return events

    assert asyncio.run(scenario()) == [SlotTaken(0)]


def test_slot_passes_a_refusal_on(node: Node) -> None:
    async def scenario() -> list[Event]:
        slot = await node.supervisor.slot(0)
        await slot.spawn("/nowhere")
        events = await _until(slot, Refused)
        await slot.close()
        return events

    (refusal,) = asyncio.run(scenario())

    assert isinstance(refusal, Refused)
    assert (refusal.op, refusal.bundle) == ("spawn", "/nowhere")
    assert "spec.json is missing" in refusal.why


def test_supervisor_is_nobodys_child_and_found_again(node: Node) -> None:
    """An agent that is killed with its whole process group takes nothing with it."""
    bundle = node.bundle(["sleep", "1000"])
    agent = f"""
import asyncio, os, signal
from pathlib import Path
from runyard_agent.slots import Supervisor
async def main():
    slot = await Supervisor(Path({str(node.root)!r}) / "other").slot(0)
    await slot.spawn({str(bundle.path)!r})
    async for event in slot:
        print(slot.pid, event.pid, flush=True)
        os.killpg(0, signal.SIGKILL)
asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", agent],
        stdout=subprocess.PIPE,
        timeout=60,
        start_new_session=True,
        check=False,
    )
    slot_pid, job_pid = map(int, done.stdout.split())
    supervisor = Supervisor(node.root / "other")

    async def scenario() -> tuple[Hello, int]:
        slot = await supervisor.slot(0)
        await slot.stop(str(bundle.path), "cancel", 0)
        await _until(slot, Exited)
        await slot.close()
        parent_pid = await supervisor.start()
        await supervisor.shutdown()
        return slot.hello, parent_pid

    assert done.returncode == -signal.SIGKILL
    assert is_running(job_pid)
    hello, parent_pid = asyncio.run(scenario())
    wait_gone(parent_pid)
    assert (hello.pid, hello.bundle, hello.phase) == (slot_pid, str(bundle.path), "running")


def test_supervisor_started_twice_at_once_is_one(node: Node) -> None:
    supervisors = [Supervisor(node.root / "twice") for _ in range(4)]

    async def scenario() -> list[int]:
        pids = await asyncio.gather(*(supervisor.start() for supervisor in supervisors))
        await supervisors[0].shutdown()
        return pids

    pids = asyncio.run(scenario())

    wait_gone(pids[0])
    assert len(set(pids)) == 1


def test_supervisor_uses_a_short_private_folder_for_a_long_path(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(node.root))
    folder = tmp_path / ("long" * 30)
    supervisor = Supervisor(folder)
    bundle = node.bundle(["true"])

    async def scenario() -> Event:
        slot = await supervisor.slot(0)
        await slot.spawn(str(bundle.path))
        events = await _until(slot, Exited)
        await slot.close()
        pid = await Supervisor(folder).start()
        await supervisor.shutdown()
        wait_gone(pid)
        return events[-1]

    event = asyncio.run(scenario())

    assert isinstance(event, Exited)
    sockets = supervisor.sockets()
    assert sockets == Path((folder / "sockets").read_text())
    assert sockets.parent == node.root
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    sockets.chmod(0o755)
    assert Supervisor(folder).sockets() != sockets


def test_supervisor_that_cannot_start_says_where_to_look(tmp_path: Path) -> None:
    supervisor = Supervisor(tmp_path / "s", python="/no/such/python")

    with pytest.raises(SupervisorUnavailable, match="/no/such/python") as caught:
        asyncio.run(supervisor.start())

    assert str(supervisor.log) in caught.value.hint


def test_supervisor_failure_at_start_is_in_its_log(tmp_path: Path) -> None:
    """A folder where a socket should lie: bind fails in the detached process."""
    folder = tmp_path.parent / "s"
    (folder / "parent.sock").mkdir(parents=True)
    supervisor = Supervisor(folder)

    with pytest.raises(SupervisorUnavailable, match="code 70"):
        asyncio.run(supervisor.start())

    assert "parent.sock" in supervisor.log.read_text() or "Error" in supervisor.log.read_text()


def test_supervisor_that_is_killed_while_it_starts_is_started_again(tmp_path: Path) -> None:
    """A python that is killed the first time it is used."""
    folder = tmp_path / "s"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ -e {tmp_path}/tried ] && exec {sys.executable} "$@"\n'
        f": > {tmp_path}/tried\nkill -9 $$\n"
    )
    python.chmod(0o755)
    supervisor = Supervisor(folder, python=str(python))

    pid = asyncio.run(supervisor.start())

    assert is_running(pid)
    asyncio.run(supervisor.shutdown())
    wait_gone(pid)


@pytest.mark.slow
def test_supervisor_ends_when_its_folder_is_deleted(node: Node) -> None:
    parent_pid, slot_pid = node.parent_pid, node.slot_pid()

    shutil.rmtree(node.folder)

    wait_gone(parent_pid)
    wait_gone(slot_pid)


def test_slot_ignores_events_of_a_later_version() -> None:
    assert parse_event({"event": "praised", "bundle": "/x"}, 0) is None


def test_recover_refuses_what_was_never_started(node: Node) -> None:
    bundle: Bundle = node.bundle(["true"])

    with pytest.raises(SupervisorUnavailable, match="never started"):
        asyncio.run(node.supervisor.recover(str(bundle.path)))
