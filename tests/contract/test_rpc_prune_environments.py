"""PruneEnvironments: nodes are asked, their answers matched, the others named."""

from __future__ import annotations

import asyncio
from typing import Any

from runyard_contract.environment_spec import lock_hash
from runyardpb.agent.v1 import agent_pb2
from runyardpb.v1 import environments_pb2
from support.fake_agent import FakeAgent
from support.served import WORKSPACE, Served, refused, with_daemon

HASH = lock_hash("linux-x86_64-cp311", "numpy==1\n")


def asked(**more: Any) -> environments_pb2.PruneEnvironmentsRequest:
    return environments_pb2.PruneEnvironmentsRequest(parent=WORKSPACE, **more)


async def answers(
    daemon: Served, request: environments_pb2.PruneEnvironmentsRequest
) -> list[environments_pb2.PruneEnvironmentsResponse]:
    return [answer async for answer in daemon.environments.PruneEnvironments(request)]


def built(lock: str = HASH) -> environments_pb2.EnvironmentBuild:
    message = environments_pb2.EnvironmentBuild(lock_hash=lock, size_bytes=42, hits=3)
    message.create_time.FromSeconds(1_764_000_000)
    message.last_use_time.FromSeconds(1_764_000_100)
    return message


def test_node_is_asked_and_its_answer_told_with_its_name() -> None:
    async def test(daemon: Served) -> None:
        request = asked(compute_target="LOCAL", max_size_bytes=0, dry_run=True)
        request.older_than.FromSeconds(60)

        async with FakeAgent(daemon.channel).connected() as agent:
            asking = asyncio.create_task(answers(daemon, request))
            prune = await agent.expect("prune_built")
            pruned = agent_pb2.BuiltPruned(
                request_id=prune.request_id,
                builds=[built(), built("../..")],
                left_bytes=7,
                left_count=2,
                in_use_count=1,
            )
            await agent.told(built_pruned=pruned)
            (answer,) = await asking

        assert (prune.older_than.seconds, prune.is_dry_run) == (60, True)
        assert prune.HasField("max_size_bytes")
        assert prune.max_size_bytes == 0
        expected = built()
        expected.node = "local/host1"
        expected.key = expected.lock_hash
        assert (answer.node, list(answer.builds)) == ("local/host1", [expected])
        assert (answer.left_bytes, answer.left_count, answer.in_use_count) == (7, 2, 1)
        assert not answer.error

    with_daemon(test)


def test_without_reasons_none_is_sent() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            asking = asyncio.create_task(answers(daemon, asked()))
            prune = await agent.expect("prune_built")
            await agent.told(
                built_pruned=agent_pb2.BuiltPruned(request_id=prune.request_id, error="no disk")
            )
            (answer,) = await asking

        assert not prune.HasField("older_than")
        assert not prune.HasField("max_size_bytes")
        assert answer.error == "no disk"
        assert not answer.is_away

    with_daemon(test)


def test_node_that_parts_meanwhile_and_one_that_is_away_are_named() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            asking = asyncio.create_task(answers(daemon, asked()))
            await agent.expect("prune_built")
        (parted,) = await asking
        await daemon.app.live.all_parted()
        (away,) = await answers(daemon, asked())

        assert "does not answer" in parted.error
        assert not parted.is_away
        assert away.is_away
        assert away.error == "local/host1 was not asked: its agent is not connected"

    with_daemon(test)


def test_answers_that_nobody_waits_for_change_nothing() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            await agent.told(built_pruned=agent_pb2.BuiltPruned(request_id="nobody"))
            asking = asyncio.create_task(answers(daemon, asked()))
            prune = await agent.expect("prune_built")
            await agent.told(
                workdir_collected=agent_pb2.WorkdirCollected(request_id=prune.request_id)
            )
            assert not asking.done()
            await agent.told(built_pruned=agent_pb2.BuiltPruned(request_id=prune.request_id))
            (answer,) = await asking

        assert not answer.builds

    with_daemon(test)


def test_bad_requests_are_refused_with_their_fields() -> None:
    async def test(daemon: Served) -> None:
        negative = asked(max_size_bytes=-1)
        negative.older_than.FromSeconds(-1)

        for request, reason in (
            (negative, "SPEC_INVALID"),
            (asked(compute_target="nowhere"), "COMPUTE_NOT_FOUND"),
        ):
            error = await refused(_first(daemon, request))
            assert error.reason == reason

    with_daemon(test)


async def _first(daemon: Served, request: environments_pb2.PruneEnvironmentsRequest) -> Any:
    return await answers(daemon, request)
