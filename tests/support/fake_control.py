"""A control plane for client tests: real gRPC on a Unix socket, with a state that tests arrange.

It keeps blobs and runs in memory and counts what clients send. What a test wants to go wrong is
set in its attributes.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import zstandard

from runyard.address import Address
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import (
    BlobMissing,
    ComputeNotFound,
    DigestMismatch,
    RunFileNotFound,
    RunNotFound,
    RunyardError,
)
from runyard_contract.home import grpc_target
from runyard_contract.limits import MESSAGE_BYTES
from runyard_contract.manifest import DirectoryEntry, FileEntry, decode_chunks, read_directory
from runyardpb.v1 import (
    compute_pb2,
    compute_pb2_grpc,
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
)
from support.control_state import ControlState, Service, abort


class FakeSnapshots(Service, snapshots_pb2_grpc.SnapshotServiceServicer):
    def FindMissingBlobs(
        self, request: snapshots_pb2.FindMissingBlobsRequest, context: grpc.ServicerContext
    ) -> snapshots_pb2.FindMissingBlobsResponse:
        self.enter("FindMissingBlobs", context)
        self.state.digests_asked += len(request.digests)
        missing = [digest for digest in request.digests if digest not in self.state.blobs]
        return snapshots_pb2.FindMissingBlobsResponse(missing_digests=missing)

    def UploadBlobs(
        self,
        request_iterator: Iterator[snapshots_pb2.UploadBlobsRequest],
        context: grpc.ServicerContext,
    ) -> snapshots_pb2.UploadBlobsResponse:
        self.enter("UploadBlobs", context)
        for number, request in enumerate(request_iterator):
            if number == self.state.upload_limit:
                self.state.upload_limit = None
                context.abort(grpc.StatusCode.UNAVAILABLE, "cut off")
            self.state.bytes_received += request.ByteSize()
            for blob in request.blobs:
                self._store(blob, context)
        return snapshots_pb2.UploadBlobsResponse()

    def _store(self, blob: snapshots_pb2.Blob, context: grpc.ServicerContext) -> None:
        data = blob.data
        if blob.compression == snapshots_pb2.Blob.COMPRESSION_ZSTD:
            data = zstandard.ZstdDecompressor().decompress(data)
        if digest_bytes(data) != blob.digest.hex() or len(data) != blob.size_bytes:
            abort(context, DigestMismatch("a blob is not what was announced"))
        self.state.blobs_received += 1
        self.state.blobs[blob.digest] = data

    def CreateSnapshot(
        self, request: snapshots_pb2.CreateSnapshotRequest, context: grpc.ServicerContext
    ) -> snapshots_pb2.CreateSnapshotResponse:
        self.enter("CreateSnapshot", context)
        missing = list(self._missing(request.root_digest))
        if missing:
            abort(context, BlobMissing.of(missing))
        name = f"{request.parent}/snapshots/{request.root_digest.hex()}"
        self.state.snapshots.add(name)
        return snapshots_pb2.CreateSnapshotResponse(snapshot=snapshots_pb2.Snapshot(name=name))

    def _missing(self, directory: bytes) -> Iterator[str]:
        """Every blob below a directory that is not there."""
        try:
            entries = read_directory(directory.hex(), lambda d: self.state.blobs[bytes.fromhex(d)])
        except KeyError as error:
            yield str(error.args[0].hex())
            return
        for entry in entries:
            if isinstance(entry, DirectoryEntry):
                yield from self._missing(bytes.fromhex(entry.digest))
            elif isinstance(entry, FileEntry):
                data = self.state.blobs.get(bytes.fromhex(entry.digest))
                if data is None:
                    yield entry.digest
                elif entry.is_chunked:
                    for digest, _ in decode_chunks(data):
                        if bytes.fromhex(digest) not in self.state.blobs:
                            yield digest


class FakeRuns(Service, runs_pb2_grpc.RunServiceServicer):
    def CreateRun(
        self, request: runs_pb2.CreateRunRequest, context: grpc.ServicerContext
    ) -> runs_pb2.CreateRunResponse:
        self.enter("CreateRun", context)
        state = self.state
        if request.spec.snapshot not in state.snapshots:
            abort(context, BlobMissing.of(["0" * 64]))
        if request.request_id not in state.by_request:
            state.created.append(request)
            number = len(state.created)
            experiment = request.parent.rsplit("/", 1)[-1]
            run = runs_pb2.Run(
                name=f"{request.parent}/runs/{experiment}_{1_700_000_000 + number}_{number:08x}",
                spec=request.spec,
                state=runs_pb2.Run.STATE_QUEUED,
                number=number,
                tags=request.tags,
                properties=request.properties,
            )
            run.create_time.FromSeconds(1_700_000_000 + number)
            state.runs[run.name] = run
            state.by_request[request.request_id] = run
        return runs_pb2.CreateRunResponse(run=state.by_request[request.request_id])

    def _run(self, name: str, context: grpc.ServicerContext) -> runs_pb2.Run:
        run = self.state.runs.get(name)
        if run is None:
            abort(context, RunNotFound.named(name.rsplit("/", 1)[-1], "iris_1700000001_00000001"))
        return run

    def GetRun(
        self, request: runs_pb2.GetRunRequest, context: grpc.ServicerContext
    ) -> runs_pb2.GetRunResponse:
        self.enter("GetRun", context)
        return runs_pb2.GetRunResponse(run=self._run(request.name, context))

    def ListRuns(
        self, request: runs_pb2.ListRunsRequest, context: grpc.ServicerContext
    ) -> runs_pb2.ListRunsResponse:
        self.enter("ListRuns", context)
        first = self._run(request.from_run, context).number if request.from_run else 0
        runs = [
            run
            for run in reversed(self.state.runs.values())
            if all(
                run.tags.get(k) == v or (not v and k in run.tags) for k, v in request.tags.items()
            )
            and (not request.states or run.state in request.states)
            and run.number >= first
        ]
        self.state.listed.append([run.name for run in runs])
        start = int(request.page_token or 0)
        end = start + min(request.page_size or 50, self.state.page_size)
        token = str(end) if end < len(runs) else ""
        return runs_pb2.ListRunsResponse(
            runs=runs[start:end], next_page_token=token, watch_cursor="c1"
        )

    def UpdateRun(
        self, request: runs_pb2.UpdateRunRequest, context: grpc.ServicerContext
    ) -> runs_pb2.UpdateRunResponse:
        self.enter("UpdateRun", context)
        run = self._run(request.run.name, context)
        for path in request.update_mask.paths:
            kind, _, key = path.partition(".")
            labels, given = getattr(run, kind), getattr(request.run, kind)
            if key in given:
                labels[key] = given[key]
            else:
                labels.pop(key, None)
        return runs_pb2.UpdateRunResponse(run=run)

    def CancelRun(
        self, request: runs_pb2.CancelRunRequest, context: grpc.ServicerContext
    ) -> runs_pb2.CancelRunResponse:
        self.enter("CancelRun", context)
        run = self._run(request.name, context)
        run.state = runs_pb2.Run.STATE_CANCELED
        return runs_pb2.CancelRunResponse(run=run)

    def FollowRun(
        self, request: runs_pb2.FollowRunRequest, context: grpc.ServicerContext
    ) -> Iterator[runs_pb2.FollowRunResponse]:
        self.enter("FollowRun", context)
        if request.omit_log:
            run = self.state.runs[request.name]
            yield runs_pb2.FollowRunResponse(run=run)
            run.state = runs_pb2.Run.STATE_COMPLETED
            yield runs_pb2.FollowRunResponse(run=run)
            return
        assert self.state.follow is not None
        yield from self.state.follow(request)

    def WatchRuns(
        self, request: runs_pb2.WatchRunsRequest, context: grpc.ServicerContext
    ) -> Iterator[runs_pb2.WatchRunsResponse]:
        self.enter("WatchRuns", context)
        yield runs_pb2.WatchRunsResponse(cursor="c2")
        for run in self.state.runs.values():
            run.state = runs_pb2.Run.STATE_COMPLETED
            yield runs_pb2.WatchRunsResponse(run=run, cursor="c3")

    def ExplainRun(
        self, request: runs_pb2.ExplainRunRequest, context: grpc.ServicerContext
    ) -> runs_pb2.ExplainRunResponse:
        self.enter("ExplainRun", context)
        return runs_pb2.ExplainRunResponse(
            summary="it waits for 8 GPUs",
            verdicts=[runs_pb2.NodeVerdict(node="local/host1", reasons=["has 0 GPUs"])],
            queue_position=1,
        )

    def ListRunFiles(
        self, request: runs_pb2.ListRunFilesRequest, context: grpc.ServicerContext
    ) -> runs_pb2.ListRunFilesResponse:
        self.enter("ListRunFiles", context)
        files = [file for file in self.state.file_records if file.path.startswith(request.prefix)]
        return runs_pb2.ListRunFilesResponse(files=files)

    def ReadRunFile(
        self, request: runs_pb2.ReadRunFileRequest, context: grpc.ServicerContext
    ) -> Iterator[runs_pb2.ReadRunFileResponse]:
        self.enter("ReadRunFile", context)
        if request.path not in self.state.files:
            abort(context, RunFileNotFound.named(request.path))
        data = self.state.files[request.path][request.offset_bytes :]
        for start in range(0, len(data), 1 << 20):
            yield runs_pb2.ReadRunFileResponse(data=data[start : start + (1 << 20)])

    def AddRunFiles(
        self, request: runs_pb2.AddRunFilesRequest, context: grpc.ServicerContext
    ) -> runs_pb2.AddRunFilesResponse:
        self.enter("AddRunFiles", context)
        self.state.file_records += request.files
        for file in request.files:
            data = self.state.blobs[file.content.digest]
            if file.content.is_chunked:
                chunks = [digest for digest, _ in decode_chunks(data)]
                data = b"".join(self.state.blobs[bytes.fromhex(digest)] for digest in chunks)
            self.state.files[file.path] = data
        return runs_pb2.AddRunFilesResponse()


class FakeOthers(
    Service,
    logs_pb2_grpc.LogServiceServicer,
    metrics_pb2_grpc.MetricServiceServicer,
    compute_pb2_grpc.ComputeServiceServicer,
    experiments_pb2_grpc.ExperimentServiceServicer,
):
    def ReadLog(
        self, request: logs_pb2.ReadLogRequest, context: grpc.ServicerContext
    ) -> Iterator[logs_pb2.ReadLogResponse]:
        self.enter("ReadLog", context)
        offset = 0
        for stream, data in self.state.log:
            if request.source in (logs_pb2.LOG_SOURCE_MERGED, stream):
                if offset >= request.offset_bytes:
                    chunk = logs_pb2.LogChunk(stream=stream, offset_bytes=offset, data=data)  # type: ignore[arg-type]
                    yield logs_pb2.ReadLogResponse(chunk=chunk)
                offset += len(data)
        yield logs_pb2.ReadLogResponse(chunk=logs_pb2.LogChunk(is_last=True))

    def ReadMetricPoints(
        self, request: metrics_pb2.ReadMetricPointsRequest, context: grpc.ServicerContext
    ) -> Iterator[metrics_pb2.ReadMetricPointsResponse]:
        self.enter("ReadMetricPoints", context)
        for point in self.state.points:
            if not request.metrics or point.metric in request.metrics:
                yield metrics_pb2.ReadMetricPointsResponse(points=[point])

    def _local(self) -> compute_pb2.Compute:
        return compute_pb2.Compute(
            name="workspaces/default/computes/local",
            kind=compute_pb2.Compute.KIND_LOCAL,
            state=compute_pb2.Compute.STATE_SUCCEEDED,
            nodes=[compute_pb2.Node(node_id="n1", state=compute_pb2.Node.STATE_IDLE, slots=2)],
        )

    def GetCompute(
        self, request: compute_pb2.GetComputeRequest, context: grpc.ServicerContext
    ) -> compute_pb2.GetComputeResponse:
        self.enter("GetCompute", context)
        if not request.name.endswith("/local"):
            abort(context, ComputeNotFound.named(request.name.rsplit("/", 1)[-1], "local"))
        return compute_pb2.GetComputeResponse(compute=self._local())

    def ListComputes(
        self, request: compute_pb2.ListComputesRequest, context: grpc.ServicerContext
    ) -> compute_pb2.ListComputesResponse:
        self.enter("ListComputes", context)
        return compute_pb2.ListComputesResponse(computes=[self._local()])

    def ListExperiments(
        self, request: experiments_pb2.ListExperimentsRequest, context: grpc.ServicerContext
    ) -> experiments_pb2.ListExperimentsResponse:
        self.enter("ListExperiments", context)
        names = dict.fromkeys(name.rsplit("/", 2)[0] for name in self.state.runs)
        return experiments_pb2.ListExperimentsResponse(
            experiments=[experiments_pb2.Experiment(name=name) for name in names]
        )


class FakeControl:
    """A server over a state. `stop` and `start` again stand for a killed daemon."""

    def __init__(self, socket: Path, state: ControlState) -> None:
        self.socket = socket
        self.state = state
        self._server: grpc.Server | None = None

    def start(self) -> None:
        """Listens at the socket."""
        limit = [("grpc.max_receive_message_length", MESSAGE_BYTES)]
        server = grpc.server(ThreadPoolExecutor(max_workers=8), options=limit)
        add: list[tuple[Any, Any]] = [
            (snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server, FakeSnapshots),
            (runs_pb2_grpc.add_RunServiceServicer_to_server, FakeRuns),
            (logs_pb2_grpc.add_LogServiceServicer_to_server, FakeOthers),
            (metrics_pb2_grpc.add_MetricServiceServicer_to_server, FakeOthers),
            (compute_pb2_grpc.add_ComputeServiceServicer_to_server, FakeOthers),
            (experiments_pb2_grpc.add_ExperimentServiceServicer_to_server, FakeOthers),
        ]
        for register, servicer in add:
            register(servicer(self.state), server)
        assert server.add_insecure_port(grpc_target(self.socket))
        server.start()
        self._server = server

    def stop(self) -> None:
        """Ends at once; calls in progress break."""
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None


class Reviving(Address):
    """The address of a server on this machine that is started again when it is gone."""

    def __init__(self, control: FakeControl) -> None:
        self._control = control
        self.revivals = 0

    def target(self) -> str:
        """See Address."""
        return grpc_target(self._control.socket)

    def revive(self, error: RunyardError) -> None:
        """See Address."""
        del error
        self.revivals += 1
        self._control.stop()
        self._control.start()

    @property
    def home(self) -> None:
        """See Address: nothing is remembered."""
        return None

    @property
    def is_near(self) -> bool:
        """See Address."""
        return True

    def __str__(self) -> str:
        return "reviving"


@contextlib.contextmanager
def fake_control() -> Generator[FakeControl, None, None]:
    """A running server at a short path."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-") as folder:
        control = FakeControl(Path(folder) / "d.sock", ControlState())
        control.start()
        try:
            yield control
        finally:
            control.stop()
