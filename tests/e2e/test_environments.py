"""Environments as users bring them: requirements.txt, YAML with pip only, built once for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.docker_engine import PYTHON_IMAGE, DockerEngine
from support.house import House

pytestmark = pytest.mark.slow

PRINTS_PACKAGES = "import six, sys; print(six.__version__, sys.prefix)"


def project(house: House, name: str) -> Path:
    return house.project(
        {
            "train.py": PRINTS_PACKAGES,
            "requirements.txt": "six==1.16.0\n",
            "env.yml": "name: x\ndependencies:\n  - pip:\n      - six==1.16.0\n",
        },
        name=name,
    )


def test_requirements_and_yaml_run_in_one_environment(shared_house: House) -> None:
    folder = project(shared_house, "env-both")

    first = shared_house.runyard("run", "--env", "requirements.txt", "train.py", cwd=folder)
    second = shared_house.runyard("run", "--env", "env.yml", "train.py", cwd=folder)

    assert first.returncode == 0, first.stderr.decode()
    assert first.stdout.startswith(b"1.16.0 ")
    assert second.stdout == first.stdout


def test_runs_that_wait_for_one_environment_build_it_once(house: House) -> None:
    folder = project(house, "env-once")
    runs = [house.submit("--env", "requirements.txt", "train.py", cwd=folder) for _ in range(4)]

    for run in runs:
        assert house.runyard("runs", "wait", run).returncode == 0
    prefixes = {house.runyard("runs", "logs", run).stdout for run in runs}
    built = [
        run for run in runs if b"six" in house.runyard("runs", "logs", "--environment", run).stdout
    ]

    assert len(prefixes) == 1
    assert len(built) >= 1
    assert len(list((house.home / "agent" / "environments").glob("*/ready.json"))) == 1


def test_build_ahead_list_and_use_by_name(shared_house: House) -> None:
    folder = project(shared_house, "env-named")

    built = shared_house.runyard(
        "environment", "build", "--name", "six-env", "requirements.txt", "-t", "local", cwd=folder
    )
    listed = shared_house.json("environment", "list")
    used = shared_house.runyard("run", "--env", "six-env", "train.py", cwd=folder)
    shown = shared_house.json("environment", "show", "six-env")

    lock = shared_house.runyard("environment", "lock", "six-env").stdout.decode()
    locked = shared_house.json("environment", "lock", "six-env")
    text = shared_house.runyard("environment", "show", "six-env").stdout.decode()
    table = shared_house.runyard("environment", "list").stdout.decode()
    (named,) = [environment for environment in listed if environment["name"] == "six-env"]

    assert built.returncode == 0, built.stderr.decode()
    (build,) = named["builds"]
    assert build["node"].startswith("local/")
    assert build["lock_hash"] == named["locks"][0]["hash"]
    assert build["size_bytes"] > 0
    assert f"built on       {build['node']} (" in text
    assert build["node"] in table
    assert "six-env" in {environment["name"] for environment in listed}
    assert used.stdout.startswith(b"1.16.0 ")
    assert "six" in shown["locks"][0]["text"]
    assert lock == locked["text"]
    assert locked == {"name": "six-env", "version": 1, **shown["locks"][0]}


def test_bound_of_the_settings_makes_room_and_what_went_is_built_again(house: House) -> None:
    folder = house.project(
        {
            "train.py": PRINTS_PACKAGES,
            "old.txt": "six==1.15.0\n",
            "new.txt": "six==1.16.0\n",
        },
        name="env-bound",
    )
    house.home.mkdir(mode=0o700)
    (house.home / "daemon.toml").write_text("[environments]\nmax_gib = 0.000001\n")

    for name in ("old", "new"):
        built = house.runyard(
            "environment", "build", "--name", name, f"{name}.txt", "-t", "local", cwd=folder
        )
        assert built.returncode == 0, built.stderr.decode()
    listed = {one["name"]: one["builds"] for one in house.json("environment", "list")}
    again = house.runyard("run", "--env", "old", "train.py", cwd=folder)

    assert [len(listed[name]) for name in ("old", "new")] == [0, 1]
    assert again.stdout.startswith(b"1.15.0 ")
    assert len(list((house.home / "agent" / "environments").glob("*/ready.json"))) == 1


def test_stored_image_is_shown_with_what_is_on_top_of_it_and_its_variables(
    house: House, docker_engine: DockerEngine
) -> None:
    house.environment["DOCKER_HOST"] = docker_engine.url
    env = "dependencies:\n  - pip:\n      - six==1.16.0\nvariables:\n  MODE: fast\n"
    folder = house.project(
        {
            "train.py": "import os; print(os.environ['MODE'])",
            "env.yml": env,
            "Dockerfile": f"FROM {PYTHON_IMAGE}\nENV BY=image\n",
        },
        name="env-docker",
    )
    stored = ("environment", "build", "--name")

    image = house.runyard(*stored, "boxed", "Dockerfile", cwd=folder)
    fast = house.runyard(*stored, "fast", "env.yml", cwd=folder)
    shown = house.runyard("environment", "show", "boxed").stdout.decode()
    plain = house.json("environment", "show", "fast")
    used = house.runyard("run", "--env", "fast", "train.py", cwd=folder)

    assert (image.returncode, fast.returncode) == (0, 0), image.stderr + fast.stderr
    assert f"Dockerfile     FROM {PYTHON_IMAGE}" in shown
    assert {one["name"]: one["kind"] for one in house.json("environment", "list")} == {
        "boxed": "docker",
        "fast": "pip",
    }
    assert plain["variables"] == {"MODE": "fast"}
    assert used.stdout == b"fast\n"
