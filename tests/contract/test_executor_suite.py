"""What every executor must do. Add a kind to `KINDS` to hold it to this."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from runyard_agent.bundles import Bundle, Key
from runyard_agent.executors.process import ProcessExecutor
from runyard_agent.executors.protocol import Executor, ExitRecord
from runyard_agent.slots import Supervisor
from support.agent_process import becomes, in_loop
from support.contained import in_container
from support.docker_engine import DockerEngine
from support.house import processes_naming

LIMIT_S = 20.0


class Recorder:
    """A follower that keeps what it hears."""

    def __init__(self) -> None:
        self.started_at: int | None = None
        self.outputs = 0
        self.record: ExitRecord | None = None
        self.why: str | None = None
        self.last_words = 0
        self._heard = asyncio.Event()

    def started(self, at_unix_ns: int) -> None:
        self.started_at = at_unix_ns
        self._heard.set()

    def output(self) -> None:
        self.outputs += 1
        self._heard.set()

    def stuck(self, pids: tuple[int, ...]) -> None:
        raise AssertionError(f"processes {pids} can't be killed")

    def disk_full(self) -> None:
        raise AssertionError("the disk is full")

    def held_up(self, why: str) -> None:
        pass

    def exited(self, record: ExitRecord) -> None:
        self.record = record
        self.last_words += 1
        self._heard.set()

    def refused(self, why: str) -> None:
        self.why = why
        self.last_words += 1
        self._heard.set()

    async def until(self, what: Callable[[], Any]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not what():
                self._heard.clear()
                await self._heard.wait()

    async def end(self) -> ExitRecord:
        await self.until(lambda: self.record is not None)
        assert self.record is not None
        return self.record


class Workshop:
    """A folder of bundles, and executors of one kind: one life of an agent after another."""

    def __init__(
        self,
        make: Callable[[Path, int, asyncio.TaskGroup], Executor],
        engine: DockerEngine | None = None,
    ) -> None:
        """With an `engine` the programs run in containers of it."""
        self.root = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
        self._make = make
        self._engine = engine
        self._number = 0
        self._tag = secrets.token_hex(3)  # runs are found by their ids, on the whole machine

    @contextlib.asynccontextmanager
    async def agent(self, slots: int = 2) -> AsyncIterator[Executor]:
        """An executor, until the block is left as by an agent that is killed."""
        with contextlib.suppress(_Killed):
            try:
                async with asyncio.TaskGroup() as group:
                    yield self._make(self.root, slots, group)
                    raise _Killed
            except* _Killed:
                raise _Killed from None

    def bundle(self, source: str, **spec: Any) -> Bundle:
        """A bundle that runs a Python script."""
        self._number += 1
        key = Key(f"t_1764000000_{self._tag}{self._number:02x}", 1)
        bundle = Bundle(str(self.root / str(key)), key)
        os.makedirs(bundle.work)
        os.makedirs(bundle.job)
        defaults = {
            "run_id": key.run_id,
            "attempt": 1,
            "epoch": 1,
            "argv": [sys.executable, "-c", source],
            "env": {"RUNYARD_RUN_ID": key.run_id, "RUNYARD_ATTEMPT": "1"},
            "cwd": bundle.work,
            "merge_stderr": False,
            "grace_s": 5.0,
            "max_duration_s": None,
            "spool_bound_bytes": 1 << 20,
        }
        content = {"format": 1, **defaults, **spec}
        if self._engine is not None:
            in_container(content, bundle, self._engine, self.root)
        bundle.write_spec(json.dumps(content).encode())
        return bundle

    def close(self) -> None:
        for pid in processes_naming(str(self.root)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.root, ignore_errors=True)


class _Killed(Exception):
    """Ends an agent's life."""


def process_executor(root: Path, slots: int, group: asyncio.TaskGroup) -> Executor:
    return ProcessExecutor(Supervisor(root / "supervisor"), slots, group)


KINDS = {"process": process_executor, "container": process_executor}


