"""Tags, properties and the git facts that are kept with a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from support.house import House

pytestmark = pytest.mark.slow

IDENTITY = ("-c", "user.name=A", "-c", "user.email=a@example.com")


def git(folder: Path, *args: str) -> str:
    done = subprocess.run(
        ["git", *IDENTITY, *args],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(shared_house: House, request: pytest.FixtureRequest) -> Path:
    files: dict[str, str | bytes] = {"train.py": "print('x')", "lib/a.py": ""}
    folder = shared_house.project(files, name=request.node.name)
    git(folder, "init", "-q", "-b", "experiments")
    git(folder, "remote", "add", "origin", "https://me:s3cret@git.example.com/team/iris.git")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def test_repository_branch_commit_and_dirty_flag_are_kept(
    shared_house: House, repository: Path
) -> None:
    clean = shared_house.show(shared_house.submit("train.py", cwd=repository))["properties"]
    (repository / "lib/a.py").write_text("changed = True")
    dirty = shared_house.show(shared_house.submit("train.py", cwd=repository))["properties"]

    assert clean["azureml.git.repository_uri"] == "https://git.example.com/team/iris.git"
    assert clean["azureml.git.branch"] == "experiments"
    assert clean["azureml.git.commit"] == git(repository, "rev-parse", "HEAD")
    assert clean["azureml.git.dirty"] == "False"
    assert dirty["azureml.git.dirty"] == "True"
    assert dirty["azureml.git.commit"] == clean["azureml.git.commit"]


def test_credentials_of_a_remote_are_kept_nowhere(shared_house: House, repository: Path) -> None:
    run_id = shared_house.submit("train.py", cwd=repository)
    shared_house.runyard("runs", "wait", run_id)

    assert b"s3cret" not in shared_house.runyard("runs", "show", "--json", run_id).stdout
    for path in shared_house.home.rglob("*"):
        # .git is never part of a snapshot, so the blob store has no part of it either.
        if path.is_file() and not path.is_symlink():
            assert b"s3cret" not in path.read_bytes(), path


def test_folder_without_git_has_no_such_properties(shared_house: House) -> None:
    folder = shared_house.project({"train.py": ""}, name="unversioned")

    properties = shared_house.show(shared_house.submit("train.py", cwd=folder))["properties"]

    assert not [name for name in properties if "git" in name]


def test_tags_of_the_command_and_of_the_job_are_kept_and_found(shared_house: House) -> None:
    script = (
        "from runyard import Run\nrun = Run.get_context()\n"
        "run.tag('stage', 'done')\nrun.tag('bare')\nrun.tag('model', 'by the job')\n"
        "run.add_properties({'rows': 150})\n"
    )
    folder = shared_house.project({"train.py": script}, name="tagged")
    done = shared_house.runyard(
        "run", "--tag", "model=small", "--tag", "owner=me=you", "train.py", cwd=folder
    )
    assert done.returncode == 0, done.stderr

    (found,) = shared_house.json("runs", "list", "--tag", "stage=done")

    assert found["tags"] == {
        "model": "by the job",
        "owner": "me=you",
        "stage": "done",
        "bare": "",
    }
    assert found["properties"]["rows"] == "150"
    assert shared_house.json("runs", "list", "--tag", "stage=begun") == []
