"""What the command line's tests share: a server to talk to, and a way to type commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard.cli.main import run_command_line
from runyard.cli.output import Output
from support.command_line import CommandLine, Done, play
from support.fake_control import FakeControl, fake_control


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes]) -> CommandLine:
    """Runs a command in this process, as if typed."""

    def run(*arguments: str) -> Done:
        code = run_command_line(list(arguments), Output(os.environ))
        stdout, stderr = capfdbinary.readouterr()
        return Done(code, stdout, stderr.decode())

    return run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source directory with a script, which is also the current folder."""
    folder = tmp_path / "iris"
    folder.mkdir()
    (folder / "train.py").write_text("print('hello')\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeControl]:
    """A daemon that commands talk to; every run that is followed completes at once."""
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "runyard-home"))
    # The shell's own PATH may begin with shims, which take long to ask for their interpreter.
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    with fake_control() as running:
        monkeypatch.setenv("RUNYARD_ADDRESS", f"unix:{running.socket}")
        play(running)
        yield running
