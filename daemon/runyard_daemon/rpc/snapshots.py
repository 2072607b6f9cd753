"""SnapshotService: blobs and the trees that they make up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

from runyard_contract.digest import DIGEST_BYTES, is_digest
from runyard_contract.errors import SnapshotNotFound, SpecInvalid
from runyard_contract.ids import WorkspaceName
from runyard_contract.limits import UPLOAD_BATCH_BYTES
from runyard_daemon.content import Content, Packed, Upload
from runyard_daemon.control import catalog
from runyard_daemon.control.declare import Declarer
from runyard_daemon.control.live import Live
from runyard_daemon.control.spool import Piece, Spool
from runyard_daemon.control.uploadtree import Uploaded, declare_spool
from runyard_daemon.rpc.convert.times import to_timestamp
from runyard_daemon.rpc.edge import Context
from runyard_daemon.rpc.idle import Readable, Writable, incoming
from runyard_daemon.store.snapshots import SnapshotRecord
from runyardpb.v1 import snapshots_pb2 as pb
from runyardpb.v1.snapshots_pb2_grpc import SnapshotServiceServicer

DIGESTS_MAX = 20_000
_QUEUED_MESSAGES = 4
"""Received messages that wait for the disk: 64 MiB at most."""
_OWNER_EXECUTES = 0o100
_TREE_KINDS = frozenset(pb.TreeEntry.Kind.values())
_COMPRESSIONS = frozenset(pb.Blob.Compression.values())


class SnapshotService(SnapshotServiceServicer):
    """Serves clients with source directories and agents with outputs."""

    def __init__(
        self, live: Live, content: Content, declarer: Declarer, upload_idle_s: float
    ) -> None:
        self._live = live
        self._content = content
        self._declarer = declarer
        self._upload_idle_s = upload_idle_s

    async def FindMissingBlobs(
        self, request: pb.FindMissingBlobsRequest, context: Context
    ) -> pb.FindMissingBlobsResponse:
        """Which blobs the store lacks."""
        missing = await self._content.missing(_digests(request.digests))
        return pb.FindMissingBlobsResponse(missing_digests=map(bytes.fromhex, missing))

    async def UploadBlobs(
        self, requests: object, context: Readable[pb.UploadBlobsRequest]
    ) -> pb.UploadBlobsResponse:
        """Stores blobs; a stream cut off keeps what was committed."""
        self._live.disk.check()
        queue: asyncio.Queue[list[Packed] | None] = asyncio.Queue(_QUEUED_MESSAGES)
        async with self._content.upload() as upload, asyncio.TaskGroup() as group:
            group.create_task(_store(queue, upload), name="upload-store")
            async for request in incoming(context, self._upload_idle_s):
                await queue.put([_packed(blob) for blob in request.blobs])
            await queue.put(None)
        return pb.UploadBlobsResponse(stored_count=upload.blobs, stored_bytes=upload.size_bytes)

    async def ReadBlobs(  # type: ignore[override]  # a coroutine that uses write
        self, request: pb.ReadBlobsRequest, context: Writable[pb.ReadBlobsResponse]
    ) -> None:
        """Blobs in the order asked for, about 1 MiB a message."""
        response, size_bytes = pb.ReadBlobsResponse(), 0
        for digest in _digests(request.digests):
            data = await self._content.read(digest)
            if response.blobs and size_bytes + len(data) > UPLOAD_BATCH_BYTES:
                await context.write(response)
                response, size_bytes = pb.ReadBlobsResponse(), 0
            response.blobs.add(
                digest=bytes.fromhex(digest),
                size_bytes=len(data),
                compression=pb.Blob.COMPRESSION_NONE,
                data=data,
            )
            size_bytes += len(data)
        if response.blobs:
            await context.write(response)

    async def CreateSnapshot(
        self, request: pb.CreateSnapshotRequest, context: Context
    ) -> pb.CreateSnapshotResponse:
        """Declares a tree a snapshot."""
        workspace = WorkspaceName.parse(request.parent).workspace
        (root,) = _digests([request.root_digest])
        record = await self._declarer.declare(workspace, root)
        return pb.CreateSnapshotResponse(snapshot=_to_snapshot(record))

    async def UploadTree(
        self, requests: object, context: Readable[pb.UploadTreeRequest]
    ) -> pb.UploadTreeResponse:
        """Makes a folder that comes as a stream a snapshot."""
        self._live.disk.check()
        spool = Spool(self._content.spool_folder)
        with contextlib.ExitStack() as stack:
            stack.callback(spool.close)
            header: pb.TreeHeader | None = None
            async for request in incoming(context, self._upload_idle_s):
                if header is None:
                    header = _tree_header(request)
                elif request.HasField("header"):
                    raise SpecInvalid(violations=[("header", "belongs in the first message only")])
                await asyncio.to_thread(spool.add, [_piece(entry) for entry in request.entries])
            if header is None:
                raise SpecInvalid(violations=[("header", "is missing")])
            spool.finish()
            stack.pop_all()  # the work closes it, also when the caller is gone before its end
            work = self._declare_spool(header, spool)
        uploaded = await self._live.background.whole(work, "upload tree")
        return pb.UploadTreeResponse(
            snapshot=_to_snapshot(uploaded.snapshot),
            left_out=[pb.LeftOut(path=left.path, rule=left.rule) for left in uploaded.left_out],
            left_out_count=uploaded.left_out_count,
        )

    async def _declare_spool(self, header: pb.TreeHeader, spool: Spool) -> Uploaded:
        workspace = WorkspaceName.parse(header.parent).workspace
        try:
            return await declare_spool(
                self._content, self._declarer, workspace, spool, header.takes_ignored
            )
        finally:
            spool.close()

    async def GetSnapshot(
        self, request: pb.GetSnapshotRequest, context: Context
    ) -> pb.GetSnapshotResponse:
        """One snapshot."""
        parent, separator, digest = request.name.partition("/snapshots/")
        if not separator or not is_digest(digest):
            raise SnapshotNotFound.named(request.name)
        workspace = WorkspaceName.parse(parent).workspace
        record = self._live.store.peek(lambda conn: catalog.snapshot(conn, workspace, digest))
        return pb.GetSnapshotResponse(snapshot=_to_snapshot(record))


def _digests(raw: Iterable[bytes]) -> list[str]:
    """Digests in hexadecimal. Raises SpecInvalid for what can't be one, or for too many."""
    digests = [digest.hex() for digest in raw]
    if len(digests) > DIGESTS_MAX:
        raise SpecInvalid(
            violations=[("digests", f"{len(digests)} in one call; at most {DIGESTS_MAX}")]
        )
    for index, digest in enumerate(digests):
        if len(digest) != 2 * DIGEST_BYTES:
            raise SpecInvalid(violations=[(f"digests[{index}]", f"must have {DIGEST_BYTES} bytes")])
    return digests


