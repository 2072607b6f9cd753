"""AdminService: served to clients of any version."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

from runyard_contract.errors import SpecInvalid
from runyard_contract.version import PROTOCOL_VERSION, build_id
from runyard_daemon.config import Config
from runyard_daemon.control.backup import Backup, BackupFacts
from runyard_daemon.control.cancel import Canceler
from runyard_daemon.control.figures import Figures
from runyard_daemon.control.garbage import GRACE_S, GarbageCollector
from runyard_daemon.control.hello import WORKSPACE
from runyard_daemon.control.live import Live
from runyard_daemon.rpc.convert.times import from_duration, to_timestamp
from runyard_daemon.rpc.edge import Context
from runyard_daemon.rpc.idle import Writable
from runyard_daemon.rpc.lookup import ANY
from runyard_daemon.store import SQLITE_VERSION, experiments
from runyard_daemon.store.space import space
from runyardpb.v1 import admin_pb2 as pb
from runyardpb.v1.admin_pb2_grpc import AdminServiceServicer


@dataclass(frozen=True, slots=True)
class AdminParts:
    """What the daemon says of itself and how it is stopped."""

    config: Config
    live: Live
    canceler: Canceler
    garbage: GarbageCollector
    start_time_us: int
    agent_pid: Callable[[], int | None]
    """The process of the local agent, if one lives."""
    backup: Backup
    figures: Figures
    stop: Callable[[], None]
    """Begins to stop the daemon and its local agent; returns at once."""


class AdminService(AdminServiceServicer):
    """Looks at and stops the daemon."""

    def __init__(self, parts: AdminParts) -> None:
        self._parts = parts

    async def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: Context
    ) -> pb.GetServerInfoResponse:
        """What this daemon is and does."""
        live = self._parts.live
        database = live.store.peek(space)
        return pb.GetServerInfoResponse(
            version=build_id(),
            protocol_version=PROTOCOL_VERSION,
            pid=os.getpid(),
            home=os.fsencode(self._parts.config.home),
            start_time=to_timestamp(self._parts.start_time_us),
            queued_runs=len(live.waiting),
            active_runs=len(live.attempts),
            total_runs=await live.store.read(experiments.total_runs),
            connected_agents=len(live.sessions),
            sqlite_version=SQLITE_VERSION,
            interpreter=sys.executable,
            is_embedded=self._parts.config.is_embedded,
            database_bytes=database.total_bytes,
            free_database_bytes=database.free_bytes,
            found_attempts=[
                pb.FoundAttempt(run=found.name, attempt=found.ref.attempt, node=node)
                for node, attempts in live.found.items()
                for found in attempts
            ],
        )

    async def GetMetrics(
        self, request: pb.GetMetricsRequest, context: Context
    ) -> pb.GetMetricsResponse:
        """The daemon's figures in Prometheus's text format."""
        return pb.GetMetricsResponse(exposition=await self._parts.figures.exposition())

    async def StopServer(
        self, request: pb.StopServerRequest, context: Context
    ) -> pb.StopServerResponse:
        """Ends daemon and local agent; the answer comes first."""
        canceled = await self._cancel_all() if request.cancel_runs else 0
        agent = self._parts.agent_pid()
        answer = pb.StopServerResponse(
            active_runs=len(self._parts.live.attempts),
            canceled_runs=canceled,
            pids=[os.getpid(), *([agent] if agent else [])],
        )
        self._parts.stop()
        return answer

    async def BackUpServer(  # type: ignore[override]  # a coroutine that uses write
        self, request: pb.BackUpServerRequest, context: Writable[pb.BackUpServerResponse]
    ) -> None:
        """Streams a backup."""
        async with contextlib.aclosing(self._parts.backup.stream()) as pieces:
            async for piece in pieces:
                await context.write(
                    pb.BackUpServerResponse(summary=_to_summary(piece))
                    if isinstance(piece, BackupFacts)
                    else pb.BackUpServerResponse(data=piece)
                )

    async def CollectGarbage(
        self, request: pb.CollectGarbageRequest, context: Context
    ) -> pb.CollectGarbageResponse:
        """Removes content that nothing needs."""
        grace_s = from_duration(request.grace) if request.HasField("grace") else GRACE_S
        if grace_s < 0:
            raise SpecInvalid(violations=[("grace", f"{grace_s:g} s is negative")])
        found = await self._parts.garbage.collect(grace_s, is_dry_run=request.is_dry_run)
        return pb.CollectGarbageResponse(
            removed_count=found.garbage.count,
            removed_bytes=found.garbage.size_bytes,
            kept_count=found.kept.count,
            kept_bytes=found.kept.size_bytes,
        )

    async def _cancel_all(self) -> int:
        """Cancels all runs that have not ended and waits for their ends; gives how many."""
        live = self._parts.live
        wanted = [*live.waiting, *live.attempts]
        for run_id in wanted:
            await self._parts.canceler.cancel(WORKSPACE, ANY, run_id, "the daemon is stopped")
        with live.changes.of_any() as changed:
            try:
                async with asyncio.timeout(self._parts.config.cancel_runs_s):
                    while any(run_id in live.attempts for run_id in wanted):
                        changed.clear()
                        await changed.wait()
            except TimeoutError:
                live.journal.warning("stop_without_all_ends", left=len(live.attempts))
        return sum(run_id not in live.attempts for run_id in wanted)


def _to_summary(facts: BackupFacts) -> pb.BackupSummary:
    return pb.BackupSummary(
        digest=facts.digest,
        size_bytes=facts.size_bytes,
        run_count=facts.run_count,
        blob_count=facts.blob_count,
        file_count=facts.file_count,
        time=to_timestamp(facts.time_us),
    )
