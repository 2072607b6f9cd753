"""Builders on a node that is offline: what was built is given, and nothing is built."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contract.environment_case import Log, provide, run
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.conda import CondaBuilder
from runyard_agent.environments.interpreters import version_of
from runyard_agent.environments.pip import PipBuilder
from runyard_agent.environments.protocol import NotHere
from runyardpb.v1.environments_pb2 import CondaPackages, EnvironmentSpec, PipPackages
from support.packages import make_wheel
from support.pythons import RUNNING, find_pythons


def environ_with(folder: Path, **programs: str) -> dict[str, str]:
    """Variables of an agent with these programs on its PATH, and no others of Python."""
    binaries = folder / "bin"
    binaries.mkdir(parents=True)
    for name, target in programs.items():
        (binaries / name.replace("_", ".")).symlink_to(os.path.realpath(target))
    return {
        "PATH": f"{binaries}",
        "HOME": str(folder),
        "PYENV_ROOT": str(folder),
        "UV_CACHE_DIR": os.environ["UV_CACHE_DIR"],
    }


def specification(folder: Path) -> EnvironmentSpec:
    """One wheel, for the node's python3."""
    links = folder / "links"
    links.mkdir()
    make_wheel(links, "ryleaf", "1.0")
    options = ["--no-index", f"--find-links={links}"]
    return EnvironmentSpec(pip=PipPackages(requirements=["ryleaf"], index_options=options))


def test_offline_node_takes_the_python_that_the_lock_is_for(tmp_path: Path) -> None:
    pythons = find_pythons()
    other = next((version for version in pythons if version not in (RUNNING, "3.8")), None)
    if other is None:
        pytest.skip("this machine has one Python only")
    running = pythons[RUNNING]
    cache = EnvironmentCache(tmp_path)
    spec = specification(tmp_path)
    connected = environ_with(tmp_path / "connected", python3=running)
    programs = {"python3": pythons[other], f"python{RUNNING.replace('.', '_')}": running}
    alone = environ_with(tmp_path / "alone", **programs)
    built = run(provide(PipBuilder(cache, connected), spec))
    assert built.lock is not None

    offline = PipBuilder(EnvironmentCache(tmp_path), alone, is_offline=True)
    given = run(provide(offline, spec, locks=[built.lock]))

    assert given.python == built.python


def test_offline_node_builds_nothing_of_what_it_could_build(tmp_path: Path) -> None:
    environ = environ_with(tmp_path / "alone", python3=find_pythons()[RUNNING])
    spec = specification(tmp_path)
    cache = EnvironmentCache(tmp_path)
    locked = run(provide(PipBuilder(cache, environ), spec)).lock
    assert locked is not None
    run(cache.discard(locked.hash))
    log = Log()

    with pytest.raises(NotHere, match="neither built here nor sealed") as failed:
        run(provide(PipBuilder(cache, environ, is_offline=True), spec, log, [locked]))
    with pytest.raises(NotHere, match="not locked for this node"):
        run(provide(PipBuilder(cache, environ, is_offline=True), spec, log))
    conda = EnvironmentSpec(conda=CondaPackages(packages=["x"], channels=["conda-forge"]))
    with pytest.raises(NotHere, match="not locked for this node"):
        run(provide(CondaBuilder(cache, environ, is_offline=True), conda, log))

    assert "this node is offline" in log.text
    assert "environment build NAME -t TARGET --seal" in failed.value.advice
    assert not cache.folder(locked.hash).exists()


@pytest.mark.parametrize(
    ("platform", "version"),
    [
        ("linux-x86_64-cp311", "3.11"),
        ("linux-x86_64-cp39", "3.9"),
        ("linux-64", ""),
        ("x-pp310", ""),
    ],
)
def test_version_in_the_name_of_a_platform(platform: str, version: str) -> None:
    assert version_of(platform) == version
