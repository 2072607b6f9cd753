"""What dies and comes back around a run: agent, daemon, supervisor, machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from pathlib import Path

from runyardpb.agent.v1 import agent_pb2 as pb
from support.agent_process import becomes, house, in_loop, node
from support.fake_daemon import FakeDaemon, Held, script
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
        bundle = agent.bundle(held)
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
        await becomes((agent.bundle(held) / "exit.json").exists)
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
        bundle = agent.bundle(held)
        state = json.loads((bundle / "state.json").read_bytes())

        os.kill(state["supervisor_pid"], signal.SIGKILL)
        report = await daemon.ended(held)

        assert report.end.reason == END.REASON_SUPERVISOR_LOST
        assert report.end.stopped_by == END.STOPPED_BY_SUPERVISOR_LOST
        assert not is_alive(state["pid"])
        after = await daemon.lease(script(daemon, "print(2)"))
        assert (await daemon.ended(after)).end.exit_code == 0


@in_loop
async def test_agent_that_finds_a_run_without_supervisor_ends_it_for_good() -> None:
    async with node(slots=1) as (daemon, agent):
        held = await Counting(daemon).lease()
        bundle = agent.bundle(held)
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
async def test_agent_does_not_execute_a_lease_twice() -> None:
    async with node() as (daemon, _agent):
        job = Counting(daemon)
        held = await job.lease()

        for _ in range(3):
            await daemon.say(leases=[held.lease])
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

        await daemon.say(leases=[held.lease])
        after = await daemon.lease(script(daemon, "print(2)"))
        await daemon.ended(after)

        assert (daemon.root / "starts").read_text() == "started\n"
        assert held.end.exit_code == 3


@in_loop
async def test_agent_drops_an_attempt_that_is_superseded() -> None:
    async with node() as (daemon, agent):
        held = await Counting(daemon).lease()
        bundle = agent.bundle(held)
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
            await becomes((agent.bundle(held) / "exit.json").exists)
        daemon.held[held.run_id, 1] = held
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
        bundle = agent.bundle(held)
        await becomes((bundle / "forgotten.json").exists)

        assert (bundle / "work/a.txt").read_text() == "a"


@in_loop
async def test_agent_ends_the_old_grant_before_it_takes_the_new_one() -> None:
    async with node() as (daemon, _agent):
        job = Counting(daemon)
        old = await job.lease()
        job.let_it_end()

        new = await daemon.lease(script(daemon, "print('new')"), run=old.run_id)
        report = await daemon.ended(new)

        assert report.ref.epoch > old.lease.ref.epoch
        assert new.stdout == b"new\n"
        assert not [p for p in processes_naming(str(daemon.root)) if "gate" in command_line(p)]


@in_loop
async def test_agent_takes_a_new_grant_of_an_attempt_that_had_ended_already() -> None:
    async with node() as (daemon, _agent):
        daemon.forgets = False
        old = await daemon.lease(script(daemon, "print('old')"))
        await daemon.ended(old)

        new = await daemon.lease(script(daemon, "print('new')"), run=old.run_id)
        await daemon.ended(new)

        assert new.stdout == b"new\n"


@in_loop
async def test_agent_waits_while_the_daemons_disk_is_full() -> None:
    async with node() as (daemon, _agent):
        daemon.is_disk_full = True
        # More than rides in the last report: it has to be appended.
        held = await daemon.lease(script(daemon, "print('kept' * 20_000)"))
        await daemon.phase(held, pb.AttemptReport.PHASE_EXITED)
        assert held.stdout == b""

        daemon.is_disk_full = False
        await daemon.ended(held)

        assert held.stdout == b"kept" * 20_000 + b"\n"


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
