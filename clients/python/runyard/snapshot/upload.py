"""Sends what the daemon lacks of a snapshot, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runyard.snapshot.hashing import changed, read_chunks, read_small_file
from runyard.snapshot.plan import Missing, Plan, Planner
from runyard.snapshot.tree import Tree
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import BlobMissing, DaemonUnavailable, Draining
from runyard_contract.limits import UPLOAD_BATCH_BYTES
from runyard_contract.manifest import encode_chunks
from runyardpb.v1 import snapshots_pb2, snapshots_pb2_grpc

if TYPE_CHECKING:
    import zstandard

    from runyard.channel import Connection

_QUERY_DIGESTS = 20_000
_TRIES = 3
# A deadline for a stream of uploads: a floor, and the slowest way that is still one.
_DEADLINE_FLOOR_S = 120.0
_DEADLINE_BYTES_PER_S = 1 << 20
_PACK_FROM_BYTES = 256
_PACK_LEVEL = 1
_SAMPLE_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent: how many blobs, and their bytes as packed for the way."""

    blobs: int = 0
    packed_bytes: int = 0

    def __add__(self, other: Sent) -> Sent:
        return Sent(self.blobs + other.blobs, self.packed_bytes + other.packed_bytes)


def upload_tree(connection: Connection, workspace: str, source: str, tree: Tree) -> Sent:
    """Makes the snapshot of this tree known to the daemon, sending what it lacks.

    A connection that breaks is taken up again: what had arrived is not sent twice. Raises
    FileChanged where a file is not what was scanned.
    """
    sent = Sent()
    is_thorough = False
    for attempt in range(1, _TRIES + 1):
        uploader = Uploader(connection)
        try:
            uploader.send_tree(source, tree, is_thorough=is_thorough)
            _declare(connection, workspace, tree.root_digest)
        except BlobMissing:
            if attempt == _TRIES:
                raise
            is_thorough = True
        except (DaemonUnavailable, Draining) as error:
            if attempt == _TRIES:
                raise
            connection.recover(error)
        else:
            return sent + uploader.sent
        sent += uploader.sent
    raise AssertionError("the last try returns or raises")


def _declare(connection: Connection, workspace: str, root_digest: bytes) -> None:
    """Declares the tree a snapshot."""
    connection.unary(
        snapshots_pb2_grpc.SnapshotServiceStub,
        lambda stub: stub.CreateSnapshot,
        snapshots_pb2.CreateSnapshotRequest(
            parent=f"workspaces/{workspace}", root_digest=root_digest
        ),
    )


class Uploader:
    """Sends blobs that the daemon lacks. `sent` counts them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._packer: zstandard.ZstdCompressor | None = None
        if not connection.address.is_near:
            import zstandard

            self._packer = zstandard.ZstdCompressor(level=_PACK_LEVEL, write_content_size=True)
        self.sent = Sent()

    def missing(self, digests: Iterable[str]) -> set[str]:
        """Which of these blobs the daemon lacks."""
        wanted = list(dict.fromkeys(digests))
        missing: set[str] = set()
        for start in range(0, len(wanted), _QUERY_DIGESTS):
            batch = [bytes.fromhex(digest) for digest in wanted[start : start + _QUERY_DIGESTS]]
            answer = self._connection.unary(
                snapshots_pb2_grpc.SnapshotServiceStub,
                lambda stub: stub.FindMissingBlobs,
                snapshots_pb2.FindMissingBlobsRequest(digests=batch),
            )
            missing.update(digest.hex() for digest in answer.missing_digests)
        return missing

    def send_tree(self, source: str, tree: Tree, *, is_thorough: bool = False) -> None:
        """Sends what is lacking of a tree."""
        plan = Planner(tree, self.missing, is_thorough=is_thorough).plan()
        if not plan.is_empty:
            self.send(_blobs(plan, tree, source, self.missing), tree.size_bytes)

    def send(self, blobs: Iterable[tuple[str, bytes]], expected_bytes: int) -> None:
        """Sends (digest, bytes); returns when all are durable. The size sets the deadline."""
        self._connection.upload(
            snapshots_pb2_grpc.SnapshotServiceStub,
            lambda stub: stub.UploadBlobs,
            self._messages(blobs),
            timeout_s=_DEADLINE_FLOOR_S + expected_bytes / _DEADLINE_BYTES_PER_S,
        )

    def _messages(
        self, blobs: Iterable[tuple[str, bytes]]
    ) -> Iterator[snapshots_pb2.UploadBlobsRequest]:
        """The blobs in messages of about 1 MiB, or of one larger blob."""
        batch: list[snapshots_pb2.Blob] = []
        batch_bytes = 0
        for digest, data in blobs:
            blob = self._packed(digest, data)
            if batch and batch_bytes + len(blob.data) > UPLOAD_BATCH_BYTES:
                yield snapshots_pb2.UploadBlobsRequest(blobs=batch)
                batch, batch_bytes = [], 0
            batch.append(blob)
            batch_bytes += len(blob.data)
            self.sent += Sent(1, len(blob.data))
        if batch:
            yield snapshots_pb2.UploadBlobsRequest(blobs=batch)

    def _packed(self, digest: str, data: bytes) -> snapshots_pb2.Blob:
        """The blob, packed where there is a way to save and that makes it smaller."""
        blob = snapshots_pb2.Blob(
            digest=bytes.fromhex(digest),
            size_bytes=len(data),
            compression=snapshots_pb2.Blob.COMPRESSION_NONE,
            data=data,
        )
        if self._packer is None or len(data) < _PACK_FROM_BYTES:
            return blob
        sample = data[:_SAMPLE_BYTES]
        packed = self._packer.compress(sample)
        if len(packed) >= len(sample) * 0.95:
            return blob  # packed already: pictures, archives, weights
        if len(data) > len(sample):
            packed = self._packer.compress(data)
        if len(packed) < len(data):
            blob.compression = snapshots_pb2.Blob.COMPRESSION_ZSTD
            blob.data = packed
        return blob


def _blobs(plan: Plan, tree: Tree, source: str, missing: Missing) -> Iterator[tuple[str, bytes]]:
    """(digest, bytes) of everything in a plan, in its order."""
    for digest, entry in plan.files.items():
        yield digest, read_small_file(source, tree.paths[entry].decode(), digest)
    for digest, entry in plan.chunked.items():
        yield from chunked_blobs(source, tree.paths[entry].decode(), digest, missing)
    for manifests in reversed(plan.manifests):
        yield from manifests.items()  # the parts of a large directory come before its index


def chunked_blobs(
    root: str, path: str, digest: str, missing: Missing
) -> Iterator[tuple[str, bytes]]:
    """The chunks of a large file that are lacking, then its list.

    The file is read twice: once for its digests, once for what must be sent.
    """
    chunks = [(digest_bytes(chunk), len(chunk)) for chunk in read_chunks(root, path)]
    data = encode_chunks(chunks)
    if digest_bytes(data) != digest:
        raise changed(path)
    lacking = missing(chunk_digest for chunk_digest, _ in chunks)
    for chunk in read_chunks(root, path) if lacking else ():
        chunk_digest = digest_bytes(chunk)
        if chunk_digest in lacking:
            lacking.discard(chunk_digest)
            yield chunk_digest, chunk
    if lacking:
        raise changed(path)
    yield digest, data
