"""SnapshotService: blobs and the trees that they make up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import grpc.aio
from runyard_contract.digest import DIGEST_BYTES
from runyard_contract.errors import BlobMissing, SpecInvalid
from runyard_contract.ids import WorkspaceName
from runyard_contract.limits import CHUNKED_ABOVE_BYTES, MESSAGE_BYTES, UPLOAD_BATCH_BYTES
from runyardpb.v1 import snapshots_pb2 as pb
from runyardpb.v1.snapshots_pb2_grpc import SnapshotServiceServicer

from runyard_daemon.content import Content, Packed, Stored
from runyard_daemon.control.catalog import Catalog
from runyard_daemon.rpc.convert.times import to_timestamp
from runyard_daemon.rpc.idle import Readable, incoming
from runyard_daemon.store.snapshots import SnapshotRecord

DIGESTS_MAX = 20_000
_QUEUED_MESSAGES = 4
"""Received messages that wait for the disk: 64 MiB at most."""

Context = grpc.aio.ServicerContext


class SnapshotService(SnapshotServiceServicer):
    """Thin: the content store and the catalog do the work."""

    def __init__(self, content: Content, catalog: Catalog, upload_idle_s: float) -> None:
        self._content = content
        self._catalog = catalog
        self._upload_idle_s = upload_idle_s

    async def FindMissingBlobs(  # noqa: D102 - as the contract says
        self, request: pb.FindMissingBlobsRequest, context: Context
    ) -> pb.FindMissingBlobsResponse:
        missing = await self._content.missing(_digests(request.digests))
        return pb.FindMissingBlobsResponse(missing_digests=map(bytes.fromhex, missing))
