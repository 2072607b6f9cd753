"""The built-in environment builders under the suite that every builder must pass."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from contract.docker_cases import Site, conda_case, dockerfile_case, pip_case
from contract.environment_builder_suite import BuildingSuite, EnvironmentBuilderSuite
from contract.environment_case import (
    BuildingCase,
    Case,
    FaultCase,
    execute,
    kill_source,
    provide,
    run,
)
from contract.environment_faults_suite import FaultsSuite, SpecificationFaultsSuite
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.conda import CondaBuilder
from runyard_agent.environments.conda_programs import BUILT_IN
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
from support.docker_engine import PYTHON_IMAGE, SHELL_IMAGE, DockerEngine
from support.own_conda import make_program
from support.packages import Gate, make_sdist, make_wheel

NOBODY = "http://127.0.0.1:9"
"""The port of a service that nobody offers any more."""
LAST_LINE = "gcc: command not found"
BROKEN = f"def before_wheel():\n    print('compiling')\n    raise SystemExit({LAST_LINE!r})\n"


def pip_faults(spec: Callable[..., EnvironmentSpec], folder: Path) -> FaultCase:
    """Faults of pip packages, which `spec` makes specifications of."""
    executed = folder / "executed"
    return FaultCase(
        conflict=spec("ryold", "ryleaf>=2"),
        conflict_names=("ryold", "ryleaf"),
        metacharacters=spec(f"ryleaf;touch${{IFS}}{executed}"),
        metacharacters_name="ryleaf;touch",
        executed=executed,
        unreachable=spec("ryelse", options=[f"--index-url={NOBODY}/simple"]),
        unreachable_name=NOBODY.removeprefix("http://"),
        uncompilable=spec("rybroken"),
        uncompilable_name="rybroken",
        last_line=LAST_LINE,
    )


def conda_faults(spec: Callable[..., EnvironmentSpec], folder: Path) -> FaultCase:
    """Faults of conda packages, which `spec` makes specifications of."""
    executed = folder / "executed"
    unreachable = f"{NOBODY}/channel"
    return FaultCase(
        conflict=spec("rytop", "rynew"),
        conflict_names=("rytop", "rynew", "ryleaf"),
        metacharacters=spec(f"ryleaf;touch${{IFS}}{executed}"),
        metacharacters_name="ryleaf;touch",
        executed=executed,
        unreachable=spec("ryleaf", channels=[unreachable]),
        unreachable_name=unreachable,
        uncompilable=spec("ryleaf", pip="rybroken"),
        uncompilable_name="rybroken",
        last_line=LAST_LINE,
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


class TestPip(BuildingSuite, FaultsSuite):
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
        make_wheel(links, "ryleaf", "2.0")
        make_wheel(links, "ryold", "1.0", requires=["ryleaf<2"])
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

    @pytest.fixture
    def faults(self, tmp_path: Path) -> FaultCase:
        def spec(*requirements: str, options: Sequence[str] = ("--no-index",)) -> EnvironmentSpec:
            return EnvironmentSpec(
                pip=PipPackages(
                    requirements=requirements,
                    index_options=[*options, f"--find-links={tmp_path / 'links'}"],
                    base_interpreter_path=os.fsencode(sys.executable),
                )
            )

        return pip_faults(spec, tmp_path)


class TestConda(BuildingSuite, FaultsSuite):
    @pytest.fixture
    def program(self) -> str:
        """The setting for the node's own conda program."""
        return BUILT_IN

    @pytest.fixture
    def faults(self, tmp_path: Path, conda_channel: CondaChannel) -> FaultCase:
        def spec(*packages: str, channels: Sequence[str] = (), pip: str = "") -> EnvironmentSpec:
            return EnvironmentSpec(
                conda=CondaPackages(
                    packages=packages,
                    channels=[conda_channel.url, *channels],
                    pip_requirements=[pip] if pip else [],
                    pip_index_options=["--no-index", f"--find-links={tmp_path / 'links'}"],
                )
            )

        return conda_faults(spec, tmp_path)

    @pytest.fixture
    def case(
        self, tmp_path: Path, conda_channel: CondaChannel, program: str
    ) -> Iterator[BuildingCase]:
        root, links = tmp_path / "environments", tmp_path / "links"
        root.mkdir()
        links.mkdir()
        gate = Gate(tmp_path)
        make_sdist(links, "ryslow", "1.0", gate.before_wheel)
        make_sdist(links, "rybroken", "1.0", BROKEN)
        numbers = itertools.count()

        def environ() -> dict[str, str]:
            # Caches for each builder: one would wait for the other's there already.
            cache = tmp_path / f"cache-{next(numbers)}"
            return {
                "HOME": str(cache),
                "PATH": os.environ["PATH"],
                "RATTLER_CACHE_DIR": str(cache / "rattler"),
                "UV_CACHE_DIR": str(cache / "uv"),
            }

        def make(cache: EnvironmentCache | None = None, **more: str) -> CondaBuilder:
            environ_ = {**environ(), **more}
            return CondaBuilder(cache or EnvironmentCache(root), environ_, program=program)

        def spec(*packages: str, pip: str = "") -> EnvironmentSpec:
            return EnvironmentSpec(
                conda=CondaPackages(
                    packages=packages,
                    channels=[conda_channel.url],
                    pip_requirements=[pip] if pip else [],
                    pip_index_options=["--no-index", f"--find-links={links}"],
                )
            )

        cut_off = dict.fromkeys(("RATTLER_CACHE_DIR", "UV_CACHE_DIR", "HOME"), "/dev/null")
        slow = spec("rytop", pip="ryslow")
        yield BuildingCase(
            make=make,
            root=root,
            make_in=make,
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
            make_cut_off=lambda: make(**cut_off),
            built=lambda: [path for path in root.iterdir() if path.is_dir()],
            kill_source=kill_source(CondaBuilder, slow, root, environ(), f", program={program!r}"),
        )
        gate.close()


