"""The embedded daemon: started once, started again, and what is said when it can't be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard import Workspace
from runyard.embedded import EmbeddedAddress
from runyard_contract.errors import (
    DaemonStartFailed,
    DaemonUnavailable,
    HomeUnusable,
    SpecInvalid,
    Unauthenticated,
    VersionMismatch,
)
from runyard_contract.home import read_daemon_record
from support.control_state import ControlState
from support.fake_control import FakeControl
from support.house import command_line, end_processes_naming, eventually, processes_naming

COUNT = "from runyard import Workspace; print(len(Workspace().compute_targets))"


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-") as folder:
        home = Path(folder) / "h"
        monkeypatch.setenv("RUNYARD_HOME", str(home))
        yield home
        end_processes_naming(str(home))


def pid_of(home: Path) -> int:
    record = read_daemon_record(home)
    assert record is not None
    return record.pid


def daemons_of(home: Path) -> list[int]:
    return [pid for pid in processes_naming(str(home)) if "runyard_daemon" in command_line(pid)]


def test_first_call_starts_a_daemon_and_later_ones_use_it(home: Path) -> None:
    with Workspace() as workspace:
        assert list(workspace.compute_targets) == ["local"]
    first = pid_of(home)

    with Workspace() as workspace:
        assert list(workspace.compute_targets) == ["local"]

    assert pid_of(home) == first
    assert home.stat().st_mode & 0o777 == 0o700
    assert os.getsid(first) != os.getsid(0)


def test_daemon_that_was_killed_is_started_again_within_a_call(home: Path) -> None:
    with Workspace() as workspace:
        assert workspace.compute_targets
        first = pid_of(home)
        os.kill(first, signal.SIGKILL)

        assert workspace.compute_targets

    assert pid_of(home) != first


def test_clients_that_come_at_once_get_one_daemon(home: Path) -> None:
    clients = [
        subprocess.Popen([sys.executable, "-c", COUNT], stdout=subprocess.PIPE) for _ in range(3)
    ]

    answers = [client.communicate(timeout=60)[0] for client in clients]

    assert answers == [b"1\n"] * 3
    eventually(lambda: daemons_of(home) == [pid_of(home)], what="one daemon is left")


def test_callers_python_settings_do_not_reach_the_daemon(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "grpc.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("RUNYARD_RUN_ID", "iris_1_00000000")

    with Workspace() as workspace:
        assert workspace.compute_targets

    environment = Path(f"/proc/{pid_of(home)}/environ").read_bytes()
    assert b"PYTHONPATH" not in environment
    assert b"RUNYARD_RUN_ID" not in environment


def test_daemon_that_does_not_serve_this_version_is_refused_with_the_next_step(home: Path) -> None:
    with Workspace() as workspace:
        assert workspace.compute_targets
    record = json.loads((home / "daemon.json").read_bytes())
    (home / "daemon.json").write_text(json.dumps({**record, "version": "9.9.9"}))

    with Workspace() as workspace, pytest.raises(VersionMismatch, match=r"9\.9\.9") as caught:
        workspace.compute_targets  # noqa: B018

    assert "runyard==9.9.9" in caught.value.hint
    assert EmbeddedAddress(home, any_version=True).target().startswith("unix:")


def test_why_a_daemon_did_not_start_is_told(home: Path) -> None:
    home.mkdir(mode=0o700)
    (home / "runyard.db").symlink_to("/etc/passwd")

    with Workspace() as workspace, pytest.raises(Exception, match=r"runyard\.db") as caught:
        workspace.compute_targets  # noqa: B018

    assert caught.value.hint  # type: ignore[attr-defined]


def test_log_is_shown_when_a_daemon_dies_without_a_word(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text(
        '#!/bin/sh\ncase "$1" in -P) echo "no such luck" >&2; exit 3;; esac\n'
        f'exec {sys.executable} "$@"\n'
    )
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))

    with Workspace() as workspace, pytest.raises(DaemonStartFailed, match="no such luck"):
        workspace.compute_targets  # noqa: B018


def test_nothing_is_started_where_that_was_not_asked_for(home: Path) -> None:
    with pytest.raises(DaemonUnavailable, match=str(home)):
        EmbeddedAddress(home, can_start=False).target()

    assert not home.exists()


def test_home_that_is_open_to_others_is_refused(home: Path) -> None:
    home.mkdir(mode=0o755)
    home.chmod(0o755)

    with Workspace() as workspace, pytest.raises(HomeUnusable, match="mode 0755") as caught:
        workspace.compute_targets  # noqa: B018

    assert f"chmod 700 {home}" in caught.value.hint


def test_socket_path_with_letters_that_mean_something_in_a_uri(home: Path) -> None:
    odd = home.parent / "h é %41 #?"
    odd.mkdir()
    control = FakeControl(odd / "d.sock", ControlState())
    control.start()
    try:
        with Workspace(address=f"unix:{control.socket}") as workspace:
            assert list(workspace.compute_targets) == ["local"]
    finally:
        control.stop()


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("https://example.org", SpecInvalid),
        ("unix:relative.sock", SpecInvalid),
        ("nobody-logged-in:7443", Unauthenticated),
    ],
)
def test_address_that_is_not_served_is_refused(address: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"is no address|absolute|not logged in"):
        Workspace(address=address)
