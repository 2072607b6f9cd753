"""A whole agent that is an ordinary user's, whom the engine's socket lets in or not."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2
from runyardpb.v1.environments_pb2 import DockerImage
from support.agent_process import AgentProcess, house, in_loop
from support.docker_engine import PYTHON_IMAGE, DockerEngine
from support.fake_daemon import FakeDaemon, script
from support.unprivileged import open_folder

USER = 65534
GROUP = 54321
"""Of the socket; no group of this machine."""


@pytest.fixture
def socket(docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The engine's socket where an ordinary user gets to it, for one group."""
    if shutil.which("setpriv") is None:
        pytest.skip("there is no setpriv here: install util-linux")
    with open_folder() as folder:
        path = folder / "docker.sock"
        os.link(docker_engine.socket, path)
        os.chown(path, 0, GROUP)
        path.chmod(0o660)
        monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
        yield path
        os.chown(path, 0, 0)


def as_user(group: int) -> list[str]:
    """Starts a program as an ordinary user.

    It may read what others can't, as the interpreter may lie in root's home; it may write nothing,
    so that the socket's modes hold.
    """
    return [
        *("setpriv", f"--reuid={USER}", f"--regid={USER}", f"--groups={group}"),
        *("--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search"),
        "--ambient-caps=-all,+dac_read_search",
    ]


@contextlib.asynccontextmanager
async def users_node(group: int) -> AsyncIterator[tuple[FakeDaemon, AgentProcess]]:
    """A daemon and an agent of the user."""
    async with house(launcher=as_user(group)) as (daemon, agent), daemon.serving():
        for path in (daemon.root, *daemon.root.iterdir()):
            os.chown(path, USER, USER)
        await agent.start()
        yield daemon, agent


def contained(daemon: FakeDaemon, source: str) -> runs_pb2.RunSpec:
    spec = script(daemon, source)
    spec.environment.docker.CopyFrom(DockerImage(image=PYTHON_IMAGE, network="none"))
    return spec


@in_loop
async def test_user_of_the_sockets_group_runs_containers_and_owns_what_they_make(
    socket: Path, docker_engine: DockerEngine
) -> None:
    source = (
        "import os, time\nos.makedirs('outputs/deep')\nopen('outputs/deep/model', 'w').close()\n"
        "print(os.getuid(), os.getgid(), flush=True)\n"
        "while not os.path.exists('go'):\n    time.sleep(0.005)\n"
    )
    async with users_node(GROUP) as (daemon, agent):
        held = await daemon.lease(contained(daemon, source))
        await daemon.until(lambda: held.stdout.endswith(b"\n"))
        work = agent.bundle(held) / "work"
        made = [work / "outputs", work / "outputs" / "deep", work / "outputs" / "deep" / "model"]
        owners = {(path.stat().st_uid, path.stat().st_gid) for path in made}
        (work / "go").touch()
        report = await daemon.ended(held)

        assert report.end.exit_code == 0, held.stderr
        assert held.stdout == f"{USER} {USER}\n".encode()
        assert owners == {(USER, USER)}
        assert any("outputs/deep/model" in path for path in held.registered)
        assert docker_engine.containers(f"label=runyard.run={held.run_id}") == []


@in_loop
async def test_user_whom_the_socket_keeps_out_is_told_the_command(
    socket: Path, docker_engine: DockerEngine
) -> None:
    async with users_node(USER) as (daemon, _):
        held = await daemon.lease(contained(daemon, "print(1)"))
        report = await daemon.ended(held)
        plain = await daemon.ended(await daemon.lease(script(daemon, "print(2)\n")))

    assert report.end.reason == pb.AttemptEnd.REASON_ENVIRONMENT_FAILED
    assert f"may not use the Docker engine at {socket}, which is for the group {GROUP}" in (
        report.end.message
    )
    assert f"`sudo usermod -aG {GROUP} " in report.end.advice
    assert plain.end.exit_code == 0
