"""A daemon in this process: the real app on a real socket, with the real stubs as its client."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import zstandard

from runyard_contract.digest import digest_bytes
from runyard_contract.errors import RunyardError
from runyard_contract.status import DETAILS_KEY, from_status_bytes
from runyard_daemon import instance
from runyard_daemon.app import App, running
from runyard_daemon.config import Config
from runyard_daemon.journal import Journal
from runyardpb.agent.v1 import agent_pb2_grpc
from runyardpb.v1 import (
    admin_pb2_grpc,
    compute_pb2_grpc,
    environments_pb2_grpc,
    experiments_pb2_grpc,
    logs_pb2_grpc,
    metrics_pb2_grpc,
    runs_pb2,
    runs_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
    workspaces_pb2_grpc,
)
from support.trees import Tree, encode_tree

WORKSPACE = "workspaces/default"
LIMIT_S = 20.0


@dataclass
class Served:
    """A serving daemon and stubs that speak to it."""

    app: App
    channel: Any
    journal_path: Path
    runs: Any = field(init=False)
    snapshots: Any = field(init=False)
    logs: Any = field(init=False)
    metrics: Any = field(init=False)
    workspaces: Any = field(init=False)
    experiments: Any = field(init=False)
    computes: Any = field(init=False)
    environments: Any = field(init=False)
    admin: Any = field(init=False)
    agents: Any = field(init=False)

    def __post_init__(self) -> None:
        channel = self.channel
        self.runs = runs_pb2_grpc.RunServiceStub(channel)
        self.snapshots = snapshots_pb2_grpc.SnapshotServiceStub(channel)
        self.logs = logs_pb2_grpc.LogServiceStub(channel)
        self.metrics = metrics_pb2_grpc.MetricServiceStub(channel)
        self.workspaces = workspaces_pb2_grpc.WorkspaceServiceStub(channel)
        self.experiments = experiments_pb2_grpc.ExperimentServiceStub(channel)
        self.computes = compute_pb2_grpc.ComputeServiceStub(channel)
        self.environments = environments_pb2_grpc.EnvironmentServiceStub(channel)
        self.admin = admin_pb2_grpc.AdminServiceStub(channel)
        self.agents = agent_pb2_grpc.AgentServiceStub(channel)

    @property
    def home(self) -> Path:
        return self.app.config.home

    @property
    def store(self) -> Any:
        return self.app.live.store

    async def upload(self, *blobs: bytes) -> Any:
        """Uploads blobs, zstd-packed."""
        messages = [snapshots_pb2.UploadBlobsRequest(blobs=[packed(blob)]) for blob in blobs]
        return await self.snapshots.UploadBlobs(iter(messages))

    async def snapshot(self, files: dict[str, bytes | str]) -> str:
        """Uploads and declares a tree of files (text values are links); gives its full name."""
        root, blobs = tree(files)
        await self.upload(*blobs)
        request = snapshots_pb2.CreateSnapshotRequest(
            parent=WORKSPACE, root_digest=bytes.fromhex(root)
        )
        return (await self.snapshots.CreateSnapshot(request)).snapshot.name

    async def submit(self, *argv: bytes, experiment: str = "demo", **fields: Any) -> runs_pb2.Run:
        """Submits a command on the local target."""
        return (
            await self.runs.CreateRun(create_request(*argv, experiment=experiment, **fields))
        ).run

    async def run(self, name: str) -> runs_pb2.Run:
        return (await self.runs.GetRun(runs_pb2.GetRunRequest(name=name))).run

    async def until(self, name: str, check: Callable[[runs_pb2.Run], bool]) -> runs_pb2.Run:
        """Waits until a run fulfils a condition, woken by the daemon's own changes."""
        run_id = name.rsplit("/", 1)[1]
        with self.app.live.changes.of_run(run_id) as changed:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    changed.clear()
                    run = await self.run(name)
                    if check(run):
                        return run
                    await changed.wait()


def create_request(
    *argv: bytes, experiment: str = "demo", spec: runs_pb2.RunSpec | None = None, **fields: Any
) -> runs_pb2.CreateRunRequest:
    """A submit of a command (or of a whole specification) with a fresh request id."""
    wanted = spec or runs_pb2.RunSpec(command=runs_pb2.Command(argv=argv or (b"true",)))
    fields.setdefault("request_id", str(uuid.uuid4()))
    return runs_pb2.CreateRunRequest(
        parent=f"{WORKSPACE}/experiments/{experiment}", spec=wanted, **fields
    )


def packed(data: bytes) -> snapshots_pb2.Blob:
    """A blob as clients send it."""
    return snapshots_pb2.Blob(
        digest=bytes.fromhex(digest_bytes(data)),
        size_bytes=len(data),
        compression=snapshots_pb2.Blob.COMPRESSION_ZSTD,
        data=zstandard.ZstdCompressor().compress(data),
    )


def tree(files: Tree) -> tuple[str, list[bytes]]:
    """Root digest and all blobs of a tree."""
    digest, blobs = encode_tree(files)
    return digest, list(blobs.values())


def error_of(failed: grpc.aio.AioRpcError) -> RunyardError:
    """The error that a client would raise."""
    details = dict(failed.trailing_metadata() or ()).get(DETAILS_KEY)
    return from_status_bytes(details, failed.code().name, failed.details() or "")


async def refused(call: Awaitable[Any]) -> RunyardError:
    """The error that a call ends with; fails where it succeeds."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as failed:
        return error_of(failed)
    raise AssertionError(f"the call was answered: {answer}")


def reason_of(error: RunyardError) -> str:
    """The reason on the wire, also of a class that this side does not know."""
    return error.reason or getattr(error, "remote_reason", "")


async def drained(call: Any) -> list[Any]:
    """All messages of a stream."""
    return [message async for message in call]


@contextlib.asynccontextmanager
async def served(home: Path, **settings: Any) -> AsyncIterator[Served]:
    """Serves a data directory in this process; on the way out the daemon ends in order."""
    settings.setdefault("has_local_agent", False)
    config = Config(home=home, **settings)
    instance.prepare_home(home)
    journal_path = home / "daemon.log"
    journal_fd = os.open(journal_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    lock_fd = instance.take_lock(home)
    try:
        async with running(config, Journal(journal_fd)) as app, asyncio.TaskGroup() as group:
            serving = group.create_task(app.run())
            async with asyncio.timeout(LIMIT_S):
                await app.serving.wait()
            channel = grpc.aio.insecure_channel(
                f"unix:{app.socket}",
                options=[("grpc.use_local_subchannel_pool", 1)],
            )
            try:
                yield Served(app, channel, journal_path)
            finally:
                app.stop.ask(is_stop=False)
                await asyncio.wait([serving], timeout=LIMIT_S)
                await channel.close()
    finally:
        os.close(lock_fd)
        os.close(journal_fd)


def with_daemon(test: Callable[[Served], Awaitable[None]], **settings: Any) -> None:
    """Runs a test against a daemon of its own."""

    async def main() -> None:
        home = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
        try:
            async with served(home, **settings) as daemon, asyncio.timeout(2 * LIMIT_S):
                await test(daemon)
        finally:
            shutil.rmtree(home)

    asyncio.run(main())