@pytest.fixture(params=KINDS)
def workshop(request: pytest.FixtureRequest) -> Any:
    is_contained = request.param == "container"
    engine = request.getfixturevalue("docker_engine") if is_contained else None
    shop = Workshop(KINDS[request.param], engine)
    yield shop
    shop.close()


def stdout(bundle: Bundle) -> bytes:
    path = Path(bundle.path, "stdout")
    return path.read_bytes() if path.exists() else b""


def was_begun(bundle: Bundle) -> bool:
    return bundle.read_state() is not None


@in_loop
async def test_executor_starts_follows_and_tells_the_end(workshop: Workshop) -> None:
    bundle = workshop.bundle("print('hello'); raise SystemExit(7)")
    follower = Recorder()
    async with workshop.agent() as executor:
        await executor.start(bundle.path, follower)
        record = await follower.end()

    assert (record["reason"], record["exit_code"]) == ("exited", 7)
    assert stdout(bundle) == b"hello\n"
    assert record["stdout_bytes"] == 6
    assert follower.started_at is not None
    assert follower.outputs > 0
    assert follower.last_words == 1


@in_loop
async def test_executor_tells_of_output_while_it_goes_on(workshop: Workshop) -> None:
    bundle = workshop.bundle("import time; print('now', flush=True); time.sleep(60)")
    follower = Recorder()
    async with workshop.agent() as executor:
        await executor.start(bundle.path, follower)
        await follower.until(lambda: follower.outputs)
        assert stdout(bundle) == b"now\n"
        executor.stop(bundle.path, "cancel", 0)
        await follower.end()


@pytest.mark.parametrize("by", ["cancel", "timeout"])
@in_loop
async def test_executor_stops_with_sigterm_first(workshop: Workshop, by: str) -> None:
    bundle = workshop.bundle(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
        "print('ready', flush=True)\n"
        # Python runs a handler between two steps: one long sleep could begin just before it.
        "while True: time.sleep(0.05)\n"
    )
    follower = Recorder()
    async with workshop.agent() as executor:
        await executor.start(bundle.path, follower)
        await follower.until(lambda: follower.outputs)
        executor.stop(bundle.path, by, 10)
        executor.stop(bundle.path, by, 10)
        record = await follower.end()

    assert (record["exit_code"], record["stopped_by"]) == (5, by)


