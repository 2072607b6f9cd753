"""The metrics of a run in the shapes that Azure ML gives them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from runyard.channel import Connection
from runyardpb.v1 import metrics_pb2, metrics_pb2_grpc

Scalar = float | int | str | bool
MetricShape = Scalar | list[Scalar] | dict[str, list[Scalar]]


def read_metrics(connection: Connection, run_name: str, name: str | None) -> dict[str, MetricShape]:
    """All metrics of a run, or the one of this name, by name; empty where there is none.

    Logged once is a scalar, more often a list; log_list a list; log_row a dict of lists.
    """
    request = metrics_pb2.ReadMetricPointsRequest(
        parent=run_name, metrics=[name] if name is not None else []
    )
    series = connection.repeated(lambda: _read_series(connection, request), tries=2)
    return {metric: one.shape() for metric, one in series.items()}


def _read_series(
    connection: Connection, request: metrics_pb2.ReadMetricPointsRequest
) -> dict[str, _Series]:
    """All points that are asked for, by metric."""
    series: dict[str, _Series] = {}
    with connection.stream(
        metrics_pb2_grpc.MetricServiceStub, lambda stub: stub.ReadMetricPoints, request
    ) as answers:
        for answer in answers:
            for point in answer.points:
                series.setdefault(point.metric, _Series()).add(point)
    return series


class _Series:
    """The points of one metric."""

    def __init__(self) -> None:
        self._values: list[Scalar] = []
        self._columns: dict[str, list[Scalar]] = {}
        self._is_one_scalar = True

    def add(self, point: metrics_pb2.MetricPoint) -> None:
        """Adds a point, in the order logged."""
        kind = point.WhichOneof("payload")
        if kind == "scalar":
            self._is_one_scalar = self._is_one_scalar and not self._values
            self._values.append(_scalar(point.scalar))
        elif kind == "list":
            self._is_one_scalar = False
            self._values += _scalars(point.list.values)
        elif kind == "row":
            for column, value in point.row.columns.items():
                self._columns.setdefault(column, []).append(_scalar(value))

    def shape(self) -> MetricShape:
        """The points in their shape; rows come before scalars of the same name."""
        if self._columns:
            return self._columns
        return self._values[0] if self._is_one_scalar and self._values else self._values


def _scalars(values: Iterable[metrics_pb2.MetricValue]) -> list[Scalar]:
    """The values of a list."""
    return [_scalar(value) for value in values]


def _scalar(value: metrics_pb2.MetricValue) -> Scalar:
    """The number, text or truth value in a message."""
    kind = value.WhichOneof("value")
    found: Any = getattr(value, kind) if kind is not None else ""
    scalar: Scalar = found
    return scalar
