"""Containers in which killed agents have worked are removed by the next; those of others stay."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.docker_cases import Site
from contract.environment_case import kill_source, provide, run
from integration.test_docker_builds import wait_until
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.docker import DockerBuilder
from runyard_agent.environments.docker_work import WORK, WORKER, work_labels
from runyardpb.v1.environments_pb2 import DockerImage, EnvironmentSpec, PipPackages
from support.docker_engine import PYTHON_IMAGE, SHELL_IMAGE, DockerEngine
from support.packages import Gate, make_sdist

# Its build backend waits when it is asked for metadata, which is while it is resolved.
RESOLVES_SLOWLY = """
def before_wheel():
    pass

_prepare = prepare_metadata_for_build_wheel
def prepare_metadata_for_build_wheel(into, settings=None):
    {wait}
    before_metadata()
    return _prepare(into, settings)
"""


@pytest.fixture
def site(tmp_path: Path, docker_engine: DockerEngine) -> Iterator[Site]:
    made = Site(docker_engine, tmp_path)
    yield made
    made.clear()


@pytest.fixture
def gate(site: Site) -> Iterator[Gate]:
    made = Gate(site.links)
    yield made
    made.close()


def spec(site: Site, *requirements: str) -> EnvironmentSpec:
    options = ["--no-index", f"--find-links={site.links}"]
    pip = PipPackages(requirements=requirements, index_options=options)
    return EnvironmentSpec(docker=DockerImage(image=PYTHON_IMAGE, network="none", pip=pip))


def sweep(site: Site) -> None:
    """What an agent does when it starts."""
    cache = EnvironmentCache(site.root)
    site.builder_in(cache)

    async def start() -> None:
        await cache.make_room()
        await cache.sweep()

    run(start())


def killed_while_it_resolves(site: Site, gate: Gate) -> list[str]:
    """Kills an agent and its program; gives the containers that are left."""
    wait = gate.before_wheel.replace("before_wheel", "before_metadata").replace("\n", "\n    ")
    make_sdist(site.links, "ryslow", "1.0", RESOLVES_SLOWLY.format(wait=wait))
    code = kill_source(DockerBuilder, spec(site, "ryslow"), site.root, site.environ)
    agent = subprocess.Popen([sys.executable, "-c", code])
    gate.wait_entered()
    programs = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    agent.kill()
    for program in programs:
        os.killpg(int(program), signal.SIGKILL)
    agent.wait()
    return site.left()


def test_what_a_killed_agent_was_resolving_in_is_removed(site: Site, gate: Gate) -> None:
    left = killed_while_it_resolves(site, gate)

    sweep(site)

    assert len(left) == 1
    assert site.left() == []
    gate.wait_left()


def test_what_is_being_worked_in_stays(site: Site, gate: Gate) -> None:
    make_sdist(site.links, "ryslow", "1.0", gate.before_wheel)
    cache = EnvironmentCache(site.root)
    builder = site.builder_in(cache)

    async def sweep_meanwhile() -> int:
        task = asyncio.create_task(provide(builder, spec(site, "ryslow")))
        await asyncio.to_thread(gate.wait_entered)
        await cache.sweep()
        count = len(site.left())
        gate.open()
        await task
        return count

    assert run(sweep_meanwhile()) == 1
    assert site.left() == []


def test_containers_of_other_folders_and_of_runs_stay(
    site: Site, docker_engine: DockerEngine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A run's container has the labels of its image."""
    image = run(provide(site.builder(), spec(site))).container
    assert image is not None
    (other,) = work_labels(tmp_path_factory.mktemp("other")).items()
    mine = next(iter(work_labels(site.root).values()))
    sleeping = [
        docker_engine.docker("run", "-d", "--network=none", *options, "sleep", "99").stdout.strip()
        for options in (
            ("--label", "=".join(other), "--label", f"{WORKER}=1 1", SHELL_IMAGE),
            (image.image,),
            ("--label", f"{WORK}={mine}", SHELL_IMAGE),
        )
    ]

    sweep(site)

    there = docker_engine.containers()
    docker_engine.docker("rm", "-f", *sleeping, check=False)
    wait_until(lambda: sleeping[0] not in docker_engine.containers())
    assert [one in there for one in sleeping] == [True, True, False]


def test_look_that_was_cut_short_is_found_although_nothing_was_seen_yet(
    site: Site, docker_engine: DockerEngine
) -> None:
    builder = site.builder()

    async def cut_short() -> None:
        task = asyncio.create_task(provide(builder, spec(site)))
        await asyncio.to_thread(wait_until, lambda: (site.root / "images.json").exists())
        task.cancel()
        await asyncio.wait([task])

    run(cut_short())
    assert site.left() == []
    (label,) = work_labels(site.root).items()
    docker_engine.docker(
        *("run", "-d", "--network=none", "--label", "=".join(label), SHELL_IMAGE, "sleep", "99")
    )

    sweep(site)

    assert site.left() == []
