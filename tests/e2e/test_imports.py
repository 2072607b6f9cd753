"""A user's modules never get into runyard, and runyard's never get in the way of the user's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.house import House
from support.pythons import find_pythons

pytestmark = pytest.mark.slow

PYTHONS = find_pythons()
# Names that daemon, agent and CLI import; each would break them.
OURS = ("grpc", "google", "click", "zstandard", "blake3", "pathspec", "runyard_daemon", "yaml")
LOGS = (
    "import sys\nfrom runyard import Run\nrun = Run.get_context()\n"
    "for n in range(3):\n    run.log('loss', 1 / (n + 1))\n"
    "run.log('one', 7)\nrun.log_list('list', [1, 2])\nrun.log_row('row', a=1, b='x')\n"
    "run.tag('kind', 'test')\nrun.upload_file('made/model.txt', __file__)\n"
    "print(sys.version_info[:2], run.id)\n"
)


def check_logged(house: House, run_id: str) -> None:
    metrics = house.json("runs", "metrics", run_id)
    assert metrics["loss"] == [1, 1 / 2, 1 / 3]
    assert metrics["one"] == 7
    assert metrics["list"] == [1, 2]
    assert metrics["row"] == {"a": [1], "b": ["x"]}
    assert house.show(run_id)["tags"]["kind"] == "test"
    files = {file["path"] for file in house.json("runs", "files", run_id)}
    assert {"made/model.txt", "logs/stdout.txt"} <= files


@pytest.fixture
def disguised(shared_house: House) -> Path:
    """A folder with modules of the same names as runyard's, which the script imports."""
    files: dict[str, str | bytes] = {f"{name}.py": f"WHO = 'my {name}'" for name in OURS}
    files["train.py"] = f"import {', '.join(OURS)}\nprint(grpc.WHO, google.WHO, yaml.WHO)"
    return shared_house.project(files, name="disguised")


def test_modules_in_the_users_folder_are_for_the_script_only(
    house: House, shared_house: House, disguised: Path
) -> None:
    # A fresh house: daemon, agent and supervisor start from this folder too.
    done = house.runyard("run", "train.py", cwd=disguised)
    again = house.runyard("runs", "list", cwd=disguised)

    assert done.stdout == b"my grpc my google my yaml\n", done.stderr
    assert again.returncode == 0, again.stderr


def test_pythonpath_is_for_the_script_only(house: House, disguised: Path) -> None:
    script = house.project({"main.py": "import grpc, click; print(grpc.WHO, click.WHO)"})

    done = house.runyard("run", "main.py", cwd=script, env={"PYTHONPATH": str(disguised)})

    assert done.stdout == b"my grpc my click\n", done.stderr


@pytest.mark.parametrize("version", PYTHONS)
def test_job_on_each_python_logs_without_the_sdk_installed(
    shared_house: House, version: str
) -> None:
    venv = shared_house.root / f"bare{version}"
    subprocess.run([PYTHONS[version], "-m", "venv", "--without-pip", str(venv)], check=True)
    folder = shared_house.project({"train.py": LOGS}, name=f"py-{version.replace('.', '-')}")

    done = shared_house.runyard("run", "train.py", cwd=folder, env={"VIRTUAL_ENV": str(venv)})

    assert done.returncode == 0, done.stderr.decode()
    expected = f"({version.replace('.', ', ')}) "
    assert done.stdout.decode().startswith(expected), done.stdout
    check_logged(shared_house, done.stdout.split()[-1].decode())


def test_job_whose_environment_has_the_sdk_uses_it(shared_house: House) -> None:
    folder = shared_house.project(
        {"train.py": "import runyard; print(runyard.__file__, runyard.Workspace)\n" + LOGS},
        name="with-sdk",
    )

    done = shared_house.runyard("run", "--", sys.executable, "train.py", cwd=folder)

    assert done.returncode == 0, done.stderr.decode()
    first, last = done.stdout.decode().splitlines()
    assert first.endswith("runyard/__init__.py <class 'runyard.workspace.Workspace'>")
    assert ".zip" not in first
    check_logged(shared_house, last.split()[-1])


def test_script_by_hand_prints_what_a_job_would_keep(shared_house: House) -> None:
    folder = shared_house.project({"train.py": LOGS}, name="by-hand")

    done = subprocess.run(
        [sys.executable, "train.py"], cwd=folder, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "loss" in done.stdout
    assert "OfflineRun" in done.stdout.splitlines()[-1]
    assert sorted(path.name for path in folder.iterdir()) == ["train.py"]
