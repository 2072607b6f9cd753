"""Points of metrics: one JSON line each, as the job library writes them.

`{"t": unix seconds, "k": "s"|"l"|"r", "n": name, "v": value, "i": step}`; a scalar is a number, a
text or a truth value; NaN and infinities come as the texts "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeGuard

from runyard_contract.errors import NameInvalid
from runyard_contract.ids import check_metric_name

Scalar = float | int | str | bool
Value = Scalar | tuple[Scalar, ...] | Mapping[str, Scalar]

_NOT_FINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_MAX_TIME_S: Final = 1e11
_INT_BOUND: Final = 1 << 63


class PointKind(StrEnum):
    """What a point holds; the values are those of the lines."""

    SCALAR = "s"
    LIST = "l"
    ROW = "r"


_KINDS: Final = {kind.value: kind for kind in PointKind}


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """One call of log, log_list or log_row."""

    metric: str
    time_us: int
    """By the job's clock."""
    kind: PointKind
    value: Value
    """A scalar, a tuple of them for LIST, a mapping of them by column for ROW."""
    step: int | None = None


class LineInvalid(ValueError):
    """A line is no point; it is skipped and counted."""


def parse_line(line: bytes) -> MetricPoint:
    """Gives the point of a line. Raises LineInvalid."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise LineInvalid("no JSON") from error
    if not isinstance(fields, dict):
        raise LineInvalid("no object")
    time_s, name, step = fields.get("t"), fields.get("n"), fields.get("i")
    kind = _KINDS.get(str(fields.get("k")))
    if kind is None or not isinstance(name, str) or not _is_time(time_s) or not _is_step(step):
        raise LineInvalid("a field lacks or is of another type")
    return MetricPoint(name, int(time_s * 1e6), kind, _value(kind, fields.get("v")), step)


def check_name(name: str) -> None:
    """Raises LineInvalid for what is no name of a metric."""
    try:
        check_metric_name(name)
    except NameInvalid as error:
        raise LineInvalid(error.message) from error


def to_line(point: MetricPoint) -> dict[str, object]:
    """Gives the fields of a point as a line has them."""
    value: object = point.value
    if isinstance(point.value, tuple):
        value = [_plain(item) for item in point.value]
    elif isinstance(point.value, Mapping):
        value = {column: _plain(item) for column, item in point.value.items()}
    else:
        value = _plain(point.value)
    fields: dict[str, object] = {
        "t": point.time_us / 1e6,
        "k": point.kind.value,
        "n": point.metric,
        "v": value,
    }
    return fields if point.step is None else fields | {"i": point.step}


def _value(kind: PointKind, value: object) -> Value:
    if kind is PointKind.SCALAR:
        return _scalar(value)
    if kind is PointKind.LIST and isinstance(value, list):
        return tuple(_scalar(item) for item in value)
    if kind is PointKind.ROW and isinstance(value, dict):
        return {str(column): _scalar(item) for column, item in value.items()}
    raise LineInvalid("the value is of another kind")


def _scalar(value: object) -> Scalar:
    if isinstance(value, str):
        return _NOT_FINITE.get(value, value)
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -_INT_BOUND <= value < _INT_BOUND else _large(value)
    raise LineInvalid("a value is no number, text or truth value")


def _large(value: int) -> float:
    """A whole number that is too large for 64 bits, as near as can be."""
    try:
        return float(value)
    except OverflowError as error:
        raise LineInvalid("a number is too large") from error


def _plain(value: Scalar) -> Scalar:
    """A scalar as JSON has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _is_time(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 <= value < _MAX_TIME_S


def _is_step(value: object) -> bool:
    return value is None or (isinstance(value, int) and -_INT_BOUND <= value < _INT_BOUND)