@in_loop
async def test_executor_stops_with_sigkill_after_the_grace_period(workshop: Workshop) -> None:
    bundle = workshop.bundle(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    follower = Recorder()
    async with workshop.agent() as executor:
        await executor.start(bundle.path, follower)
        await follower.until(lambda: follower.outputs)
        executor.stop(bundle.path, "cancel", 0.2)
        record = await follower.end()

    assert (record["reason"], record["signal"]) == ("signaled", signal.SIGKILL)


@in_loop
async def test_executor_ends_at_the_time_limit_of_its_own(workshop: Workshop) -> None:
    bundle = workshop.bundle("import time; time.sleep(60)", max_duration_s=0.3, grace_s=1.0)
    follower = Recorder()
    async with workshop.agent() as executor:
        await executor.start(bundle.path, follower)
        record = await follower.end()

    assert record["stopped_by"] == "timeout"


@in_loop
async def test_executor_says_that_a_program_can_not_be_started(workshop: Workshop) -> None:
    bundle = workshop.bundle("", argv=["/no/such/program"])
    follower = Recorder()
    async with workshop.agent() as executor:
        await executor.start(bundle.path, follower)
        record = await follower.end()

    assert record["reason"] == "spawn_failed"
    assert record["error"]["errno"] == 2


@in_loop
async def test_executor_makes_a_run_wait_for_room(workshop: Workshop) -> None:
    first = workshop.bundle("import time; print(1, flush=True); time.sleep(60)")
    second = workshop.bundle("print(2)")
    followers = Recorder(), Recorder()
    async with workshop.agent(slots=1) as executor, asyncio.TaskGroup() as group:
        await executor.start(first.path, followers[0])
        waiting = group.create_task(executor.start(second.path, followers[1]))
        await followers[0].until(lambda: followers[0].outputs)
        assert not waiting.done()
        executor.stop(first.path, "cancel", 0)
        assert (await followers[1].end())["exit_code"] == 0


@in_loop
async def test_executor_keeps_its_turn_for_a_run_that_is_not_ready_yet(workshop: Workshop) -> None:
    early, late = workshop.bundle("print(1)"), workshop.bundle("print(2)")
    followers = Recorder(), Recorder()
    async with workshop.agent(slots=1) as executor, asyncio.TaskGroup() as group:
        executor.line_up(early.path)
        assert not executor.reserve(late.path, may_follow=False)
        waiting = group.create_task(executor.start(late.path, followers[1]))
        await executor.start(early.path, followers[0])
        assert not waiting.done()
        await followers[1].end()

    ends = [(bundle.read_exit() or {})["ended_at_unix_ns"] for bundle in (early, late)]
    assert ends == sorted(ends)


@in_loop
async def test_executor_takes_back_a_turn_that_is_not_used(workshop: Workshop) -> None:
    holder, given_up, late = (workshop.bundle(f"print({n})") for n in range(3))
    async with workshop.agent(slots=1) as executor:
        executor.line_up(holder.path)
        executor.line_up(given_up.path)
        executor.release(given_up.path)
        executor.release(holder.path)
        assert executor.reserve(late.path, may_follow=False)
        follower = Recorder()
        await executor.start(late.path, follower)
        await follower.end()


@in_loop
async def test_executor_lets_go_of_a_run_that_is_cancelled_while_it_waits(
    workshop: Workshop,
) -> None:
    first = workshop.bundle("import time; print(1, flush=True); time.sleep(60)")
    second, third = workshop.bundle("print(2)"), workshop.bundle("print(3)")
    followers = Recorder(), Recorder(), Recorder()
    async with workshop.agent(slots=1) as executor, asyncio.TaskGroup() as group:
        await executor.start(first.path, followers[0])
        waiting = group.create_task(executor.start(second.path, followers[1]))
        await followers[0].until(lambda: followers[0].outputs)
        waiting.cancel()
        executor.stop(first.path, "cancel", 0)
        await executor.start(third.path, followers[2])
        assert (await followers[2].end())["exit_code"] == 0

    assert not was_begun(second)
    assert followers[1].last_words == 0


@in_loop
async def test_executor_does_not_execute_a_bundle_twice(workshop: Workshop) -> None:
    bundle = workshop.bundle("print('once')")
    async with workshop.agent() as executor:
        follower = Recorder()
        await executor.start(bundle.path, follower)
        await follower.end()
        again = Recorder()
        await executor.start(bundle.path, again)
        await again.until(lambda: again.last_words)

    assert again.record is None
    assert again.why
    assert stdout(bundle) == b"once\n"


@in_loop
async def test_executor_adopts_what_an_earlier_agent_started(workshop: Workshop) -> None:
    gate = workshop.root / "gate"
    bundle = workshop.bundle(
        "import os, sys, time\n"
        "print('up', flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
        "print('down'); sys.exit(9)\n"
    )
    first, second = Recorder(), Recorder()
    async with workshop.agent() as executor:
        await executor.start(bundle.path, first)
        await first.until(lambda: first.outputs)
    async with workshop.agent() as executor:
        assert await executor.adopt(bundle.path, second)
        gate.touch()
        record = await second.end()

    assert (record["reason"], record["exit_code"]) == ("exited", 9)
    assert stdout(bundle) == b"up\ndown\n"
    assert first.last_words == 0


@in_loop
async def test_executor_stops_what_it_has_adopted(workshop: Workshop) -> None:
    bundle = workshop.bundle("import time; print('up', flush=True); time.sleep(60)")
    follower, adopted = Recorder(), Recorder()
    async with workshop.agent() as executor:
        await executor.start(bundle.path, follower)
        await follower.until(lambda: follower.outputs)
    async with workshop.agent() as executor:
        assert await executor.adopt(bundle.path, adopted)
        executor.stop(bundle.path, "cancel", 1)
        record = await adopted.end()

    assert record["stopped_by"] == "cancel"


@in_loop
async def test_executor_has_no_room_where_an_adopted_run_is(workshop: Workshop) -> None:
    gate = workshop.root / "gate"
    source = (
        "import os, time\n"
        "print(1, flush=True)\n"
        f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)\n"
    )
    first, second = workshop.bundle(source), workshop.bundle("print(2)")
    followers = Recorder(), Recorder()
    async with workshop.agent(slots=1) as executor:
        await executor.start(first.path, followers[0])
        await followers[0].until(lambda: followers[0].outputs)
    followers = Recorder(), Recorder()
    async with workshop.agent(slots=1) as executor, asyncio.TaskGroup() as group:
        assert await executor.adopt(first.path, followers[0])
        waiting = group.create_task(executor.start(second.path, followers[1]))
        await followers[0].until(lambda: followers[0].outputs)
        assert not waiting.done()
        gate.touch()
        await followers[1].end()


