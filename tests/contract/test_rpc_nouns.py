"""Workspaces, experiments, targets, environments, files, the daemon itself."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import grpc
import pytest

from runyardpb.v1 import (
    admin_pb2,
    common_pb2,
    compute_pb2,
    environments_pb2,
    experiments_pb2,
    runs_pb2,
    workspaces_pb2,
)
from support.fake_agent import FakeAgent
from support.served import (
    WORKSPACE,
    Served,
    drained,
    error_of,
    packed,
    refused,
    with_daemon,
)


async def walk(method: Any, request: Any, field: str) -> list[Any]:
    """All rows of a listing, page by page."""
    rows: list[Any] = []
    while True:
        page = await method(request)
        found = getattr(page, field)
        assert len(found) <= request.page_size
        rows += found
        if not page.next_page_token:
            return rows
        request.page_token = page.next_page_token


def test_workspaces_are_found_and_listed() -> None:
    async def test(daemon: Served) -> None:
        get = daemon.workspaces.GetWorkspace
        found = await get(workspaces_pb2.GetWorkspaceRequest(name="workspaces/Default"))
        unknown = await refused(get(workspaces_pb2.GetWorkspaceRequest(name="workspaces/defualt")))
        rows = await walk(
            daemon.workspaces.ListWorkspaces,
            workspaces_pb2.ListWorkspacesRequest(page_size=1),
            "workspaces",
        )

        assert found.workspace.name == WORKSPACE
        assert unknown.reason == "WORKSPACE_NOT_FOUND"
        assert [row.name for row in rows] == [WORKSPACE]

    with_daemon(test)


def test_experiments_are_listed_the_last_used_first() -> None:
    async def test(daemon: Served) -> None:
        for name in ("a", "b", "c", "a"):
            await daemon.submit(b"x", experiment=name)

        rows = await walk(
            daemon.experiments.ListExperiments,
            experiments_pb2.ListExperimentsRequest(parent=WORKSPACE, page_size=1),
            "experiments",
        )
        get = daemon.experiments.GetExperiment
        found = await get(experiments_pb2.GetExperimentRequest(name=f"{WORKSPACE}/experiments/A"))
        unknown = await refused(
            get(experiments_pb2.GetExperimentRequest(name=f"{WORKSPACE}/experiments/ab"))
        )

        assert [row.name.rsplit("/", 1)[1] for row in rows] == ["a", "c", "b"]
        assert found.experiment.run_count == 2
        assert unknown.reason == "EXPERIMENT_NOT_FOUND"

    with_daemon(test)


def test_the_local_target_shows_its_node_and_what_it_holds() -> None:
    async def test(daemon: Served) -> None:
        get = daemon.computes.GetCompute
        request = compute_pb2.GetComputeRequest(name=f"{WORKSPACE}/computes/local")
        alone = (await get(request)).compute
        async with FakeAgent(daemon.channel, slots=1).connected() as agent:
            for _ in range(2):
                await daemon.submit(b"x")
            await agent.expect("lease")
            busy = (await get(request)).compute
        gone = (await get(request)).compute
        unknown = await refused(
            get(compute_pb2.GetComputeRequest(name=f"{WORKSPACE}/computes/locl"))
        )
        rows = await walk(
            daemon.computes.ListComputes,
            compute_pb2.ListComputesRequest(parent=WORKSPACE, page_size=5),
            "computes",
        )

        assert (alone.kind, list(alone.nodes)) == (compute_pb2.Compute.KIND_LOCAL, [])
        assert (busy.queued_runs, busy.active_runs) == (1, 1)
        assert busy.nodes[0].state == compute_pb2.Node.STATE_RUNNING
        assert (busy.nodes[0].slots, busy.nodes[0].slots_used) == (1, 1)
        assert gone.nodes[0].state == compute_pb2.Node.STATE_DISCONNECTED
        assert (unknown.reason, unknown.metadata["nearest"]) == ("COMPUTE_NOT_FOUND", "local")
        assert [row.name for row in rows] == [f"{WORKSPACE}/computes/local"]

    with_daemon(test)


def pip(*requirements: str) -> environments_pb2.EnvironmentSpec:
    return environments_pb2.EnvironmentSpec(
        pip=environments_pb2.PipPackages(requirements=requirements)
    )


def test_environments_get_a_version_for_each_content() -> None:
    async def test(daemon: Served) -> None:
        async def create(name: str, spec: environments_pb2.EnvironmentSpec) -> Any:
            request = environments_pb2.CreateEnvironmentRequest(
                parent=WORKSPACE, environment_id=name, spec=spec
            )
            return (await daemon.environments.CreateEnvironment(request)).environment

        first = await create("iris", pip("numpy"))
        same = await create("iris", pip("numpy"))
        second = await create("iris", pip("numpy", "scipy"))
        await create("zoo", pip("a"))
        bad_name = await refused(create("no name", pip("a")))
        bad_spec = await refused(create("iris", pip()))
        only_python = await create(
            "bare",
            environments_pb2.EnvironmentSpec(
                pip=environments_pb2.PipPackages(python_version="3.11")
            ),
        )
        get = daemon.environments.GetEnvironment
        newest = await get(environments_pb2.GetEnvironmentRequest(name=first.name.split("/v")[0]))
        pinned = await get(environments_pb2.GetEnvironmentRequest(name=first.name))
        unknown = await refused(
            get(environments_pb2.GetEnvironmentRequest(name=first.name[:-1] + "9"))
        )
        rows = await walk(
            daemon.environments.ListEnvironments,
            environments_pb2.ListEnvironmentsRequest(parent=WORKSPACE, page_size=1),
            "environments",
        )

        assert first == same
        assert (first.version, second.version, only_python.version) == (1, 2, 1)
        assert newest.environment == second
        assert pinned.environment == first
        assert bad_name.reason == "NAME_INVALID"
        assert [v.field for v in bad_spec.violations] == ["spec.pip.requirements"]
        assert unknown.reason == "ENVIRONMENT_NOT_FOUND"
        assert [(row.name.split("/")[3], row.version) for row in rows] == [
            ("bare", 1),
            ("iris", 2),
            ("zoo", 1),
        ]

    with_daemon(test)


def run_file(path: str, data: bytes) -> runs_pb2.RunFile:
    content = common_pb2.FileContent(digest=packed(data).digest, size_bytes=len(data))
    return runs_pb2.RunFile(path=path, content=content)


def test_files_are_listed_with_the_logs_by_path_and_read_from_any_offset() -> None:
    async def test(daemon: Served) -> None:
        data = os.urandom(3 << 20)
        async with FakeAgent(daemon.channel).connected() as agent:
            run = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            await agent.end(ref, 0, await agent.print(ref, b"out", b"err"))
        await daemon.upload(data, b"a")
        await daemon.runs.AddRunFiles(
            runs_pb2.AddRunFilesRequest(
                name=run.name, files=[run_file("outputs/big", data), run_file("logs/z.txt", b"a")]
            )
        )

        async def read(path: str, offset_bytes: int = 0) -> bytes:
            request = runs_pb2.ReadRunFileRequest(
                name=run.name, path=path, offset_bytes=offset_bytes
            )
            return b"".join(m.data for m in await drained(daemon.runs.ReadRunFile(request)))

        rows = await walk(
            daemon.runs.ListRunFiles,
            runs_pb2.ListRunFilesRequest(parent=run.name, page_size=2),
            "files",
        )
        logs = await walk(
            daemon.runs.ListRunFiles,
            runs_pb2.ListRunFilesRequest(parent=run.name, page_size=9, prefix="logs/s"),
            "files",
        )
        assert [row.path for row in rows] == [
            "logs/stderr.txt", "logs/stdout.txt", "logs/z.txt", "outputs/big",
        ]  # fmt: skip
        assert [row.size_bytes for row in logs] == [3, 3]
        assert await read("outputs/big") == data
        assert await read("outputs/big", 2_000_000) == data[2_000_000:]
        assert await read("logs/stderr.txt", 1) == b"rr"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await read("outputs/bgi")
        error = error_of(failed.value)
        assert (error.reason, error.metadata["nearest"]) == ("FILE_NOT_FOUND", "outputs/big")

    with_daemon(test)


def test_added_files_need_safe_paths_true_sizes_and_uploaded_blobs() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit(b"x")

        async def add(file: runs_pb2.RunFile) -> str:
            request = runs_pb2.AddRunFilesRequest(name=run.name, files=[file])
            return (await refused(daemon.runs.AddRunFiles(request))).reason

        lying = run_file("a", b"content")
        lying.content.size_bytes = 3
        assert await add(run_file("a", b"content")) == "BLOB_MISSING"
        await daemon.upload(b"content")
        assert await add(lying) == "SPEC_INVALID"
        assert await add(run_file("../a", b"content")) == "PATH_UNSAFE"
        assert await add(run_file("logs/stdout.txt", b"content")) == "SPEC_INVALID"
        assert await add(run_file("environment/lock.txt", b"content")) == "SPEC_INVALID"

    with_daemon(test)


def test_the_server_says_what_it_is_and_counts_runs() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel, slots=1).connected() as agent:
            for _ in range(2):
                await daemon.submit(b"x")
            await agent.expect("lease")
            info = await daemon.admin.GetServerInfo(admin_pb2.GetServerInfoRequest())

        assert info.pid == os.getpid()
        assert info.home == os.fsencode(daemon.home)
        assert (info.queued_runs, info.active_runs, info.total_runs) == (1, 1, 2)
        assert info.connected_agents == 1
        assert info.protocol_version == "1.0"

    with_daemon(test)


def test_stop_answers_says_goodbye_to_agents_and_leaves_runs_alone() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel).connected() as agent:
            await daemon.submit(b"x")
            await agent.expect("lease")

            answer = await daemon.admin.StopServer(admin_pb2.StopServerRequest())
            goodbye = await agent.expect("goodbye")
            ended = await agent.over()

        assert goodbye.is_stop
        assert ended is grpc.StatusCode.OK
        assert (answer.active_runs, answer.canceled_runs) == (1, 0)
        assert list(answer.pids) == [os.getpid()]
        assert not agent_was_canceled(agent)

    with_daemon(test)


def agent_was_canceled(agent: FakeAgent) -> bool:
    return any(message.WhichOneof("message") == "cancel" for message in agent.received)


def test_stop_with_cancel_waits_for_the_ends_of_runs() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel, slots=1).connected() as agent:
            held = await daemon.submit(b"x")
            waiting = await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            stopping = asyncio.ensure_future(
                daemon.admin.StopServer(admin_pb2.StopServerRequest(cancel_runs=True))
            )
            await agent.expect("cancel")
            assert not stopping.done()
            await agent.end(ref, 0)
            answer = await stopping

        assert (answer.active_runs, answer.canceled_runs) == (0, 2)
        from runyard_daemon.store import runs

        states = {
            name: daemon.store.peek(lambda conn, name=name: runs.get(conn, name)).state
            for name in (held.name.rsplit("/", 1)[1], waiting.name.rsplit("/", 1)[1])
        }
        assert sorted(states.values()) == ["CANCELED", "COMPLETED"]

    with_daemon(test)
