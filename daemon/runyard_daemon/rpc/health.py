"""grpc.health.v1: whether each service can do its work."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import grpc

from runyard_daemon.control.health import Health
from runyard_daemon.rpc.edge import Context, Gate
from runyard_daemon.rpc.idle import Writable
from runyardpb.grpc.health.v1 import health_pb2 as pb
from runyardpb.grpc.health.v1.health_pb2_grpc import HealthServicer

LOOK_AGAIN_S = 5.0
"""How often a watcher's service is looked at."""
READING = frozenset(
    {
        "runyardpb.v1.AdminService",
        "runyardpb.v1.LogService",
        "runyardpb.v1.MetricService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    }
)
"""Services that only read: they serve on a full or read-only disk."""

_Status = pb.HealthCheckResponse


class HealthService(HealthServicer):
    """Answers from a real write, and from whether the daemon is on its way out."""

    def __init__(self, health: Health, gate: Gate, services: Collection[str]) -> None:
        self._health = health
        self._gate = gate
        self._services = frozenset(services)

    async def Check(
        self, request: pb.HealthCheckRequest, context: Context
    ) -> pb.HealthCheckResponse:
        """How a service is now."""
        status = await self._status(request.service)
        if status == _Status.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "the daemon has no such service")
        return pb.HealthCheckResponse(status=status)

    async def Watch(  # type: ignore[override]  # a coroutine that uses write
        self, request: pb.HealthCheckRequest, context: Writable[pb.HealthCheckResponse]
    ) -> None:
        """How a service is, at once and with each change; never ends by itself."""
        told = None
        while True:
            status = await self._status(request.service)
            if status != told:
                await context.write(pb.HealthCheckResponse(status=status))
                told = status
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _status(self, service: str) -> pb.HealthCheckResponse.ServingStatus.ValueType:
        if service and service not in self._services:
            return _Status.SERVICE_UNKNOWN
        if self._gate.is_draining:
            return _Status.NOT_SERVING
        if service in READING or await self._health.can_write():
            return _Status.SERVING
        return _Status.NOT_SERVING