@pytest.mark.slow
class TestOwnConda(TestConda):
    """conda packages by the node's own program."""

    @pytest.fixture
    def program(self, tmp_path: Path) -> str:
        return str(make_program(tmp_path / "own").path)


@pytest.mark.slow
class TestDockerfile(BuildingSuite):
    @pytest.fixture
    def case(self, tmp_path: Path, docker_engine: DockerEngine) -> Iterator[BuildingCase]:
        with dockerfile_case(Site(docker_engine, tmp_path)) as case:
            yield case


@pytest.mark.slow
class TestDockerPip(BuildingSuite, SpecificationFaultsSuite):
    @pytest.fixture
    def faults(self, tmp_path: Path) -> FaultCase:
        def spec(*requirements: str, options: Sequence[str] = ("--no-index",)) -> EnvironmentSpec:
            links = f"--find-links={tmp_path / 'links'}"
            pip = PipPackages(requirements=requirements, index_options=[*options, links])
            return EnvironmentSpec(docker=DockerImage(image=PYTHON_IMAGE, network="none", pip=pip))

        return pip_faults(spec, tmp_path)

    @pytest.fixture
    def case(self, tmp_path: Path, docker_engine: DockerEngine) -> Iterator[BuildingCase]:
        with pip_case(Site(docker_engine, tmp_path)) as case:
            yield case


@pytest.mark.slow
class TestDockerConda(BuildingSuite, SpecificationFaultsSuite):
    @pytest.fixture
    def faults(self, tmp_path: Path, conda_channel: CondaChannel) -> FaultCase:
        def spec(*packages: str, channels: Sequence[str] = (), pip: str = "") -> EnvironmentSpec:
            conda = CondaPackages(
                packages=packages,
                channels=[conda_channel.url, *channels],
                pip_requirements=[pip] if pip else [],
                pip_index_options=["--no-index", f"--find-links={tmp_path / 'links'}"],
            )
            docker = DockerImage(image=SHELL_IMAGE, network="none", conda=conda)
            return EnvironmentSpec(docker=docker)

        return conda_faults(spec, tmp_path)

    @pytest.fixture
    def case(
        self, tmp_path: Path, docker_engine: DockerEngine, conda_channel: CondaChannel
    ) -> Iterator[BuildingCase]:
        with conda_case(Site(docker_engine, tmp_path), conda_channel) as case:
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
