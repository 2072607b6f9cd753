from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runyard_contract.errors import DiskFailed, DiskFull, ReadOnly, of_disk
from runyard_contract.paths import make_folder


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EROFS, ReadOnly),
        (errno.EIO, DiskFailed),
    ],
)
def test_error_of_the_disk_says_what_and_what_to_do(number: int, expected: type[Exception]) -> None:
    known = of_disk(OSError(number, os.strerror(number)), "/data")

    assert type(known) is expected
    assert known is not None
    assert "/data" in known.message
    assert known.hint
    assert known.metadata["errno"] == errno.errorcode[number]


def test_error_that_is_not_the_disks_is_left_alone() -> None:
    assert of_disk(OSError(errno.EBADF, "a defect"), "/data") is None


def test_folder_is_made_with_those_above_it_and_only_its_own_mode_is_given(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b", 0o700)
    make_folder(tmp_path / "a" / "b", 0o755)

    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_folder_is_not_made_over_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").touch()

    with pytest.raises(FileExistsError):
        make_folder(tmp_path / "a", 0o700)
