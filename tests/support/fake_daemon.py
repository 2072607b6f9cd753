"""The far side of an agent: a real gRPC server with the daemon's half of the protocol, in memory.

It keeps the rules that an agent relies on (append by offset, fencing by epoch, forget after the
end) and nothing else; what a test wants to go wrong is switched on by an attribute.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import zstandard

from runyard_contract.content.store import ContentStore
from runyard_contract.environment_spec import packages_hash
from runyard_contract.errors import DiskFull, LeaseSuperseded, RunyardError, SpecInvalid
from runyard_contract.limits import MESSAGE_BYTES
from runyard_contract.manifest import decode_chunks
from runyard_contract.shipping import accept
from runyard_contract.status import DETAILS_KEY, to_status
from runyard_daemon.control.sealed import check_sealed
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.agent.v1 import agent_pb2_grpc
from runyardpb.v1 import environments_pb2, runs_pb2, snapshots_pb2, snapshots_pb2_grpc
from support.trees import Tree, store_tree

LIMIT_S = 30.0
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES),
    ("grpc.max_send_message_length", MESSAGE_BYTES),
    ("grpc.so_reuseport", 0),
)
File = pb.AppendFilesRequest.File
AttemptId = tuple[str, int]


@dataclass
class Held:
    """What the daemon knows of one attempt."""

    lease: pb.Lease
    report: pb.AttemptReport | None = None
    phases: list[int] = field(default_factory=list)
    files: dict[int, bytearray] = field(default_factory=dict)
    registered: dict[str, runs_pb2.RunFile] = field(default_factory=dict)
    is_cancelled: bool = False

    @property
    def run_id(self) -> str:
        return self.lease.ref.run.rpartition("/")[2]

    @property
    def stdout(self) -> bytes:
        return bytes(self.files.get(pb.AppendFilesRequest.FILE_STDOUT, b""))

    @property
    def stderr(self) -> bytes:
        return bytes(self.files.get(pb.AppendFilesRequest.FILE_STDERR, b""))

    def append(self, piece: Any) -> int:
        """Takes what is new of a piece of a file; gives how many bytes that is."""
        stored = self.files.setdefault(piece.file, bytearray())
        accepted = accept(len(stored), piece.offset_bytes, piece.data)
        if accepted is None:
            return 0
        stored += accepted.data
        return len(accepted.data)

    @property
    def end(self) -> pb.AttemptEnd:
        assert self.report is not None
        return self.report.end


class FakeDaemon(agent_pb2_grpc.AgentServiceServicer, snapshots_pb2_grpc.SnapshotServiceServicer):
    """State and services. Start it with `async with daemon.serving():`, again and again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = root / "daemon.sock"
        self.blobs_path = root / "blobs"
        self.blobs = ContentStore(self.blobs_path)
        self.held: dict[AttemptId, Held] = {}
        self.hellos: list[pb.Hello] = []
        self.collected: dict[str, pb.WorkdirCollected] = {}
        self.uploaded: list[str] = []
        self.returned: list[pb.AttemptRef] = []
        self.kept_locks: list[pb.KeepLockRequest] = []
        self.keeps_locks = True
        self.messages = 0
        self.builds: list[environments_pb2.EnvironmentBuild] | None = None
        """What the agent has told of, None before."""
        self.sends_locks = False
        """Leases carry the locks that were kept for their environment."""
        self.locks: dict[tuple[str, str], environments_pb2.EnvironmentLock] = {}
        self.sealed: list[str] = []
        """Roots of the sealed environments that were kept, one for each time."""
        self.reads = 0
        """Times that an agent has asked for blobs."""
        self.may_read = asyncio.Event()
        """Cleared: who asks for blobs waits."""
        self.may_read.set()
        self.appended_bytes = 0
        self.refused_appends = 0
        self.is_disk_full = False
        self.forgets = True
        self.keep_workdir_s = 3600
        self.heartbeat_s = 30.0
        self.window_bytes = 8 << 20
        self._epoch = 0
        self._runs = 0
        self._tag = secrets.token_hex(2)
        self._changed = asyncio.Condition()
        self._outgoing: asyncio.Queue[pb.SessionResponse | None] | None = None

    # ---- what a test does

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[FakeDaemon]:
        """Serves on the socket until the block is left; then it is as if it had been killed."""
        server = grpc.aio.server(options=_OPTIONS)
        agent_pb2_grpc.add_AgentServiceServicer_to_server(self, server)
        snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server(self, server)
        self.socket.unlink(missing_ok=True)
        server.add_insecure_port(f"unix:{self.socket}")
        await server.start()
        try:
            yield self
        finally:
            self._outgoing = None
            await server.stop(None)

    async def until(self, what: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
        """Waits until something is true of the daemon's state, and returns it."""
        async with asyncio.timeout(limit_s), self._changed:
            await self._changed.wait_for(what)
        return what()

    async def session(self) -> None:
        """Waits until an agent is there."""
        await self.until(lambda: self._outgoing is not None)

    def snapshot(self, tree: Tree) -> str:
        """Stores a tree and returns its name."""
        digest = store_tree(self.blobs, tree)
        return f"workspaces/default/snapshots/{digest}"

    async def lease(self, spec: runs_pb2.RunSpec, *, run: str = "", attempt: int = 1) -> Held:
        """Grants a run to the agent that is there; a new one, unless `run` names one."""
        held = self.grant(spec, run=run, attempt=attempt)
        await self.say(leases=[held.lease])
        return held

    async def lease_ahead(self, *specs: runs_pb2.RunSpec) -> list[Held]:
        """Grants runs for which the agent need not have room yet, in one message."""
        granted = [self.grant(spec, is_ahead=True) for spec in specs]
        await self.say(leases=[held.lease for held in granted])
        return granted

    def grant(
        self, spec: runs_pb2.RunSpec, *, run: str = "", attempt: int = 1, is_ahead: bool = False
    ) -> Held:
        """Grants a run, and says nothing."""
        self._epoch += 1
        run = run or self.new_run_id()
        experiment = run.rsplit("_", 2)[0]
        lease = pb.Lease(
            ref=pb.AttemptRef(
                run=f"workspaces/default/experiments/{experiment}/runs/{run}",
                attempt=attempt,
                epoch=self._epoch,
            ),
            spec=spec,
            manifests=self._inline(spec.snapshot),
            environment=spec.environment,
            is_ahead=is_ahead,
            locks=self._locks_for(spec.environment) if self.sends_locks else [],
        )
        held = self.held[run, attempt] = Held(lease)
        return held

    def new_run_id(self) -> str:
        """Unique on the machine: a supervisor finds the processes of a run by its id."""
        self._runs += 1
        return f"t_1764000000_{self._tag}{self._runs:04x}"

    async def cancel(self, held: Held, grace_s: float = 5.0, *, superseded: bool = False) -> None:
        """Ends an attempt."""
        message = pb.CancelAttempt(ref=held.lease.ref, is_superseded=superseded)
        message.grace.FromNanoseconds(int(grace_s * 1e9))
        held.is_cancelled = True
        await self.say(cancel=message)

    async def say(self, **message: Any) -> None:
        """Sends one message down the session."""
        await self.session()
        assert self._outgoing is not None
        self._outgoing.put_nowait(pb.SessionResponse(**message))

    async def ended(self, held: Held, limit_s: float = LIMIT_S) -> pb.AttemptReport:
        """Waits for the attempt's last report."""
        return await self.phase(held, pb.AttemptReport.PHASE_ENDED, limit_s)

    async def phase(self, held: Held, phase: int, limit_s: float = LIMIT_S) -> pb.AttemptReport:
        """Waits until an attempt has come so far."""
        report: pb.AttemptReport = await self.until(
            lambda: held.report if held.report and held.report.phase >= phase else None, limit_s
        )
        return report

    def content(self, file: runs_pb2.RunFile) -> bytes:
        """The bytes of a registered file."""
        data = self.blobs.read(file.content.digest.hex())
        if not file.content.is_chunked:
            return data
        return b"".join(self.blobs.read(digest) for digest, _ in decode_chunks(data))

    def _inline(self, snapshot: str) -> list[pb.InlineBlob]:
        """The root manifest, as a daemon sends small ones with the lease."""
        digest = snapshot.rpartition("/")[2]
        if not digest:
            return []
        try:
            data = self.blobs.read(digest)
        except RunyardError:
            return []
        return [pb.InlineBlob(digest=bytes.fromhex(digest), data=data)]

    # ---- AgentService

    async def Session(self, requests: Any, context: Any) -> Any:
        outgoing: asyncio.Queue[pb.SessionResponse | None] = asyncio.Queue()
        first = await anext(aiter(requests))
        await self._on_hello(first.hello)
        welcome = pb.SessionResponse(sequence=1, acknowledged=1)
        welcome.welcome.daemon_version = "fake"
        welcome.welcome.append_window_bytes = self.window_bytes
        welcome.welcome.heartbeat_interval.FromNanoseconds(int(self.heartbeat_s * 1e9))
        yield welcome
        self._outgoing = outgoing
        reading = asyncio.create_task(self._read_session(requests, outgoing))
        await self._notify()
        sequence = 1
        try:
            while (message := await outgoing.get()) is not None:
                sequence += 1
                message.sequence = sequence
                yield message
        finally:
            reading.cancel()
            if self._outgoing is outgoing:
                self._outgoing = None

    async def _read_session(self, requests: Any, outgoing: Any) -> None:
        async for request in requests:
            self.messages += 1
            for report in request.reports:
                self._on_report(report, outgoing)
            self.returned.extend(request.returned)
            if request.HasField("environments"):
                self.builds = list(request.environments.builds)
            if request.HasField("workdir_collected"):
                self.collected[request.workdir_collected.request_id] = request.workdir_collected
            outgoing.put_nowait(pb.SessionResponse(acknowledged=request.sequence))
            await self._notify()
        outgoing.put_nowait(None)

    async def _on_hello(self, hello: pb.Hello) -> None:
        self.hellos.append(hello)
        for report in hello.attempts:
            self._on_report(report, None)
        await self._notify()

    def _on_report(self, report: pb.AttemptReport, outgoing: Any) -> None:
        held = self.held.get((report.ref.run.rpartition("/")[2], report.ref.attempt))
        if held is None or held.lease.ref.epoch != report.ref.epoch:
            return
        for piece in report.pieces:
            held.append(piece)
        if held.report is None or report.phase >= held.report.phase:
            held.report = report
        if not held.phases or held.phases[-1] < report.phase:
            held.phases.append(report.phase)
        if report.phase == pb.AttemptReport.PHASE_ENDED and self.forgets and outgoing is not None:
            self.forget(held, outgoing)

    def forget(self, held: Held, outgoing: Any = None) -> None:
        """Lets the agent's folder of an attempt go."""
        forget = pb.ForgetAttempt(ref=held.lease.ref)
        forget.keep_workdir.FromSeconds(self.keep_workdir_s)
        (outgoing or self._outgoing).put_nowait(pb.SessionResponse(forgets=[forget]))

    async def AppendFiles(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            if self.is_disk_full and any(piece.data for piece in request.pieces):
                await _abort(context, DiskFull("the disk is full"))
            held = self._fenced(request.ref)
            if held is None:
                self.refused_appends += 1
                await self._notify()
                for file in {piece.file for piece in request.pieces}:
                    yield pb.AppendFilesResponse(ref=request.ref, file=file, is_superseded=True)
                continue
            for piece in request.pieces:
                self.appended_bytes += held.append(piece)
            for file in {piece.file for piece in request.pieces}:
                committed_bytes = len(held.files[file])
                yield pb.AppendFilesResponse(
                    ref=request.ref, file=file, committed_bytes=committed_bytes
                )
            await self._notify()

    async def RegisterFiles(self, request: pb.RegisterFilesRequest, context: Any) -> Any:
        held = self._fenced(request.ref)
        if held is None:
            await _abort(context, LeaseSuperseded("another grant counts"))
        assert held is not None
        for file in request.files:
            assert not self.blobs.missing([file.content.digest.hex()]), file.path
            held.registered[file.path] = file
        await self._notify()
        return pb.RegisterFilesResponse()

    async def KeepLock(self, request: pb.KeepLockRequest, context: Any) -> Any:
        self.kept_locks.append(request)
        if not self.keeps_locks:
            await _abort(context, SpecInvalid(violations=[("lock", "is not wanted")]))
        self.locks[request.spec_hash, request.lock.platform] = request.lock
        return pb.KeepLockResponse(lock=request.lock)

    async def KeepSealed(self, request: pb.KeepSealedRequest, context: Any) -> Any:
        root = request.root_digest.hex()
        sealed, checked = check_sealed(root, self.blobs)
        assert sealed.lock_hash == request.lock_hash
        self.sealed.append(root)
        kept = environments_pb2.SealedEnvironment(
            root_digest=request.root_digest,
            file_count=checked.files - 1,
            size_bytes=checked.size_bytes,
        )
        for lock in self.locks.values():
            if lock.hash == request.lock_hash:
                lock.sealed.CopyFrom(kept)
        await self._notify()
        return pb.KeepSealedResponse(sealed=kept)

    def _locks_for(self, spec: environments_pb2.EnvironmentSpec) -> list[Any]:
        """What is kept for a specification, as a lease has it."""
        return [lock for (hashed, _), lock in self.locks.items() if hashed == packages_hash(spec)]

    def _fenced(self, ref: pb.AttemptRef) -> Held | None:
        held = self.held.get((ref.run.rpartition("/")[2], ref.attempt))
        return held if held is not None and held.lease.ref.epoch == ref.epoch else None

    # ---- SnapshotService

    async def FindMissingBlobs(self, request: Any, context: Any) -> Any:
        missing = self.blobs.missing(digest.hex() for digest in request.digests)
        return snapshots_pb2.FindMissingBlobsResponse(
            missing_digests=[bytes.fromhex(digest) for digest in missing]
        )

    async def UploadBlobs(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            for blob in request.blobs:
                data = blob.data
                if blob.compression == snapshots_pb2.Blob.COMPRESSION_ZSTD:
                    data = zstandard.ZstdDecompressor().decompress(data)
                assert len(data) == blob.size_bytes
                self.blobs.put_many([(blob.digest.hex(), data)])
                self.uploaded.append(blob.digest.hex())
        return snapshots_pb2.UploadBlobsResponse(stored_count=len(self.uploaded))

    async def ReadBlobs(self, request: Any, context: Any) -> Any:
        self.reads += 1
        await self._notify()
        await self.may_read.wait()
        for digest in request.digests:
            try:
                data = self.blobs.read(digest.hex())
            except RunyardError as error:
                await _abort(context, error)
            packed = zstandard.ZstdCompressor().compress(data)
            blob = snapshots_pb2.Blob(
                digest=digest,
                size_bytes=len(data),
                compression=snapshots_pb2.Blob.COMPRESSION_ZSTD,
                data=packed,
            )
            yield snapshots_pb2.ReadBlobsResponse(blobs=[blob])

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


async def _abort(context: Any, error: RunyardError) -> None:
    context.set_trailing_metadata(((DETAILS_KEY, to_status(error)),))
    await context.abort(grpc.StatusCode[error.code], error.message)


def script(
    daemon: FakeDaemon, source: str | bytes, *arguments: bytes, **fields: Any
) -> runs_pb2.RunSpec:
    """A run of one Python script under the test's own interpreter."""
    data = source if isinstance(source, bytes) else source.encode()
    others = fields.pop("files", {})
    spec = runs_pb2.RunSpec(
        kind=runs_pb2.RunSpec.KIND_PROGRAM,
        compute_target="local",
        snapshot=daemon.snapshot({"train.py": data, **others}),
        script=runs_pb2.Script(path="train.py", arguments=arguments),
        caller_interpreter=os.fsencode(sys.executable),
        caller_environment=[
            {"name": b"PATH", "value": os.environb[b"PATH"]},  # type: ignore[list-item]
        ],
    )
    for name, value in fields.items():
        if name.endswith("_s"):
            getattr(spec, name.removesuffix("_s")).FromNanoseconds(int(value * 1e9))
        else:
            setattr(spec, name, value)
    return spec
