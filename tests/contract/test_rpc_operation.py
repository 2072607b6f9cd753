"""What the daemon tells those who operate it: health, reflection, figures."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from prometheus_client.parser import text_string_to_metric_families

from runyard_contract.errors import DiskFull, ReadOnly
from runyard_daemon.loops.metrics_file import write_file
from runyard_daemon.rpc.reflection import V1ALPHA
from runyardpb.grpc.health.v1 import health_pb2, health_pb2_grpc
from runyardpb.grpc.reflection.v1 import reflection_pb2, reflection_pb2_grpc
from runyardpb.v1 import admin_pb2, runs_pb2
from support.fake_agent import FakeAgent
from support.served import WORKSPACE, Served, refused, with_daemon

Status = health_pb2.HealthCheckResponse
ReflectionRequest = reflection_pb2.ServerReflectionRequest
WRITES = "runyardpb.v1.RunService"
READS = "runyardpb.v1.LogService"


def health(daemon: Served) -> Any:
    return health_pb2_grpc.HealthStub(daemon.channel)


async def status(daemon: Served, service: str = "") -> int:
    answer = await health(daemon).Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def asked(daemon: Served, *requests: ReflectionRequest) -> list[Any]:
    stub = reflection_pb2_grpc.ServerReflectionStub(daemon.channel)
    return [answer async for answer in stub.ServerReflectionInfo(iter(requests))]


async def figures(daemon: Served) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = await daemon.admin.GetMetrics(admin_pb2.GetMetricsRequest())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.exposition)
        for sample in family.samples
    }


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_health_says_that_daemon_and_services_serve_and_knows_no_others() -> None:
    async def test(daemon: Served) -> None:
        assert await status(daemon) == Status.SERVING
        assert await status(daemon, WRITES) == Status.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await status(daemon, "no.such.Service")
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND

    with_daemon(test)


@pytest.mark.parametrize(
    "fault", [DiskFull("the disk is full"), ReadOnly("the database can't be written")]
)
def test_health_of_services_that_write_is_bad_while_the_disk_takes_nothing(
    fault: Exception,
) -> None:
    async def test(daemon: Served) -> None:
        write = daemon.store.write

        async def failing(closure: Any) -> Any:
            raise fault

        daemon.store.write = failing
        found = [await status(daemon), await status(daemon, WRITES), await status(daemon, READS)]
        daemon.store.write = write

        assert found == [Status.NOT_SERVING, Status.NOT_SERVING, Status.SERVING]

    with_daemon(test)


def test_health_watch_tells_at_once_and_an_unknown_service_is_said_to_be_so() -> None:
    async def test(daemon: Served) -> None:
        for service, expected in (("", Status.SERVING), ("no.such", Status.SERVICE_UNKNOWN)):
            call = health(daemon).Watch(health_pb2.HealthCheckRequest(service=service))
            answer = await call.read()
            call.cancel()
            assert answer.status == expected

    with_daemon(test)


def test_health_is_served_to_the_end_and_says_that_the_end_is_near() -> None:
    async def test(daemon: Served) -> None:
        daemon.app.gate.is_draining = True

        assert await status(daemon) == Status.NOT_SERVING

    with_daemon(test)


def test_reflection_lists_services_and_gives_files_that_build_the_contract() -> None:
    async def test(daemon: Served) -> None:
        listed, described = await asked(
            daemon,
            ReflectionRequest(list_services=""),
            ReflectionRequest(file_containing_symbol=f"{WRITES}.CreateRun"),
        )

        names = [service.name for service in listed.list_services_response.service]
        assert {WRITES, "grpc.health.v1.Health", "runyardpb.agent.v1.AgentService"} <= set(names)
        # A client puts the files into a pool of its own: it must need no others.
        pool = descriptor_pool.DescriptorPool()
        files = [
            descriptor_pb2.FileDescriptorProto.FromString(data)
            for data in described.file_descriptor_response.file_descriptor_proto
        ]
        left = {file.name: file for file in files}
        while left:
            name = next(n for n, f in left.items() if not any(d in left for d in f.dependency))
            pool.Add(left.pop(name))
        service = pool.FindFileByName(files[0].name).services_by_name["RunService"]
        assert service.full_name == WRITES
        assert service.methods_by_name["CreateRun"].output_type.fields_by_name["run"]

    with_daemon(test)


def test_reflection_answers_what_it_does_not_know_and_goes_on() -> None:
    async def test(daemon: Served) -> None:
        unknown, unset, known = await asked(
            daemon,
            ReflectionRequest(file_by_filename="no/such.proto"),
            ReflectionRequest(),
            ReflectionRequest(file_by_filename="runyardpb/v1/runs.proto"),
        )

        assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
        assert unset.error_response.error_message
        assert known.file_descriptor_response.file_descriptor_proto

    with_daemon(test)


def test_reflection_serves_its_older_name() -> None:
    async def test(daemon: Served) -> None:
        call = daemon.channel.stream_stream(
            f"/{V1ALPHA}/ServerReflectionInfo",
            request_serializer=ReflectionRequest.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )
        (answer,) = [answer async for answer in call(iter([ReflectionRequest(list_services="*")]))]

        assert answer.list_services_response.service

    with_daemon(test)


def test_metrics_count_runs_nodes_calls_and_commits() -> None:
    async def test(daemon: Served) -> None:
        async with FakeAgent(daemon.channel, slots=1).connected() as agent:
            await daemon.submit(b"x")
            ref = (await agent.expect("lease")).ref
            await agent.start(ref)
            await agent.print(ref, out=b"12345")
            await daemon.submit(b"x")
            nowhere = runs_pb2.GetRunRequest(name=f"{WORKSPACE}/experiments/-/runs/none")
            await refused(daemon.runs.GetRun(nowhere))
            found = await figures(daemon)

        node = {"compute": "local", "node": "local/host1"}
        assert found[key("runyard_runs", state="running")] == 1
        assert found[key("runyard_runs", state="queued")] == 1
        assert found[key("runyard_queue_runs")] == 1
        assert 0 < found[key("runyard_queue_oldest_wait_seconds")] < 60
        assert found[key("runyard_agents_connected")] == 1
        assert found[key("runyard_node_slots_used", **node)] == 1
        assert found[key("runyard_rpc_total", method="RunService/CreateRun", code="OK")] == 2
        assert found[key("runyard_rpc_total", method="RunService/GetRun", code="NOT_FOUND")] == 1
        assert found[key("runyard_rpc_seconds_count", method="RunService/CreateRun")] == 2
        assert found[key("runyard_commit_seconds_count")] > 2
        assert found[key("runyard_scheduling_decision_seconds_count")] >= 2
        assert found[key("runyard_log_received_bytes_total")] > 5
        assert found[key("runyard_database_bytes")] > 4096
        assert found[key("process_resident_memory_bytes")] > 1 << 20
        assert found[key("process_open_fds")] > 3

    with_daemon(test)


def test_metrics_name_no_method_that_a_stranger_makes_up() -> None:
    async def test(daemon: Served) -> None:
        made_up = daemon.channel.unary_unary("/runyardpb.v1.RunService/MadeUp")
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await made_up(b"")
        found = await figures(daemon)

        assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert not any("MadeUp" in value for _, labels in found for _, value in labels)

    with_daemon(test)


def test_metrics_count_streams_that_their_caller_leaves_as_cancelled() -> None:
    async def test(daemon: Served) -> None:
        call = health(daemon).Watch(health_pb2.HealthCheckRequest())
        await call.read()
        call.cancel()
        name = key("runyard_rpc_total", method="Health/Watch", code="CANCELLED")
        for _ in range(100):
            found = await figures(daemon)
            if name in found:
                break

        assert found[name] == 1
        assert found[key("runyard_rpc_under_way")] == 1

    with_daemon(test)


def test_metrics_file_is_replaced_whole_and_readable_for_the_collector(tmp_path: Path) -> None:
    path = tmp_path / "runyard.prom"
    umask = os.umask(0o077)
    try:
        write_file(path, "old 1\n")
        write_file(path, "new 2\n")
    finally:
        os.umask(umask)

    assert path.read_text() == "new 2\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["runyard.prom"]
