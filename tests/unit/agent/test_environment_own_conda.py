"""Conda environments by the node's own program, and by the built-in solver where that can't."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.environment_case import cancelled, kill_source
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.conda import CondaBuilder
from runyard_agent.environments.conda_programs import AUTO, BUILT_IN
from runyard_agent.environments.protocol import ProvidedEnvironment
from runyardpb.v1.environments_pb2 import CondaPackages, EnvironmentSpec
from support.conda_bench import LIMIT_S, Bench, execute
from support.conda_channel import CondaChannel
from support.own_conda import VERSIONS, make_program
from support.packages import Gate

NAMES = ("micromamba", "mamba", "conda")


@pytest.fixture
def bench(tmp_path: Path, conda_channel: CondaChannel) -> Bench:
    return Bench(tmp_path, conda_channel.url, conda_channel.cache)


def use(bench: Bench, program: Path | str, **mirrors: list[str]) -> None:
    bench.builder = CondaBuilder(
        EnvironmentCache(bench.root), bench.environ, mirrors or None, str(program)
    )


@pytest.mark.parametrize("name", NAMES)
def test_own_program_solves_and_installs_to_the_lock_of_the_built_in(
    name: str, bench: Bench, tmp_path: Path
) -> None:
    built_in = bench.get("rytop").lock
    other = Bench(tmp_path / name, bench.channel)
    program = make_program(tmp_path / "own", name)
    use(other, program.path)

    provided = other.get("rytop")

    assert execute(provided, "import ryleaf, rytop; print(ryleaf.VERSION)") == "1.0"
    assert provided.lock is not None
    assert built_in is not None
    assert (provided.lock.text, provided.lock.hash) == (built_in.text, built_in.hash)
    words = f"the node's own {name} {VERSIONS[name]} ({program.path})"
    assert f"Solving with {words}." in other.log.text
    assert f"Installing with {words}." in other.log.text
    solving, installing = program.calls()
    assert {"--dry-run", "--json", "--override-channels"} <= {*solving}
    assert installing[-1].startswith("--file=")


def test_lock_of_either_is_installed_by_the_other(bench: Bench, tmp_path: Path) -> None:
    program = make_program(tmp_path / "own")
    built_in = bench.get("rytop").lock
    other = Bench(tmp_path / "other", bench.channel)
    use(other, program.path)
    assert built_in is not None

    with_own = other.get("rytop", locks=(built_in,))
    assert [call[-1][:7] for call in program.calls()] == ["--file="]
    own = other.get("ryactive").lock
    assert own is not None
    with_built_in = bench.get("ryactive", locks=(own,))

    assert execute(with_own, "import rytop; print(rytop.VERSION)") == "1.0"
    assert execute(with_built_in, "import ryactive; print(ryactive.VERSION)") == "1.0"
    assert with_built_in.env[b"RY_VALUE"] == b"one two"


def test_pip_packages_are_added_to_what_the_own_program_installed(
    bench: Bench, tmp_path: Path
) -> None:
    bench.wheel("ryabove", requires=["ryleaf"])
    use(bench, make_program(tmp_path / "own").path)

    provided = bench.get("ryleaf=1", pip_requirements=["ryabove"])

    said = execute(provided, "import ryabove, ryleaf; print(ryabove.VERSION, ryleaf.VERSION)")
    assert said == "1.0 1.0"


@pytest.mark.parametrize(
    ("version", "breaks", "told"),
    [
        ("4.12.0", "", "it is of version 4.12.0, and 24.9 is needed"),
        ("", "version", "it ends with 1 when asked for its version"),
        ("", "solve", "It could not: critical libmamba Aborted. Going on with the built-in"),
        ("", "hash", "It could not: it does not tell the hash of "),
        ("", "install", "It could not: [Errno 5] Input/output error. Going on with the built-in"),
    ],
    ids=["too old", "broken", "solve", "hash", "install"],
)
def test_built_in_goes_on_where_the_own_program_can_not(
    version: str, breaks: str, told: str, bench: Bench, tmp_path: Path
) -> None:
    use(bench, make_program(tmp_path / "own", "conda", version=version, breaks=breaks).path)

    provided = bench.get("rytop")

    assert execute(provided, "import rytop; print(rytop.VERSION)") == "1.0"
    assert told in bench.log.text


def test_missing_program_is_told_and_done_without(bench: Bench, tmp_path: Path) -> None:
    use(bench, tmp_path / "nowhere")

    assert execute(bench.get("ryleaf"), "import ryleaf; print(ryleaf.VERSION)") == "2.0"
    assert f"{tmp_path}/nowhere is not used: it can't be started: No such file" in bench.log.text


@pytest.mark.parametrize("name", NAMES)
def test_without_the_built_in_the_own_program_serves_and_its_words_are_shown(
    name: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rattler", None)  # as if it were not installed
    use(bench, make_program(tmp_path / "own", name).path)

    provided = bench.get("rytop")
    failed = bench.fail("rytop", "ryleaf>=2")

    assert execute(provided, "import rytop; print(rytop.VERSION)") == "1.0"
    assert f"own {name}" in failed.message
    assert "ryleaf" in failed.message


def test_programs_are_found_by_path_and_preferred_in_order(bench: Bench, tmp_path: Path) -> None:
    conda = make_program(tmp_path / "bin", "conda")
    old = make_program(tmp_path / "miniforge3" / "bin", "mamba", version="1.5.8")
    bench.environ["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    use(bench, AUTO)

    bench.get("ryleaf")

    assert len(conda.calls()) == 2
    assert f"{old.path} is not used: it is of version 1.5.8, and 2.0 is needed" in bench.log.text


def test_built_in_is_used_where_it_is_set(bench: Bench, tmp_path: Path) -> None:
    program = make_program(tmp_path / "bin", "micromamba")
    bench.environ["PATH"] = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    use(bench, BUILT_IN)

    bench.get("ryleaf")

    assert program.calls() == []


def test_mirror_is_asked_and_the_lock_names_the_channel(bench: Bench, tmp_path: Path) -> None:
    channel = f"file://{tmp_path}/not-here"
    program = make_program(tmp_path / "own")
    use(bench, program.path, **{channel: [bench.channel]})

    lock = bench.get("ryleaf=1", channels=[channel]).lock

    assert lock is not None
    assert f"{channel}/noarch/ryleaf-1.0-0_ry.conda" in lock.text
    assert len(program.calls()) == 2
    assert "Going on" not in bench.log.text


def test_mirror_of_a_named_channel_is_read_by_the_built_in(bench: Bench, tmp_path: Path) -> None:
    program = make_program(tmp_path / "own")
    use(bench, program.path, **{"conda-forge": [bench.channel]})

    lock = bench.get("ryleaf=1", channels=["conda-forge"]).lock

    assert lock is not None
    assert "/conda-forge/noarch/ryleaf-1.0-0_ry.conda" in lock.text
    assert "it can't read conda-forge at a mirror" in bench.log.text
    assert [call[-1][:7] for call in program.calls()] == ["--file="]


def test_settings_of_the_caller_do_not_change_what_is_resolved(
    bench: Bench, tmp_path: Path
) -> None:
    bench.environ |= {"CONDA_SUBDIR": "osx-arm64", "CONDA_PREFIX": "/x", "PYTHONHOME": "/x"}
    program = make_program(tmp_path / "own")
    use(bench, program.path)

    bench.get("ryleaf")

    for given in program.environments():
        assert "CONDA_SUBDIR" not in given
        assert given["CONDA_ADD_PIP_AS_PYTHON_DEPENDENCY"] == "false"


@pytest.mark.parametrize("is_own", [False, True], ids=["built-in", "own"])
def test_damaged_environment_is_built_again_without_the_damaged_files_of_the_cache(
    is_own: bool, conda_channel: CondaChannel, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, conda_channel.url)  # with a cache of packages of its own
    program = make_program(tmp_path / "own").path if is_own else BUILT_IN
    use(bench, program)
    first = bench.get("ryleaf")
    assert first.lock is not None
    (module,) = bench.root.glob("*/lib/python*/site-packages/ryleaf.py")
    os.truncate(module, 3)  # a link to the same file in the cache, where there are hard links
    use(bench, program)

    again = bench.get("ryleaf", locks=(first.lock,))

    assert execute(again, "import ryleaf; print(ryleaf.VERSION)") == "2.0"
    assert "ryleaf.py has 3 bytes instead of " in bench.log.text
    assert [path.name for path in bench.root.glob("*.scratch")] == []


def test_cancel_ends_the_program_and_leaves_nothing(bench: Bench, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    use(bench, make_program(tmp_path / "own", before_install=gate.before_wheel).path)

    async def cancel() -> None:
        task = asyncio.create_task(bench.provide("ryleaf"))
        await asyncio.to_thread(gate.wait_entered)
        await cancelled(task)
        await asyncio.to_thread(gate.wait_left)

    asyncio.run(asyncio.wait_for(cancel(), LIMIT_S))

    assert bench.folders() == []
    gate.open()
    assert execute(bench.get("ryleaf"), "import ryleaf; print(ryleaf.VERSION)") == "2.0"
    gate.close()


def test_program_that_outlives_a_killed_agent_is_waited_for(bench: Bench, tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    program = make_program(tmp_path / "own", before_install=gate.before_wheel)
    spec = EnvironmentSpec(conda=CondaPackages(packages=["ryleaf"], channels=[bench.channel]))
    more = f", program={str(program.path)!r}"
    source = kill_source(CondaBuilder, spec, bench.root, bench.environ, more)
    agent = subprocess.Popen([sys.executable, "-c", source])
    gate.wait_entered()
    agent.kill()
    agent.wait()
    use(bench, program.path)

    async def restart() -> ProvidedEnvironment:
        task = asyncio.create_task(bench.provide("ryleaf"))
        await bench.log.says("waiting for it")
        gate.open()  # what the killed agent had started goes on, and ends
        return await task

    provided = asyncio.run(asyncio.wait_for(restart(), LIMIT_S))

    assert "Building environment" in bench.log.text
    assert execute(provided, "import ryleaf; print(ryleaf.VERSION)") == "2.0"
    gate.close()
