"""What dies and comes back around a run: agent, daemon, supervisor, machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runyard_agent.bundles import Bundle, Key
from runyard_agent.config import Config
from runyard_agent.home import open_home
from runyard_agent.main import run
from runyard_agent.session import Stopped
from runyardpb.agent.v1 import agent_pb2 as pb
from support.fake_daemon import (
    AgentProcess,
    FakeDaemon,
    Held,
    becomes,
    house,
    in_loop,
    node,
    script,
)
from support.house import command_line, processes_naming

END = pb.AttemptEnd
COUNTING = (
    "import os, sys, time\n"
    "open(sys.argv[2], 'a').write('started\\n')\n"
    "n = 0\n"
    "while not os.path.exists(sys.argv[1]):\n"
    "    print(n, flush=True)\n"
    "    n += 1\n"
    "    time.sleep(0.005)\n"
    "print('end of', n)\n"
    "sys.exit(3)\n"
)


class Counting:
    """A job that counts until it is told to end, and notes each of its starts."""

    def __init__(self, daemon: FakeDaemon) -> None:
        self.daemon = daemon
        self._gate = daemon.root / "gate"
        self._starts = daemon.root / "starts"

    async def lease(self) -> Held:
        arguments = (os.fsencode(self._gate), os.fsencode(self._starts))
        held = await self.daemon.lease(script(self.daemon, COUNTING, *arguments))
        await self.daemon.until(lambda: len(held.stdout) > 20)
        return held

    def let_it_end(self) -> None:
        self._gate.touch()

    def check(self, held: Held, report: pb.AttemptReport) -> None:
        """The run was executed once, its log is whole, its exit code true."""
        assert (report.end.reason, report.end.exit_code) == (END.REASON_EXITED, 3)
        *numbers, last = held.stdout.decode().splitlines()
        assert numbers == [str(n) for n in range(len(numbers))]
        assert last == f"end of {len(numbers)}"
        assert self._starts.read_text() == "started\n"


def is_alive(pid: int) -> bool:
    """Whether a process is there, other than as an entry that init has not removed yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def hand_over(bundle: Bundle, *, phase: str, boot_id: str = "") -> None:
    """Makes a bundle look as a supervisor leaves it that had it in an earlier life."""
    if not boot_id:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    os.mkdir(bundle.work)
    bundle.write_spec({"run_id": bundle.key.run_id, "attempt": 1, "epoch": 4})
    state = {
        "format": 1,
        "phase": phase,
        "pid": 1 if phase == "running" else None,
        "start_ticks": 1 if phase == "running" else None,
        "boot_id": boot_id,
        "supervisor_pid": 1,
        "started_at_unix_ns": 1_764_000_000_000_000_000,
    }
    Path(bundle.path, "state.json").write_text(json.dumps(state))
    for name in ("stdout", "stderr"):
        os.mkfifo(f"{bundle.path}/{name}.fifo")
    Path(bundle.path, "stdout").write_bytes(b"before")


def granted(daemon: FakeDaemon, agent: AgentProcess, source: str) -> tuple[Held, Bundle]:
    """A run that was granted to an earlier agent, which got as far as keeping the lease."""
    lease = pb.Lease(
        ref=pb.AttemptRef(
            run="workspaces/default/experiments/t/runs/t_1764000000_00000001", attempt=1, epoch=4
        ),
        spec=script(daemon, source),
    )
    key = Key("t_1764000000_00000001", 1)
    runs = agent.home / "runs"
    runs.mkdir(parents=True)
    agent.home.chmod(0o700)
    bundle = Bundle(str(runs / str(key)), key)
    bundle.create(lease)
    held = daemon.held[key.run_id, 1] = Held(lease)
    return held, bundle


