"""Runs in containers as an agent executes them, and what becomes of them when it is killed."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2
from runyardpb.v1.environments_pb2 import BindMount, DockerImage
from support.agent_process import in_loop, node
from support.docker_engine import PYTHON_IMAGE, SHELL_IMAGE, DockerEngine
from support.fake_daemon import FakeDaemon, Held, script


@pytest.fixture
def engine(docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> DockerEngine:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)
    return docker_engine


def contained(daemon: FakeDaemon, source: str, **options: object) -> runs_pb2.RunSpec:
    spec = script(daemon, source)
    image = DockerImage(image=PYTHON_IMAGE, network="none")
    image.MergeFrom(DockerImage(**options))  # type: ignore[arg-type]
    spec.environment.docker.CopyFrom(image)
    return spec


def containers(engine: DockerEngine, held: Held) -> list[str]:
    return engine.containers(f"label=runyard.run={held.run_id}")


@in_loop
async def test_a_script_in_a_container_prints_and_leaves_outputs(
    engine: DockerEngine,
) -> None:
    source = (
        "import sys\nopen('outputs/model', 'w').write('weights')\n"
        "print(sys.executable)\nprint('oh', file=sys.stderr)\n"
    )
    async with node() as (daemon, _):
        held = await daemon.lease(contained(daemon, source))

        report = await daemon.ended(held)

        assert report.end.exit_code == 0, held.stderr
        assert held.stdout.startswith(b"/usr/local/bin/python3")
        assert held.stderr == b"oh\n"
        assert report.execution["container"].startswith(f"runyard-{held.run_id}-1-")
        assert "output" not in report.execution
        assert any("outputs/model" in path for path in held.registered)
        assert containers(engine, held) == []


@in_loop
async def test_a_run_in_a_container_outlives_its_agent(engine: DockerEngine) -> None:
    source = (
        "import os, time\nprint('ready', flush=True)\n"
        "while not os.path.exists('go'):\n    time.sleep(0.005)\nprint('done')\n"
    )
    async with node() as (daemon, agent):
        held = await daemon.lease(contained(daemon, source))
        await daemon.until(lambda: b"ready" in held.stdout)

        await agent.kill()
        await agent.start()
        await daemon.until(lambda: len(daemon.hellos) == 2)
        (agent.bundle(held) / "work" / "go").touch()
        report = await daemon.ended(held)

        assert (report.end.reason, report.end.exit_code) == (pb.AttemptEnd.REASON_EXITED, 0)
        assert held.stdout == b"ready\ndone\n"
        assert report.execution["container"]


@in_loop
async def test_an_engine_that_is_away_is_told_until_it_is_back(
    engine: DockerEngine,
) -> None:
    """Also by an agent that was started meanwhile."""
    source = (
        "import os, time\nprint('ready', flush=True)\n"
        "while not os.path.exists('go'):\n    time.sleep(0.005)\n"
    )
    away = "the container engine does not answer; waiting until it is back"

    def says(held: Held, message: str) -> bool:
        return held.report is not None and held.report.status_message == message

    async with node() as (daemon, agent):
        held = await daemon.lease(contained(daemon, source))
        await daemon.until(lambda: b"ready" in held.stdout)

        engine.kill()
        try:
            await daemon.until(lambda: says(held, away))
            await agent.kill()
            held.report = None
            await agent.start()
            await daemon.until(lambda: len(daemon.hellos) == 2 and says(held, away))
        finally:
            engine.start()
        await daemon.until(lambda: says(held, ""))
        (agent.bundle(held) / "work" / "go").touch()
        report = await daemon.ended(held)

    assert (report.end.reason, report.end.exit_code) == (pb.AttemptEnd.REASON_EXITED, 0)
    assert containers(engine, held) == []


@in_loop
async def test_a_lost_run_says_that_it_waits_for_the_engine(engine: DockerEngine) -> None:
    source = "import time\nprint('ready', flush=True)\ntime.sleep(99)\n"
    waits = "ending what is left of the run: the node's supervisor can't end it yet: the container"
    async with node() as (daemon, agent):
        held = await daemon.lease(contained(daemon, source))
        await daemon.until(lambda: b"ready" in held.stdout)
        client = Path(
            f"/proc/{json.loads((agent.bundle(held) / 'state.json').read_bytes())['pid']}"
        )
        supervisor = int(client.joinpath("stat").read_text().rpartition(")")[2].split()[1])

        engine.kill()
        try:
            os.kill(supervisor, signal.SIGKILL)
            await daemon.until(lambda: held.report and held.report.status_message.startswith(waits))
        finally:
            engine.start()
        report = await daemon.ended(held)

    assert report.end.reason == pb.AttemptEnd.REASON_SUPERVISOR_LOST
    assert containers(engine, held) == []


@in_loop
async def test_a_cancel_reaches_the_program_in_its_container(engine: DockerEngine) -> None:
    source = "import time\nprint('ready', flush=True)\ntime.sleep(99)\n"
    async with node() as (daemon, _):
        held = await daemon.lease(contained(daemon, source))
        await daemon.until(lambda: b"ready" in held.stdout)

        await daemon.cancel(held)
        report = await daemon.ended(held)

        assert report.end.stopped_by == pb.AttemptEnd.STOPPED_BY_CANCEL
        assert (report.end.reason, report.end.signal) == (pb.AttemptEnd.REASON_SIGNALED, 15)
        assert containers(engine, held) == []


@in_loop
async def test_memory_above_the_limit_is_told_with_whose_it_was(engine: DockerEngine) -> None:
    async with node() as (daemon, _):
        spec = contained(daemon, "x = bytearray(500 << 20)\nprint(sum(x[::4096]))\n")
        spec.limits.memory_bytes = 64 << 20
        held = await daemon.lease(spec)

        report = await daemon.ended(held)

        assert report.end.out_of_memory == pb.AttemptEnd.OUT_OF_MEMORY_LIMIT


@in_loop
async def test_what_the_node_can_not_give_and_an_unknown_option_fail_the_run_by_name(
    engine: DockerEngine,
) -> None:
    async with node() as (daemon, _):
        mount = BindMount(source=b"/no/such", target="/data")
        first = await daemon.ended(await daemon.lease(contained(daemon, "", mounts=[mount])))
        second = await daemon.ended(
            await daemon.lease(contained(daemon, "", arguments=["--shm_size=1g"]))
        )
        limited = contained(daemon, "")
        limited.limits.memory_bytes = 60 << 40
        third = await daemon.ended(await daemon.lease(limited))

    assert first.end.reason == pb.AttemptEnd.REASON_ENVIRONMENT_FAILED
    assert '"/no/such", which is to be mounted at /data, does not exist' in first.end.message
    assert second.end.reason == pb.AttemptEnd.REASON_ENVIRONMENT_FAILED
    assert "did you mean --shm-size?" in second.end.message
    assert third.end.reason == pb.AttemptEnd.REASON_ENVIRONMENT_FAILED
    assert "its limits can't be kept on this node" in third.end.message
    assert "--memory-limit" in third.end.advice


@in_loop
async def test_a_script_needs_python_in_the_image(engine: DockerEngine) -> None:
    async with node() as (daemon, _):
        held = await daemon.lease(contained(daemon, "print(1)", image=SHELL_IMAGE))
        report = await daemon.ended(held)

    assert report.end.reason == pb.AttemptEnd.REASON_ENVIRONMENT_FAILED
    assert "Python" in report.end.message
