"""What a folder that comes as a stream may hold, and what stays of it on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard_contract.errors import SnapshotTooLarge
from runyard_contract.limits import SNAPSHOT_MAX_FILES
from runyard_daemon.control.spool import File, Piece, Spool
from runyard_daemon.control.uploadtree import Sifted


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path)
    yield opened
    opened.close()


def piece(path: str, data: bytes = b"", *, has_more: bool = False) -> Piece:
    return Piece(path, False, False, False, data, has_more)


def test_too_many_files_are_refused_before_any_is_stored(spool: Spool) -> None:
    spool.add(piece(f"f{number}") for number in range(SNAPSHOT_MAX_FILES + 1))

    with pytest.raises(SnapshotTooLarge):
        Sifted(spool, takes_ignored=False).sift()


def test_files_that_rules_keep_out_do_not_count(spool: Spool) -> None:
    spool.add([piece(".gitignore", b"data/")])
    spool.add(piece(f"data/f{number}") for number in range(SNAPSHOT_MAX_FILES + 1))
    sifted = Sifted(spool, takes_ignored=False)

    sifted.sift()

    assert [left.path for left in sifted.left_out] == ["data/"]
    assert list(spool.root.below) == [".gitignore"]


def test_a_file_in_parts_is_read_back_whole_and_leaves_no_name(
    spool: Spool, tmp_path: Path
) -> None:
    parts = [os.urandom(1000), b"", os.urandom(10)]

    spool.add([piece("a", b"before")])
    for number, part in enumerate(parts):
        spool.add([piece("b", part, has_more=number < 2)])
    spool.finish()

    file = spool.root.below["b"]
    assert isinstance(file, File)
    assert spool.read(file) == b"".join(parts)
    assert spool.read(file, 990, 15) == b"".join(parts)[990:1005]
    assert list(tmp_path.iterdir()) == []
