from __future__ import annotations

import os
from pathlib import Path

import pytest

from runyard_contract.logfile import open_log


def append(path: Path, data: bytes) -> None:
    fd = open_log(path, max_bytes=10)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def test_log_goes_on_while_it_is_small(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"

    append(log, b"one\n")
    append(log, b"two\n")

    assert log.read_bytes() == b"one\ntwo\n"
    assert log.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["daemon.log"]


def test_log_that_is_too_large_is_put_aside_and_the_one_before_goes(tmp_path: Path) -> None:
    log = tmp_path / "daemon.log"
    (tmp_path / "daemon.log.1").write_bytes(b"oldest")

    append(log, b"more than ten bytes\n")
    append(log, b"new\n")

    assert log.read_bytes() == b"new\n"
    assert (tmp_path / "daemon.log.1").read_bytes() == b"more than ten bytes\n"


def test_link_in_the_place_of_a_log_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"x")
    (tmp_path / "daemon.log").symlink_to(target)

    with pytest.raises(OSError, match="symbolic links"):
        open_log(tmp_path / "daemon.log")

    assert target.read_bytes() == b"x"
