"""Conda environments as users bring them: a YAML with a channel, run by the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from support.conda_channel import PYTHON_VERSION, CondaChannel
from support.house import House

pytestmark = pytest.mark.slow

TRAIN = """
import os, sys
import ryleaf, six
print(ryleaf.VERSION, six.__version__)
print(sys.prefix)
print(os.environ["CONDA_PREFIX"])
print(os.environ["PATH"].split(":")[0])
print(os.environ["RY_DATA"])
"""
MINOR = PYTHON_VERSION.rpartition(".")[0]


def project(house: House, name: str, *packages: str, channel: str) -> Path:
    listed = "".join(f"  - {package}\n" for package in packages)
    environment = f"channels:\n  - {channel}\ndependencies:\n{listed}"
    return house.project({"train.py": TRAIN, "env.yml": environment}, name=name)


def refused(house: House, folder: Path) -> tuple[str, Any, str]:
    """What a run that gets no environment says, the cause of its end, and its build log."""
    done = house.runyard("run", "--env", "env.yml", "train.py", cwd=folder)
    assert done.returncode == 125, done.stdout.decode()
    run = house.json("runs", "list")[0]
    log = house.runyard("runs", "logs", "--environment", run["run_id"]).stdout
    return done.stderr.decode(), run["cause"], log.decode()


def test_conda_file_runs_and_is_built_once(house: House, conda_channel: CondaChannel) -> None:
    packages = (f"python={MINOR}", "ryleaf=1", "ryactive", "pip:\n      - six==1.16.0")
    folder = project(house, "conda", *packages, channel=conda_channel.url)

    first = house.runyard("run", "--env", "env.yml", "train.py", cwd=folder)
    second = house.submit("--env", "env.yml", "train.py", cwd=folder)

    assert first.returncode == 0, first.stderr.decode()
    versions, prefix, *activated = first.stdout.decode().splitlines()
    assert versions == "1.0 1.16.0"
    assert activated == [prefix, f"{prefix}/bin", f"{prefix}/share/ry data"]
    assert house.runyard("runs", "wait", second).returncode == 0
    log = house.runyard("runs", "logs", "--environment", second).stdout
    assert b"already built" in log
    assert b"Resolving" not in log
    built = [path.parent for path in house.home.glob("agent/environments/*/ready.json")]
    assert built == [Path(prefix)]


def test_conda_environment_is_stored_built_ahead_listed_and_shown(
    shared_house: House, conda_channel: CondaChannel
) -> None:
    folder = project(shared_house, "conda-named", "ryleaf=1", channel=conda_channel.url)
    (folder / "train.py").write_text("import ryleaf\nprint(ryleaf.VERSION)\n")

    built = shared_house.runyard("environment", "build", "--name", "ry", "env.yml", cwd=folder)
    listed = shared_house.runyard("environment", "list").stdout.decode()
    shown = shared_house.runyard("environment", "show", "ry").stdout.decode()
    plain = shared_house.json("environment", "show", "ry")
    used = shared_house.runyard("run", "--env", "ry", "train.py", cwd=folder)

    assert built.returncode == 0, built.stderr.decode()
    assert b"Building environment" in built.stdout
    (row,) = [line for line in listed.splitlines() if line.startswith("ry ")]
    assert all(word in row for word in ("conda", "linux-", "ryleaf=1"))
    assert f"{conda_channel.url}/noarch/ryleaf-1.0-0_ry.conda\n" in shown
    assert (plain["kind"], plain["packages"]) == ("conda", ["ryleaf=1"])
    assert plain["channels"] == [conda_channel.url]
    assert "@EXPLICIT" in plain["locks"][0]["text"]
    assert (used.stdout, used.returncode) == (b"1.0\n", 0)


def test_unknown_conda_package_is_named_in_the_end_and_in_the_build_log(
    shared_house: House, conda_channel: CondaChannel
) -> None:
    folder = project(shared_house, "conda-gone", "rynowhere", channel=conda_channel.url)

    said, cause, log = refused(shared_house, folder)

    assert 'package "rynowhere" was not found' in said
    assert cause["class"] == "ENVIRONMENT"
    assert "rynowhere" in log


def test_conda_packages_that_contradict_each_other_are_named(
    shared_house: House, conda_channel: CondaChannel
) -> None:
    folder = project(shared_house, "conda-both", "rytop", "rynew", channel=conda_channel.url)

    said, _, log = refused(shared_house, folder)

    assert "rynew 1.0 needs ryleaf >=2; rytop 1.0 needs ryleaf <2" in said
    assert "incompatible" in log


def test_channel_that_is_not_there_is_named(
    shared_house: House, conda_channel: CondaChannel
) -> None:
    missing = f"{conda_channel.url}-of-nobody"
    folder = project(shared_house, "conda-channel", "ryleaf", channel=missing)

    said, cause, log = refused(shared_house, folder)

    assert f"the conda channel {missing} can't be read" in said
    assert cause["class"] == "ENVIRONMENT"
    assert missing in log


def test_conda_name_with_a_shell_metacharacter_is_refused_before_a_run(
    shared_house: House, conda_channel: CondaChannel
) -> None:
    folder = project(shared_house, "conda-shell", "ryleaf;reboot", channel=conda_channel.url)

    before = shared_house.json("runs", "list")

    done = shared_house.runyard("run", "--env", "env.yml", "train.py", cwd=folder)

    assert done.returncode == 2
    assert b"ryleaf;reboot" in done.stderr
    assert shared_house.json("runs", "list") == before
