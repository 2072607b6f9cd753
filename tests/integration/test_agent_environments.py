"""The bound of built environments on a node, against runs that have them."""

from __future__ import annotations

import os
import sys

from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec, PipPackages
from support.agent_process import AgentProcess, becomes, in_loop, node
from support.fake_daemon import FakeDaemon, Held, script
from support.packages import make_wheel

WAITING = (
    "import os, sys, time\n"
    "print('started', flush=True)\n"
    "while not os.path.exists(sys.argv[1]):\n"
    "    time.sleep(0.005)\n"
    "import ryused\n"
    "print(ryused.VERSION)\n"
)


class Bench:
    """An agent that has room for no environment but those in use."""

    def __init__(self, daemon: FakeDaemon, agent: AgentProcess) -> None:
        self.daemon = daemon
        self.agent = agent
        self.gate = daemon.root / "gate"
        self._links = daemon.root / "links"
        self._links.mkdir()
        for name in ("ryused", "rynext", "rylast"):
            make_wheel(self._links, name, "1.0")

    def needs(self, package: str) -> EnvironmentSpec:
        return EnvironmentSpec(
            pip=PipPackages(
                requirements=[package],
                index_options=["--no-index", f"--find-links={self._links}"],
                base_interpreter_path=os.fsencode(sys.executable),
            )
        )

    async def job(self) -> Held:
        """A run that imports its package when the gate is opened."""
        spec = script(self.daemon, WAITING, os.fsencode(self.gate))
        spec.environment.CopyFrom(self.needs("ryused"))
        held = await self.daemon.lease(spec)
        await self.daemon.until(lambda: b"started" in held.stdout)
        return held

    async def build(self, package: str) -> None:
        spec = runs_pb2.RunSpec(
            kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD, environment=self.needs(package)
        )
        held = await self.daemon.lease(spec)
        report = await self.daemon.ended(held)
        assert report.end.reason == pb.AttemptEnd.REASON_BUILT
        # An agent that is started before it has forgotten the run would build once more.
        await becomes(lambda: not self.agent.bundle(held).exists())

    def packages(self) -> set[str]:
        """What is in the environments that are there."""
        found = (self.agent.home / "environments").glob(
            "[0-9a-f]*/lib/python*/site-packages/ry*.py"
        )
        return {path.stem for path in found}


@in_loop
async def test_environment_of_a_run_stays_until_its_end_also_when_the_agent_was_killed() -> None:
    async with node(environments_max_bytes=1) as (daemon, agent):
        bench = Bench(daemon, agent)
        held = await bench.job()

        await bench.build("rynext")
        assert "ryused" in bench.packages()
        await agent.kill()
        await agent.start()
        await daemon.until(lambda: len(daemon.hellos) == 2)
        await bench.build("rylast")
        assert bench.packages() == {"ryused", "rylast"}
        bench.gate.touch()
        report = await daemon.ended(held)

        assert report.end.exit_code == 0, held.stderr
        assert held.stdout == b"started\n1.0\n"
        await bench.build("rynext")
        assert bench.packages() == {"rynext"}


@in_loop
async def test_run_that_asks_for_an_evicted_environment_has_it_built_again() -> None:
    async with node(environments_max_bytes=1) as (daemon, agent):
        bench = Bench(daemon, agent)
        await bench.build("ryused")
        await bench.build("rynext")
        assert bench.packages() == {"rynext"}

        bench.gate.touch()
        held = await bench.job()

        assert (await daemon.ended(held)).end.exit_code == 0


@in_loop
async def test_agent_tells_what_is_built_and_how_it_was_used() -> None:
    async with node() as (daemon, agent):
        bench = Bench(daemon, agent)
        await daemon.until(lambda: daemon.builds == [])
        await bench.build("ryused")
        assert daemon.builds is not None
        (built,) = daemon.builds
        bench.gate.touch()

        await daemon.ended(await bench.job())
        await daemon.until(lambda: daemon.builds and daemon.builds[0].hits == 1)

        assert built.size_bytes > 0
        assert built.hits == 0
        (used,) = daemon.builds
        assert used.lock_hash == built.lock_hash
        assert used.last_use_time.ToNanoseconds() > built.last_use_time.ToNanoseconds()


async def ended(bench: Bench, package: str, lock: EnvironmentLock | None = None) -> Held:
    """The end of a build, without a lock of a usual one, with one of a refresh of it."""
    spec = runs_pb2.RunSpec(
        kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD,
        environment=bench.needs(package),
        refresh_environment=lock is not None,
    )
    held = bench.daemon.grant(spec)
    if lock is not None:
        held.lease.locks.append(lock)
    await bench.daemon.say(leases=[held.lease])
    await bench.daemon.ended(held)
    return held


@in_loop
async def test_refresh_beside_a_run_leaves_it_what_it_has_and_names_both_locks() -> None:
    async with node() as (daemon, agent):
        bench = Bench(daemon, agent)
        running = await bench.job()
        (before,) = [request.lock for request in daemon.kept_locks]
        make_wheel(daemon.root / "links", "ryused", "2.0")

        refreshed = await ended(bench, "ryused", before)
        unchanged = await ended(bench, "ryused", daemon.kept_locks[-1].lock)
        bench.gate.touch()
        await daemon.ended(running)

        after = daemon.kept_locks[-1]
        assert [request.is_refresh for request in daemon.kept_locks] == [False, True]
        assert refreshed.report is not None
        assert dict(refreshed.report.execution) == {
            "lock": after.lock.hash,
            "lock_before": before.hash,
        }
        assert unchanged.report is not None
        assert set(unchanged.report.execution.values()) == {after.lock.hash}
        assert running.stdout == b"started\n1.0\n"
        assert running.report is not None
        assert running.report.execution["lock"] == before.hash


@in_loop
async def test_refresh_whose_lock_can_not_be_kept_fails() -> None:
    async with node() as (daemon, agent):
        bench = Bench(daemon, agent)
        await bench.build("ryused")
        before = daemon.kept_locks[-1].lock
        make_wheel(daemon.root / "links", "ryused", "2.0")
        daemon.keeps_locks = False

        failed = await ended(bench, "ryused", before)

        assert failed.end.reason == pb.AttemptEnd.REASON_ENVIRONMENT_FAILED
        assert "the old one still counts" in failed.end.message
        assert "--refresh again" in failed.end.advice
