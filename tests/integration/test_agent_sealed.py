"""Environments built on one node and fetched by another, which can build nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runyard_contract.digest import digest_bytes
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2
from runyardpb.v1.environments_pb2 import CondaPackages, EnvironmentSpec, PipPackages
from support.agent_process import AgentProcess, in_loop, node
from support.conda_channel import CondaChannel
from support.fake_daemon import FakeDaemon, Held, script
from support.packages import make_wheel

LIMIT_S = 120.0
MODULE = b"VERSION = '1.0'\n"
PRINTS = "import ryleaf, sys; print(ryleaf.VERSION, sys.prefix)"
ACTIVATED = "import os, ryleaf, sys; print(os.environ['RY_DATA'], os.environ['CONDA_PREFIX'])"
PLACEHOLDER = b"/opt/placehold" + b"_placehold" * 20
OWN_PATH = {
    "bin/rytool": b"\x7fELF\0" + PLACEHOLDER + b"/lib\0end",
    "etc/ry.conf": b"home = " + PLACEHOLDER + b"\n",
    "share/terminfo/E/ry": b"E",
    "share/terminfo/e/ry:x": b"e",
}


class Bench:
    """A daemon with two nodes, one after the other."""

    def __init__(self, daemon: FakeDaemon, first: AgentProcess) -> None:
        self.daemon = daemon
        self.first = first
        self.links = daemon.root / "links"
        self.links.mkdir()
        make_wheel(self.links, "ryleaf", "1.0")
        self.pip = EnvironmentSpec(
            pip=PipPackages(
                requirements=["ryleaf"],
                index_options=["--no-index", f"--find-links={self.links}"],
                base_interpreter_path=os.fsencode(sys.executable),
            )
        )

    async def build(self, spec: EnvironmentSpec, *, seals: bool = True) -> Held:
        """Builds on the node that is there now."""
        held = await self.daemon.lease(self.building(spec, seals=seals))
        await self.daemon.ended(held, LIMIT_S)
        return held

    def building(self, spec: EnvironmentSpec, *, seals: bool = False) -> runs_pb2.RunSpec:
        """A run that builds this."""
        return runs_pb2.RunSpec(
            kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD,
            environment=spec,
            seals_environment=seals,
        )

    async def run(self, spec: EnvironmentSpec, source: str = PRINTS) -> Held:
        wanted = script(self.daemon, source)
        wanted.environment.CopyFrom(spec)
        wanted.environment_name = "leaf"
        held = await self.daemon.lease(wanted)
        await self.daemon.ended(held, LIMIT_S)
        return held

    @contextlib.asynccontextmanager
    async def second(self, *options: str, is_near: bool = False) -> AsyncIterator[AgentProcess]:
        """Another node takes the place of the first one, without the packages."""
        await self.first.kill()
        shutil.rmtree(self.links)
        self.daemon.sends_locks = True
        far = AgentProcess(self.daemon, options=options, home="far/node", blobs=is_near)
        far.home.parent.mkdir()
        seen = len(self.daemon.hellos)
        try:
            await far.start()
            await self.daemon.until(lambda: len(self.daemon.hellos) > seen)
            yield far
        finally:
            await far.kill()

    def damage(self, content: bytes) -> None:
        """Turns over the stored bytes of a content, wherever they lie."""
        changed = 0
        for path in self.daemon.blobs_path.rglob("*"):
            if path.is_file() and content in (data := path.read_bytes()):
                path.chmod(0o600)
                path.write_bytes(data.replace(content, content[::-1]))
                changed += 1
        assert changed


@contextlib.asynccontextmanager
async def bench(*options: str) -> AsyncIterator[Bench]:
    async with node(options=options) as (daemon, agent):
        yield Bench(daemon, agent)


def log(held: Held) -> str:
    return bytes(held.files.get(pb.AppendFilesRequest.FILE_ENVIRONMENT, b"")).decode()


def check_own_path(prefix: Path) -> None:
    """The files of `rypath` are as in an environment that was built in this folder."""
    tool = (prefix / "bin/rytool").read_bytes()
    assert tool.startswith(b"\x7fELF\0" + os.fsencode(prefix) + b"/lib\0")
    assert len(tool) == len(OWN_PATH["bin/rytool"])
    assert (prefix / "etc/ry.conf").read_text() == f"home = {prefix}\n"
    assert (prefix / "share/terminfo/e/ry:x").read_bytes() == b"e"


@in_loop
async def test_pip_environment_is_fetched_by_a_node_that_has_neither_packages_nor_network() -> None:
    async with bench() as made:
        built = await made.build(made.pip)
        assert "Sealed in" in log(built), built.end

        async with made.second("--offline") as far:
            fetched = await made.run(made.pip)
            again = await made.run(made.pip)

        assert fetched.end.exit_code == 0, log(fetched) + fetched.end.message
        version, prefix = fetched.stdout.decode().split()
        assert version == "1.0"
        assert Path(prefix).parent == far.home / "environments"
        assert "from the daemon instead of building" in log(fetched)
        assert "already built" in log(again)
        assert ".fetched" not in os.listdir(prefix)


@in_loop
async def test_fetched_environment_comes_out_of_the_daemons_own_store_too() -> None:
    async with bench() as made:
        await made.build(made.pip)

        async with made.second("--offline", is_near=True):
            fetched = await made.run(made.pip)

        assert fetched.stdout.startswith(b"1.0 "), log(fetched)


@in_loop
async def test_damaged_content_is_found_and_the_environment_built_and_sealed_again() -> None:
    async with bench() as made:
        await made.build(made.pip)
        before = list(made.daemon.sealed)

        kept = made.daemon.root / "kept"
        shutil.copytree(made.links, kept)
        async with made.second():
            shutil.copytree(kept, made.links)
            made.damage(MODULE)
            held = await made.run(made.pip)
            await made.daemon.until(lambda: len(made.daemon.sealed) > len(before), LIMIT_S)

        assert held.stdout.startswith(b"1.0 ")
        assert "The sealed environment can't be used" in log(held)
        assert "Building it instead." in log(held)
        assert made.daemon.blobs.read(digest_bytes(MODULE)) == MODULE


@in_loop
async def test_offline_node_refuses_what_is_damaged_and_what_is_not_sealed() -> None:
    async with bench() as made:
        await made.build(made.pip)
        unsealed = EnvironmentSpec()
        unsealed.CopyFrom(made.pip)
        unsealed.pip.requirements.append("ryleaf>=1")
        await made.build(unsealed, seals=False)
        made.daemon.locks = {
            key: lock for key, lock in made.daemon.locks.items() if lock.HasField("sealed")
        }

        async with made.second("--offline") as far:
            made.damage(MODULE)
            damaged = await made.run(made.pip)
            never = await made.run(unsealed)
            left = [path for path in (far.home / "environments").iterdir() if path.is_dir()]

        for held in (damaged, never):
            assert held.end.reason == pb.AttemptEnd.REASON_ENVIRONMENT_FAILED
            assert 'this node is offline, and the environment "leaf" is not on it' in (
                held.end.message
            )
            assert "runyard environment build leaf -t TARGET --seal" in held.end.advice
            assert "runyard environment export leaf FILE" in held.end.advice
        assert "what is sealed of it can't be used" in damaged.end.message
        assert "not locked for this node's platform" in never.end.message
        assert not left


@in_loop
async def test_environments_are_sealed_in_the_background_where_that_is_worth_it() -> None:
    async with bench("--seal", "always") as made:
        held = await made.run(made.pip)
        await made.daemon.until(lambda: made.daemon.sealed)

        assert held.stdout.startswith(b"1.0 ")
        assert "Sealing it meanwhile" in log(held)
    async with bench() as made:
        held = await made.run(made.pip)

        assert "Sealing" not in log(held)  # tiny, and built in a moment


@in_loop
async def test_environment_that_a_job_has_changed_is_not_sealed() -> None:
    async with bench() as made:
        changing = "import pathlib, ryleaf; pathlib.Path(ryleaf.__file__).write_text('x = 1')"
        await made.run(made.pip, changing)
        held = await made.build(made.pip)

        assert held.end.reason == pb.AttemptEnd.REASON_ENVIRONMENT_FAILED
        assert "ryleaf.py was changed after it was built" in held.end.message
        assert not made.daemon.sealed


@in_loop
async def test_environment_of_another_python_or_kind_cannot_be_sealed() -> None:
    async with bench() as made:
        spec = EnvironmentSpec()
        spec.user_managed.interpreter_path = os.fsencode(sys.executable)
        held = await made.build(spec)

        assert held.end.reason == pb.AttemptEnd.REASON_ENVIRONMENT_FAILED
        assert "can't be sealed" in held.end.message


@in_loop
async def test_agent_that_is_killed_while_it_fetches_leaves_nothing_usable() -> None:
    async with bench() as made:
        await made.build(made.pip)

        async with made.second("--offline") as far:
            made.daemon.may_read.clear()
            reads = made.daemon.reads
            held = await made.daemon.lease(made.building(made.pip))
            await made.daemon.until(lambda: made.daemon.reads > reads)
            await far.kill()
            ready = list(far.home.glob("environments/*/ready.json"))
            made.daemon.may_read.set()
            await far.start()
            await made.daemon.ended(held, LIMIT_S)
            used = await made.run(made.pip)

        assert not ready
        assert held.end.reason == pb.AttemptEnd.REASON_BUILT, log(held) + held.end.message
        assert used.stdout.startswith(b"1.0 ")


@pytest.mark.slow
def test_conda_environment_is_fetched_with_its_activation_and_its_own_path(
    conda_channel: CondaChannel, tmp_path: Path
) -> None:
    own = CondaChannel(tmp_path)
    own.add_with_path("rypath", "1.0", OWN_PATH, PLACEHOLDER)
    own.index()
    spec = EnvironmentSpec(
        conda=CondaPackages(
            packages=["ryleaf=1", "ryactive", "rypath"], channels=[own.url, conda_channel.url]
        )
    )

    @in_loop
    async def test() -> None:
        async with bench() as made:
            built = await made.build(spec)
            assert "Sealed in" in log(built), built.end

            async with made.second("--offline") as far:
                held = await made.run(spec, ACTIVATED)

            assert held.end.exit_code == 0, log(held) + held.end.message
            data, more, prefix = held.stdout.decode().split()
            assert Path(prefix).parent == far.home / "environments"
            assert f"{data} {more}" == f"{prefix}/share/ry data"
            assert "from the daemon instead of building" in log(held)
            check_own_path(Path(prefix))

    test()
