"""The built-in environment builders under the suite that every builder must pass."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from contract.docker_cases import Site, conda_case, dockerfile_case, pip_case
from contract.environment_builder_suite import (
    BuildingCase,
    BuildingSuite,
    Case,
    EnvironmentBuilderSuite,
    execute,
    provide,
    run,
)
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.conda import CondaBuilder
from runyard_agent.environments.docker import DockerBuilder
from runyard_agent.environments.pip import PipBuilder
from runyard_agent.environments.user_managed import UserManagedBuilder
from runyardpb.v1.environments_pb2 import (
    CondaPackages,
    DockerImage,
    EnvironmentSpec,
    PipPackages,
    UserManagedPython,
)
from support.conda_channel import CondaChannel
from support.docker_engine import PYTHON_IMAGE, DockerEngine
from support.packages import Gate, make_sdist, make_wheel

BROKEN = "def before_wheel():\n    raise SystemExit('gcc: command not found')\n"
KILL_SOURCE = """
import asyncio, os, sys
from pathlib import Path
from {module} import {name} as Builder
from runyard_agent.environments.cache import EnvironmentCache
from runyardpb.v1.environments_pb2 import EnvironmentSpec

class Log:
    def write(self, data):
        pass

spec = EnvironmentSpec.FromString({spec!r})
builder = Builder(EnvironmentCache(Path({root!r})), {environ!r})
asyncio.run(builder.provide(spec, (), log=Log(), progress=lambda doing: None))
"""


def kill_source(
    builder: type, spec: EnvironmentSpec, root: Path, environ: Mapping[str, str]
) -> str:
    """Source of an agent that provides one environment."""
    return KILL_SOURCE.format(
        module=builder.__module__,
        name=builder.__name__,
        spec=spec.SerializeToString(),
        root=str(root),
        environ=dict(environ),
    )


class TestUserManaged(EnvironmentBuilderSuite):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Case:
        def spec(path: str) -> EnvironmentSpec:
            return EnvironmentSpec(user_managed=UserManagedPython(interpreter_path=path.encode()))

        missing = str(tmp_path / "gone" / "python")
        return Case(
            make=UserManagedBuilder,
            good=spec(sys.executable),
            proof="import sys; assert sys.version_info >= (3, 11)",
            missing=spec(missing),
            missing_name=missing,
        )


class TestDockerImage(EnvironmentBuilderSuite):
    @pytest.fixture
    def case(self, tmp_path: Path, docker_engine: DockerEngine) -> Case:
        environ = {"PATH": os.environ["PATH"], "DOCKER_HOST": docker_engine.url}
        missing = "runyard-test/nowhere:1"
        return Case(
            make=lambda: DockerBuilder(EnvironmentCache(tmp_path), environ),
            good=EnvironmentSpec(docker=DockerImage(image=PYTHON_IMAGE)),
            proof="import os, sys; assert sys.prefix == '/usr/local' and os.getpid() == 1",
            missing=EnvironmentSpec(docker=DockerImage(image=missing)),
            missing_name=missing,
        )


class TestPip(BuildingSuite):
    @pytest.fixture
    def case(self, tmp_path: Path) -> Iterator[BuildingCase]:
        root, links = tmp_path / "environments", tmp_path / "links"
        root.mkdir()
        links.mkdir()
        gate = Gate(tmp_path)
        make_wheel(links, "ryleaf", "1.0")
        make_wheel(links, "rytop", "1.0", requires=["ryleaf"])
        make_sdist(links, "ryslow", "1.0", gate.before_wheel)
        make_sdist(links, "rybroken", "1.0", BROKEN)
        numbers = itertools.count()

        def environ() -> dict[str, str]:
            # A cache for each builder: uv would have one wait for the other's there already.
            cache = tmp_path / f"cache-{next(numbers)}"
            return {"PATH": os.environ["PATH"], "UV_CACHE_DIR": str(cache)}

        def spec(*requirements: str) -> EnvironmentSpec:
            return EnvironmentSpec(
                pip=PipPackages(
                    requirements=requirements,
                    index_options=["--no-index", f"--find-links={links}"],
                    base_interpreter_path=os.fsencode(sys.executable),
                )
            )

        slow = spec("ryslow", "rytop")
        yield BuildingCase(
            make=lambda: PipBuilder(EnvironmentCache(root), environ()),
            root=root,
            make_in=lambda cache: PipBuilder(cache, environ()),
            other=spec("ryleaf"),
            good=spec("rytop"),
            proof="import ryleaf, rytop; assert rytop.VERSION == '1.0'",
            missing=spec("rytop", "rynowhere"),
            missing_name="rynowhere",
            same=spec("rytop>=1", "ryleaf"),
            slow=slow,
            gate=gate,
            broken=spec("rytop", "rybroken"),
            broken_name="rybroken",
            # Whatever uv would be started for fails without a cache.
            make_cut_off=lambda: PipBuilder(
                EnvironmentCache(root), {**environ(), "UV_CACHE_DIR": "/dev/null"}
            ),
            built=lambda: [path for path in root.iterdir() if path.is_dir()],
            kill_source=kill_source(PipBuilder, slow, root, environ()),
        )
        gate.close()


class TestConda(BuildingSuite):
    @pytest.fixture
    def case(self, tmp_path: Path, conda_channel: CondaChannel) -> Iterator[BuildingCase]:
        root, links = tmp_path / "environments", tmp_path / "links"
        root.mkdir()
        links.mkdir()
        gate = Gate(tmp_path)
        make_sdist(links, "ryslow", "1.0", gate.before_wheel)
        numbers = itertools.count()

        def environ() -> dict[str, str]:
            # Caches for each builder: one would wait for the other's there already.
            cache = tmp_path / f"cache-{next(numbers)}"
            return {
                "PATH": os.environ["PATH"],
                "RATTLER_CACHE_DIR": str(cache / "rattler"),
                "UV_CACHE_DIR": str(cache / "uv"),
            }

        def spec(*packages: str, pip: str = "") -> EnvironmentSpec:
            return EnvironmentSpec(
                conda=CondaPackages(
                    packages=packages,
                    channels=[conda_channel.url],
                    pip_requirements=[pip] if pip else [],
                    pip_index_options=["--no-index", f"--find-links={links}"],
                )
            )

        cut_off = {"RATTLER_CACHE_DIR": "/dev/null", "UV_CACHE_DIR": "/dev/null"}
        slow = spec("rytop", pip="ryslow")
        yield BuildingCase(
            make=lambda: CondaBuilder(EnvironmentCache(root), environ()),
            root=root,
            make_in=lambda cache: CondaBuilder(cache, environ()),
            other=spec("ryleaf"),
            good=spec("rytop"),
            proof="import os, sys, ryleaf, rytop; assert sys.prefix == os.environ['CONDA_PREFIX']",
            missing=spec("rytop", "rynowhere"),
            missing_name="rynowhere",
            same=spec("rytop>=1", "ryleaf"),
            slow=slow,
            gate=gate,
            broken=spec("rytop", "rybroken"),
            broken_name="rybroken",
            make_cut_off=lambda: CondaBuilder(EnvironmentCache(root), {**environ(), **cut_off}),
            built=lambda: [path for path in root.iterdir() if path.is_dir()],
            kill_source=kill_source(CondaBuilder, slow, root, environ()),
        )
        gate.close()


class TestDockerfile(BuildingSuite):
    @pytest.fixture
    def case(self, tmp_path: Path, docker_engine: DockerEngine) -> Iterator[BuildingCase]:
        with dockerfile_case(Site(docker_engine, tmp_path), kill_source) as case:
            yield case


class TestDockerPip(BuildingSuite):
    @pytest.fixture
    def case(self, tmp_path: Path, docker_engine: DockerEngine) -> Iterator[BuildingCase]:
        with pip_case(Site(docker_engine, tmp_path), kill_source) as case:
            yield case


class TestDockerConda(BuildingSuite):
    @pytest.fixture
    def case(
        self, tmp_path: Path, docker_engine: DockerEngine, conda_channel: CondaChannel
    ) -> Iterator[BuildingCase]:
        with conda_case(Site(docker_engine, tmp_path), kill_source, conda_channel) as case:
            yield case

    def test_least_recently_used_makes_room_for_a_build(self, case: BuildingCase) -> None:
        """The node's environment, which an image is a copy of, was used before the image was."""
        case.gate.open()
        first = run(provide(case.make(), case.good))
        sizes = [found.record.size_bytes for found in EnvironmentCache(case.root).found()]
        cache = EnvironmentCache(case.root, sum(sizes) - 1)

        run(cache.make_room())

        assert [bool(found.record.image) for found in cache.found()] == [True]
        again = run(provide(case.make(), case.good, locks=[first.lock] if first.lock else []))
        assert execute(again, case.proof).returncode == 0
