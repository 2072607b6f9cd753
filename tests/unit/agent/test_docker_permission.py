"""What a user is told who may not use an engine's socket."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from runyard_agent.environments.docker_permission import not_permitted


@pytest.fixture
def socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A socket for the group docker (here of number 7), and a user mia who is not in it."""
    path = tmp_path / "docker.sock"
    path.touch()
    path.chmod(0o660)
    real_stat = os.stat

    def stat(name: object) -> object:
        status = real_stat(name)  # type: ignore[call-overload]
        return SimpleNamespace(st_mode=status.st_mode, st_gid=7) if name == str(path) else status

    def group(number: int) -> object:
        return SimpleNamespace(gr_name="docker", gr_mem=["leo"])

    monkeypatch.setattr(os, "stat", stat)
    monkeypatch.setattr(grp, "getgrgid", group)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: SimpleNamespace(pw_name="mia"))
    return path


def test_group_and_command_are_named(socket: Path) -> None:
    failed = not_permitted(str(socket))

    assert failed.message == (
        f"user mia may not use the Docker engine at {socket}, which is for the group docker"
        " (permission denied)"
    )
    assert failed.advice == "`sudo usermod -aG docker mia`, log in again and restart runyard"
    assert failed.metadata == {"socket": str(socket), "user": "mia", "group": "docker"}


def test_member_since_the_login_has_to_log_in_again(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pwd, "getpwuid", lambda number: SimpleNamespace(pw_name="leo"))

    failed = not_permitted(str(socket))

    assert "leo is in the group already" in failed.advice
    assert "usermod" not in failed.advice


def test_socket_that_no_group_may_use(socket: Path) -> None:
    socket.chmod(0o600)

    failed = not_permitted(str(socket))

    assert "give its socket to a group" in failed.advice
    assert "DOCKER_HOST" in failed.advice


def test_user_and_group_without_a_name_are_numbers(
    socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: int) -> object:
        raise KeyError(number)

    monkeypatch.setattr(grp, "getgrgid", unknown)
    monkeypatch.setattr(pwd, "getpwuid", unknown)

    failed = not_permitted(str(socket))

    assert f"user {os.geteuid()} may not use" in failed.message
    assert "for the group 7 " in failed.message
    assert f"`sudo usermod -aG 7 {os.geteuid()}`" in failed.advice
