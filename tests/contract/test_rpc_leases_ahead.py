"""Leases ahead of room, and reports that come together, over the wire."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import Any

from runyardpb.agent.v1 import agent_pb2
from runyardpb.v1 import logs_pb2, runs_pb2
from support.fake_agent import FakeAgent, File, Report, now
from support.served import Served, create_request, drained, served, with_daemon

State = runs_pb2.Run


async def short_runs(daemon: Served, agent: FakeAgent, count: int = 4) -> None:
    """Lets the daemon learn that runs are short here."""
    for _ in range(count):
        await daemon.submit(b"x")
        await agent.finish_at_once((await agent.expect("lease")).ref)


def taker(daemon: Served, **hello: Any) -> FakeAgent:
    return FakeAgent(daemon.channel, **{"slots": 1, "max_leases_ahead": 2, **hello})


async def summary(daemon: Served, run: runs_pb2.Run) -> str:
    request = runs_pb2.ExplainRunRequest(name=run.name)
    return str((await daemon.runs.ExplainRun(request)).summary)


def test_short_runs_are_sent_ahead_and_wait_until_they_begin() -> None:
    async def test(daemon: Served) -> None:
        async with taker(daemon).connected() as agent:
            await short_runs(daemon, agent)
            runs = [await daemon.submit(b"x") for _ in range(4)]
            leases = [await agent.expect("lease") for _ in range(3)]
            waiting = [(await daemon.run(run.name)).state for run in runs]
            said = await summary(daemon, runs[1])
            await agent.finish_at_once(leases[0].ref, leases[1].ref)
            last = await agent.expect("lease")
            ended = [await daemon.run(run.name) for run in runs]

        assert [lease.ref.run for lease in (*leases, last)] == [run.name for run in runs]
        assert [lease.is_ahead for lease in leases] == [False, True, True]
        assert waiting == [State.STATE_STARTING] + 3 * [State.STATE_QUEUED]
        assert said == "waits on local/host1 itself: it starts there as soon as a slot is free"
        assert [run.state for run in ended[:2]] == 2 * [State.STATE_COMPLETED]
        words = [State.State.Name(change.state) for change in ended[1].transitions]
        assert words == [
            "STATE_QUEUED", "STATE_STARTING", "STATE_RUNNING", "STATE_FINALIZING",
            "STATE_COMPLETED",
        ]  # fmt: skip
        assert (ended[1].attempt, ended[1].node) == (1, "local/host1")

    with_daemon(test)


def test_nothing_is_sent_ahead_to_an_agent_that_takes_none_or_runs_long() -> None:
    async def test(daemon: Served) -> None:
        async with taker(daemon, max_leases_ahead=0).connected() as agent:
            await short_runs(daemon, agent)
            runs = [await daemon.submit(b"x") for _ in range(2)]
            first = await agent.expect("lease")
            await agent.finish_at_once(first.ref, duration_s=1.5)
            second = await agent.expect("lease")
            await agent.finish_at_once(second.ref, duration_s=1.5)
        async with taker(daemon).connected() as agent:
            runs += [await daemon.submit(b"x") for _ in range(2)]
            third = await agent.expect("lease")
            await agent.finish_at_once(third.ref)
            fourth = await agent.expect("lease")

        assert [second.is_ahead, fourth.is_ahead] == [False, False]
        assert fourth.ref.run == runs[3].name

    with_daemon(test)


def test_a_lease_that_is_given_back_waits_in_its_old_place_and_is_no_attempt() -> None:
    async def test(daemon: Served) -> None:
        async with taker(daemon).connected() as agent:
            await short_runs(daemon, agent)
            runs = [await daemon.submit(b"x") for _ in range(4)]
            leases = [await agent.expect("lease") for _ in range(3)]
            await agent.told(returned=[lease.ref for lease in leases[1:]])
            explained = await daemon.runs.ExplainRun(runs_pb2.ExplainRunRequest(name=runs[1].name))
            await agent.finish_at_once(leases[0].ref)
            again = await agent.expect("lease")
            await agent.finish_at_once(again.ref)
            ended = await daemon.run(runs[1].name)

        assert explained.queue_position == 1
        assert (again.ref.run, again.ref.attempt, ended.attempt) == (runs[1].name, 1, 1)
        assert again.ref.epoch > leases[1].ref.epoch
        assert ended.state == State.STATE_COMPLETED

    with_daemon(test)


def test_a_lease_that_a_hello_named_can_still_be_given_back() -> None:
    async def test(daemon: Served) -> None:
        agent = taker(daemon)
        async with agent.connected():
            await short_runs(daemon, agent)
            runs = [await daemon.submit(b"x") for _ in range(2)]
            first, behind = [(await agent.expect("lease")).ref for _ in range(2)]
        agent.hello.attempts.extend(
            [
                Report(ref=first, phase=Report.PHASE_RUNNING, start_time=now()),
                Report(ref=behind, phase=Report.PHASE_ACCEPTED),
            ]
        )
        async with agent.connected():
            await agent.told(returned=[behind])
            waiting = await daemon.run(runs[1].name)
            await agent.finish_at_once(first)
            again = (await agent.expect("lease")).ref

        assert (waiting.state, waiting.attempt) == (State.STATE_QUEUED, 0)
        assert (again.run, again.attempt) == (runs[1].name, 1)
        assert again.epoch > behind.epoch

    with_daemon(test)


def test_a_lease_that_is_given_back_may_go_ahead_to_another_node_at_once() -> None:
    async def test(daemon: Served) -> None:
        one, two = taker(daemon), taker(daemon, node_id="node-2", hostname="host2")
        async with one.connected(), two.connected():
            await daemon.submit(b"x")
            busy = (await one.expect("lease")).ref
            await short_runs(daemon, two)
            await one.finish_at_once(busy)
            await short_runs(daemon, one)
            runs = [await daemon.submit(b"x") for _ in range(3)]
            first = [(await agent.expect("lease")).ref for agent in (one, two)]
            ahead = (await one.expect("lease")).ref
            await one.told(returned=[ahead])
            again = (await two.expect("lease")).ref
            await one.finish_at_once(first[0])
            await two.finish_at_once(first[1], again)
            following = await daemon.submit(b"x")
            leased = (await one.expect("lease")).ref
            ended = [await daemon.run(run.name) for run in runs]

        assert ahead.run == again.run == runs[2].name
        assert [run.state for run in ended] == 3 * [State.STATE_COMPLETED]
        assert leased.run == following.name

    with_daemon(test)


def test_the_old_token_of_a_lease_that_was_given_back_is_worth_nothing() -> None:
    async def test(daemon: Served) -> None:
        async with taker(daemon).connected() as agent:
            await short_runs(daemon, agent)
            runs = [await daemon.submit(b"x") for _ in range(2)]
            await agent.expect("lease")
            ahead = (await agent.expect("lease")).ref
            await agent.told(returned=[ahead])
            await agent.finish_at_once(ahead)
            await agent.told(returned=[ahead])

            assert (await daemon.run(runs[1].name)).state == State.STATE_QUEUED

    with_daemon(test)


def test_a_cancel_reaches_a_run_that_was_sent_ahead() -> None:
    async def test(daemon: Served) -> None:
        async with taker(daemon).connected() as agent:
            await short_runs(daemon, agent)
            runs = [await daemon.submit(b"x") for _ in range(3)]
            leases = [await agent.expect("lease") for _ in range(3)]
            for run in runs[1:]:
                await daemon.runs.CancelRun(runs_pb2.CancelRunRequest(name=run.name))
            asked = [(await agent.expect("cancel")).ref for _ in range(2)]
            between = await daemon.run(runs[1].name)
            never = agent_pb2.AttemptEnd(reason=agent_pb2.AttemptEnd.REASON_NEVER_STARTED)
            await agent.told(
                reports=[Report(ref=asked[1], phase=Report.PHASE_ENDED, end=never)],
                returned=[asked[0]],
            )
            ended = [await daemon.run(run.name) for run in runs[1:]]

        assert asked == [lease.ref for lease in leases[1:]]
        assert between.state == State.STATE_CANCEL_REQUESTED
        assert [run.state for run in ended] == 2 * [State.STATE_CANCELED]

    with_daemon(test)


def test_an_agent_that_comes_back_without_it_gives_a_lease_back() -> None:
    async def test(daemon: Served) -> None:
        agent = taker(daemon)
        async with agent.connected():
            await short_runs(daemon, agent)
            runs = [await daemon.submit(b"x") for _ in range(3)]
            first, begun, dropped = [(await agent.expect("lease")).ref for _ in range(3)]
        agent.hello.attempts.extend(
            [
                Report(ref=first, phase=Report.PHASE_RUNNING, start_time=now()),
                Report(ref=begun, phase=Report.PHASE_ACCEPTED),
            ]
        )
        async with agent.connected():
            taken_up = await daemon.run(runs[1].name)
            await agent.finish_at_once(first, begun)
            again = await agent.expect("lease")

        assert (taken_up.state, taken_up.attempt) == (State.STATE_STARTING, 1)
        assert again.ref.run == dropped.run
        assert again.ref.epoch > dropped.epoch

    with_daemon(test)


def test_a_restarted_daemon_gives_no_run_away_that_was_sent_ahead() -> None:
    async def before(home: Path) -> tuple[list[runs_pb2.Run], list[agent_pb2.AttemptRef]]:
        async with served(home) as daemon, taker(daemon).connected() as agent:
            await short_runs(daemon, agent)
            runs = [await daemon.submit(b"x") for _ in range(2)]
            return runs, [(await agent.expect("lease")).ref for _ in runs]

    async def after(home: Path, runs: list[runs_pb2.Run], refs: list[agent_pb2.AttemptRef]) -> None:
        async with served(home) as daemon:
            async with taker(daemon, node_id="node-2").connected() as other:
                third = await daemon.submit(b"x")
                taken = (await other.expect("lease")).ref
                said = await summary(daemon, runs[1])
                agent = taker(daemon)
                agent.hello.attempts.extend(
                    Report(ref=ref, phase=Report.PHASE_RUNNING, start_time=now()) for ref in refs
                )
                async with agent.connected():
                    await agent.finish_at_once(*refs)
                    ended = [await daemon.run(run.name) for run in runs]

        assert taken.run == third.name
        assert said.startswith("was sent ahead to local/host1, which is out of touch")
        assert [run.state for run in ended] == 2 * [State.STATE_COMPLETED]

    async def both() -> None:
        home = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
        try:
            await after(home, *await before(home))
        finally:
            shutil.rmtree(home)

    asyncio.run(both())


def test_the_last_bytes_come_with_the_report_and_are_durable_before_it_counts() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            await agent.append(ref, (File.FILE_ENVIRONMENT, 0, b"made "))
            report = Report(
                ref=ref,
                phase=Report.PHASE_ENDED,
                start_time=now(),
                end=agent_pb2.AttemptEnd(reason=agent_pb2.AttemptEnd.REASON_EXITED),
                lengths=[agent_pb2.FileLength(file=File.FILE_ENVIRONMENT, length_bytes=12)],
                pieces=[
                    agent_pb2.FilePiece(
                        file=File.FILE_ENVIRONMENT, offset_bytes=2, data=b"de by hand"
                    )
                ],
            )
            await agent.told(reports=[report, report])
            ended = await daemon.run(run.name)
            request = logs_pb2.ReadLogRequest(
                name=run.name, source=logs_pb2.LOG_SOURCE_ENVIRONMENT, follow=True
            )
            log = b"".join([m.chunk.data for m in await drained(daemon.logs.ReadLog(request))])

        assert ended.state == State.STATE_COMPLETED
        assert log == b"made by hand"

    with_daemon(test)


def test_one_report_that_waits_for_its_log_holds_up_no_other() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            runs = [await daemon.submit(b"x") for _ in range(2)]
            slow, quick = [(await agent.expect("lease")).ref for _ in runs]
            end = agent_pb2.AttemptEnd(reason=agent_pb2.AttemptEnd.REASON_EXITED)
            lengths = [agent_pb2.FileLength(file=File.FILE_STDOUT, length_bytes=5)]
            number = await agent.say(
                reports=[
                    Report(ref=slow, phase=Report.PHASE_ENDED, end=end, lengths=lengths),
                    Report(ref=quick, phase=Report.PHASE_ENDED, end=end),
                ]
            )
            forgotten = [(await agent.expect("forget")).ref]
            early = agent.acknowledged
            await agent.print(slow, b"bytes")
            forgotten.append((await agent.expect("forget")).ref)
            await agent.until(lambda: agent.acknowledged >= number, "acknowledged")

        assert forgotten == [quick, slow]
        assert early < number

    with_daemon(test)


def test_a_run_of_higher_priority_goes_before_what_was_given_back() -> None:
    async def test(daemon: Served) -> None:
        async with taker(daemon).connected() as agent:
            await short_runs(daemon, agent)
            for _ in range(3):
                await daemon.submit(b"x")
            leases = [await agent.expect("lease") for _ in range(3)]
            spec = runs_pb2.RunSpec(
                command=runs_pb2.Command(argv=[b"x"]),
                priority=5,
            )
            spec.resources.cpu_millicores = 1
            urgent = (await daemon.runs.CreateRun(create_request(spec=spec))).run
            await agent.told(returned=[lease.ref for lease in leases[1:]])
            await agent.finish_at_once(leases[0].ref)
            following = await agent.expect("lease")

        assert following.ref.run == urgent.name

    with_daemon(test)
