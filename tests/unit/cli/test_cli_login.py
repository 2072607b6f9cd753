"""Which daemon commands use after a logout."""

from __future__ import annotations

import os

import pytest

from runyard.credentials import Credentials, Login
from support.command_line import CommandLine


@pytest.mark.parametrize(
    ("kept", "variable", "in_use"),
    [
        (["a:1"], "", "this machine's daemon"),
        (["a:1", "b:1"], "", "the daemon at b:1"),
        (["b:1", "a:1"], "", "this machine's daemon"),
        (["b:1", "a:1"], "b:1", "the daemon at b:1"),
    ],
)
def test_logout_says_which_daemon_is_used_then(
    kept: list[str],
    variable: str,
    in_use: str,
    command: CommandLine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNYARD_ADDRESS", variable)
    for address in kept:
        Credentials(os.environ).keep(address, Login("authority", "token"))

    done = command("logout", "a:1")

    assert f"logged out of a:1; commands use {in_use}" in done.stderr
