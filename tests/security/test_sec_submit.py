"""Attacks with what is submitted: too much, what can't be, and text that forges or misleads."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from runyard_contract.errors import SpecInvalid
from runyardpb.v1 import common_pb2, runs_pb2
from support.fake_agent import FakeAgent
from support.served import WORKSPACE, Served, create_request, reason_of, refused, with_daemon

FORGED = '\n{"level":"error","event":"forged"}\r\x1b[2J\x1b]0;title\x07\u2028{"event":"forged"}'
ROWS = "runs", "experiments", "requests"


def spec(**fields: Any) -> runs_pb2.RunSpec:
    return runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"true"]), **fields)


def resources(**amounts: int) -> runs_pb2.RunSpec:
    return spec(resources=common_pb2.Resources(**amounts))


def variables(*names: bytes) -> runs_pb2.RunSpec:
    return spec(
        environment_variables=[common_pb2.EnvironmentVariable(name=n, value=b"v") for n in names]
    )


def lasting(field: str, seconds: int) -> runs_pb2.RunSpec:
    made = spec()
    getattr(made, field).seconds = seconds
    return made


ABUSES: dict[str, tuple[dict[str, Any], str]] = {
    "3 MiB of definition": ({"spec": spec(run_definition_json="x" * (3 << 20))}, "spec"),
    "10^4 variables": (
        {"spec": variables(*(b"V%d" % n for n in range(10_000)))},
        "spec.environment_variables",
    ),
    "= in a variable's name": (
        {"spec": variables(b"A=B")},
        "spec.environment_variables[0].name",
    ),
    "NUL in a variable's name": (
        {"spec": variables(b"A\0B")},
        "spec.environment_variables[0].name",
    ),
    "-1 CPU": ({"spec": resources(cpu_millicores=-1)}, "spec.resources.cpu_millicores"),
    "10^9 GPUs": ({"spec": resources(gpu_count=10**9)}, "spec.resources.gpu_count"),
    "2^62 bytes": ({"spec": resources(memory_bytes=1 << 62)}, "spec.resources.memory_bytes"),
    "no time at all": ({"spec": lasting("max_duration", 0)}, "spec.max_duration"),
    "priority 2^31 - 1": ({"spec": spec(priority=(1 << 31) - 1)}, "spec.priority"),
    "10^3 tags": ({"tags": {f"t{n}": "v" for n in range(1000)}}, "tags"),
    "tag key with a line break": ({"tags": {"a\nb": "v"}}, "tags[a\\nb]"),
    "name of 10 KB": ({"display_name": "n" * 10_240}, "display_name"),
    "name that turns text around": ({"display_name": "gpj.\u202eexe"}, "display_name"),
    "name with a line break": ({"display_name": FORGED}, "display_name"),
    "name with NUL": ({"display_name": "a\0b"}, "display_name"),
}


@pytest.mark.parametrize("name", ABUSES)
def test_sec_35_a_submit_out_of_bounds_is_refused_by_field_and_leaves_nothing(name: str) -> None:
    async def test(daemon: Served) -> None:
        fields, field = ABUSES[name]

        error = await refused(daemon.runs.CreateRun(create_request(**fields)))

        assert isinstance(error, SpecInvalid)
        assert field in [violation.field for violation in error.violations]
        assert len(error.message) < 500
        for table in ROWS:
            statement = f"SELECT count(*) FROM {table}"  # noqa: S608
            assert daemon.store.peek(lambda conn, s=statement: conn.execute(s).fetchone()) == (0,)

    with_daemon(test)


def test_sec_35_a_specification_of_10_mb_is_refused() -> None:
    async def test(daemon: Served) -> None:
        huge = spec(run_definition_json="x" * (10 << 20))

        error = await refused(daemon.runs.CreateRun(create_request(spec=huge)))

        assert reason_of(error) == "MESSAGE_TOO_LARGE"

    with_daemon(test)


@pytest.mark.parametrize("name", ["x" * 10_240, "a\u202eb", "😀", "a\nb", "../x", ""])
def test_sec_35_an_experiment_that_is_no_name_is_refused(name: str) -> None:
    async def test(daemon: Served) -> None:
        error = await refused(daemon.submit(b"true", experiment=name))

        assert reason_of(error) == "NAME_INVALID"
        assert len(error.message) < 500

    with_daemon(test)


def test_sec_35_a_name_with_emoji_is_kept_as_it_is() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"true", display_name="🚀 größer 学習")

        assert (await daemon.run(run.name)).display_name == "🚀 größer 学習"

    with_daemon(test)


def test_sec_35_submits_in_a_loop_end_at_the_bound_of_the_queue_and_go_on_below_it() -> None:
    async def test(daemon: Served) -> None:
        taken = [await daemon.submit(b"true") for _ in range(5)]

        error = await refused(daemon.submit(b"true"))

        assert reason_of(error) == "QUEUE_FULL"
        assert error.code == "RESOURCE_EXHAUSTED"
        assert "5 runs wait" in error.message
        assert "runyard runs cancel" in error.hint
        await daemon.runs.CancelRun(runs_pb2.CancelRunRequest(name=taken[0].name))
        assert (await daemon.submit(b"true")).name

    with_daemon(test, queued_runs_max=5)


def test_sec_35_submits_that_come_together_do_not_pass_the_bound_of_the_queue() -> None:
    async def test(daemon: Served) -> None:
        # Scripts that lie deep: each is looked for while the other submits come in.
        paths = ["/".join([f"d{n}"] * 60 + ["train.py"]) for n in range(8)]
        snapshot = await daemon.snapshot(dict.fromkeys(paths, b"print()"))
        specs = [
            runs_pb2.RunSpec(script=runs_pb2.Script(path=path), snapshot=snapshot) for path in paths
        ]
        calls = [daemon.runs.CreateRun(create_request(spec=spec)) for spec in specs]

        answers = await asyncio.gather(*calls, return_exceptions=True)

        assert sum(isinstance(answer, runs_pb2.CreateRunResponse) for answer in answers) == 3

    with_daemon(test, queued_runs_max=3)


def test_sec_35_a_repeat_of_an_answered_submit_is_answered_although_the_queue_is_full() -> None:
    async def test(daemon: Served) -> None:
        request = create_request(b"true")
        first = await daemon.runs.CreateRun(request)

        assert await daemon.runs.CreateRun(request) == first

    with_daemon(test, queued_runs_max=1)


def test_sec_12_text_from_peers_forges_no_line_of_the_daemons_log() -> None:
    async def test(daemon: Served) -> None:
        agent = FakeAgent(daemon.channel, node_id="node1")
        agent.hello.hostname = FORGED
        agent.hello.platform = FORGED
        async with agent.connected():
            run = await daemon.submit(b"true", tags={"label": FORGED})
            ref = (await agent.expect("lease")).ref
            await agent.start(ref)
            await daemon.runs.CancelRun(runs_pb2.CancelRunRequest(name=run.name, reason=FORGED))
            await agent.end(ref, warnings=[FORGED])
        await refused(daemon.submit(b"true", display_name=FORGED))
        await refused(daemon.runs.GetRun(runs_pb2.GetRunRequest(name=f"{WORKSPACE}/runs/{FORGED}")))
        daemon.app.journal.warning("peer_said", text=FORGED, more=FORGED.encode() + b"\xff")

        lines = daemon.journal_path.read_bytes().split(b"\n")

        assert lines[-1] == b""
        events = [json.loads(line) for line in lines[:-1]]
        assert {"agent_hello", "peer_said"} <= {event["event"] for event in events}
        assert "forged" not in {event["event"] for event in events}
        # Printable ASCII only: no escape reaches a terminal that shows the log.
        assert all(0x20 <= byte < 0x7F for line in lines for byte in line)
        assert events[-1]["text"] == FORGED

    with_daemon(test)
