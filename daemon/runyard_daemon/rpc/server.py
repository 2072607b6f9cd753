"""The gRPC server on its Unix socket: limits, interceptor, registration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from runyard_contract.home import grpc_target
from runyard_contract.limits import MESSAGE_BYTES
from runyard_daemon.rpc.doors import Door
from runyard_daemon.rpc.edge import Edge
from runyard_daemon.rpc.reflection import ReflectionService, register_v1alpha
from runyardpb.agent.v1 import agent_pb2, agent_pb2_grpc
from runyardpb.agent.v1.agent_pb2_grpc import AgentServiceServicer
from runyardpb.grpc.health.v1 import health_pb2, health_pb2_grpc
from runyardpb.grpc.health.v1.health_pb2_grpc import HealthServicer
from runyardpb.grpc.reflection.v1 import reflection_pb2, reflection_pb2_grpc
from runyardpb.v1 import (
    access_pb2,
    access_pb2_grpc,
    admin_pb2,
    admin_pb2_grpc,
    compute_pb2,
    compute_pb2_grpc,
    environments_pb2,
    environments_pb2_grpc,
    experiments_pb2,
    experiments_pb2_grpc,
    logs_pb2,
    logs_pb2_grpc,
    metrics_pb2,
    metrics_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
    workspaces_pb2,
    workspaces_pb2_grpc,
)
from runyardpb.v1.access_pb2_grpc import AccessServiceServicer
from runyardpb.v1.admin_pb2_grpc import AdminServiceServicer
from runyardpb.v1.compute_pb2_grpc import ComputeServiceServicer
from runyardpb.v1.environments_pb2_grpc import EnvironmentServiceServicer
from runyardpb.v1.experiments_pb2_grpc import ExperimentServiceServicer
from runyardpb.v1.logs_pb2_grpc import LogServiceServicer
from runyardpb.v1.metrics_pb2_grpc import MetricServiceServicer
from runyardpb.v1.runs_pb2_grpc import RunServiceServicer
from runyardpb.v1.snapshots_pb2_grpc import SnapshotServiceServicer
from runyardpb.v1.workspaces_pb2_grpc import WorkspaceServiceServicer

_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 2000),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 4),
    ("grpc.so_reuseport", 0),
    # Calls that wait to be looked at, those that were reset among them. Beyond the first number
    # gRPC drops some at random, whosever they are: one that opens and resets must not get there.
    ("grpc.server.max_pending_requests", 15_000),
    ("grpc.server.max_pending_requests_hard_limit", 20_000),
    # A connection that never becomes one of HTTP/2 is let go.
    ("grpc.server_handshake_timeout_ms", 10_000),
)


def new_server(edge: Edge, door: Door) -> grpc.aio.Server:
    """A server with its limits, for a port whose door this is; not bound yet."""
    return grpc.aio.server(interceptors=[edge.at(door)], options=_OPTIONS)


def bind(server: grpc.aio.Server, socket: Path) -> None:
    """Binds the socket, open to this user only. Raises OSError where the path can't be bound."""
    before = os.umask(0o077)
    try:
        bound = server.add_insecure_port(grpc_target(socket))
    except RuntimeError as error:
        raise OSError(f"can't bind the socket {socket}: {error}") from error
    finally:
        os.umask(before)
    if not bound:
        raise OSError(f"can't bind the socket {socket}")


@dataclass(frozen=True, slots=True)
class Services:
    """All services of the daemon."""

    runs: RunServiceServicer
    snapshots: SnapshotServiceServicer
    logs: LogServiceServicer
    metrics: MetricServiceServicer
    workspaces: WorkspaceServiceServicer
    experiments: ExperimentServiceServicer
    computes: ComputeServiceServicer
    environments: EnvironmentServiceServicer
    agents: AgentServiceServicer
    access: AccessServiceServicer
    admin: AdminServiceServicer
    health: HealthServicer
    reflection: ReflectionService


SERVICES = tuple(
    service
    for file in (
        runs_pb2,
        snapshots_pb2,
        logs_pb2,
        metrics_pb2,
        workspaces_pb2,
        experiments_pb2,
        compute_pb2,
        environments_pb2,
        agent_pb2,
        access_pb2,
        admin_pb2,
        health_pb2,
        reflection_pb2,
    )
    for service in file.DESCRIPTOR.services_by_name.values()
)
"""Descriptors of all services."""
SERVICE_NAMES = tuple(service.full_name for service in SERVICES)
"""Their full names."""


def register(server: grpc.aio.Server, services: Services) -> None:
    """Makes a server answer for all services."""
    runs_pb2_grpc.add_RunServiceServicer_to_server(services.runs, server)
    snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server(services.snapshots, server)
    logs_pb2_grpc.add_LogServiceServicer_to_server(services.logs, server)
    metrics_pb2_grpc.add_MetricServiceServicer_to_server(services.metrics, server)
    workspaces_pb2_grpc.add_WorkspaceServiceServicer_to_server(services.workspaces, server)
    experiments_pb2_grpc.add_ExperimentServiceServicer_to_server(services.experiments, server)
    compute_pb2_grpc.add_ComputeServiceServicer_to_server(services.computes, server)
    environments_pb2_grpc.add_EnvironmentServiceServicer_to_server(services.environments, server)
    agent_pb2_grpc.add_AgentServiceServicer_to_server(services.agents, server)
    access_pb2_grpc.add_AccessServiceServicer_to_server(services.access, server)
    admin_pb2_grpc.add_AdminServiceServicer_to_server(services.admin, server)
    health_pb2_grpc.add_HealthServicer_to_server(services.health, server)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(services.reflection, server)
    register_v1alpha(server, services.reflection)
