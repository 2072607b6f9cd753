"""Metrics."""

from __future__ import annotations

from collections.abc import Mapping

from runyard_daemon.logs.metrics import MetricSeries
from runyard_daemon.logs.points import MetricPoint, Scalar
from runyard_daemon.rpc.convert.times import to_timestamp
from runyardpb.v1 import metrics_pb2 as pb

_INTEGER_LIMIT = 1 << 63


def to_value(value: Scalar) -> pb.MetricValue:
    """One value; whole numbers stay whole as far as 64 bits hold them."""
    if isinstance(value, bool):
        return pb.MetricValue(boolean=value)
    if isinstance(value, str):
        return pb.MetricValue(text=value)
    if isinstance(value, int) and -_INTEGER_LIMIT <= value < _INTEGER_LIMIT:
        return pb.MetricValue(integer=value)
    return pb.MetricValue(number=value)


def to_point(point: MetricPoint) -> pb.MetricPoint:
    """One call of log, log_list or log_row."""
    message = pb.MetricPoint(metric=point.metric, time=to_timestamp(point.time_us), step=point.step)
    if isinstance(point.value, Mapping):
        for column, value in point.value.items():
            message.row.columns[column].CopyFrom(to_value(value))
        message.row.SetInParent()
    elif isinstance(point.value, tuple):
        message.list.values.extend(map(to_value, point.value))
        message.list.SetInParent()
    else:
        message.scalar.CopyFrom(to_value(point.value))
    return message


def to_metric(series: MetricSeries) -> pb.Metric:
    """A series and its summary."""
    return pb.Metric(
        metric=series.metric,
        point_count=series.point_count,
        last=to_point(series.last),
        min=series.min,
        max=series.max,
    )
