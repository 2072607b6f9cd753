"""Who may do what at the daemon's ports: tokens of people, certificates of nodes."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from runyard_contract.errors import Unauthenticated
from runyard_contract.tokens import make_token, read_token
from runyard_daemon.core.access import RULES, Role
from runyard_daemon.rpc.server import SERVICES
from runyard_daemon.store import tokens
from runyardpb.agent.v1 import agent_pb2
from runyardpb.agent.v1.agent_pb2_grpc import AgentServiceStub
from runyardpb.v1 import access_pb2, runs_pb2, snapshots_pb2
from runyardpb.v1.access_pb2_grpc import AccessServiceStub
from runyardpb.v1.runs_pb2_grpc import RunServiceStub
from runyardpb.v1.snapshots_pb2_grpc import SnapshotServiceStub
from support.fake_agent import FakeAgent
from support.networked import (
    PORTS,
    Key,
    enroll,
    new_token,
    node_channel,
    people_channel,
)
from support.served import (
    WORKSPACE,
    Served,
    create_request,
    drained,
    reason_of,
    refused,
    with_daemon,
)

ROLES = {
    Role.READER: access_pb2.TOKEN_ROLE_READER,
    Role.CONTRIBUTOR: access_pb2.TOKEN_ROLE_CONTRIBUTOR,
    Role.ADMIN: access_pb2.TOKEN_ROLE_ADMIN,
    Role.JOINER: access_pb2.TOKEN_ROLE_AGENT,
}
METHODS = [(service.full_name, method.name) for service in SERVICES for method in service.methods]


async def revoke(daemon: Served, token_id: str) -> None:
    stub: Any = AccessServiceStub(daemon.channel)
    await stub.RevokeToken(access_pb2.RevokeTokenRequest(id=token_id))


async def until_under_way(daemon: Served) -> None:
    """Waits until a call of a client is served; each look lets the daemon go on."""
    while not daemon.app.edge.client_calls:
        await daemon.store.read(lambda conn: None)


async def code_of(channel: Any, service: str, method: str) -> grpc.StatusCode:
    """What a method answers to one empty message.

    Called as if it answered once: then sending, the answer and the status are one operation,
    and the status is the daemon's also where it refuses while the message is on its way.
    """
    call = channel.unary_unary(f"/{service}/{method}")(b"", timeout=10)
    code: grpc.StatusCode = await call.code()
    return code


def test_sec_01_no_method_answers_without_a_token() -> None:
    async def test(daemon: Served) -> None:
        async with people_channel(daemon) as channel:
            codes = {name: await code_of(channel, *name) for name in METHODS}
        assert set(codes.values()) == {grpc.StatusCode.UNAUTHENTICATED}

    with_daemon(test, **PORTS)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.value)
def test_sec_02_each_role_may_do_what_the_table_says(role: Role) -> None:
    async def test(daemon: Served) -> None:
        compute = "lab" if role is Role.JOINER else ""
        token = await new_token(daemon, ROLES[role], compute=compute)
        closed = []
        async with people_channel(daemon, token.text) as channel:
            for service, method in METHODS:
                name = f"{service.rpartition('.')[2]}/{method}"
                if role in RULES[name] and method in {"StopServer", "Watch", "BackUpServer"}:
                    continue  # would end the daemon, or take long
                code = await code_of(channel, service, method)
                is_closed = code in {
                    grpc.StatusCode.PERMISSION_DENIED,
                    grpc.StatusCode.UNAUTHENTICATED,
                }
                if is_closed == (role in RULES[name]):
                    closed.append((name, code))
        assert not closed

    with_daemon(test, **PORTS)


def test_sec_01_wrong_tokens_get_the_same_answer() -> None:
    async def test(daemon: Served) -> None:
        good = (await new_token(daemon, access_pb2.TOKEN_ROLE_ADMIN)).text
        other = make_token("adm", b"\1" * 40).text
        token_id = read_token(good).id
        same_id = make_token("adm", bytes(int(digit, 36) for digit in token_id) + bytes(32)).text
        assert read_token(same_id).id == token_id
        answers = set()
        for shown in ([], ["x"], [good[:-1]], [other], [same_id], [good, good], [good + " "]):
            async with people_channel(daemon, *shown) as channel:
                stub: Any = AccessServiceStub(channel)
                error = await refused(stub.GetCaller(access_pb2.GetCallerRequest()))
                answers.add((reason_of(error), error.message, error.hint))
        assert len(answers) == 1
        assert next(iter(answers))[0] == "UNAUTHENTICATED"

    with_daemon(test, **PORTS)


def test_history_says_who_it_was() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_CONTRIBUTOR, bearer="ana@lab")
        await new_token(daemon, access_pb2.TOKEN_ROLE_AGENT, compute="lab")
        async with people_channel(daemon, token.text) as channel:
            stub: Any = RunServiceStub(channel)
            request = create_request()
            request.spec.compute_target = "lab"
            run = (await stub.CreateRun(request)).run
            await stub.CancelRun(runs_pb2.CancelRunRequest(name=run.name))
        assert "canceled by ana@lab" in str((await daemon.run(run.name)).end)

    with_daemon(test, **PORTS)


def test_daemon_of_others_runs_nothing_on_its_own_machine() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_CONTRIBUTOR)
        async with people_channel(daemon, token.text) as channel:
            stub: Any = RunServiceStub(channel)
            error = await refused(stub.CreateRun(create_request()))
        assert reason_of(error) == "STATE_NOT_ALLOWED"
        assert "compute list" in error.hint

    with_daemon(test, has_local_target=False, **PORTS)


def test_sec_01_revoked_token_ends_open_streams_and_is_refused() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_READER)
        run = await daemon.submit()
        async with people_channel(daemon, token.text) as channel:
            stub: Any = RunServiceStub(channel)
            stream = stub.FollowRun(runs_pb2.FollowRunRequest(name=run.name))
            assert await anext(aiter(stream))
            await revoke(daemon, token.token.id)
            assert reason_of(await refused(drained(stream))) == "UNAUTHENTICATED"
            error = await refused(stub.GetRun(runs_pb2.GetRunRequest(name=run.name)))
        assert reason_of(error) == "UNAUTHENTICATED"

    with_daemon(test, **PORTS)


def test_sec_28_secret_of_a_token_is_in_no_other_answer_and_not_on_disk() -> None:
    async def test(daemon: Served) -> None:
        text = (await new_token(daemon, access_pb2.TOKEN_ROLE_ADMIN)).text
        secret = text.split("_")[3].encode()
        async with people_channel(daemon, text) as channel:
            stub: Any = AccessServiceStub(channel)
            listed = await stub.ListTokens(access_pb2.ListTokensRequest())
            assert [token.bearer for token in listed.tokens] == ["ana"]
            assert secret not in listed.SerializeToString()
        files = [path for path in daemon.home.rglob("*") if path.is_file()]
        assert files
        assert not [path for path in files if secret in path.read_bytes()]

    with_daemon(test, **PORTS)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"role": access_pb2.TOKEN_ROLE_UNSPECIFIED}, "role"),
        ({"role": access_pb2.TOKEN_ROLE_READER, "bearer": ""}, "bearer"),
        ({"role": access_pb2.TOKEN_ROLE_READER, "bearer": "a\nb"}, "bearer"),
        ({"role": access_pb2.TOKEN_ROLE_READER, "uses": 2}, "uses"),
        ({"role": access_pb2.TOKEN_ROLE_AGENT, "compute": "lab", "uses": 1001}, "uses"),
        ({"role": access_pb2.TOKEN_ROLE_AGENT, "compute": "local"}, "compute"),
        ({"role": access_pb2.TOKEN_ROLE_READER, "lifetime": Duration(seconds=-1)}, "lifetime"),
        (
            {
                "role": access_pb2.TOKEN_ROLE_AGENT,
                "compute": "lab",
                "lifetime": Duration(seconds=8 * 86400),
            },
            "lifetime",
        ),
    ],
)
def test_wish_that_makes_no_sense_is_refused(fields: dict[str, Any], field: str) -> None:
    async def test(daemon: Served) -> None:
        error = await refused(new_token(daemon, **fields))
        assert field in str(error.message) or field in str(getattr(error, "violations", ""))

    with_daemon(test, **PORTS)


def test_sec_27_machine_joins_once_for_each_use_and_again_with_its_own_key() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_AGENT, compute="lab", uses=2)
        first, second, third = Key.make(), Key.make(), Key.make()
        async with people_channel(daemon, token.text) as channel:
            assert (await enroll(channel, first, "n-1")).compute == "lab"
            await enroll(channel, first, "n-1")  # its answer was lost
            stolen = await refused(enroll(channel, second, "n-1"))  # another's name
            await enroll(channel, second, "n-2")
            over = await refused(enroll(channel, third, "n-3"))
        assert {reason_of(stolen), reason_of(over)} == {"UNAUTHENTICATED"}

    with_daemon(test, **PORTS)


def test_sec_27_two_at_once_for_the_last_use_of_a_token_one_joins() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_AGENT, compute="lab")
        async with people_channel(daemon, token.text) as channel:
            tries = [enroll(channel, Key.make(), f"n-{number}") for number in range(5)]
            outcomes = await asyncio.gather(*tries, return_exceptions=True)
        joined = [one for one in outcomes if not isinstance(one, BaseException)]
        assert len(joined) == 1

    with_daemon(test, **PORTS)


def test_sec_26_port_of_nodes_lets_in_only_who_has_a_certificate() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_AGENT, compute="lab")
        key = Key.make()
        async with people_channel(daemon, token.text) as channel:
            joined = await enroll(channel, key)
        async with node_channel(daemon, None, None) as channel:
            code = await code_of(channel, "runyardpb.v1.AccessService", "GetCaller")
            assert code is grpc.StatusCode.UNAVAILABLE  # no connection at all
        async with node_channel(daemon, key, joined.certificate) as channel:
            stub: Any = AccessServiceStub(channel)
            who = await stub.GetCaller(access_pb2.GetCallerRequest())
            assert (who.name, who.role) == ("lab/host1", "node")
            runs: Any = RunServiceStub(channel)
            error = await refused(runs.ListRuns(runs_pb2.ListRunsRequest()))
            assert reason_of(error) == "PERMISSION_DENIED"

    with_daemon(test, **PORTS)


def test_node_that_joined_gets_the_runs_of_its_target() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_AGENT, compute="lab")
        key = Key.make()
        async with people_channel(daemon, token.text) as channel:
            joined = await enroll(channel, key)
        async with node_channel(daemon, key, joined.certificate) as channel:
            agent = FakeAgent(channel, node_id="n-1", compute_target="lab")
            async with agent.connected():
                spec = runs_pb2.RunSpec(
                    command=runs_pb2.Command(argv=[b"true"]), compute_target="lab"
                )
                run = await daemon.submit(spec=spec)
                lease = await agent.expect("lease")
                assert lease.ref.run == run.name

    with_daemon(test, **PORTS)


@pytest.mark.parametrize("hello", [{"node_id": "n-2"}, {"compute_target": "local"}])
def test_sec_25_node_can_not_say_that_it_is_another(hello: dict[str, str]) -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_AGENT, compute="lab", uses=2)
        keys = {"n-1": Key.make(), "n-2": Key.make()}
        async with people_channel(daemon, token.text) as channel:
            joined = {name: await enroll(channel, key, name) for name, key in keys.items()}
        async with node_channel(daemon, keys["n-1"], joined["n-1"].certificate) as channel:
            agent = FakeAgent(channel, **{"node_id": "n-1", "compute_target": "lab", **hello})
            with pytest.raises(AssertionError, match="PERMISSION_DENIED"):
                async with agent.connected():
                    pass

    with_daemon(test, **PORTS)


def test_sec_01_upload_with_a_revoked_token_ends() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_CONTRIBUTOR)
        async with people_channel(daemon, token.text) as channel:
            stub: Any = SnapshotServiceStub(channel)
            upload = stub.UploadTree()
            header = snapshots_pb2.TreeHeader(parent=WORKSPACE)
            await upload.write(snapshots_pb2.UploadTreeRequest(header=header))
            await until_under_way(daemon)
            await revoke(daemon, token.token.id)
            assert reason_of(await refused(upload)) == "UNAUTHENTICATED"

    with_daemon(test, **PORTS)


def test_sec_01_revocation_outlasts_what_is_noted_at_the_same_moment() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_READER)
        access = daemon.app.access
        revoking = asyncio.ensure_future(access.revoke(token.token.id))
        access.bearer_of(token.text)  # its first use, which is to be written down
        await revoking
        with pytest.raises(Unauthenticated):
            access.bearer_of(token.text)
        kept = await daemon.store.read(tokens.every)
        assert [one.revoke_time_us is not None for one in kept] == [True]

    with_daemon(test, **PORTS)


def test_own_token_can_be_revoked() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_ADMIN)
        async with people_channel(daemon, token.text) as channel:
            stub: Any = AccessServiceStub(channel)
            answer = await stub.RevokeToken(access_pb2.RevokeTokenRequest(id=token.token.id))
        assert answer.token.HasField("revoke_time")

    with_daemon(test, **PORTS)


@pytest.mark.parametrize("node_id", ["gpu1.lab.example-0a1b2c3d", "gpu_1-0a1b2c3d"])
def test_machine_with_any_name_of_a_host_joins(node_id: str) -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_AGENT, compute="lab")
        key = Key.make()
        async with people_channel(daemon, token.text) as channel:
            joined = await enroll(channel, key, node_id)
        async with node_channel(daemon, key, joined.certificate) as channel:
            async with FakeAgent(channel, node_id=node_id, compute_target="lab").connected():
                pass

    with_daemon(test, **PORTS)


def test_node_that_leaves_is_turned_out_of_its_session_and_forgotten() -> None:
    async def test(daemon: Served) -> None:
        token = await new_token(daemon, access_pb2.TOKEN_ROLE_AGENT, compute="lab")
        key = Key.make()
        async with people_channel(daemon, token.text) as channel:
            joined = await enroll(channel, key)
        async with node_channel(daemon, key, joined.certificate) as channel:
            agent = FakeAgent(channel, node_id="n-1", compute_target="lab")
            async with agent.connected():
                stub: Any = AgentServiceStub(channel)
                await stub.Leave(agent_pb2.LeaveRequest())
                assert await agent.over() is grpc.StatusCode.UNAUTHENTICATED
                again = await refused(stub.Leave(agent_pb2.LeaveRequest()))
                assert reason_of(again) == "UNAUTHENTICATED"
        assert not daemon.app.live.nodes
        assert "incident" not in daemon.journal_path.read_text()

    with_daemon(test, **PORTS)