@in_loop
async def test_agent_killed_in_the_middle_of_a_run_is_not_noticed_by_it() -> None:
    async with node() as (daemon, agent):
        job = Counting(daemon)
        held = await job.lease()

        await agent.kill()
        seen = len(held.stdout)
        await agent.start()
        await daemon.until(lambda: len(held.stdout) > seen)
        job.let_it_end()
        report = await daemon.ended(held)

        job.check(held, report)
        assert [a.ref.attempt for a in daemon.hellos[-1].attempts] == [1]
        assert {"snapshot", "environment", "script"} <= {span.phase for span in report.phases}


@in_loop
async def test_agent_killed_while_a_run_ends_still_tells_its_end() -> None:
    async with node() as (daemon, agent):
        job = Counting(daemon)
        held = await job.lease()

        await agent.kill()
        job.let_it_end()
        bundle = agent.home / "runs/t_1764000000_00000001.1"
        await becomes((bundle / "exit.json").exists)
        await agent.start()

        job.check(held, await daemon.ended(held))


@in_loop
async def test_daemon_restarted_in_the_middle_of_a_run_gets_all_of_it() -> None:
    async with house() as (daemon, agent):
        job = Counting(daemon)
        await agent.start()
        async with daemon.serving():
            held = await job.lease()
        for _ in range(3):
            async with daemon.serving():
                seen = len(held.stdout)
                await daemon.until(lambda: len(held.stdout) > seen)  # noqa: B023
        job.let_it_end()
        await becomes((agent.home / "runs/t_1764000000_00000001.1/exit.json").exists)
        async with daemon.serving():
            job.check(held, await daemon.ended(held))
        assert len(daemon.hellos) == 5


@in_loop
async def test_agent_and_daemon_killed_together_come_back_to_the_run() -> None:
    async with house() as (daemon, agent):
        job = Counting(daemon)
        async with daemon.serving():
            await agent.start()
            held = await job.lease()
            await agent.kill()
        async with daemon.serving():
            await agent.start()
            job.let_it_end()
            job.check(held, await daemon.ended(held))


@in_loop
async def test_supervisor_killed_ends_the_run_and_says_so() -> None:
    async with node(slots=1) as (daemon, agent):
        held = await Counting(daemon).lease()
        bundle = agent.home / "runs/t_1764000000_00000001.1"
        state = json.loads((bundle / "state.json").read_bytes())

        os.kill(state["supervisor_pid"], signal.SIGKILL)
        report = await daemon.ended(held)

        assert report.end.reason == END.REASON_SUPERVISOR_LOST
        assert report.end.stopped_by == END.STOPPED_BY_SUPERVISOR_LOST
        assert not is_alive(state["pid"])
        after = await daemon.lease(script(daemon, "print(2)"), run="t_1764000000_00000002")
        assert (await daemon.ended(after)).end.exit_code == 0


