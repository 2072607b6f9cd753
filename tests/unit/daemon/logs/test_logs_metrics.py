from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from runyard_daemon.logs.layout import METRICS_SUMMARY, AttemptKey, LogFile
from runyard_daemon.logs.metrics import MetricReader
from runyard_daemon.logs.points import MetricPoint, PointKind

KEY = AttemptKey("iris", "iris_1_00000001", 1)
TIME_US = 1_764_000_000_250_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path.joinpath(*KEY.parts, LogFile.METRICS.value)
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def line(name: str, value: object, kind: str = "s", **more: object) -> bytes:
    fields = {"t": TIME_US / 1e6, "k": kind, "n": name, "v": value} | more
    return json.dumps(fields).encode() + b"\n"


def point(
    name: str, value: object, kind: PointKind = PointKind.SCALAR, step: int | None = None
) -> MetricPoint:
    return MetricPoint(name, TIME_US, kind, value, step)  # type: ignore[arg-type]


def test_points_come_back_as_they_were_logged(tmp_path: Path, file: Path) -> None:
    file.write_bytes(
        line("loss", 0.5, i=3)
        + line("count", 9_007_199_254_740_993)
        + line("ok", True)
        + line("model", "forest")
        + line("list", [1, "Infinity", "x"], "l")
        + line("row", {"a": 1, "b": "-Infinity"}, "r")
        + line("huge", 1 << 70)
    )

    assert list(MetricReader(tmp_path).points(KEY)) == [
        point("loss", 0.5, step=3),
        point("count", 9_007_199_254_740_993),
        point("ok", True),
        point("model", "forest"),
        point("list", (1, math.inf, "x"), PointKind.LIST),
        point("row", {"a": 1, "b": -math.inf}, PointKind.ROW),
        point("huge", float(1 << 70)),
    ]


def test_points_of_the_series_asked_for(tmp_path: Path, file: Path) -> None:
    file.write_bytes(line("a", 1) + line("b", 2) + line("a", 3))

    found = MetricReader(tmp_path).points(KEY, {"a"})

    assert [each.value for each in found] == [1, 3]


def test_summary_has_last_smallest_and_largest(tmp_path: Path, file: Path) -> None:
    values = [3, "NaN", 1.5, "text", 7, True, 2]
    file.write_bytes(b"".join(line("x", value) for value in values) + line("l", [9], "l"))

    series = MetricReader(tmp_path).summary(KEY).series

    assert (series["x"].min, series["x"].max, series["x"].point_count) == (1.5, 7, 7)
    assert series["x"].last == point("x", 2)
    assert (series["l"].min, series["l"].max, series["l"].point_count) == (None, None, 1)


@pytest.mark.parametrize(
    "bad",
    [
        b"\n",
        b"no JSON\n",
        b"[1]\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"t": 1, "k": "s", "n": "x"}\n',
        b'{"t": "now", "k": "s", "n": "x", "v": 1}\n',
        b'{"t": NaN, "k": "s", "n": "x", "v": 1}\n',
        b'{"t": 1, "k": "z", "n": "x", "v": 1}\n',
        b'{"t": 1, "k": "l", "n": "x", "v": 1}\n',
        b'{"t": 1, "k": "s", "n": "x", "v": null}\n',
        b'{"t": 1, "k": "r", "n": "x", "v": {"a": []}}\n',
        b'{"t": 1, "k": "s", "n": "x", "v": 1, "i": 1.5}\n',
        b'{"t": 1, "k": "s", "n": "bad\\nname", "v": 1}\n',
        b'{"t": 1, "k": "s", "n": "", "v": 1}\n',
        b'{"t": 1, "k": "s", "n": "x", "v": 1' + b"0" * 400 + b"}\n",
    ],
)
def test_line_that_is_no_point_is_skipped_and_counted(
    tmp_path: Path, file: Path, bad: bytes
) -> None:
    file.write_bytes(line("a", 1) + bad + line("a", 2))
    reader = MetricReader(tmp_path)

    summary = reader.summary(KEY)

    assert (list(summary.series), summary.skipped_lines) == (["a"], 1)
    assert summary.series["a"].point_count == 2
    assert [each.value for each in reader.points(KEY)] == [1, 2]


def test_line_that_is_too_long_is_skipped(tmp_path: Path, file: Path) -> None:
    file.write_bytes(line("a", 1) + line("long", "x" * (5 << 20)) + line("a", 2))

    summary = MetricReader(tmp_path).summary(KEY)

    assert (list(summary.series), summary.skipped_lines) == (["a"], 1)
    assert summary.series["a"].point_count == 2


def test_summary_goes_on_where_it_stopped_while_the_file_grows(tmp_path: Path, file: Path) -> None:
    data = b"".join(line("x", n) for n in range(50)) + line("y", "z" * 300_000)
    reader = MetricReader(tmp_path)
    for end in range(0, len(data), 701):
        file.write_bytes(data[:end])
        seen = reader.summary(KEY)
        assert seen.read_bytes == data.rfind(b"\n", 0, end) + 1
    file.write_bytes(data)

    summary = reader.summary(KEY)

    assert summary == MetricReader(tmp_path).summary(KEY)
    assert summary.series["x"].point_count == 50
    assert summary.skipped_lines == 0


def test_final_summary_is_kept_beside_the_file(tmp_path: Path, file: Path) -> None:
    file.write_bytes(line("x", "-Infinity") + line("x", 2, i=7) + line("r", {"a": "NaN"}, "r"))

    first = MetricReader(tmp_path).summary(KEY, is_final=True)
    file.unlink()
    again = MetricReader(tmp_path).summary(KEY, is_final=True)

    assert file.with_name(METRICS_SUMMARY).exists()
    assert again.series["x"] == first.series["x"]
    assert again.series["x"].min == -math.inf
    assert again.read_bytes == first.read_bytes


def test_damaged_summary_is_made_again(tmp_path: Path, file: Path) -> None:
    file.write_bytes(line("x", 1))
    file.with_name(METRICS_SUMMARY).write_bytes(b'{"format": 1, "ser')

    assert MetricReader(tmp_path).summary(KEY, is_final=True).series["x"].point_count == 1


def test_run_without_metrics_has_an_empty_summary(tmp_path: Path) -> None:
    tmp_path.joinpath(*KEY.parts).mkdir(parents=True)

    summary = MetricReader(tmp_path).summary(KEY, is_final=True)

    assert (summary.series, summary.read_bytes) == ({}, 0)
    assert list(tmp_path.joinpath(*KEY.parts).iterdir()) == []
