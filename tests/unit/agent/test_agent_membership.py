"""What a machine that joined keeps and tells."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runyard_agent import config
from runyard_agent.membership import (
    MEMBERSHIP_NAME,
    StatusFile,
    read_membership,
    read_status,
)
from runyard_contract.errors import HomeUnusable


def test_status_says_since_when_however_often_the_daemon_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("runyard_agent.membership.time.time", lambda: now_s)
    status = StatusFile(tmp_path)

    status.tell("connected", "")
    now_s = 200.0
    status.tell("disconnected", "refused")
    now_s = 300.0
    status.tell("disconnected", "unreachable")

    assert read_status(tmp_path) == {
        "pid": os.getpid(),
        "state": "disconnected",
        "why": "unreachable",
        "since_s": 200.0,
    }


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format": 2}', b'{"format": 1}'])
def test_damaged_membership_names_the_file_and_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MEMBERSHIP_NAME).write_bytes(content)

    with pytest.raises(HomeUnusable, match=MEMBERSHIP_NAME) as caught:
        read_membership(tmp_path)

    assert "--home" in caught.value.hint


@pytest.mark.parametrize(
    "arguments",
    [["--joined", "--home=/h", "--daemon-socket=/s"], ["--local", "--home=/h"], ["--home=/h"]],
)
def test_way_to_the_daemon_is_said_once(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        config.parse(arguments)

    assert "--local" in capsys.readouterr().err
