"""RunService over the wire: submitting, reading, changing, cancelling."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from runyard_contract.errors import SpecInvalid
from runyardpb.agent.v1 import agent_pb2
from runyardpb.v1 import common_pb2, environments_pb2, runs_pb2
from support.fake_agent import FakeAgent
from support.served import (
    WORKSPACE,
    Served,
    create_request,
    drained,
    reason_of,
    refused,
    with_daemon,
)

State = runs_pb2.Run
ALL = f"{WORKSPACE}/experiments/-"


def is_final(run: runs_pb2.Run) -> bool:
    return run.HasField("end_time")


def script_spec(path: str, snapshot: str) -> runs_pb2.RunSpec:
    return runs_pb2.RunSpec(script=runs_pb2.Script(path=path), snapshot=snapshot)


def variable(name: bytes, value: bytes) -> common_pb2.EnvironmentVariable:
    return common_pb2.EnvironmentVariable(name=name, value=value)


def test_create_run_answers_with_the_durable_run_and_waits_without_a_node() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"true", tags={"a": "1"}, properties={"p": "2"})

        assert run.state == State.STATE_QUEUED
        assert run.name.startswith(f"{WORKSPACE}/experiments/demo/runs/demo_")
        assert (dict(run.tags), dict(run.properties)) == ({"a": "1"}, {"p": "2"})
        assert run.number == 1
        got = await daemon.run(run.name)
        assert [change.cause for change in got.transitions] == ["submitted"]

    with_daemon(test)


def test_a_repeated_request_id_gets_the_first_answer_and_makes_one_run() -> None:
    async def test(daemon: Served) -> None:
        request = create_request(b"true")

        first, second = await asyncio.gather(
            daemon.runs.CreateRun(request), daemon.runs.CreateRun(request)
        )
        later = await daemon.runs.CreateRun(request)

        assert first == second == later
        listed = await daemon.runs.ListRuns(runs_pb2.ListRunsRequest(parent=ALL))
        assert [run.name for run in listed.runs] == [first.run.name]

    with_daemon(test)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (runs_pb2.RunSpec(), "spec.command.argv"),
        (runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"a\0b"])), "spec.command.argv[0]"),
        (runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"] * 10_001)), "spec.command.argv"),
        (runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"]), priority=1001), "spec.priority"),
        (runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"]), kind=77), "spec.kind"),
        (
            runs_pb2.RunSpec(
                command=runs_pb2.Command(argv=[b"x"]),
                resources=common_pb2.Resources(cpu_millicores=-1),
            ),
            "spec.resources.cpu_millicores",
        ),
        (
            runs_pb2.RunSpec(
                command=runs_pb2.Command(argv=[b"x"]),
                environment_variables=[variable(b"A=B", b"")],
            ),
            "spec.environment_variables[0].name",
        ),
        (
            runs_pb2.RunSpec(
                command=runs_pb2.Command(argv=[b"x"]),
                environment_variables=[variable(b"A", b"\0")],
            ),
            "spec.environment_variables[0].value",
        ),
        (
            runs_pb2.RunSpec(
                command=runs_pb2.Command(argv=[b"x"]),
                environment=environments_pb2.EnvironmentSpec(
                    pip=environments_pb2.PipPackages(
                        requirements=["a"], index_options=["--index-url=https://me:pw@host/"]
                    )
                ),
            ),
            "spec.environment.pip.index_options[0]",
        ),
        (
            runs_pb2.RunSpec(kind=runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD),
            "spec.environment",
        ),
        (script_spec("../train.py", ""), "spec.script.path"),
        (
            runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"]), snapshot="nonsense"),
            "spec.snapshot",
        ),
    ],
)
def test_create_run_names_the_field_at_fault(spec: runs_pb2.RunSpec, field: str) -> None:
    async def test(daemon: Served) -> None:
        error = await refused(daemon.runs.CreateRun(create_request(spec=spec)))

        assert isinstance(error, SpecInvalid)
        assert field in [violation.field for violation in error.violations]

    with_daemon(test)


def test_create_run_refuses_durations_of_zero_and_below() -> None:
    async def test(daemon: Served) -> None:
        for seconds in (0, -5):
            spec = runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"]))
            spec.max_duration.FromSeconds(seconds)
            error = await refused(daemon.runs.CreateRun(create_request(spec=spec)))
            assert isinstance(error, SpecInvalid)
            assert [v.field for v in error.violations] == ["spec.max_duration"]

    with_daemon(test)


def test_create_run_names_a_bad_tag_and_too_many_of_them() -> None:
    async def test(daemon: Served) -> None:
        bad = await refused(daemon.submit(b"x", tags={"a\nb": "1"}))
        many = await refused(daemon.submit(b"x", tags={f"k{n}": "" for n in range(65)}))
        name = await refused(daemon.submit(b"x", display_name="a\u202eb\n"))

        assert [v.field for v in bad.violations] == [r"tags[a\nb]"]
        assert [v.field for v in many.violations] == ["tags"]
        assert [v.field for v in name.violations] == ["display_name"]

    with_daemon(test)


def test_create_run_wants_a_declared_snapshot_that_holds_the_script() -> None:
    async def test(daemon: Served) -> None:
        snapshot = await daemon.snapshot({"src/train.py": b"1", "read.me": b""})

        undeclared = await refused(
            daemon.runs.CreateRun(
                create_request(spec=script_spec("a.py", f"{WORKSPACE}/snapshots/{'0' * 64}"))
            )
        )
        missing = await refused(
            daemon.runs.CreateRun(create_request(spec=script_spec("train.py", snapshot)))
        )
        taken = await daemon.runs.CreateRun(
            create_request(spec=script_spec("src/train.py", snapshot))
        )

        assert undeclared.reason == "BLOB_MISSING"
        assert missing.reason == "SPEC_INVALID"
        assert missing.metadata["nearest"] == "src/train.py"
        assert taken.run.state == State.STATE_QUEUED

    with_daemon(test)


def test_create_run_suggests_the_nearest_target_and_environment() -> None:
    async def test(daemon: Served) -> None:
        spec = runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"]))
        await daemon.environments.CreateEnvironment(
            environments_pb2.CreateEnvironmentRequest(
                parent=WORKSPACE,
                environment_id="iris-env",
                spec=environments_pb2.EnvironmentSpec(
                    pip=environments_pb2.PipPackages(requirements=["numpy"])
                ),
            )
        )

        spec.compute_target = "locale"
        target = await refused(daemon.runs.CreateRun(create_request(spec=spec)))
        spec.compute_target = "LOCAL"
        spec.environment_name = "iris-evn"
        environment = await refused(daemon.runs.CreateRun(create_request(spec=spec)))
        spec.environment_name = f"{WORKSPACE}/environments/iris-env/versions/1"
        taken = await daemon.runs.CreateRun(create_request(spec=spec))

        assert (target.reason, target.metadata["nearest"]) == ("COMPUTE_NOT_FOUND", "local")
        assert environment.reason == "ENVIRONMENT_NOT_FOUND"
        assert environment.metadata["nearest"] == "iris-env"
        assert taken.run.name

    with_daemon(test)


def test_an_experiment_keeps_the_case_of_its_first_run() -> None:
    async def test(daemon: Served) -> None:
        first = await daemon.submit(b"x", experiment="Iris")
        second = await daemon.submit(b"x", experiment="iris")

        assert "/experiments/Iris/" in second.name
        assert [first.number, second.number] == [1, 2]

    with_daemon(test)


def test_get_run_finds_by_id_alone_and_suggests_the_nearest() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"x")
        run_id = run.name.rsplit("/", 1)[1]

        found = await daemon.run(f"{ALL}/runs/{run_id}")
        unknown = await refused(daemon.run(f"{ALL}/runs/{run_id[:-1]}"))
        elsewhere = await refused(daemon.run(f"{WORKSPACE}/experiments/other/runs/{run_id}"))
        malformed = await refused(daemon.run(run_id))

        assert found.name == run.name
        assert (unknown.reason, unknown.metadata["nearest"]) == ("RUN_NOT_FOUND", run_id)
        assert elsewhere.reason == "RUN_NOT_FOUND"
        assert malformed.reason == "NAME_INVALID"

    with_daemon(test)


def test_list_runs_walks_all_pages_newest_first_and_filters() -> None:
    async def test(daemon: Served) -> None:
        names = [(await daemon.submit(b"x", tags={"n": str(n)})).name for n in range(5)]
        other = await daemon.submit(b"x", experiment="other", tags={"n": "1"})

        walked: list[str] = []
        request = runs_pb2.ListRunsRequest(parent=f"{WORKSPACE}/experiments/demo", page_size=2)
        while True:
            page = await daemon.runs.ListRuns(request)
            walked += [run.name for run in page.runs]
            assert len(page.runs) <= 2
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
            newer = await daemon.submit(b"x")

        tagged = await daemon.runs.ListRuns(runs_pb2.ListRunsRequest(parent=ALL, tags={"n": "1"}))
        assert walked == names[::-1]
        assert newer.name not in walked
        assert [run.name for run in tagged.runs] == [other.name, names[1]]

    with_daemon(test)


def test_a_listing_can_end_with_a_run() -> None:
    async def test(daemon: Served) -> None:
        runs = [await daemon.submit(b"x") for _ in range(4)]
        other = await daemon.submit(b"x", experiment="other")

        request = runs_pb2.ListRunsRequest(parent=ALL, from_run=runs[2].name)
        listed = await daemon.runs.ListRuns(request)
        request.parent = f"{WORKSPACE}/experiments/demo"
        narrowed = await daemon.runs.ListRuns(request)
        request.from_run = runs[2].name[:-8] + "00000000"
        error = await refused(daemon.runs.ListRuns(request))

        assert [run.name for run in listed.runs] == [other.name, runs[3].name, runs[2].name]
        assert [run.name for run in narrowed.runs] == [runs[3].name, runs[2].name]
        assert error.reason == "RUN_NOT_FOUND"

    with_daemon(test)


def test_a_page_token_of_another_listing_or_a_changed_one_is_refused() -> None:
    async def test(daemon: Served) -> None:
        for _ in range(3):
            await daemon.submit(b"x")
        request = runs_pb2.ListRunsRequest(parent=ALL, page_size=1)
        token = (await daemon.runs.ListRuns(request)).next_page_token

        other = runs_pb2.ListRunsRequest(parent=ALL, page_token=token, compute_target="local")
        flipped = token[:30] + ("A" if token[30] != "A" else "B") + token[31:]
        edited = runs_pb2.ListRunsRequest(parent=ALL, page_token=flipped)
        garbage = runs_pb2.ListRunsRequest(parent=ALL, page_token="no token")  # noqa: S106
        negative = runs_pb2.ListRunsRequest(parent=ALL, page_size=-1)
        resized = runs_pb2.ListRunsRequest(parent=ALL, page_token=token, page_size=2)

        for wrong in (other, edited, garbage):
            error = await refused(daemon.runs.ListRuns(wrong))
            assert error.reason == "PAGE_TOKEN_MISMATCH"
        assert (await refused(daemon.runs.ListRuns(negative))).reason == "SPEC_INVALID"
        assert len((await daemon.runs.ListRuns(resized)).runs) == 2

    with_daemon(test)


def update(run: runs_pb2.Run, *paths: str, **fields: Any) -> runs_pb2.UpdateRunRequest:
    request = runs_pb2.UpdateRunRequest(run=runs_pb2.Run(name=run.name, **fields))
    request.update_mask.paths.extend(paths)
    return request


def test_update_run_sets_and_removes_labels_under_its_etag() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"x", tags={"a": "1", "b": "2"}, properties={"p": "1"})

        changed = (
            await daemon.runs.UpdateRun(
                update(run, "tags.c", "tags.a", "display_name", tags={"c": "3"}, display_name="Z")
            )
        ).run
        stale = await refused(
            daemon.runs.UpdateRun(update(run, "tags.x", tags={"x": "1"}, etag=run.etag))
        )
        fixed = await refused(
            daemon.runs.UpdateRun(update(run, "properties", properties={"p": "other"}))
        )
        unknown = await refused(daemon.runs.UpdateRun(update(run, "state")))

        assert dict(changed.tags) == {"b": "2", "c": "3"}
        assert changed.display_name == "Z"
        assert stale.reason == "ETAG_MISMATCH"
        assert [v.field for v in fixed.violations] == ["properties[p]"]
        assert unknown.reason == "SPEC_INVALID"

    with_daemon(test)


def test_cancel_ends_a_waiting_run_at_once_and_is_idempotent() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"x")
        request = runs_pb2.CancelRunRequest(name=run.name, reason="no longer wanted")

        first = (await daemon.runs.CancelRun(request)).run
        second = (await daemon.runs.CancelRun(request)).run

        assert first.state == State.STATE_CANCELED
        assert first.end.end_class == runs_pb2.End.CLASS_CANCELED
        assert first.end.outcome == 125
        assert second.etag == first.etag
        messages = await drained(daemon.runs.FollowRun(runs_pb2.FollowRunRequest(name=run.name)))
        assert [m.run.state for m in messages] == [State.STATE_CANCELED]

    with_daemon(test)


def test_cancel_of_a_held_run_goes_through_its_agent() -> None:
    async def test(daemon: Served) -> None:
        agent = FakeAgent(daemon.channel)
        async with agent.connected():
            spec = runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"]))
            spec.cancel_grace.FromSeconds(7)
            run = (await daemon.runs.CreateRun(create_request(spec=spec))).run
            lease = await agent.expect("lease")
            await agent.start(lease.ref)

            asked = (await daemon.runs.CancelRun(runs_pb2.CancelRunRequest(name=run.name))).run
            cancel = await agent.expect("cancel")
            await agent.end(
                lease.ref,
                end=agent_pb2.AttemptEnd(
                    reason=agent_pb2.AttemptEnd.REASON_SIGNALED,
                    signal=15,
                    stopped_by=agent_pb2.AttemptEnd.STOPPED_BY_CANCEL,
                ),
            )

            assert asked.state == State.STATE_CANCEL_REQUESTED
            assert cancel.ref == lease.ref
            assert cancel.grace.seconds == 7
            ended = await daemon.run(run.name)
            assert ended.state == State.STATE_CANCELED
            assert "canceled by" in ended.end.message

    with_daemon(test)


def test_explain_names_the_constraint_and_the_place_in_the_queue() -> None:
    async def test(daemon: Served) -> None:
        lonely = await daemon.submit(b"x")
        explained = await daemon.runs.ExplainRun(runs_pb2.ExplainRunRequest(name=lonely.name))
        assert explained.queue_position == 1
        assert explained.summary

        async with FakeAgent(daemon.channel, slots=1).connected() as agent:
            await agent.expect("lease")
            second = await daemon.submit(b"x")
            third = await daemon.submit(b"x")
            waits = await daemon.runs.ExplainRun(runs_pb2.ExplainRunRequest(name=third.name))
            runs = await daemon.runs.ExplainRun(runs_pb2.ExplainRunRequest(name=lonely.name))

        assert waits.queue_position == 2
        assert list(waits.ahead) == [second.name.rsplit("/", 1)[1]]
        assert waits.verdicts[0].node == "local/host1"
        assert "slot" in waits.verdicts[0].reasons[0]
        assert runs.queue_position == 0

    with_daemon(test)


def test_explain_gives_the_change_that_helps_and_what_earlier_runs_let_expect() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel, slots=1).connected() as agent:
            first = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            await agent.start(ref)
            waiting = await daemon.submit(b"x")
            request = runs_pb2.ExplainRunRequest(name=waiting.name)
            unknown = await daemon.runs.ExplainRun(request)
            await agent.end(ref)
            await daemon.until(first.name, is_final)
            await agent.start((await agent.expect("lease")).ref)
            behind = await daemon.submit(b"x")
            known = await daemon.runs.ExplainRun(runs_pb2.ExplainRunRequest(name=behind.name))
            active = await daemon.runs.ExplainRun(request)

        (change,) = unknown.changes
        assert change.is_at_once
        assert list(change.cancel) == [first.name.rsplit("/", 1)[1]]
        assert change.text in unknown.details
        assert "no run of demo has ended" in unknown.estimate.text
        assert not unknown.estimate.sample_count
        assert known.estimate.sample_count == 1
        assert known.estimate.text in known.details
        assert known.estimate.HasField("earliest_start_time")
        assert active.estimate.HasField("earliest_end_time")

    with_daemon(test)


def test_run_shows_what_it_used_once_it_has_ended() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            await agent.start(ref)
            before = await daemon.run(run.name)
            lengths = await agent.print(ref, out=b"out!\n", err=b"e\n")
            end = agent_pb2.AttemptEnd(
                reason=agent_pb2.AttemptEnd.REASON_EXITED, peak_memory_bytes=5 << 20
            )
            end.cpu_time.FromMilliseconds(1500)
            end.duration.FromMilliseconds(2500)
            left = runs_pb2.WorkdirSummary(file_count=3, size_bytes=77)
            await agent.end(ref, end=end, lengths=lengths, workdir=left)
            ended = await daemon.until(run.name, is_final)
            (listed,) = (await daemon.runs.ListRuns(runs_pb2.ListRunsRequest(parent=ALL))).runs

        assert not before.HasField("usage")
        assert ended.usage.cpu_time.ToMilliseconds() == 1500
        assert ended.usage.wall_time.ToMilliseconds() == 2500
        assert ended.usage.peak_memory_bytes == 5 << 20
        assert ended.usage.log_bytes == len(b"out!\ne\n")
        assert ended.usage.workdir_bytes == 77
        assert ended.usage.HasField("output_bytes")
        assert listed.usage.cpu_time.ToMilliseconds() == 1500
        assert not listed.usage.HasField("output_bytes")

    with_daemon(test)


def test_requests_are_refused_while_the_daemon_stops() -> None:
    async def test(daemon: Served) -> None:
        daemon.app.gate.is_draining = True

        error = await refused(daemon.submit(b"x", request_id=str(uuid.uuid4())))

        assert error.reason == "DRAINING"
        assert error.retryable

    with_daemon(test)


def test_another_build_is_refused_by_all_services_but_admin() -> None:
    async def test(daemon: Served) -> None:
        from runyardpb.v1 import admin_pb2

        old = (("runyard-version", "9.0.0"),)
        error = await refused(
            daemon.runs.ListRuns(runs_pb2.ListRunsRequest(parent=ALL), metadata=old)
        )
        info = await daemon.admin.GetServerInfo(admin_pb2.GetServerInfoRequest(), metadata=old)

        assert reason_of(error) == "VERSION_MISMATCH"
        assert error.metadata["client"] == "9.0.0"
        assert info.pid

    with_daemon(test)


def batch(*specs: runs_pb2.RunSpec, **fields: Any) -> runs_pb2.BatchCreateRunsRequest:
    """A batch of submits with a fresh request id."""
    fields.setdefault("request_id", str(uuid.uuid4()))
    return runs_pb2.BatchCreateRunsRequest(
        parent=f"{WORKSPACE}/experiments/demo",
        requests=[runs_pb2.CreateRunRequest(spec=spec) for spec in specs],
        **fields,
    )


def command(*argv: bytes, **fields: Any) -> runs_pb2.RunSpec:
    return runs_pb2.RunSpec(command=runs_pb2.Command(argv=argv), **fields)


def test_a_batch_is_submitted_in_order_and_its_first_runs_start() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel, slots=2).connected() as agent:
            specs = [command(b"x", str(n).encode()) for n in range(5)]
            made = (await daemon.runs.BatchCreateRuns(batch(*specs))).runs
            leases = [await agent.expect("lease") for _ in range(2)]

        assert [run.number for run in made] == [1, 2, 3, 4, 5]
        assert [list(run.spec.command.argv)[1] for run in made] == [b"0", b"1", b"2", b"3", b"4"]
        assert [lease.ref.run for lease in leases] == [run.name for run in made[:2]]
        assert [run.state for run in made] == 2 * [State.STATE_STARTING] + 3 * [State.STATE_QUEUED]

    with_daemon(test)


def test_a_batch_with_one_fault_submits_nothing_and_names_the_place() -> None:
    async def test(daemon: Served) -> None:
        faulty = command(b"x", priority=5000)
        refusal = await refused(daemon.runs.BatchCreateRuns(batch(command(b"x"), faulty)))
        too_many = await refused(daemon.runs.BatchCreateRuns(batch(*[command(b"x")] * 1001)))
        none = await refused(daemon.runs.BatchCreateRuns(batch()))
        own_id = batch(command(b"x"))
        own_id.requests[0].request_id = str(uuid.uuid4())
        two_ids = await refused(daemon.runs.BatchCreateRuns(own_id))
        elsewhere = batch(command(b"x"))
        elsewhere.requests[0].parent = f"{WORKSPACE}/experiments/other"
        two_parents = await refused(daemon.runs.BatchCreateRuns(elsewhere))
        listed = await daemon.runs.ListRuns(runs_pb2.ListRunsRequest(parent=ALL))

        assert isinstance(refusal, SpecInvalid)
        assert [fault.field for fault in refusal.violations] == ["requests[1].spec.priority"]
        reasons = {reason_of(error) for error in (too_many, none, two_ids, two_parents)}
        assert reasons == {"SPEC_INVALID"}
        assert not listed.runs

    with_daemon(test)


def test_a_repeated_batch_gets_the_first_answer_and_makes_no_second_runs() -> None:
    async def test(daemon: Served) -> None:
        request = batch(command(b"x"), command(b"y"))

        first = await daemon.runs.BatchCreateRuns(request)
        again = await daemon.runs.BatchCreateRuns(request)
        request.requests.add(spec=command(b"z"))
        other = await refused(daemon.runs.BatchCreateRuns(request))
        listed = await daemon.runs.ListRuns(runs_pb2.ListRunsRequest(parent=ALL))

        assert first == again
        assert other.reason == "REQUEST_ID_REUSED"
        assert len(listed.runs) == 2

    with_daemon(test)


def test_who_waits_for_ends_only_hears_of_nothing_else() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            watch = daemon.runs.WatchRuns(
                runs_pb2.WatchRunsRequest(parent=ALL, cursor="0", is_ended_only=True)
            )
            runs = (await daemon.runs.BatchCreateRuns(batch(command(b"x"), command(b"y")))).runs
            refs = [(await agent.expect("lease")).ref for _ in runs]
            await agent.start(refs[0])
            await agent.end(refs[1])
            heard = await watch.read()
            watch.cancel()

        assert (heard.run.name, heard.run.state) == (runs[1].name, State.STATE_COMPLETED)

    with_daemon(test)


def test_who_waits_for_one_run_need_not_take_its_log() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            await agent.start(ref)
            await agent.end(ref, 0, await agent.print(ref, b"much\n"))
        request = runs_pb2.FollowRunRequest(name=run.name, omit_log=True)
        heard = await drained(daemon.runs.FollowRun(request))

        assert not [message for message in heard if message.HasField("log")]
        assert heard[-1].run.state == State.STATE_COMPLETED

    with_daemon(test)


def test_limits_over_what_any_node_has_are_refused_while_one_is_there() -> None:
    async def test(daemon: Served) -> None:
        over = command(b"x", limits=runs_pb2.Limits(memory_bytes=9 << 30, cpu_millicores=4000))
        waiting = (await daemon.runs.CreateRun(create_request(spec=over))).run
        async with FakeAgent(daemon.channel).connected():
            refusal = await refused(daemon.runs.BatchCreateRuns(batch(command(b"x"), over)))
            listed = await daemon.runs.ListRuns(runs_pb2.ListRunsRequest(parent=ALL))

        assert waiting.state == State.STATE_QUEUED
        assert isinstance(refusal, SpecInvalid)
        (fault,) = refusal.violations
        assert fault.field == "requests[1].spec.limits.memory_bytes"
        assert "the largest node, local/host1, has 8 GiB of memory" in fault.description
        assert [run.name for run in listed.runs] == [waiting.name]

    with_daemon(test)
