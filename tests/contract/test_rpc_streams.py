"""FollowRun, WatchRuns, ReadLog and metrics: streams that show runs as they go on."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import grpc
import pytest

from runyard_contract.orderindex import STDOUT, encode_record
from runyardpb.agent.v1 import agent_pb2
from runyardpb.v1 import logs_pb2, metrics_pb2, runs_pb2
from support.fake_agent import FakeAgent
from support.served import WORKSPACE, Served, drained, error_of, refused, with_daemon

File = agent_pb2.AppendFilesRequest
State = runs_pb2.Run
ALL = f"{WORKSPACE}/experiments/-"
LIMIT_S = 10.0


async def take(call: Any, wanted: Any) -> Any:
    """The next message of a stream that fulfils a condition."""
    async with asyncio.timeout(LIMIT_S):
        while (message := await call.read()) is not grpc.aio.EOF:
            if wanted(message):
                return message
    raise AssertionError("the stream ended")


async def rest_of(call: Any) -> list[Any]:
    """All further messages of a stream that `take` read from."""
    messages = []
    while (message := await call.read()) is not grpc.aio.EOF:
        messages.append(message)
    return messages


def follow(daemon: Served, run: runs_pb2.Run, **fields: Any) -> Any:
    return daemon.runs.FollowRun(runs_pb2.FollowRunRequest(name=run.name, **fields))


def test_follow_shows_states_and_log_live_and_the_final_state_last() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"x")
        call = follow(daemon, run)
        await take(call, lambda m: m.run.state == State.STATE_QUEUED)
        async with FakeAgent(daemon.channel).connected() as agent:
            ref = (await agent.expect("lease")).ref
            await agent.start(ref)
            await take(call, lambda m: m.run.state == State.STATE_RUNNING)
            await agent.append(
                ref,
                (File.FILE_STDOUT, 0, b"first\n"),
                (File.FILE_ORDER, 0, encode_record(STDOUT, 0, 6)),
            )
            live = await take(call, lambda m: m.log.data)
            await agent.append(
                ref,
                (File.FILE_STDOUT, 6, b"last\n"),
                (File.FILE_ORDER, 16, encode_record(STDOUT, 6, 5)),
            )
            lengths = [
                agent_pb2.FileLength(file=File.FILE_STDOUT, length_bytes=11),
                agent_pb2.FileLength(file=File.FILE_ORDER, length_bytes=32),
            ]
            await agent.end(ref, 0, lengths)
            rest = await rest_of(call)

        assert (live.log.data, live.log.stream) == (b"first\n", logs_pb2.LOG_SOURCE_STDOUT)
        assert b"".join(m.log.data for m in rest) == b"last\n"
        assert [m.log.is_last for m in rest if m.WhichOneof("event") == "log"][-1]
        assert rest[-1].run.state == State.STATE_COMPLETED
        assert all(m.run.state != State.STATE_COMPLETED for m in rest[:-1])

    with_daemon(test)


def test_the_final_state_waits_for_the_last_byte_of_the_log() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            await agent.start(ref)
            length = agent_pb2.FileLength(file=File.FILE_STDOUT, length_bytes=4)
            end = agent_pb2.AttemptEnd(reason=agent_pb2.AttemptEnd.REASON_EXITED, exit_code=1)
            report = agent_pb2.AttemptReport(
                ref=ref, phase=agent_pb2.AttemptReport.PHASE_ENDED, end=end, lengths=[length]
            )
            number = await agent.say(reports=[report])
            await agent.append(ref, (File.FILE_STDOUT, 0, b"ab"))
            assert agent.acknowledged < number
            assert (await daemon.run(run.name)).state == State.STATE_RUNNING
            await agent.append(ref, (File.FILE_STDOUT, 2, b"cd"))
            await agent.expect("forget")

        assert (await daemon.run(run.name)).end.exit_code == 1

    with_daemon(test)


def test_follow_resumes_at_an_offset_and_brings_the_environment_log() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            await agent.append(ref, (File.FILE_ENVIRONMENT, 0, b"building\n"))
            await agent.end(ref, 0, await agent.print(ref, b"0123456789"))

        messages = await drained(
            follow(daemon, run, log_offset_bytes=4, include_environment_log=True)
        )
        logs = [m.log for m in messages if m.WhichOneof("event") == "log" and m.log.data]
        assert {(log.stream, log.offset_bytes, log.data) for log in logs} == {
            (logs_pb2.LOG_SOURCE_STDOUT, 4, b"456789"),
            (logs_pb2.LOG_SOURCE_ENVIRONMENT, 0, b"building\n"),
        }
        negative = follow(daemon, run, log_offset_bytes=-1)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await drained(negative)
        assert error_of(failed.value).reason == "OFFSET_OUT_OF_RANGE"

    with_daemon(test)


def test_silent_streams_carry_heartbeats() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"x")
        following = follow(daemon, run)
        watching = daemon.runs.WatchRuns(runs_pb2.WatchRunsRequest(parent=ALL))

        await take(following, lambda m: m.WhichOneof("event") is None)
        beat = await take(watching, lambda m: not m.HasField("run"))
        following.cancel()
        watching.cancel()

        assert beat.cursor

    with_daemon(test, stream_heartbeat_s=0.05)


def test_watch_carries_heartbeats_while_runs_of_others_change_all_the_time() -> None:
    async def test(daemon: Served) -> None:
        watching = daemon.runs.WatchRuns(
            runs_pb2.WatchRunsRequest(parent=f"{WORKSPACE}/experiments/demo")
        )
        beat = asyncio.ensure_future(take(watching, lambda m: not m.HasField("run")))
        for _ in range(1000):
            if beat.done():
                break
            await daemon.submit(b"x", experiment="other")
        watching.cancel()

        assert beat.done()
        assert int((await beat).cursor) > 0

    with_daemon(test, stream_heartbeat_s=0.2)


def test_a_stream_that_is_cancelled_leaves_nothing_behind() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"x")
        for _ in range(5):
            call = follow(daemon, run)
            await take(call, lambda m: m.HasField("run"))
            call.cancel()
        watching = daemon.runs.WatchRuns(runs_pb2.WatchRunsRequest(parent=ALL))
        await take(watching, lambda m: m.cursor)
        watching.cancel()

        async with asyncio.timeout(LIMIT_S):
            # Each of these calls lets the daemon go on; none of them waits for a run.
            while daemon.app.edge.client_calls or daemon.app.live.changes.waiters:
                await daemon.app.live.store.read(lambda conn: None)

    with_daemon(test, stream_heartbeat_s=0.05)


def test_watch_goes_on_from_the_cursor_of_a_listing_and_misses_nothing() -> None:
    async def test(daemon: Served) -> None:
        await daemon.submit(b"x")
        cursor = (await daemon.runs.ListRuns(runs_pb2.ListRunsRequest(parent=ALL))).watch_cursor
        second = await daemon.submit(b"x")
        await daemon.submit(b"x", experiment="other")

        call = daemon.runs.WatchRuns(
            runs_pb2.WatchRunsRequest(parent=f"{WORKSPACE}/experiments/demo", cursor=cursor)
        )
        change = await take(call, lambda m: m.HasField("run"))
        third = await daemon.submit(b"x")
        following = await take(call, lambda m: m.HasField("run"))
        call.cancel()

        assert [change.run.name, following.run.name] == [second.name, third.name]
        assert int(following.cursor) > int(change.cursor)

    with_daemon(test)


def test_runs_that_changed_together_come_in_one_message_to_who_accepts_that() -> None:
    async def test(daemon: Served) -> None:
        cursor = (await daemon.runs.ListRuns(runs_pb2.ListRunsRequest(parent=ALL))).watch_cursor
        runs = [await daemon.submit(b"x") for _ in range(3)]
        large = [await daemon.submit(b"x", tags={"k": "v" * 8000}) for _ in range(64)]

        call = daemon.runs.WatchRuns(
            runs_pb2.WatchRunsRequest(parent=ALL, cursor=cursor, accepts_several=True)
        )
        changes = [await take(call, lambda m: m.HasField("run"))]
        while changes[-1].run.name != large[-1].name:
            changes.append(await take(call, lambda m: m.HasField("run")))
        call.cancel()

        told = [run.name for change in changes for run in (*change.earlier, change.run)]
        assert told == [run.name for run in (*runs, *large)]
        assert len(changes[0].earlier) >= 3
        assert len(changes) > 1
        assert all(change.ByteSize() < 300 << 10 for change in changes)

    with_daemon(test)


def test_a_cursor_that_would_miss_something_is_refused() -> None:
    async def test(daemon: Served) -> None:
        from runyard_daemon.store import events

        for _ in range(3):
            await daemon.submit(b"x")
        await daemon.store.write(lambda conn: events.prune(conn, keep=1))
        old = daemon.runs.WatchRuns(runs_pb2.WatchRunsRequest(parent=ALL, cursor="0"))
        nonsense = daemon.runs.WatchRuns(runs_pb2.WatchRunsRequest(parent=ALL, cursor="x"))

        for call, code in ((old, "OUT_OF_RANGE"), (nonsense, "INVALID_ARGUMENT")):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await drained(call)
            assert failed.value.code().name == code

    with_daemon(test)


def test_streams_end_with_draining_when_the_daemon_stops() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"x")
        call = follow(daemon, run)
        await take(call, lambda m: m.HasField("run"))
        daemon.app.stop.ask(is_stop=False)

        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await rest_of(call)
        assert error_of(failed.value).reason == "DRAINING"

    with_daemon(test)


def read_log(daemon: Served, run: runs_pb2.Run, **fields: Any) -> Any:
    return daemon.logs.ReadLog(logs_pb2.ReadLogRequest(name=run.name, **fields))


def test_read_log_gives_each_source_from_any_offset() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            await agent.end(ref, 0, await agent.print(ref, b"out", b"err"))

        async def read(**fields: Any) -> bytes:
            return b"".join(m.chunk.data for m in await drained(read_log(daemon, run, **fields)))

        assert await read() == b"outerr"
        assert await read(offset_bytes=2) == b"terr"
        assert await read(source=logs_pb2.LOG_SOURCE_STDERR) == b"err"
        assert await read(source=logs_pb2.LOG_SOURCE_STDOUT, follow=True) == b"out"
        assert await read(source=logs_pb2.LOG_SOURCE_ENVIRONMENT, follow=True) == b""
        for fields, reason in (
            ({"attempt": 2}, "RUN_NOT_FOUND"),
            ({"source": 99}, "SPEC_INVALID"),
            ({"offset_bytes": -1}, "OFFSET_OUT_OF_RANGE"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await drained(read_log(daemon, run, **fields))
            assert error_of(failed.value).reason == reason

    with_daemon(test)


def test_read_log_without_follow_ends_at_what_is_there_now() -> None:
    async def test(daemon: Served) -> None:
        waiting = await daemon.submit(b"x")
        async with FakeAgent(daemon.channel).connected() as agent:
            ref = (await agent.expect("lease")).ref
            await agent.print(ref, b"so far")

            messages = await drained(read_log(daemon, waiting))

        assert b"".join(m.chunk.data for m in messages) == b"so far"

    with_daemon(test)


def test_metrics_are_summarised_paged_and_streamed_whole() -> None:
    async def test(daemon: Served) -> None:
        lines = (
            b'{"t":1.5,"k":"s","n":"loss","v":0.5,"i":1}\n'
            b'{"t":2.5,"k":"s","n":"loss","v":"NaN","i":2}\n'
            b'{"t":3.5,"k":"l","n":"many","v":[1,"a",true]}\nnonsense\n'
            b'{"t":4.5,"k":"r","n":"row","v":{"x":1,"y":2.5}}\n'
        )
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            empty = await daemon.metrics.ListMetrics(
                metrics_pb2.ListMetricsRequest(parent=run.name)
            )
            ref = (await agent.expect("lease")).ref
            await agent.append(ref, (File.FILE_METRICS, 0, lines))
            await agent.end(ref)

        request = metrics_pb2.ListMetricsRequest(parent=run.name, page_size=2)
        first = await daemon.metrics.ListMetrics(request)
        request.page_token = first.next_page_token
        second = await daemon.metrics.ListMetrics(request)
        points = [
            point
            for message in await drained(
                daemon.metrics.ReadMetricPoints(
                    metrics_pb2.ReadMetricPointsRequest(parent=run.name)
                )
            )
            for point in message.points
        ]
        only = await drained(
            daemon.metrics.ReadMetricPoints(
                metrics_pb2.ReadMetricPointsRequest(parent=run.name, metrics=["row"])
            )
        )

        assert not empty.metrics
        assert [m.metric for m in (*first.metrics, *second.metrics)] == ["loss", "many", "row"]
        loss = first.metrics[0]
        assert (loss.point_count, loss.min, loss.max) == (2, 0.5, 0.5)
        assert math.isnan(loss.last.scalar.number)
        assert [point.WhichOneof("payload") for point in points] == [
            "scalar", "scalar", "list", "row",
        ]  # fmt: skip
        assert [v.WhichOneof("value") for v in points[2].list.values] == [
            "integer", "text", "boolean",
        ]  # fmt: skip
        assert points[3].row.columns["y"].number == 2.5
        assert [p.metric for message in only for p in message.points] == ["row"]

    with_daemon(test)


def test_an_unknown_run_is_not_found_by_every_reading_call() -> None:
    async def test(daemon: Served) -> None:
        name = f"{ALL}/runs/demo_1_00000000"
        calls = [
            daemon.runs.GetRun(runs_pb2.GetRunRequest(name=name)),
            daemon.runs.CancelRun(runs_pb2.CancelRunRequest(name=name)),
            daemon.runs.ExplainRun(runs_pb2.ExplainRunRequest(name=name)),
            daemon.runs.UpdateRun(runs_pb2.UpdateRunRequest(run=runs_pb2.Run(name=name))),
            daemon.runs.ListRunFiles(runs_pb2.ListRunFilesRequest(parent=name)),
            daemon.runs.AddRunFiles(runs_pb2.AddRunFilesRequest(name=name)),
            daemon.runs.CollectWorkdir(runs_pb2.CollectWorkdirRequest(name=name)),
            daemon.metrics.ListMetrics(metrics_pb2.ListMetricsRequest(parent=name)),
            drained(daemon.runs.FollowRun(runs_pb2.FollowRunRequest(name=name))),
            drained(daemon.runs.ReadRunFile(runs_pb2.ReadRunFileRequest(name=name))),
            drained(daemon.logs.ReadLog(logs_pb2.ReadLogRequest(name=name))),
            drained(
                daemon.metrics.ReadMetricPoints(metrics_pb2.ReadMetricPointsRequest(parent=name))
            ),
        ]
        for call in calls:
            assert (await refused(call)).reason == "RUN_NOT_FOUND"

    with_daemon(test)
