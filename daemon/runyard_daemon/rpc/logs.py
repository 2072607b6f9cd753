"""LogService and MetricService: what a run printed and what it logged by name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import islice

from runyard_contract.errors import RunNotFound
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.live import Live
from runyard_daemon.logs.layout import AttemptKey
from runyard_daemon.logs.metrics import MetricReader
from runyard_daemon.logs.points import MetricPoint
from runyard_daemon.rpc.convert.metrics import to_metric, to_point
from runyard_daemon.rpc.edge import Context
from runyard_daemon.rpc.follow import stream_log
from runyard_daemon.rpc.idle import Writable
from runyard_daemon.rpc.lookup import find_run
from runyard_daemon.rpc.paging import Pager
from runyard_daemon.store import attempts
from runyard_daemon.store.runs import RunRecord
from runyardpb.v1 import logs_pb2
from runyardpb.v1 import metrics_pb2 as pb
from runyardpb.v1.logs_pb2_grpc import LogServiceServicer
from runyardpb.v1.metrics_pb2_grpc import MetricServiceServicer

_POINTS_A_MESSAGE = 1000


class LogService(LogServiceServicer):
    """Reads logs."""

    def __init__(self, live: Live, logs: AttemptLogs, heartbeat_s: float) -> None:
        self._live = live
        self._logs = logs
        self._heartbeat_s = heartbeat_s

    async def ReadLog(  # type: ignore[override]  # a coroutine that uses write
        self, request: logs_pb2.ReadLogRequest, context: Writable[logs_pb2.ReadLogResponse]
    ) -> None:
        """Streams a log from an offset on."""
        run = find_run(self._live, request.name)
        key = self._key(run, request.attempt)
        await stream_log(context, self._live, self._logs, key, request, self._heartbeat_s)

    def _key(self, run: RunRecord, attempt: int) -> AttemptKey | None:
        """The attempt asked for; None where the run has none yet."""
        number = attempt or run.attempt
        if attempt and not self._live.store.peek(
            lambda conn: attempts.get(conn, run.run_id, attempt)
        ):
            raise RunNotFound(
                f"the run {run.run_id} has no attempt {attempt}; its newest is {run.attempt}",
                hint="leave the attempt out for the newest",
                run_id=run.run_id,
            )
        return AttemptKey(run.experiment, run.run_id, number) if number else None


class MetricService(MetricServiceServicer):
    """Reads metrics."""

    def __init__(self, live: Live, metrics: MetricReader, pager: Pager) -> None:
        self._live = live
        self._metrics = metrics
        self._pager = pager

    async def ListMetrics(
        self, request: pb.ListMetricsRequest, context: Context
    ) -> pb.ListMetricsResponse:
        """A page of series with their summaries, by name."""
        page = self._pager.read(request)
        after = str(page.after[0]) if page.after else ""
        run = find_run(self._live, request.parent)
        if not run.attempt:
            return pb.ListMetricsResponse()
        key = AttemptKey(run.experiment, run.run_id, run.attempt)
        summary = await asyncio.to_thread(self._metrics.summary, key, is_final=run.state.is_final)
        series = summary.series
        names = [name for name in sorted(series) if name > after][: page.size + 1]
        shown, token = self._pager.cut(page, names, [(name,) for name in names])
        return pb.ListMetricsResponse(
            metrics=[to_metric(series[name]) for name in shown], next_page_token=token
        )

    async def ReadMetricPoints(  # type: ignore[override]  # a coroutine that uses write
        self, request: pb.ReadMetricPointsRequest, context: Writable[pb.ReadMetricPointsResponse]
    ) -> None:
        """Streams points in the order they were logged."""
        run = find_run(self._live, request.parent)
        if not run.attempt:
            return
        key = AttemptKey(run.experiment, run.run_id, run.attempt)
        points = self._metrics.points(key, tuple(request.metrics))
        while batch := await asyncio.to_thread(_batch, points):
            await context.write(pb.ReadMetricPointsResponse(points=batch))


def _batch(points: Iterator[MetricPoint]) -> list[pb.MetricPoint]:
    return [to_point(point) for point in islice(points, _POINTS_A_MESSAGE)]
