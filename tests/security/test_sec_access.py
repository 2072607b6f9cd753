"""Who may do what at the daemon's ports: tokens of people, certificates of nodes."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from runyard_contract.tokens import make_token, read_token
from runyard_daemon.core.access import RULES, Role
from runyard_daemon.rpc.server import SERVICES
from runyardpb.v1 import access_pb2, runs_pb2
from runyardpb.v1.access_pb2_grpc import AccessServiceStub
from runyardpb.v1.runs_pb2_grpc import RunServiceStub
from support.fake_agent import FakeAgent
from support.networked import (
    PORTS,
    Key,
    enroll,
    new_token,
    node_channel,
    people_channel,
)
from support.served import Served, create_request, drained, reason_of, refused, with_daemon

ROLES = {
    Role.READER: access_pb2.TOKEN_ROLE_READER,
    Role.CONTRIBUTOR: access_pb2.TOKEN_ROLE_CONTRIBUTOR,
    Role.ADMIN: access_pb2.TOKEN_ROLE_ADMIN,
    Role.JOINER: access_pb2.TOKEN_ROLE_AGENT,
}
METHODS = [(service.full_name, method.name) for service in SERVICES for method in service.methods]


async def code_of(channel: Any, service: str, method: str) -> grpc.StatusCode:
    """What a method answers to one empty message."""
    call = channel.stream_stream(f"/{service}/{method}")(iter([b""]), timeout=10)
    code: grpc.StatusCode = await _first_code(call)
    call.cancel()
    return code


async def _first_code(call: Any) -> grpc.StatusCode:
    """OK for a call that is let in: it answers, or waits for more."""
    try:
        async with asyncio.timeout(5):
            if await call.read() is not grpc.aio.EOF:  # type: ignore[attr-defined]
                return grpc.StatusCode.OK
            code: grpc.StatusCode = await call.code()
            return code
    except TimeoutError:
        return grpc.StatusCode.OK
    except grpc.aio.AioRpcError as failed:
        return failed.code()


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
        token = read_token(good)
        same_id = other.replace("11111111", token.id, 1)
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
            access: Any = AccessServiceStub(daemon.channel)
            await access.RevokeToken(access_pb2.RevokeTokenRequest(id=token.token.id))
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
