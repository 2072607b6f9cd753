"""`environment build --refresh`: what packages are there by now, and what that changes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.conda_channel import CondaChannel
from support.house import House
from support.packages import make_wheel
from support.served_files import served_for_an_hour

pytestmark = pytest.mark.slow

TRAIN = "import ryfresh\nprint(ryfresh.VERSION)\n"


@contextlib.contextmanager
def package_index(folder: Path) -> Iterator[tuple[str, Path]]:
    """The line of a requirements.txt that names an index, and the folder of its `ryfresh`."""
    wheels = folder / "simple" / "ryfresh"
    wheels.mkdir(parents=True)
    (folder / "simple" / "rymore").mkdir()
    with served_for_an_hour(folder) as url:
        yield f"--index-url {url}/simple", wheels


def test_refresh_takes_newer_packages_for_later_runs_and_says_what_changed(house: House) -> None:
    folder = house.project({"train.py": TRAIN})
    with package_index(folder.parent / "index") as (index, wheels):
        (folder / "requirements.txt").write_text(f"{index}\nryfresh\n")
        make_wheel(wheels, "ryfresh", "1.0")
        house.runyard("environment", "build", "--name", "fresh", "requirements.txt", cwd=folder)
        make_wheel(wheels, "ryfresh", "2.0", requires=["rymore"])
        make_wheel(wheels.parent / "rymore", "rymore", "1.0")

        before = house.runyard("run", "--env", "fresh", "train.py", cwd=folder)
        refreshed = house.json("environment", "build", "fresh", "--refresh", cwd=folder)
        after = house.runyard("run", "--env", "fresh", "train.py", cwd=folder)
        again = house.runyard("environment", "build", "fresh", "--refresh", cwd=folder)
        lock = house.runyard("environment", "lock", "fresh").stdout.decode()

    assert (before.stdout, after.stdout) == (b"1.0\n", b"2.0\n")
    change = refreshed["refresh"]
    assert change["changed"] == [{"name": "ryfresh", "before": "1.0", "after": "2.0"}]
    assert change["added"] == [{"name": "rymore", "before": None, "after": "1.0"}]
    assert change["removed"] == []
    assert change["lock_before"] != change["lock"]
    assert "resolved anew; nothing changed" in again.stderr.decode()
    assert "ryfresh==2.0" in lock
    locks = [run["properties"].get("runyard.lock") for run in house.json("runs", "list")]
    assert locks[:3] == [change["lock"]] * 3
    assert locks[3] == change["lock_before"]  # the run before keeps naming its own


def test_specification_beside_a_run_makes_its_environment_again(shared_house: House) -> None:
    folder = shared_house.project({"train.py": TRAIN}, name="beside")
    with package_index(folder.parent / "beside-index") as (index, wheels):
        (folder / "requirements.txt").write_text(f"{index}\nryfresh<2\n")
        make_wheel(wheels, "ryfresh", "1.0")
        shared_house.runyard("run", "--env", "requirements.txt", "train.py", cwd=folder)

        shared_house.runyard("runs", "download", "last", "environment", "-o", "got", cwd=folder)
        specification = folder / "got" / "environment" / "conda_specification.yml"
        again = shared_house.runyard("run", "--env", str(specification), "train.py", cwd=folder)
        lock = (folder / "got" / "environment" / "lock.txt").read_text()
        files = shared_house.runyard("runs", "files", "last").stdout.decode()

    assert again.stdout == b"1.0\n", again.stderr.decode()
    assert lock.startswith("ryfresh==1.0")
    assert "environment/conda_specification.yml" in files


def test_refresh_that_fails_leaves_the_lock_as_it_was(shared_house: House) -> None:
    folder = shared_house.project({"train.py": TRAIN}, name="failing")
    with package_index(folder.parent / "few") as (index, wheels):
        (folder / "requirements.txt").write_text(f"{index}\nryfresh\n")
        wheel = make_wheel(wheels, "ryfresh", "1.0")
        shared_house.runyard(
            "environment", "build", "--name", "few", "requirements.txt", cwd=folder
        )
        wheel.unlink()

        failed = shared_house.runyard("environment", "build", "few", "--refresh", cwd=folder)
        run = shared_house.runyard("run", "--env", "few", "train.py", cwd=folder)

    assert failed.returncode == 125
    assert "ryfresh" in failed.stderr.decode()
    assert (run.stdout, run.returncode) == (b"1.0\n", 0)


def test_refresh_reads_conda_channels_anew(
    shared_house: House, conda_channel: CondaChannel
) -> None:
    folder = shared_house.project({"train.py": TRAIN}, name="conda")
    own = CondaChannel(folder.parent / "own-channel")
    own.add_module("ryfresh", "1.0")
    own.index()
    with served_for_an_hour(own.folder) as url:
        (folder / "env.yml").write_text(
            f"channels:\n  - {url}\n  - {conda_channel.url}\ndependencies:\n  - ryfresh\n"
        )
        shared_house.runyard("environment", "build", "env.yml", cwd=folder)
        own.add_module("ryfresh", "2.0")
        own.index()

        refreshed = shared_house.runyard("environment", "build", "env.yml", "--refresh", cwd=folder)
    run = shared_house.runyard("run", "--env", "env.yml", "train.py", cwd=folder)

    said = refreshed.stderr.decode()
    assert "1 package changed:\n  ~ ryfresh 1.0-0_ry -> 2.0-0_ry\n" in said
    assert run.stdout == b"2.0\n"
