"""What a run left, in a few lines: its metrics and its output files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runyard.cli.output import STDERR_FD, Output
from runyard.cli.render.amounts import count_text
from runyard.cli.render.metrics import value_text
from runyard.cli.render.text import clean, clean_line
from runyard.snapshot.limits import size_text
from runyard_contract.errors import RunyardError
from runyard_contract.limits import PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX

if TYPE_CHECKING:
    from runyard.channel import Connection
    from runyard_contract.ids import RunName
    from runyardpb.v1 import metrics_pb2

_MOST_METRICS = 12


def say_results(output: Output, connection: Connection, run: RunName) -> None:
    """Metrics, on a terminal, and output files; without them the run's end is still true."""
    try:
        if output.is_terminal(STDERR_FD):
            _say_metrics(output, connection, run)
        _say_outputs(output, connection, run)
    except RunyardError as error:
        output.say(f"runyard: warning: results could not be listed: {clean(error.message)}")


def _say_outputs(output: Output, connection: Connection, run: RunName) -> None:
    """How many files are in outputs/, and how to fetch them."""
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    answer = connection.unary(
        runs_pb2_grpc.RunServiceStub,
        lambda stub: stub.ListRunFiles,
        runs_pb2.ListRunFilesRequest(parent=str(run), prefix="outputs/", page_size=PAGE_SIZE_MAX),
    )
    if not answer.files:
        return
    over = "over " if answer.next_page_token else ""
    size = size_text(sum(file.size_bytes for file in answer.files))
    output.say(
        f"runyard: {over}{count_text(len(answer.files), 'file')} in outputs/ ({size}); "
        f"fetch with `runyard runs download {run.run}`"
    )


def _say_metrics(output: Output, connection: Connection, run: RunName) -> None:
    """The first metrics by name, each with its newest value."""
    from runyardpb.v1 import metrics_pb2, metrics_pb2_grpc

    answer = connection.unary(
        metrics_pb2_grpc.MetricServiceStub,
        lambda stub: stub.ListMetrics,
        metrics_pb2.ListMetricsRequest(parent=str(run), page_size=PAGE_SIZE_DEFAULT),
    )
    if not answer.metrics:
        return
    shown = answer.metrics[:_MOST_METRICS]
    width = max(len(clean_line(metric.metric)) for metric in shown)
    output.say(f"runyard: metrics of {run.run}:")
    for metric in shown:
        output.say(f"    {clean_line(metric.metric):<{width}}  {_summary(metric)}")
    if len(answer.metrics) > len(shown) or answer.next_page_token:
        output.say(f"    and more; see `runyard runs metrics {run.run}`")


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
