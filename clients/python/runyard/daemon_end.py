"""Stops a daemon and waits until its processes are gone."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from runyard_contract.errors import StateNotAllowed

if TYPE_CHECKING:
    from runyard.channel import Connection
    from runyardpb.v1 import admin_pb2

END_LIMIT_S = 30.0
_STOP_LIMIT_S = 60.0


def server_info(connection: Connection) -> admin_pb2.GetServerInfoResponse:
    """What the daemon says of itself, to clients of any version."""
    from runyardpb.v1 import admin_pb2, admin_pb2_grpc

    return connection.unary(
        admin_pb2_grpc.AdminServiceStub,
        lambda stub: stub.GetServerInfo,
        admin_pb2.GetServerInfoRequest(),
    )


def stop_server(
    connection: Connection, *, cancel_runs: bool = False, timeout_s: float = _STOP_LIMIT_S
) -> admin_pb2.StopServerResponse:
    """Asks daemon and local agent to end; active runs go on unless they are to be cancelled."""
    from runyardpb.v1 import admin_pb2, admin_pb2_grpc

    return connection.unary(
        admin_pb2_grpc.AdminServiceStub,
        lambda stub: stub.StopServer,
        admin_pb2.StopServerRequest(cancel_runs=cancel_runs),
        timeout_s=timeout_s,
    )


def wait_until_gone(pids: Iterable[int], home: Path) -> None:
    """Waits until these processes have ended. Raises StateNotAllowed when one does not."""
    deadline = time.monotonic() + END_LIMIT_S
    for pid in pids:
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            left_s = max(deadline - time.monotonic(), 0.0)
            if not select.select([fd], [], [], left_s)[0]:
                raise StateNotAllowed(
                    f"process {pid} did not end within {END_LIMIT_S:.0f} s",
                    hint=f"read daemon.log and agent.log in {home}; `kill {pid}` ends it",
                    pid=str(pid),
                )
        finally:
            os.close(fd)
