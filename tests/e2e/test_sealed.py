"""An environment carried by a file to a machine without any network, and used there."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.house import House
from support.packages import make_wheel

pytestmark = pytest.mark.slow

TRAIN = "import ryleaf, sys; print(ryleaf.VERSION, sys.prefix)\n"
_ALONE = (("unshare", "--net"), ("unshare", "--user", "--map-current-user", "--net"))
"""Starts a program without any network: as root, or in a namespace of this account's own."""


@pytest.fixture
def connected(house: House) -> House:
    """A machine that has packages."""
    links = house.root / "links"
    links.mkdir()
    make_wheel(links, "ryleaf", "1.0")
    house.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links)}
    return house


@pytest.fixture
def cut_off() -> Iterator[House]:
    """A machine that has no network, not even to itself, and whose agent is offline."""
    alone = next(filter(_works, _ALONE), None)
    if alone is None:
        pytest.skip("this account may not make a network namespace")
    house = House()
    own = house.root / "bin" / "runyard"
    own.parent.mkdir()
    own.write_text(f'#!/bin/sh\nexec {" ".join(alone)} {house.program} "$@"\n')
    own.chmod(0o755)
    house.program = own
    house.home.mkdir(mode=0o700)
    (house.home / "daemon.toml").write_text("[environments]\noffline = true\n")
    house.environment["UV_CACHE_DIR"] = str(house.root / "uv")
    yield house
    house.close()


def _works(command: tuple[str, ...]) -> bool:
    return not subprocess.run([*command, "true"], capture_output=True, check=False).returncode


def project(house: House) -> Path:
    return house.project({"train.py": TRAIN, "requirements.txt": "ryleaf==1.0\n"})


def said(house: House, *args: str, cwd: Path | None = None, code: int = 0) -> str:
    done = house.runyard(*args, cwd=cwd)
    assert done.returncode == code, done.stdout.decode() + done.stderr.decode()
    return done.stdout.decode() + done.stderr.decode()


def exported(house: House) -> Path:
    """A file with the environment "leaf"."""
    folder = project(house)
    said(house, "environment", "build", "--name", "leaf", "requirements.txt", cwd=folder)
    refused = said(house, "environment", "export", "leaf", "leaf.env", cwd=folder, code=1)
    assert "runyard environment build leaf -t TARGET --seal" in refused
    assert "Sealed in" in said(house, "environment", "build", "leaf", "--seal", cwd=folder)
    said(house, "environment", "export", "leaf:1", "leaf.env", cwd=folder)
    return folder / "leaf.env"


def test_run_starts_from_an_imported_environment_without_any_network(
    connected: House, cut_off: House
) -> None:
    file = exported(connected)
    shown = connected.json("environment", "show", "leaf")
    (lock,) = shown["locks"]
    assert lock["sealed"]["node"].startswith("local/")
    assert "sealed for" in said(connected, "environment", "show", "leaf")
    shutil.rmtree(connected.root / "links")
    folder = project(cut_off)

    imported = cut_off.json("environment", "import", str(file))
    done = cut_off.runyard("run", "--env", "leaf", "train.py", cwd=folder)
    (run,) = cut_off.json("runs", "list")
    log = said(cut_off, "runs", "logs", "--environment", run["run_id"])
    never = said(cut_off, "run", "--env", "requirements.txt", "train.py", cwd=folder)

    assert (imported["name"], imported["version"]) == ("leaf", 1)
    assert imported["locks"][0]["hash"] == lock["hash"]
    assert done.returncode == 0, done.stderr.decode()
    version, prefix = done.stdout.decode().split()
    assert version == "1.0"
    assert Path(prefix).is_relative_to(cut_off.home)
    assert "from the daemon instead of building" in log
    assert "1.0" in never  # the same packages by another way are the same environment


def test_offline_machine_names_what_it_lacks_and_how_to_bring_it(cut_off: House) -> None:
    folder = project(cut_off)

    refused = said(
        *(cut_off, "environment", "build", "--name", "leaf", "requirements.txt"),
        cwd=folder,
        code=125,
    )

    assert 'this node is offline, and the environment "leaf" is not on it' in refused
    assert "runyard environment export leaf FILE" in refused
    assert "runyard environment import FILE" in refused


def test_file_that_is_not_whole_is_refused_and_changes_nothing(connected: House) -> None:
    file = exported(connected)
    data = file.read_bytes()
    cut = connected.root / "cut.env"
    cut.write_bytes(data[: len(data) // 2])

    refused = said(connected, "environment", "import", str(cut), "--name", "other", code=2)
    missing = said(connected, "environment", "import", "nowhere.env", code=2)
    again = said(connected, "environment", "export", "leaf", str(file), code=2)

    assert "no whole sealed environment: it is cut off" in refused
    assert "[SEALED_INVALID]" in refused
    assert "nowhere.env can't be read" in missing
    assert "exists" in again
    assert [one["name"] for one in connected.json("environment", "list")] == ["leaf"]