@in_loop
async def test_agent_that_finds_a_run_without_supervisor_ends_it_for_good() -> None:
    async with node(slots=1) as (daemon, agent):
        held = await Counting(daemon).lease()
        bundle = agent.home / "runs/t_1764000000_00000001.1"
        state = json.loads((bundle / "state.json").read_bytes())
        await agent.kill()
        for pid in processes_naming(str(agent.home)):
            if "runyard-supervisor" in command_line(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

        await agent.start()
        report = await daemon.ended(held)

        assert report.end.reason == END.REASON_SUPERVISOR_LOST
        assert not is_alive(state["pid"])
        assert (daemon.root / "starts").read_text() == "started\n"


@in_loop
async def test_agent_takes_up_a_lease_that_was_kept_but_not_begun() -> None:
    async with house() as (daemon, agent), daemon.serving():
        held, bundle = granted(daemon, agent, "print('once')")
        os.mkdir(bundle.work)  # an earlier agent was killed while it laid the snapshot out
        (agent.home / "runs" / str(bundle.key) / "work/train.py").write_text("print('half")

        await agent.start()
        report = await daemon.ended(held)

        assert report.end.exit_code == 0
        assert held.stdout == b"once\n"
        assert report.workdir.file_count == 0


@pytest.mark.parametrize("phase", ["spawning", "running"])
@in_loop
async def test_agent_reports_that_the_machine_was_restarted(phase: str) -> None:
    async with house() as (daemon, agent), daemon.serving():
        held, bundle = granted(daemon, agent, "print('again')")
        hand_over(bundle, phase=phase, boot_id="earlier")

        await agent.start()
        report = await daemon.ended(held)

        assert report.end.reason == END.REASON_NODE_RESTARTED
        assert held.stdout == b"before"


@in_loop
async def test_agent_never_starts_again_what_may_have_been_started() -> None:
    async with house() as (daemon, agent), daemon.serving():
        held, bundle = granted(daemon, agent, "print('again')")
        hand_over(bundle, phase="spawning")

        await agent.start()
        report = await daemon.ended(held)

        assert report.end.reason == END.REASON_SUPERVISOR_LOST
        assert held.stdout == b"before"


@in_loop
async def test_agent_removes_what_was_never_granted() -> None:
    async with house() as (daemon, agent), daemon.serving():
        runs = agent.home / "runs"
        (runs / ".t_1764000000_00000001.1.77").mkdir(parents=True)
        agent.home.chmod(0o700)
        (runs / "t_1764000000_00000002.1").mkdir()
        torn = runs / "t_1764000000_00000003.1"
        torn.mkdir()
        (torn / "lease.pb").write_bytes(b"\xff\xff torn by a power loss")

        await agent.start()
        await daemon.session()

        assert list(daemon.hellos[-1].attempts) == []
        assert list(runs.iterdir()) == []


@in_loop
async def test_agent_does_not_execute_a_lease_twice() -> None:
    async with node() as (daemon, _agent):
        job = Counting(daemon)
        held = await job.lease()

        for _ in range(3):
            await daemon.say(lease=held.lease)
        job.let_it_end()
        report = await daemon.ended(held)

        job.check(held, report)


@in_loop
async def test_agent_does_not_execute_an_ended_lease_again() -> None:
    async with node() as (daemon, agent):
        daemon.forgets = False
        job = Counting(daemon)
        held = await job.lease()
        job.let_it_end()
        await daemon.ended(held)
        await agent.kill()
        await agent.start()
        await daemon.until(lambda: len(daemon.hellos) == 2)

        await daemon.say(lease=held.lease)
        after = await daemon.lease(script(daemon, "print(2)"), run="t_1764000000_00000002")
        await daemon.ended(after)

        assert (daemon.root / "starts").read_text() == "started\n"
        assert held.end.exit_code == 3


@in_loop
async def test_agent_drops_an_attempt_that_is_superseded() -> None:
    async with node() as (daemon, agent):
        held = await Counting(daemon).lease()
        bundle = agent.home / "runs/t_1764000000_00000001.1"
        pid = json.loads((bundle / "state.json").read_bytes())["pid"]

        await daemon.cancel(held, superseded=True)
        await becomes(lambda: not bundle.exists())

        assert not is_alive(pid)
        assert held.report is not None
        assert held.report.phase < pb.AttemptReport.PHASE_EXITED


@in_loop
async def test_agent_goes_on_with_a_run_that_the_daemon_does_not_know() -> None:
    """After a restore from a backup: the run is shown as found, never killed unasked."""
    async with house() as (daemon, agent):
        job = Counting(daemon)
        async with daemon.serving():
            await agent.start()
            held = await job.lease()
            daemon.held.clear()
            await daemon.until(lambda: daemon.refused_appends > 0)
            job.let_it_end()
            await becomes((agent.home / "runs/t_1764000000_00000001.1/exit.json").exists)
        daemon.held["t_1764000000_00000001", 1] = held
        async with daemon.serving():
            job.check(held, await daemon.ended(held))


@in_loop
async def test_agent_forgets_after_its_restart_what_the_daemon_has_whole() -> None:
    async with node() as (daemon, agent):
        daemon.forgets = False
        held = await daemon.lease(script(daemon, "open('a.txt', 'w').write('a')"))
        await daemon.ended(held)
        await agent.kill()
        held.files.clear()
        daemon.held.clear()  # the run is over: the daemon takes nothing more of it
        await agent.start()
        await daemon.until(lambda: len(daemon.hellos) == 2)
        await daemon.session()

        daemon.forget(held)
        bundle = agent.home / "runs/t_1764000000_00000001.1"
        await becomes((bundle / "forgotten.json").exists)

        assert (bundle / "work/a.txt").read_text() == "a"


@in_loop
async def test_agent_ends_the_old_grant_before_it_takes_the_new_one() -> None:
    async with node() as (daemon, _agent):
        job = Counting(daemon)
        old = await job.lease()
        job.let_it_end()

        new = await daemon.lease(script(daemon, "print('new')"))
        report = await daemon.ended(new)

        assert report.ref.epoch > old.lease.ref.epoch
        assert new.stdout == b"new\n"
        assert not [p for p in processes_naming(str(daemon.root)) if "gate" in command_line(p)]


@in_loop
async def test_agent_waits_while_the_daemons_disk_is_full() -> None:
    async with node() as (daemon, _agent):
        daemon.is_disk_full = True
        held = await daemon.lease(script(daemon, "print('kept')"))
        await daemon.phase(held, pb.AttemptReport.PHASE_EXITED)
        assert held.stdout == b""

        daemon.is_disk_full = False
        await daemon.ended(held)

        assert held.stdout == b"kept\n"


@in_loop
async def test_agent_finds_a_daemon_that_listens_elsewhere() -> None:
    async with house() as (daemon, agent):
        await agent.start()
        elsewhere = daemon.root / "elsewhere"
        elsewhere.mkdir(mode=0o700)
        daemon.socket = elsewhere / "d.sock"
        record = {"socket": str(daemon.socket)}
        (daemon.root / "daemon.json").write_text(json.dumps(record))
        async with daemon.serving():
            await daemon.session()


@in_loop
async def test_agent_ends_when_its_folder_is_gone() -> None:
    async with house() as (daemon, agent):
        async with daemon.serving():
            await agent.start()
            await daemon.session()
            agent.home.rename(daemon.root / "moved")
        assert agent.process is not None
        async with asyncio.timeout(15):
            assert await agent.process.wait() == 0


@contextlib.asynccontextmanager
async def in_process(daemon: FakeDaemon, config: Config) -> AsyncIterator[None]:
    """An agent in this process, with settings that its command line does not offer."""
    home = open_home(config.home)
    task = asyncio.create_task(run(config, home))
    try:
        yield
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        with contextlib.suppress(BaseExceptionGroup):
            try:
                await task
            except* Stopped:
                pass
        home.close()


@in_loop
async def test_agent_lets_a_job_wait_for_its_spool_and_loses_nothing() -> None:
    async with house() as (daemon, agent):
        config = Config(
            home=agent.home,
            daemon_socket=daemon.socket,
            blobs=daemon.blobs_path,
            slots=1,
            spool_bound_bytes=1 << 20,
        )
        async with daemon.serving(), in_process(daemon, config):
            daemon.is_disk_full = True
            held = await daemon.lease(
                script(
                    daemon,
                    "import os\nfor n in range(600):\n    os.write(1, bytes([n % 251]) * 10_000)\n",
                )
            )
            spool = agent.home / "runs/t_1764000000_00000001.1/stdout"
            await daemon.phase(held, pb.AttemptReport.PHASE_RUNNING)
            await becomes(lambda: spool.exists() and spool.stat().st_size >= 1 << 20)
            assert spool.stat().st_size == 1 << 20
            assert held.report is not None
            assert held.report.phase == pb.AttemptReport.PHASE_RUNNING

            daemon.is_disk_full = False
            report = await daemon.ended(held)

            assert report.end.exit_code == 0
            assert held.stdout == b"".join(bytes([n % 251]) * 10_000 for n in range(600))
