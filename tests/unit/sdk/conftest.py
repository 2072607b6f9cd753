"""What the SDK's tests share: a server to talk to, and a workspace on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard import Workspace
from support.fake_control import FakeControl, fake_control


@pytest.fixture
def control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeControl]:
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "runyard-home"))
    with fake_control() as running:
        yield running


@pytest.fixture
def workspace(control: FakeControl) -> Iterator[Workspace]:
    with Workspace(address=f"unix:{control.socket}") as found:
        yield found


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source directory with a script, which is also the current folder."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "train.py").write_text("print('hello')\n")
    monkeypatch.chdir(folder)
    return folder
