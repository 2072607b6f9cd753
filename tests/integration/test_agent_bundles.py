"""What an agent makes of the folders that an earlier one left, and of a spool that is full."""

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
from runyard_agent.main import find_way, run
from runyard_agent.session import Stopped
from runyardpb.agent.v1 import agent_pb2 as pb
from support.agent_process import AgentProcess, becomes, house, in_loop
from support.fake_daemon import FakeDaemon, Held, script

END = pb.AttemptEnd


def hand_over(bundle: Bundle, *, phase: str, boot_id: str = "") -> None:
    """Makes a bundle look as a supervisor leaves it that had it in an earlier life."""
    if not boot_id:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    os.mkdir(bundle.work)
    spec = {"format": 1, "run_id": bundle.key.run_id, "attempt": 1, "epoch": 4}
    bundle.write_spec(json.dumps(spec).encode())
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
    run_id = daemon.new_run_id()
    lease = pb.Lease(
        ref=pb.AttemptRef(
            run=f"workspaces/default/experiments/t/runs/{run_id}", attempt=1, epoch=4
        ),
        spec=script(daemon, source),
    )
    key = Key(run_id, 1)
    runs = agent.home / "runs"
    runs.mkdir(parents=True)
    agent.home.chmod(0o700)
    bundle = Bundle(str(runs / str(key)), key)
    bundle.create(lease)
    held = daemon.held[key.run_id, 1] = Held(lease)
    return held, bundle


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


@contextlib.asynccontextmanager
async def in_process(daemon: FakeDaemon, config: Config) -> AsyncIterator[None]:
    """An agent in this process, with settings that its command line does not offer."""
    home = open_home(config.home)
    task = asyncio.create_task(run(*find_way(config, home), home))
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
            spool = agent.bundle(held) / "stdout"
            await daemon.phase(held, pb.AttemptReport.PHASE_RUNNING)
            await becomes(lambda: spool.exists() and spool.stat().st_size >= 1 << 20)
            assert spool.stat().st_size == 1 << 20
            assert held.report is not None
            assert held.report.phase == pb.AttemptReport.PHASE_RUNNING

            daemon.is_disk_full = False
            report = await daemon.ended(held)

            assert report.end.exit_code == 0
            assert held.stdout == b"".join(bytes([n % 251]) * 10_000 for n in range(600))