@in_loop
async def test_executor_adopts_nothing_that_nobody_has(workshop: Workshop) -> None:
    bundle = workshop.bundle("print(1)")
    async with workshop.agent() as executor:
        assert not await executor.adopt(bundle.path, Recorder())

    assert not was_begun(bundle)


@in_loop
async def test_executor_ends_all_of_a_run_whose_supervisor_was_killed(workshop: Workshop) -> None:
    bundle = workshop.bundle(
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
        " start_new_session=True)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    follower = Recorder()
    async with workshop.agent(slots=1) as executor:
        await executor.start(bundle.path, follower)
        await follower.until(lambda: follower.outputs)
        state = bundle.read_state()
        assert state is not None
        os.kill(state["supervisor_pid"], signal.SIGKILL)
        record = await follower.end()
        await becomes(lambda: not processes_naming(bundle.key.run_id))
        after = Recorder()
        await executor.start(workshop.bundle("print(2)").path, after)
        assert (await after.end())["exit_code"] == 0

    assert (record["reason"], record["stopped_by"]) == ("supervisor_lost", "supervisor_lost")


@in_loop
async def test_executor_recovers_what_nobody_has_any_more(workshop: Workshop) -> None:
    bundle = workshop.bundle("import time; print('up', flush=True); time.sleep(60)")
    follower = Recorder()
    async with workshop.agent(slots=1) as executor:
        await executor.start(bundle.path, follower)
        await follower.until(lambda: follower.outputs)
    for pid in processes_naming(str(workshop.root / "supervisor")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    async with workshop.agent(slots=1) as executor:
        assert not await executor.adopt(bundle.path, Recorder())
        record = await executor.recover(bundle.path)

    assert record["reason"] == "supervisor_lost"
    assert not processes_naming(bundle.key.run_id)
    assert bundle.read_exit() == record


@in_loop
async def test_executor_lets_a_job_wait_until_its_output_is_safe(workshop: Workshop) -> None:
    bundle = workshop.bundle(
        "import os\nfor _ in range(30): os.write(1, bytes(100_000))\n", spool_bound_bytes=1 << 20
    )
    follower = Recorder()
    async with workshop.agent() as executor:
        await executor.start(bundle.path, follower)
        await follower.until(lambda: len(stdout(bundle)) == 1 << 20)
        while follower.record is None:
            executor.acknowledged(bundle.path, len(stdout(bundle)), 0)
            heard = follower.outputs
            await follower.until(lambda: follower.record or follower.outputs > heard)  # noqa: B023
        record = await follower.end()

    assert record["exit_code"] == 0
    assert stdout(bundle) == bytes(3_000_000)
