"""AgentService over the wire: sessions, fencing, reconciliation."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from runyard_contract.orderindex import RECORD_BYTES, STDOUT, encode_record
from runyardpb.agent.v1 import agent_pb2
from runyardpb.v1 import common_pb2, runs_pb2
from support.fake_agent import FakeAgent, Report, now
from support.served import (
    WORKSPACE,
    Served,
    create_request,
    error_of,
    packed,
    refused,
    with_daemon,
)

State = runs_pb2.Run
End = agent_pb2.AttemptEnd


def states(run: runs_pb2.Run) -> list[str]:
    return [State.State.Name(change.state).removeprefix("STATE_") for change in run.transitions]


def test_a_run_goes_through_its_whole_life() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"echo", b"hi")
            assert (run.state, run.attempt, run.node) == (State.STATE_STARTING, 1, "local/host1")
            lease = await agent.expect("lease")
            assert lease.ref.run == run.name
            assert list(lease.spec.command.argv) == [b"echo", b"hi"]
            await agent.start(lease.ref)
            lengths = await agent.print(lease.ref, b"hello\n", b"oops\n")
            await agent.end(lease.ref, 0, lengths)
            forget = await agent.expect("forget")

        ended = await daemon.run(run.name)
        assert forget.ref == lease.ref
        assert forget.keep_workdir.seconds == 24 * 3600
        assert states(ended) == [
            "QUEUED", "STARTING", "PREPARING", "RUNNING", "FINALIZING", "COMPLETED",
        ]  # fmt: skip
        assert (ended.end.exit_code, ended.end.outcome, ended.attempt) == (0, 0, 1)
        assert ended.node == "local/host1"

    with_daemon(test)


def test_a_freed_slot_goes_to_the_next_run_in_order() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel, slots=1).connected() as agent:
            first = await daemon.submit(b"x")
            second = await daemon.submit(b"x")
            urgent_spec = runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"]), priority=5)
            urgent = (await daemon.runs.CreateRun(create_request(spec=urgent_spec))).run
            order = []
            for _ in range(3):
                lease = await agent.expect("lease")
                order.append(lease.ref.run)
                await agent.end(lease.ref)

        assert order == [first.name, urgent.name, second.name]

    with_daemon(test)


def test_repeated_and_older_reports_change_nothing() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            lease = await agent.expect("lease")
            await agent.start(lease.ref)
            before = await daemon.run(run.name)

            for phase in (Report.PHASE_ACCEPTED, Report.PHASE_PREPARING, Report.PHASE_RUNNING):
                await agent.report(lease.ref, phase)
            await agent.end(lease.ref, 3)
            await agent.expect("forget")
            ended = await daemon.run(run.name)
            await agent.end(lease.ref, 0)

            assert (await daemon.run(run.name)).etag == ended.etag
            assert ended.end.exit_code == 3
            assert states(ended)[: len(states(before))] == states(before)
            await agent.expect("forget")

    with_daemon(test)


@pytest.mark.parametrize("field", ["epoch", "attempt"])
def test_a_report_with_another_token_changes_nothing_and_harms_no_other_run(field: str) -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            other = await daemon.submit(b"x")
            lease = await agent.expect("lease")
            await agent.start(lease.ref)
            before = await daemon.run(run.name)

            forged = agent_pb2.AttemptRef()
            forged.CopyFrom(lease.ref)
            setattr(forged, field, getattr(forged, field) + 1)
            await agent.end(forged, 0)
            unknown = agent_pb2.AttemptRef(
                run=f"{WORKSPACE}/experiments/demo/runs/demo_1_00000000", attempt=1, epoch=1
            )
            await agent.end(unknown, 0)

            assert (await daemon.run(run.name)).etag == before.etag
            assert (await daemon.run(other.name)).state == State.STATE_STARTING

    with_daemon(test)


def test_a_node_speaks_only_for_its_own_attempts() -> None:
    async def test(daemon: Served) -> None:
        owner, thief = FakeAgent(daemon.channel), FakeAgent(daemon.channel, node_id="node-2")
        async with owner.connected():
            run = await daemon.submit(b"x")
            lease = await owner.expect("lease")
            await owner.start(lease.ref)
            async with thief.connected():
                await thief.end(lease.ref, 0)
                superseded = await thief.expect("cancel")

            assert superseded.is_superseded
            assert (await daemon.run(run.name)).state == State.STATE_RUNNING

    with_daemon(test)


def test_three_messages_without_sense_end_the_session_and_nothing_else() -> None:
    async def test(daemon: Served) -> None:
        good, bad = FakeAgent(daemon.channel), FakeAgent(daemon.channel, node_id="node-2")
        async with good.connected(), bad.connected():
            nonsense = agent_pb2.AttemptRef(run="../../etc/passwd", attempt=-1, epoch=-1)
            for _ in range(3):
                await bad.say(reports=[Report(ref=nonsense, phase=Report.PHASE_RUNNING)])

            assert await bad.over() is grpc.StatusCode.INVALID_ARGUMENT
            assert good.ended is None
            await good.say()

    with_daemon(test)


def test_a_session_must_begin_with_hello_of_the_same_build() -> None:
    async def test(daemon: Served) -> None:
        call = daemon.agents.Session()
        await call.write(agent_pb2.SessionRequest(sequence=1))
        with pytest.raises(grpc.aio.AioRpcError) as no_hello:
            await call.read()
        old = daemon.agents.Session()
        await old.write(
            agent_pb2.SessionRequest(
                sequence=1,
                hello=agent_pb2.Hello(node_id="n", compute_target="local", agent_version="0.0"),
            )
        )
        with pytest.raises(grpc.aio.AioRpcError) as other_build:
            await old.read()

        assert error_of(no_hello.value).reason == "SPEC_INVALID"
        assert error_of(other_build.value).reason == "VERSION_MISMATCH"

    with_daemon(test)


def test_a_newer_session_of_an_agent_ends_the_older() -> None:
    async def test(daemon: Served) -> None:
        older, newer = FakeAgent(daemon.channel), FakeAgent(daemon.channel)
        async with older.connected(), newer.connected():
            assert await older.over() is grpc.StatusCode.ABORTED

            await daemon.submit(b"x")
            assert (await newer.expect("lease")).ref.attempt == 1

    with_daemon(test)


def test_an_agent_that_comes_back_is_reconciled_before_it_counts() -> None:
    async def test(daemon: Served) -> None:
        agent = FakeAgent(daemon.channel, slots=4)
        async with agent.connected():
            runs = [await daemon.submit(b"x") for _ in range(3)]
            leases = {}
            for _ in runs:
                lease = await agent.expect("lease")
                leases[lease.ref.run] = lease.ref
            going_on, ended, never_heard = (leases[run.name] for run in runs)
            await agent.start(going_on)
            await agent.start(ended)

        agent.hello.attempts.extend(
            [
                Report(ref=going_on, phase=Report.PHASE_RUNNING, start_time=now()),
                Report(
                    ref=ended,
                    phase=Report.PHASE_ENDED,
                    start_time=now(),
                    end=End(reason=End.REASON_EXITED, exit_code=7),
                ),
            ]
        )
        async with agent.connected():
            again = await agent.expect("lease")
            forget = await agent.expect("forget")

            assert again.ref == never_heard
            assert forget.ref == ended
            assert (await daemon.run(runs[0].name)).state == State.STATE_RUNNING
            assert (await daemon.run(runs[1].name)).end.exit_code == 7

    with_daemon(test)


def test_a_restarted_node_ends_what_it_ran() -> None:
    async def test(daemon: Served) -> None:
        agent = FakeAgent(daemon.channel)
        async with agent.connected():
            run = await daemon.submit(b"x")
            await agent.start((await agent.expect("lease")).ref)
        agent.hello.boot_id = "boot-2"
        async with agent.connected():
            ended = await daemon.run(run.name)
            await daemon.submit(b"x")
            await daemon.submit(b"x")
            assert await agent.expect("lease")
            assert await agent.expect("lease")

        assert ended.state == State.STATE_FAILED
        assert ended.end.end_class == runs_pb2.End.CLASS_NODE_RESTARTED

    with_daemon(test)


def test_a_node_that_is_silent_is_shown_and_found_again() -> None:
    async def test(daemon: Served) -> None:
        agent = FakeAgent(daemon.channel)
        async with agent.connected():
            run = await daemon.submit(b"x")
            lease = await agent.expect("lease")
            await agent.start(lease.ref)
        silent = await daemon.until(run.name, lambda run: run.state == State.STATE_NOT_RESPONDING)
        agent.hello.attempts.append(
            Report(ref=lease.ref, phase=Report.PHASE_RUNNING, start_time=now())
        )
        async with agent.connected():
            back = await daemon.run(run.name)

        assert "out of touch" in silent.transitions[-1].cause
        assert back.state == State.STATE_RUNNING

    with_daemon(test, out_of_touch_s=0.2)


def test_files_of_an_attempt_are_registered_by_content_and_fenced() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            blob = packed(b"model")
            file = runs_pb2.RunFile(
                path="outputs/model.pkl",
                content=common_pb2.FileContent(digest=blob.digest, size_bytes=5),
            )
            request = agent_pb2.RegisterFilesRequest(ref=ref, files=[file])

            lacking = await refused(daemon.agents.RegisterFiles(request))
            await daemon.upload(b"model")
            await daemon.agents.RegisterFiles(request)
            await daemon.agents.RegisterFiles(request)
            request.ref.epoch += 1
            fenced = await refused(daemon.agents.RegisterFiles(request))
            request.ref.epoch -= 1
            request.files[0].path = "../escape"
            unsafe = await refused(daemon.agents.RegisterFiles(request))

        listed = await daemon.runs.ListRunFiles(runs_pb2.ListRunFilesRequest(parent=run.name))
        assert [known.path for known in listed.files] == ["outputs/model.pkl"]
        assert lacking.reason == "BLOB_MISSING"
        assert fenced.reason == "LEASE_SUPERSEDED"
        assert unsafe.reason == "PATH_UNSAFE"

    with_daemon(test)


def test_appends_are_acknowledged_trimmed_and_fenced() -> None:
    async def test(daemon: Served) -> None:
        File = agent_pb2.AppendFilesRequest
        async with FakeAgent(daemon.channel).connected() as agent:
            await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            answers = await agent.append(
                ref,
                (File.FILE_STDOUT, 0, b"hello "),
                (File.FILE_STDOUT, 3, b"lo world"),
                (File.FILE_STDOUT, 100, b"gap"),
            )
            asked = await agent.append(ref, (File.FILE_STDOUT, 0, b""))
            ref.epoch += 1
            fenced = await agent.append(ref, (File.FILE_STDOUT, 11, b"more"))

        assert answers[-1].committed_bytes == 11
        assert asked[-1].committed_bytes == 11
        assert [answer.is_superseded for answer in fenced] == [True]

    with_daemon(test)


def test_pieces_of_one_message_are_written_together_and_answered_for_each_file() -> None:
    async def test(daemon: Served) -> None:
        File = agent_pb2.AppendFilesRequest
        async with FakeAgent(daemon.channel).connected() as agent:
            await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            answers = await agent.append_at_once(
                ref,
                (File.FILE_STDOUT, 0, b"hello "),
                (File.FILE_STDOUT, 6, b"world"),
                (File.FILE_ORDER, 0, encode_record(STDOUT, 0, 11)),
            )

        committed = {answer.file: answer.committed_bytes for answer in answers}
        assert committed == {File.FILE_STDOUT: 11, File.FILE_ORDER: RECORD_BYTES}

    with_daemon(test)


def test_a_message_of_pieces_that_is_too_large_is_refused() -> None:
    async def test(daemon: Served) -> None:
        File = agent_pb2.AppendFilesRequest
        async with FakeAgent(daemon.channel).connected() as agent:
            await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            large = await refused(
                agent.append_at_once(ref, (File.FILE_STDOUT, 0, bytes((2 << 20) + 1)))
            )
            many = await refused(agent.append_at_once(ref, *[(File.FILE_STDOUT, 0, b"")] * 65))

        assert large.reason == many.reason == "MESSAGE_TOO_LARGE"

    with_daemon(test)


def test_tags_and_properties_of_a_job_are_applied_once_and_in_order() -> None:
    async def test(daemon: Served) -> None:
        File = agent_pb2.AppendFilesRequest
        lines = (
            b'{"t":1,"k":"tag","n":"a","v":"1"}\n'
            b'{"t":2,"k":"property","n":"p","v":"first"}\n'
            b'{"t":3,"k":"tag","n":"a","v":"2"}\nnonsense\n'
            b'{"t":4,"k":"property","n":"p","v":"second"}\n'
        )
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            await agent.append(ref, (File.FILE_TAGS, 0, lines[:40]))
            await agent.append(ref, (File.FILE_TAGS, 20, lines[20:]))
            await agent.append(ref, (File.FILE_TAGS, 0, lines))
            tagged = await daemon.run(run.name)

        assert dict(tagged.tags) == {"a": "2"}
        assert dict(tagged.properties) == {"p": "first"}

    with_daemon(test)


def test_the_working_folder_is_fetched_from_the_node_that_keeps_it() -> None:
    async def test(daemon: Served) -> None:
        agent = FakeAgent(daemon.channel)
        async with agent.connected():
            run = await daemon.submit(b"x")
            request = runs_pb2.CollectWorkdirRequest(name=run.name)
            ref = (await agent.expect("lease")).ref
            early = await refused(daemon.runs.CollectWorkdir(request))
            await agent.end(ref)

            call = daemon.runs.CollectWorkdir(request)
            asked = await agent.expect("collect_workdir")
            await agent.say(
                workdir_collected=agent_pb2.WorkdirCollected(
                    request_id=asked.request_id, file_count=3
                )
            )
            collected = await call
            call = daemon.runs.CollectWorkdir(request)
            asked = await agent.expect("collect_workdir")
            await agent.say(
                workdir_collected=agent_pb2.WorkdirCollected(
                    request_id=asked.request_id, is_gone=True
                )
            )
            gone = await refused(call)
            silent = daemon.runs.CollectWorkdir(request)
            await agent.expect("collect_workdir")
        lost = await refused(silent)
        away = await refused(daemon.runs.CollectWorkdir(request))

        assert early.reason == "STATE_NOT_ALLOWED"
        assert collected.file_count == 3
        assert gone.reason == "FILE_NOT_FOUND"
        assert [lost.code, away.code] == ["UNAVAILABLE", "UNAVAILABLE"]

    with_daemon(test)


def test_news_of_another_run_may_come_with_the_answer_for_a_working_folder() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            ended, other = [await daemon.submit(b"x") for _ in range(2)]
            await agent.end((await agent.expect("lease")).ref)
            ref = (await agent.expect("lease")).ref
            call = daemon.runs.CollectWorkdir(runs_pb2.CollectWorkdirRequest(name=ended.name))
            asked = await agent.expect("collect_workdir")
            await agent.told(
                reports=[Report(ref=ref, phase=Report.PHASE_RUNNING)],
                workdir_collected=agent_pb2.WorkdirCollected(
                    request_id=asked.request_id, file_count=3
                ),
            )
            async with asyncio.timeout(20):
                collected = await call
            running = await daemon.run(other.name)

        assert collected.file_count == 3
        assert running.state == State.STATE_RUNNING

    with_daemon(test)
