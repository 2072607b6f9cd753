"""Metrics of attempts: summaries of their series, and their points, from the file of lines.

A summary is kept up by reading what is new when somebody asks, never while the job runs; that of an
attempt that has ended is kept beside its file. Memory is bounded: points are read one at a time.
"""

from __future__ import annotations

import json
import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeGuard

from runyard_contract.paths import atomic_write
from runyard_daemon.logs.growing import GrowingFileReader
from runyard_daemon.logs.layout import (
    METRICS_SUMMARY,
    AttemptKey,
    LogFile,
    folder_path,
)
from runyard_daemon.logs.lines import Lines
from runyard_daemon.logs.points import (
    LineInvalid,
    MetricPoint,
    PointKind,
    Value,
    check_name,
    parse_line,
    to_line,
)

_FORMAT: Final = 1
_SERIES_MAX: Final = 10_000
_ATTEMPTS: Final = 64


@dataclass(frozen=True, slots=True)
class MetricSeries:
    """A series in short."""

    metric: str
    point_count: int
    last: MetricPoint
    min: float | int | None
    """The smallest number of a scalar series; None where there was none."""
    max: float | int | None
    """The largest number of a scalar series; None where there was none."""


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """All series of an attempt."""

    series: dict[str, MetricSeries]
    """By name. At most 10,000: what comes later is only in the points."""
    skipped_lines: int
    """Lines that are no points."""
    read_bytes: int
    """How much of the file this covers."""


class MetricReader:
    """Reads the metrics of attempts. All its functions block; any thread may call them.

    Args:
        root: the data directory's `runs`.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._summaries: OrderedDict[AttemptKey, _Summarizer] = OrderedDict()

    def summary(self, key: AttemptKey, *, is_final: bool = False) -> MetricSummary:
        """Gives the summary of what an attempt has logged so far.

        With `is_final` the file does not grow any more: the summary is kept beside it.
        """
        path = folder_path(self._root, key) / METRICS_SUMMARY
        if is_final and (kept := _load(path)) is not None:
            return kept
        with self._lock:
            summarizer = self._summaries.setdefault(key, _Summarizer())
            self._summaries.move_to_end(key)
            while len(self._summaries) > _ATTEMPTS:
                self._summaries.popitem(last=False)
        with summarizer.lock:
            summary = summarizer.read_on(self._root, key)
        if is_final:
            with self._lock:
                self._summaries.pop(key, None)
            if summary.read_bytes:
                atomic_write(path, _dump(summary), sync=False)
        return summary

    def points(self, key: AttemptKey, names: Collection[str] = ()) -> Iterator[MetricPoint]:
        """Gives the points of an attempt in the order logged, as far as they are there now.

        `names` are the series wanted; empty: all. Lines that are no points are left out.
        """
        reader = GrowingFileReader(self._root, key, LogFile.METRICS)
        checked: set[str] = set()
        try:
            for line in Lines(reader):
                try:
                    point = parse_line(line)
                    if point.metric not in checked:
                        check_name(point.metric)
                        checked.add(point.metric)
                except LineInvalid:
                    continue
                if not names or point.metric in names:
                    yield point
        finally:
            reader.close()


class _Summarizer:
    """The summary of one attempt and how far its file was read."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._series: dict[str, _Series] = {}
        self._offset_bytes = 0
        self._skipped = 0

    def read_on(self, root: Path, key: AttemptKey) -> MetricSummary:
        """Takes in what is new."""
        reader = GrowingFileReader(root, key, LogFile.METRICS)
        try:
            lines = Lines(reader, self._offset_bytes)
            for line in lines:
                try:
                    self._add(parse_line(line))
                except LineInvalid:
                    self._skipped += 1
        finally:
            reader.close()
        self._offset_bytes = lines.offset_bytes
        self._skipped += lines.skipped
        series = {name: self._series[name].freeze() for name in sorted(self._series)}
        return MetricSummary(series, self._skipped, self._offset_bytes)

    def _add(self, point: MetricPoint) -> None:
        series = self._series.get(point.metric)
        if series is None:
            check_name(point.metric)
            if len(self._series) >= _SERIES_MAX:
                return
            series = self._series[point.metric] = _Series(point)
        series.add(point)


class _Series:
    """A summary that grows."""

    __slots__ = ("_count", "_last", "_max", "_min")

    def __init__(self, first: MetricPoint) -> None:
        self._count = 0
        self._last = first
        self._min: float | int | None = None
        self._max: float | int | None = None

    def add(self, point: MetricPoint) -> None:
        self._count += 1
        self._last = point
        value = point.value
        if point.kind is not PointKind.SCALAR or not _is_number(value):
            return
        if self._min is None or value < self._min:
            self._min = value
        if self._max is None or value > self._max:
            self._max = value

    def freeze(self) -> MetricSeries:
        return MetricSeries(self._last.metric, self._count, self._last, self._min, self._max)


def _is_number(value: Value) -> TypeGuard[float | int]:
    """Whether a value counts for the smallest and the largest."""
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)


def _dump(summary: MetricSummary) -> bytes:
    """The summary as its file has it."""
    series = [
        [each.point_count, to_line(each.last), _bound(each.min), _bound(each.max)]
        for each in summary.series.values()
    ]
    fields = {
        "format": _FORMAT,
        "read_bytes": summary.read_bytes,
        "skipped_lines": summary.skipped_lines,
        "series": series,
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def _load(path: Path) -> MetricSummary | None:
    """The summary of a file; None where there is none that can be used."""
    try:
        fields = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    if not isinstance(fields, dict) or fields.get("format") != _FORMAT:
        return None
    series = {}
    for count, last, smallest, largest in fields["series"]:
        point = parse_line(json.dumps(last).encode())
        series[point.metric] = MetricSeries(
            point.metric, count, point, _unbound(smallest), _unbound(largest)
        )
    return MetricSummary(series, fields["skipped_lines"], fields["read_bytes"])


def _bound(value: float | int | None) -> float | int | str | None:
    """A bound as JSON has it: infinities as text."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _unbound(value: float | int | str | None) -> float | int | None:
    return float(value) if isinstance(value, str) else value