def _packed(blob: pb.Blob) -> Packed:
    compression, digest = blob.compression, blob.digest
    if compression not in _COMPRESSIONS:
        raise SpecInvalid(violations=[("blobs.compression", f"{compression} is unknown")])
    if len(digest) != DIGEST_BYTES:
        raise SpecInvalid(violations=[("blobs.digest", f"must have {DIGEST_BYTES} bytes")])
    is_zstd = compression == pb.Blob.COMPRESSION_ZSTD
    return Packed(digest.hex(), blob.size_bytes, is_zstd, blob.data)


def _tree_header(request: pb.UploadTreeRequest) -> pb.TreeHeader:
    """The header of a first message. Raises SpecInvalid, and NameInvalid for its parent."""
    if not request.HasField("header"):
        raise SpecInvalid(violations=[("header", "must be in the first message")])
    WorkspaceName.parse(request.header.parent)
    return request.header


def _piece(entry: pb.TreeEntry) -> Piece:
    if entry.kind not in _TREE_KINDS:
        raise SpecInvalid(violations=[("entries.kind", f"{entry.kind} is unknown")])
    is_file = entry.kind in (pb.TreeEntry.KIND_UNSPECIFIED, pb.TreeEntry.KIND_FILE)
    if entry.has_more and not is_file:
        raise SpecInvalid(violations=[("entries.has_more", "is for files only")])
    return Piece(
        path=entry.path,
        is_link=entry.kind == pb.TreeEntry.KIND_LINK,
        is_directory=entry.kind == pb.TreeEntry.KIND_DIRECTORY,
        is_executable=is_file and bool(entry.mode & _OWNER_EXECUTES),
        data=entry.data,
        has_more=entry.has_more,
    )


async def _store(queue: asyncio.Queue[list[Packed] | None], upload: Upload) -> None:
    """Stores what comes, until None does."""
    while True:
        try:
            async with asyncio.timeout_at(upload.due_s):
                blobs = await queue.get()
        except TimeoutError:
            blobs = []  # nothing came in time: what is there is committed
        if blobs is None:
            break
        await upload.add(blobs)
    await upload.commit()


def _to_snapshot(record: SnapshotRecord) -> pb.Snapshot:
    return pb.Snapshot(
        name=f"workspaces/{record.workspace}/snapshots/{record.digest}",
        file_count=record.file_count,
        size_bytes=record.size_bytes,
        create_time=to_timestamp(record.create_time_us),
    )
