"""What `runyard doctor` looks at, each check by itself: one that fails hides no other."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runyard.cli.render.amounts import count_text
from runyard.home import client_folder, home
from runyard.snapshot.limits import size_text
from runyard_contract.errors import RunyardError
from runyard_contract.home import (
    LAST_DAEMON_RECORD,
    can_host_daemon,
    check_home,
    network_filesystem,
    read_daemon_record,
)
from runyard_contract.version import build_id

if TYPE_CHECKING:
    from runyard.workspace import Workspace

OK, WARN, FAIL = "ok", "warn", "fail"
_LITTLE_BYTES = 5 << 30
_TOO_LITTLE_BYTES = 200 << 20
_LARGE_WAL_BYTES = 256 << 20
_MACHINES = ("x86_64", "aarch64")
_OLDEST_GLIBC = (2, 28)
_AGENT_LIMIT_S = 10.0
_AGENT_POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Check:
    """What one look gave: the verdict ("ok", "warn", "fail"), why, and what to do."""

    name: str
    verdict: str
    message: str
    fix: str = ""


def all_checks() -> Iterator[Check]:
    """All checks, in the order in which one stands on the other. Starts a daemon if none runs."""
    yield _platform()
    try:
        folder = home()
    except RunyardError as error:
        yield _failed("home", error)
        return
    yield _home(folder)
    yield _space(folder)
    yield from _daemon(folder)
    yield _uv()
    yield _interpreter(folder)


def _failed(name: str, error: RunyardError) -> Check:
    return Check(name, FAIL, error.message, error.hint)


def _platform() -> Check:
    machine, system = platform.machine(), platform.system()
    python = f"Python {platform.python_version()} ({sys.executable})"
    text = f"{system} {machine}, {python}, this client is runyard {build_id()}"
    if not can_host_daemon():
        return Check("platform", FAIL, text, "daemon and agent run on Linux only")
    libc, version = platform.libc_ver()
    if libc == "glibc" and tuple(map(int, version.split(".")[:2])) < _OLDEST_GLIBC:
        return Check("platform", WARN, f"{text}, glibc {version}", "use glibc 2.28 or newer")
    if machine not in _MACHINES:
        return Check("platform", WARN, text, f"runyard is tested on {' and '.join(_MACHINES)}")
    return Check("platform", OK, text)


def _home(folder: Path) -> Check:
    try:
        check_home(folder)
        network = network_filesystem(folder)
    except RunyardError as error:
        return _failed("home", error)
    if network is not None:
        return Check("home", FAIL, f"{folder} is on {network}", "set RUNYARD_HOME to a local disk")
    return Check("home", OK, f"{folder}, yours alone, on a local file system")


def _space(folder: Path) -> Check:
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError as error:
        return Check("disk", FAIL, f"{folder}: {error.strerror}", "set RUNYARD_HOME")
    text = f"{size_text(free_bytes)} free"
    fix = "free some, or set RUNYARD_HOME to a larger disk"
    if free_bytes < _TOO_LITTLE_BYTES:
        return Check("disk", FAIL, text, fix)
    return Check("disk", WARN, text, fix) if free_bytes < _LITTLE_BYTES else Check("disk", OK, text)


def _daemon(folder: Path) -> Iterator[Check]:
    from runyard.cli.session import open_workspace
    from runyard.daemon_end import server_info

    workspace = open_workspace()
    try:
        info = server_info(workspace.connection)
        yield Check("daemon", OK, f"process {info.pid}, runyard {info.version}")
        yield _database(folder, info.sqlite_version)
        yield _agent(workspace)
        yield _recorded_interpreter(folder)
    except RunyardError as error:
        yield _failed("daemon", error)


def _agent(workspace: Workspace) -> Check:
    """Whether the local agent is connected; one that was just started gets a moment."""
    from runyard.compute import ComputeTarget

    deadline = time.monotonic() + _AGENT_LIMIT_S
    while True:
        nodes = ComputeTarget(workspace, "local").get_status().nodes
        connected = [node for node in nodes if node.state != "Disconnected"]
        if connected:
            node = connected[0]
            text = f"runyard {node.agent_version}, "
            text += f"{count_text(node.slots, 'slot')}, {node.cpus:g} CPUs, "
            text += f"{size_text(node.memory_bytes)} memory, {count_text(node.gpus, 'GPU')}"
            return Check("agent", OK, text)
        if time.monotonic() > deadline:
            return Check(
                "agent",
                FAIL,
                "the local agent is not connected",
                f"read agent.log in {home()}; `runyard daemon stop` and try again",
            )
        time.sleep(_AGENT_POLL_S)


def _recorded_interpreter(folder: Path) -> Check:
    """What clients start a daemon with where none runs, as long as theirs is not newer."""
    last = read_daemon_record(folder, LAST_DAEMON_RECORD)
    if last is None:
        return Check("recorded", WARN, f"{folder} records no interpreter of a daemon")
    text = f"{last.interpreter}, runyard {last.version}"
    if os.access(last.interpreter, os.X_OK):
        return Check("recorded", OK, text)
    fix = "install that version again if an older one finds the database too new"
    return Check("recorded", WARN, f"{text}, is not there any more", fix)


def _database(folder: Path, sqlite_version: str) -> Check:
    try:
        wal_bytes = (folder / "runyard.db-wal").stat().st_size
    except OSError:
        wal_bytes = 0
    text = f"SQLite {sqlite_version}, write-ahead log {size_text(wal_bytes)}"
    if wal_bytes > _LARGE_WAL_BYTES:
        return Check("database", WARN, text, "restart the daemon with `runyard daemon stop`")
    return Check("database", OK, text)


def _uv() -> Check:
    try:
        from uv import find_uv_bin

        path = find_uv_bin()
    except (ImportError, FileNotFoundError):
        path = shutil.which("uv") or ""
    if not path:
        fix = "install it with `pip install uv`; environments are built with it"
        return Check("uv", FAIL, "uv is not there", fix)
    return Check("uv", OK, str(path))


def _interpreter(folder: Path) -> Check:
    from runyard.interpreter import InterpreterChoice

    chosen = InterpreterChoice(os.environ, os.getcwd(), client_folder(folder)).choose()
    return Check("python", OK, f"scripts here run with {chosen}")
