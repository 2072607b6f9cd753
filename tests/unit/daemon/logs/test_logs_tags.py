from __future__ import annotations

import json
from pathlib import Path

import pytest

from runyard_daemon.logs.layout import AttemptKey, LogFile
from runyard_daemon.logs.tags import read_fresh

KEY = AttemptKey("iris", "iris_1_00000001", 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path.joinpath(*KEY.parts, LogFile.TAGS.value)
    path.parent.mkdir(parents=True)
    return path


def line(kind: str, name: str, value: object) -> bytes:
    return json.dumps({"t": 1.0, "k": kind, "n": name, "v": value}).encode() + b"\n"


def test_last_tag_and_first_property_count(tmp_path: Path, file: Path) -> None:
    file.write_bytes(
        line("tag", "stage", "one")
        + line("property", "commit", "first")
        + line("tag", "stage", "two")
        + line("property", "commit", "second")
    )

    fresh = read_fresh(tmp_path, KEY, 0)

    assert (fresh.tags, fresh.properties) == ({"stage": "two"}, {"commit": "first"})
    assert fresh.next_offset_bytes == file.stat().st_size


def test_each_line_is_read_once_and_whole(tmp_path: Path, file: Path) -> None:
    data = line("tag", "a", "1") + line("tag", "b", "2")
    file.write_bytes(data[:-5])

    first = read_fresh(tmp_path, KEY, 0)
    file.write_bytes(data)
    second = read_fresh(tmp_path, KEY, first.next_offset_bytes)
    third = read_fresh(tmp_path, KEY, second.next_offset_bytes)

    assert (first.tags, second.tags, third.tags) == ({"a": "1"}, {"b": "2"}, {})
    assert third.next_offset_bytes == len(data)


@pytest.mark.parametrize(
    "bad",
    [
        b"no JSON\n",
        b"7\n",
        line("metric", "a", "1"),
        line("tag", "", "1"),
        line("tag", "two\nlines", "1"),
        line("tag", "a", 1),
        line("tag", "a", "x" * 8193),
        line("tag", "a", "\ud800"),
    ],
)
def test_line_that_is_no_tag_is_skipped_and_counted(tmp_path: Path, file: Path, bad: bytes) -> None:
    file.write_bytes(bad + line("tag", "good", "1"))

    fresh = read_fresh(tmp_path, KEY, 0)

    assert (fresh.tags, fresh.skipped_lines) == ({"good": "1"}, 1)


def test_attempt_without_tags_has_none(tmp_path: Path) -> None:
    assert read_fresh(tmp_path, KEY, 0).tags == {}
