from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from pathlib import Path

import pytest

from runyard.git import GitLook, GitState, read_git_state, strip_credentials

ENVIRON = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def _git(folder: Path, *arguments: str) -> str:
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.org"}
    committer = {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.org"}
    return subprocess.run(
        ["git", *arguments],
        cwd=folder,
        env={**ENVIRON, **identity, **committer},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    _git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/train.py").write_text("print(1)\n")
    (tmp_path / "README").write_text("x\n")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-q", "-m", "first")
    _git(tmp_path, "remote", "add", "origin", "https://user:s3cret@example.org/team/iris.git")
    return tmp_path


def _counting_git(folder: Path, body: str = 'exec "$REAL_GIT" "$@"') -> dict[str, str]:
    """An environment whose git notes each of its calls in `calls`."""
    real = subprocess.run(["which", "git"], capture_output=True, text=True, check=True).stdout
    (folder / "bin").mkdir()
    script = folder / "bin/git"
    script.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{body}\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {**ENVIRON, "PATH": f"{folder}/bin:{ENVIRON['PATH']}", "REAL_GIT": real.strip()}


def test_clean_repository(repository: Path) -> None:
    state = read_git_state(repository / "src", ENVIRON)

    assert state == GitState(
        repository_uri="https://example.org/team/iris.git",
        branch="main",
        commit=_git(repository, "rev-parse", "HEAD"),
        is_dirty=False,
    )


def test_properties_have_the_names_of_v1_and_leave_out_the_unknown() -> None:
    state = GitState(repository_uri="u", branch="b", commit="c", is_dirty=True)

    assert state.properties() == {
        "azureml.git.repository_uri": "u",
        "mlflow.source.git.repoURL": "u",
        "azureml.git.branch": "b",
        "mlflow.source.git.branch": "b",
        "azureml.git.commit": "c",
        "mlflow.source.git.commit": "c",
        "azureml.git.dirty": "True",
    }
    assert GitState().properties() == {}


def test_changes_of_the_directory_make_it_dirty(repository: Path) -> None:
    (repository / "src/train.py").write_text("print(2)\n")

    assert read_git_state(repository / "src", ENVIRON).is_dirty


def test_changes_elsewhere_do_not_count(repository: Path) -> None:
    (repository / "README").write_text("changed\n")

    assert read_git_state(repository / "src", ENVIRON).is_dirty is False


def test_untracked_file_makes_it_dirty(repository: Path) -> None:
    (repository / "src/new.py").write_text("")

    assert read_git_state(repository / "src", ENVIRON).is_dirty


def test_repository_without_commit_or_remote(tmp_path: Path) -> None:
    _git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "a").write_text("a")

    assert read_git_state(tmp_path, ENVIRON) == GitState(branch="main", is_dirty=True)


def test_detached_head_has_no_branch(repository: Path) -> None:
    _git(repository, "checkout", "-q", "--detach")

    state = read_git_state(repository, ENVIRON)

    assert state.branch is None
    assert state.commit is not None


def test_outside_a_repository_no_git_is_started(tmp_path: Path) -> None:
    environ = _counting_git(tmp_path)

    assert read_git_state(tmp_path, environ) == GitState()
    assert not (tmp_path / "calls").exists()


def test_look_outside_a_repository_has_its_answer_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZUREML_GIT_BRANCH", "told")
    threads = threading.active_count()

    look = GitLook(str(tmp_path.resolve()))

    assert threading.active_count() == threads
    assert look.state == GitState(branch="told")


def test_look_at_a_repository_has_its_answer_when_it_is_left(repository: Path) -> None:
    with GitLook(str((repository / "src").resolve())) as look:
        pass

    assert look.state == read_git_state(repository / "src", dict(os.environ))
    assert look.state.commit is not None


@pytest.mark.parametrize("text", ["print(1)\n", "print(2)\n"], ids=["clean", "changed"])
def test_repository_takes_two_processes(text: str, repository: Path, tmp_path: Path) -> None:
    environ = _counting_git(tmp_path)
    (repository / "src/train.py").write_text(text)

    read_git_state(repository / "src", environ)

    assert len((tmp_path / "calls").read_text().splitlines()) == 2


def test_without_git_the_state_is_empty(repository: Path) -> None:
    state = read_git_state(repository, {"PATH": "/nonexistent"})

    assert (state.properties(), state.note) == ({}, "git could not be started")


def test_git_that_hangs_is_ended(repository: Path, tmp_path: Path) -> None:
    environ = _counting_git(tmp_path, body="exec sleep 60")
    began = time.monotonic()

    state = read_git_state(repository, environ, timeout_s=0.2)

    assert time.monotonic() - began < 10
    assert (state.properties(), state.note) == ({}, "git did not answer in time")


def test_programs_that_a_repository_configures_are_not_started(repository: Path) -> None:
    trap = repository / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {repository}/sprung\n")
    trap.chmod(0o755)
    for key in ("core.fsmonitor", "diff.external", "diff.t.textconv", "core.pager"):
        _git(repository, "config", key, str(trap))
    (repository / ".gitattributes").write_text("*.py diff=t\n")
    (repository / "src/train.py").write_text("print(3)\n")

    state = read_git_state(repository, ENVIRON)

    assert state.is_dirty
    assert not (repository / "sprung").exists()


def test_variables_of_a_hook_do_not_mislead(repository: Path, tmp_path: Path) -> None:
    environ = {**ENVIRON, "GIT_DIR": str(tmp_path / "elsewhere"), "GIT_INDEX_FILE": "/dev/null"}

    assert read_git_state(repository, environ).branch == "main"


def test_environment_comes_before_git(repository: Path) -> None:
    environ = {
        **ENVIRON,
        "AZUREML_GIT_REPOSITORY_URI": "https://u:p@ci.example/x",
        "AZUREML_GIT_BRANCH": "release",
        "AZUREML_GIT_COMMIT": "abc",
        "AZUREML_GIT_DIRTY": "True",
        "AZUREML_GIT_BUILD_ID": "7",
        "AZUREML_GIT_BUILD_URI": "https://ci.example/7",
    }

    state = read_git_state(repository, environ)

    assert state == GitState(
        "https://ci.example/x", "release", "abc", True, "7", "https://ci.example/7"
    )


@pytest.mark.parametrize(
    ("url", "stripped"),
    [
        ("https://user:token@host/x.git", "https://host/x.git"),
        ("https://token@host:8443/x", "https://host:8443/x"),
        ("https://host/x?private_token=t#f", "https://host/x"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("ssh://git:pw@host:22/x", "ssh://git@host:22/x"),
        ("git@host:team/x.git", "git@host:team/x.git"),
        ("/srv/git/x", "/srv/git/x"),
        ("https://[bad/x", ""),
    ],
)
def test_strip_credentials(url: str, stripped: str) -> None:
    assert strip_credentials(url) == stripped
