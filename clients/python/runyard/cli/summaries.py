"""The metrics of a run in a few lines: names, last values, ranges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runyard.cli.output import Output
from runyard.cli.render.metrics import value_text
from runyard.cli.render.text import clean_line
from runyard_contract.limits import PAGE_SIZE_DEFAULT

if TYPE_CHECKING:
    from runyard.run import Run
    from runyardpb.v1 import metrics_pb2

_MOST_SHOWN = 12


def say_metrics(output: Output, run: Run) -> None:
    """The first metrics by name, each with its newest value; nothing where there is none."""
    from runyardpb.v1 import metrics_pb2, metrics_pb2_grpc

    answer = run.experiment.workspace.connection.unary(
        metrics_pb2_grpc.MetricServiceStub,
        lambda stub: stub.ListMetrics,
        metrics_pb2.ListMetricsRequest(parent=str(run.record.name), page_size=PAGE_SIZE_DEFAULT),
    )
    if not answer.metrics:
        return
    shown = answer.metrics[:_MOST_SHOWN]
    width = max(len(clean_line(metric.metric)) for metric in shown)
    output.say(f"runyard: metrics of {run.id}:")
    for metric in shown:
        output.say(f"    {clean_line(metric.metric):<{width}}  {_summary(metric)}")
    more = len(answer.metrics) - len(shown)
    if more > 0 or answer.next_page_token:
        output.say(f"    and more; see `runyard runs metrics {run.id}`")


def _summary(metric: metrics_pb2.Metric) -> str:
    """The newest value of a series, and its range where it has several numbers."""
    kind = metric.last.WhichOneof("payload")
    if kind == "scalar":
        text = value_text(_plain(metric.last.scalar))
    else:
        text = f"{metric.point_count:,} {'lists' if kind == 'list' else 'rows'}"
    if metric.point_count > 1 and metric.HasField("min") and kind == "scalar":
        return (
            f"{text}  (last of {metric.point_count:,}, "
            f"{value_text(metric.min)} to {value_text(metric.max)})"
        )
    return text


def _plain(value: metrics_pb2.MetricValue) -> object:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else ""
