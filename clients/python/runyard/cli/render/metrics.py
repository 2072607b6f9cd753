"""The metrics of a run, as JSON and as rows of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from runyard.cli.render.text import clean_line

if TYPE_CHECKING:
    from runyard.metrics import MetricShape, Scalar

METRIC_COLUMNS = ("METRIC", "VALUE", "COUNT", "LEAST", "MOST")


def metrics_json(metrics: Mapping[str, MetricShape]) -> dict[str, Any]:
    """The metrics in their shapes; NaN and infinities are texts, which JSON lacks numbers for."""
    return {name: _json(shape) for name, shape in metrics.items()}


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _json(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_json(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def metric_rows(metrics: Mapping[str, MetricShape]) -> list[tuple[str, ...]]:
    """Cells under METRIC_COLUMNS: the newest value, and of several the count and the range."""
    rows = []
    for name, shape in metrics.items():
        if isinstance(shape, dict):
            rows += [_row(f"{name}.{column}", values) for column, values in shape.items()]
        else:
            rows.append(_row(name, shape if isinstance(shape, list) else [shape]))
    return rows


def _row(name: str, values: list[Scalar]) -> tuple[str, ...]:
    last = value_text(values[-1]) if values else ""
    numbers = [value for value in values if isinstance(value, int | float) and not _is_nan(value)]
    if len(values) < 2 or not numbers:
        return name, last, str(len(values)), "", ""
    return name, last, f"{len(values):,}", value_text(min(numbers)), value_text(max(numbers))


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def value_text(value: object) -> str:
    """A value for people: numbers with six digits, text on one line."""
    return f"{value:.6g}" if isinstance(value, float) else clean_line(str(value))
