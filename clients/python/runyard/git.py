"""The state of the git repository that a source directory lies in, as it is kept with a run."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runyard_contract.value import replace, value_class

if TYPE_CHECKING:
    import subprocess

TIMEOUT_S = 5.0  # for all git processes together

# A repository may configure programs for these; looking at it must start none.
_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.pager=cat", "-c", "color.ui=false")
_STATUS = ("status", "--porcelain=v2", "--branch", "--ignore-submodules=dirty", "--", ".")
_REMOTE_URL = ("ls-remote", "--get-url")  # reads the configuration only, insteadOf included
# Set inside hooks and by tools; they would point at another repository than the folder's.
_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
_SCP_LIKE = r"(?:[^@/:]+@)?[^/:]+:(?!//)"


@value_class
class GitState:
    """What git says of a source directory. None: not known.

    repository_uri: of the branch's remote, else of origin; without credentials.
    is_dirty: whether anything in the directory differs from HEAD, untracked files included.
    note: what could not be found out and why; empty when there is nothing to say.
    """

    repository_uri: str | None = None
    branch: str | None = None
    commit: str | None = None
    is_dirty: bool | None = None
    build_id: str | None = None
    build_uri: str | None = None
    note: str = ""

    def properties(self) -> dict[str, str]:
        """The run's properties under the names that Azure ML has for them; None is left out."""
        dirty = None if self.is_dirty is None else str(self.is_dirty)
        found = {
            "azureml.git.repository_uri": self.repository_uri,
            "mlflow.source.git.repoURL": self.repository_uri,
            "azureml.git.branch": self.branch,
            "mlflow.source.git.branch": self.branch,
            "azureml.git.commit": self.commit,
            "mlflow.source.git.commit": self.commit,
            "azureml.git.dirty": dirty,
            "azureml.git.build_id": self.build_id,
            "azureml.git.build_uri": self.build_uri,
        }
        return {name: value for name, value in found.items() if value is not None}


def read_git_state(
    source_directory: Path, environ: Mapping[str, str], *, timeout_s: float = TIMEOUT_S
) -> GitState:
    """Asks git about a directory; empty where there is no git or no repository. Never raises.

    Starts two git processes side by side; none where no `.git` lies in the directory or above.
    AZUREML_GIT_REPOSITORY_URI, _BRANCH, _COMMIT, _DIRTY, _BUILD_ID and _BUILD_URI in `environ`
    come before what git says.
    """
    state = GitState()
    if _is_in_repository(os.path.realpath(source_directory)):
        state = _Repository(source_directory, environ, timeout_s).read()
    return _overridden(state, environ)


class GitLook:
    """Asks git on a thread of its own, from now on: beside the scan, or what is imported before.

    Leaving it as a context manager waits for the answer, which `state` has then. Without a
    repository there is no thread.

    Args:
        directory: its real path.
    """

    def __init__(self, directory: str) -> None:
        self._thread: threading.Thread | None = None
        if not _is_in_repository(directory):
            self.state = _overridden(GitState(), os.environ)
            return
        self.state = GitState()
        self._thread = threading.Thread(
            target=self._look, args=(directory,), name="runyard-git", daemon=True
        )
        self._thread.start()

    def _look(self, directory: str) -> None:
        self.state = read_git_state(Path(directory), dict(os.environ))

    def __enter__(self) -> GitLook:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._thread.join()


def strip_credentials(url: str) -> str:
    """The URL without user, password and query; `git@` of ssh, which is no secret, stays."""
    if "://" not in url:
        return url
    import urllib.parse  # 5 ms of start-up, for those only that have a remote

    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        if parts.scheme.endswith("ssh") and parts.username:
            host = f"{parts.username}@{host}"
        return urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", ""))
    except ValueError:
        return ""  # nothing that cannot be read is safe to show


def _is_in_repository(directory: str) -> bool:
    """Whether a `.git` lies in the directory (a real path) or above."""
    folder = directory
    while not os.path.exists(f"{folder}/.git"):
        above = os.path.dirname(folder)
        if above == folder:
            return False
        folder = above
    return True


class _Repository:
    """One look at a repository, within one deadline."""

    def __init__(self, directory: Path, environ: Mapping[str, str], timeout_s: float) -> None:
        self._directory = directory
        self._environ = {
            **{name: value for name, value in environ.items() if name not in _MISLEADING},
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_OPTIONAL_LOCKS": "0",  # the user's own git command must not find the index locked
            "LC_ALL": "C",
        }
        self._deadline = time.monotonic() + timeout_s

    def read(self) -> GitState:
        try:
            url, status = self._run(_REMOTE_URL), self._run(_STATUS)
        except OSError:
            return GitState(note="git could not be started")
        with url, status:
            remote, said = self._output(url), self._output(status)
        state = _parse_status(said) if said is not None else GitState(note=self._why_not(status))
        uri = (remote or b"").decode("utf-8", "replace").strip()
        # Without a remote, git gives back the name it looked for: "origin".
        if "://" in uri or re.match(_SCP_LIKE, uri) or uri.startswith(("/", ".")):
            state = replace(state, repository_uri=strip_credentials(uri) or None)
        return state

    def _run(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        import subprocess  # 2 ms of start-up, for those only that have a repository

        return subprocess.Popen(
            (*_GIT, *arguments),
            cwd=self._directory,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def _output(self, process: subprocess.Popen[bytes]) -> bytes | None:
        """All that the process writes, or None when it fails or is too late."""
        import subprocess

        try:
            output, _ = process.communicate(timeout=max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            return None
        return output if process.returncode == 0 else None

    def _why_not(self, status: subprocess.Popen[bytes]) -> str:
        if status.returncode is not None and status.returncode > 0:
            return "git refused to read the repository; `git status` says why"
        return "git did not answer in time"


def _parse_status(output: bytes) -> GitState:
    """The state from `git status --porcelain=v2 --branch`."""
    branch = commit = None
    is_dirty = False
    for line in output.decode("utf-8", "replace").splitlines():
        if line.startswith("# branch.oid "):
            commit = line.removeprefix("# branch.oid ")
        elif line.startswith("# branch.head "):
            branch = line.removeprefix("# branch.head ")
        elif not line.startswith("#"):
            is_dirty = True
    return GitState(
        branch=None if branch == "(detached)" else branch,
        commit=None if commit == "(initial)" else commit,
        is_dirty=is_dirty,
    )


def _overridden(state: GitState, environ: Mapping[str, str]) -> GitState:
    """The state with what the environment says in git's place."""

    def given(name: str, otherwise: str | None) -> str | None:
        return environ.get(f"AZUREML_GIT_{name}") or otherwise

    uri = given("REPOSITORY_URI", None)
    dirty = given("DIRTY", None)
    return replace(
        state,
        repository_uri=strip_credentials(uri) if uri else state.repository_uri,
        branch=given("BRANCH", state.branch),
        commit=given("COMMIT", state.commit),
        is_dirty=state.is_dirty if dirty is None else dirty.lower() in ("true", "1"),
        build_id=given("BUILD_ID", None),
        build_uri=given("BUILD_URI", None),
    )
