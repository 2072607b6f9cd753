"""What somebody sees of limits: who ended the run, why, and how they were kept."""

from __future__ import annotations

import pytest

from support import memory_group, no_groups
from support.docker_engine import PYTHON_IMAGE, DockerEngine
from support.house import House

pytestmark = pytest.mark.slow


def test_run_over_its_memory_limit_is_told_with_advice_and_its_status(house: House) -> None:
    if why := memory_group.lacking():
        pytest.skip(why)
    folder = house.project({"hog.py": "held = b'x' * (512 << 20)"})

    done = house.runyard("run", "--memory-limit", "128MiB", "hog.py", cwd=folder)

    (run,) = house.json("runs", "list")
    cause = run["cause"]
    assert done.returncode == 137
    assert b"its memory limit was reached" in done.stderr
    assert b"--memory-limit" in done.stderr
    assert cause["class"] == "OUT_OF_MEMORY"
    assert cause["metadata"]["memory"] == "limit"
    assert run["properties"]["runyard.limits"].startswith("cgroup v")


def test_run_within_its_limits_says_how_they_were_kept(house: House) -> None:
    if why := memory_group.lacking():
        pytest.skip(why)
    folder = house.project({"train.py": "print('trained')"})

    done = house.runyard("run", "--memory-limit=1GiB", "--cpu-limit=1", "train.py", cwd=folder)

    (run,) = house.json("runs", "list")
    assert (done.returncode, done.stdout) == (0, b"trained\n")
    assert run["properties"]["runyard.limits"].startswith("cgroup v")


def test_node_without_control_groups_watches_and_says_so(house: House) -> None:
    if why := no_groups.lacking():
        pytest.skip(why)
    house.program = no_groups.program(house.root / "runyard", house.program)
    source = "held = []\nwhile True: held.append(b'x' * (4 << 20))"
    folder = house.project({"hog.py": source, "train.py": "print('trained')"})

    hog = house.runyard("run", "--memory-limit=128MiB", "hog.py", cwd=folder)
    train = house.runyard("run", "--memory-limit=1GiB", "--cpu-limit=0.5", "train.py", cwd=folder)

    first, second = sorted(house.json("runs", "list"), key=lambda run: run["number"])
    assert hog.returncode == 137
    assert b"its memory limit was reached" in hog.stderr
    assert first["cause"]["class"] == "OUT_OF_MEMORY"
    assert first["cause"]["metadata"]["memory"] == "limit"
    assert first["properties"]["runyard.limits"].startswith("memory: watched (")
    assert (train.returncode, train.stdout) == (0, b"trained\n")
    assert second["properties"]["runyard.limits"].startswith(
        "memory: watched; cpu: affinity to 1 CPU, rounded up from 0.5 ("
    )


def test_limit_over_what_any_node_has_is_refused_when_it_is_submitted(house: House) -> None:
    folder = house.project({"train.py": "print('trained')"})
    assert house.runyard("run", "train.py", cwd=folder).returncode == 0

    memory = house.runyard("run", "--memory-limit", "60TiB", "train.py", cwd=folder)
    cpus = house.runyard("run", "--cpu-limit", "4000", "train.py", cwd=folder)

    assert (memory.returncode, memory.stdout) == (cpus.returncode, cpus.stdout) == (2, b"")
    assert b"60 TiB of memory: the largest node, local/" in memory.stderr
    assert b"4000 CPUs: the largest node, local/" in cpus.stderr
    assert b"--memory-limit" in memory.stderr
    assert len(house.json("runs", "list")) == 1


def test_limits_of_a_container_are_kept_by_it_and_its_use_is_told(
    house: House, docker_engine: DockerEngine
) -> None:
    house.environment["DOCKER_HOST"] = docker_engine.url
    folder = house.project({"train.py": "print('trained')"})
    options = (f"--docker-image={PYTHON_IMAGE}", "--docker-arg=--network=none")

    done = house.runyard("run", *options, "--memory-limit=1GiB", "train.py", cwd=folder)

    (run,) = house.json("runs", "list")
    assert (done.returncode, done.stdout) == (0, b"trained\n")
    assert run["properties"]["runyard.limits"] == "container"
    assert run["usage"]["cpu_time_s"] > 0
    assert 1 << 20 < run["usage"]["peak_memory_bytes"] <= 1 << 30
    shown = house.runyard("runs", "show", run["run_id"]).stdout
    assert b"of memory in its container" in shown
