"""An agent builds images ahead of runs, with the files of a snapshot."""

from __future__ import annotations

import pytest

from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentBuild, EnvironmentSpec
from support.agent_process import in_loop, node
from support.docker_engine import PYTHON_IMAGE, DockerEngine
from support.fake_daemon import FakeDaemon

COPIES = f"FROM {PYTHON_IMAGE}\nCOPY mine.txt /copied\n"


async def _ended(daemon: FakeDaemon, snapshot: str) -> pb.AttemptEnd:
    """The end of a build of a Dockerfile that copies a file."""
    spec = runs_pb2.RunSpec(
        kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD,
        snapshot=snapshot,
        environment=EnvironmentSpec(docker=DockerImage(dockerfile=COPIES, network="none")),
    )
    report = await daemon.ended(await daemon.lease(spec))
    end: pb.AttemptEnd = report.end
    return end


def test_build_ahead_takes_files_from_its_snapshot(
    docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)

    @in_loop
    async def build() -> None:
        async with node() as (daemon, _agent):
            without = await _ended(daemon, "")
            whole = await _ended(daemon, daemon.snapshot({"mine.txt": b"mine\n"}))
            ends.extend([without, whole])
            await daemon.until(lambda: daemon.builds)
            builds.extend(daemon.builds or ())

    ends: list[pb.AttemptEnd] = []
    builds: list[EnvironmentBuild] = []
    build()
    without, whole = ends

    assert "has no snapshot to take them from" in without.message
    assert whole.reason == pb.AttemptEnd.REASON_BUILT
    assert [(len(one.lock_hash), one.key != one.lock_hash) for one in builds] == [(64, True)]
    names = docker_engine.docker(
        "images", "--format", "{{.Repository}}:{{.Tag}}", "runyard/environment"
    ).stdout.split()
    shown = [
        docker_engine.docker("run", "--rm", "--network=none", name, "cat", "/copied", check=False)
        for name in names
    ]
    assert "mine\n" in [one.stdout for one in shown]
    docker_engine.docker("rmi", "-f", *names)
