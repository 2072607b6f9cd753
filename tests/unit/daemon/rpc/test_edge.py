from __future__ import annotations

import errno
import json
import os

import grpc.aio
import pytest

from runyard_contract.errors import Draining, InternalError, RunNotFound, VersionMismatch
from runyard_daemon.journal import Journal
from runyard_daemon.rpc.edge import Edge, Gate, first_known, is_caller_gone


def lines_of(read_fd: int) -> list[dict[str, object]]:
    return [json.loads(line) for line in os.read(read_fd, 1 << 20).decode().splitlines()]


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def test_a_defect_leaves_as_an_incident_and_its_traceback_stays_in_the_log(
    pipe: tuple[int, int],
) -> None:
    read_fd, write_fd = pipe
    edge = Edge(Gate("1"), Journal(write_fd), lambda: None)
    try:
        raise KeyError("token of somebody")
    except KeyError as error:
        described = edge.describe("/svc/Method", error)

    (line,) = lines_of(read_fd)
    assert isinstance(described, InternalError)
    assert "token of somebody" not in described.message
    assert line["incident"] == described.metadata["incident"]
    assert "KeyError" in str(line["traceback"])


def test_an_error_for_people_is_found_in_groups_and_a_full_disk_is_named() -> None:
    known = RunNotFound.named("x")

    assert first_known(ExceptionGroup("", [ValueError(), ExceptionGroup("", [known])])) is known
    assert first_known(OSError(errno.ENOSPC, "no space")).reason == "DISK_FULL"  # type: ignore[union-attr]
    assert first_known(OSError(errno.EIO, "io")).reason == "DISK_FAILED"  # type: ignore[union-attr]
    assert first_known(OSError(errno.EROFS, "ro")).reason == "READ_ONLY"  # type: ignore[union-attr]
    assert first_known(OSError(errno.EBADF, "a defect")) is None


def test_an_answer_that_nobody_takes_any_more_is_no_defect() -> None:
    gone = grpc.aio.InternalError("Failed execute_batch")

    assert is_caller_gone(ExceptionGroup("", [ExceptionGroup("", [gone])]))
    assert not is_caller_gone(ExceptionGroup("", [gone, ValueError()]))


def test_the_gate_lets_admin_in_always_and_others_by_build() -> None:
    gate = Gate("1.4.0")

    gate.check("/runyardpb.v1.RunService/GetRun", None)
    gate.check("/runyardpb.v1.RunService/GetRun", "1.4.0")
    gate.check("/runyardpb.v1.RunService/GetRun", "1.2.0")
    with pytest.raises(VersionMismatch) as refused:
        gate.check("/runyardpb.v1.RunService/GetRun", "1.1.0")
    assert "runyard==1.4.0" in refused.value.hint
    gate.is_draining = True
    with pytest.raises(Draining):
        gate.check("/runyardpb.v1.RunService/GetRun", "1.4.0")
    gate.check("/runyardpb.v1.AdminService/StopServer", "0.1.0")


def test_the_gate_lets_agents_of_its_own_build_in_only() -> None:
    gate = Gate("1.4.0")

    gate.check("/runyardpb.agent.v1.AgentService/Session", "1.4.0")
    with pytest.raises(VersionMismatch, match=r"1\.3\.0"):
        gate.check("/runyardpb.agent.v1.AgentService/Session", "1.3.0")
