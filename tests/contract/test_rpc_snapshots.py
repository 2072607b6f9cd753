"""SnapshotService over the wire: blobs and trees."""

from __future__ import annotations

import os
from typing import Any

import grpc
import pytest

from runyard_contract.digest import digest_bytes
from runyard_contract.errors import BlobMissing
from runyard_contract.manifest import DirectoryEntry, FileEntry, encode_chunks, encode_directory
from runyardpb.v1 import snapshots_pb2 as pb
from support.served import (
    WORKSPACE,
    Served,
    drained,
    error_of,
    packed,
    reason_of,
    refused,
    tree,
    with_daemon,
)


def raw(data: bytes) -> bytes:
    return bytes.fromhex(digest_bytes(data))


async def missing(daemon: Served, *digests: bytes) -> list[bytes]:
    answer = await daemon.snapshots.FindMissingBlobs(pb.FindMissingBlobsRequest(digests=digests))
    return list(answer.missing_digests)


def declare(daemon: Served, root: str) -> Any:
    request = pb.CreateSnapshotRequest(parent=WORKSPACE, root_digest=bytes.fromhex(root))
    return daemon.snapshots.CreateSnapshot(request)


def test_blobs_are_missing_until_uploaded_and_read_back_in_order() -> None:
    async def test(daemon: Served) -> None:
        blobs = [b"", b"one", os.urandom(3 << 20), os.urandom(100)]
        digests = [raw(blob) for blob in blobs]

        assert await missing(daemon, *digests) == digests
        first = await daemon.upload(*blobs)
        second = await daemon.upload(*blobs)
        messages = await drained(
            daemon.snapshots.ReadBlobs(pb.ReadBlobsRequest(digests=digests[::-1]))
        )

        assert await missing(daemon, *digests) == []
        assert (first.stored_count, first.stored_bytes) == (4, sum(map(len, blobs)))
        assert (second.stored_count, second.stored_bytes) == (0, 0)
        assert [blob.data for message in messages for blob in message.blobs] == blobs[::-1]

    with_daemon(test)


def test_reading_a_missing_blob_and_asking_for_nonsense_is_refused() -> None:
    async def test(daemon: Served) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as lacking:
            await drained(daemon.snapshots.ReadBlobs(pb.ReadBlobsRequest(digests=[raw(b"x")])))
        short = await refused(missing(daemon, b"short"))
        many = await refused(missing(daemon, *[raw(b"x")] * 20_001))

        assert error_of(lacking.value).reason == "BLOB_MISSING"
        assert [v.field for v in short.violations] == ["digests[0]"]
        assert [v.field for v in many.violations] == ["digests"]

    with_daemon(test)


def test_a_tree_becomes_a_snapshot_once_it_is_complete() -> None:
    async def test(daemon: Served) -> None:
        root, blobs = tree({"a.py": b"1", "lib/b.py": b"22", "lib/link": "b.py"})

        empty = await refused(declare(daemon, root))
        await daemon.upload(*blobs[1:])
        partial = await refused(declare(daemon, root))
        await daemon.upload(*blobs)
        first = (await declare(daemon, root)).snapshot
        again = (await declare(daemon, root)).snapshot
        found = await daemon.snapshots.GetSnapshot(pb.GetSnapshotRequest(name=first.name))
        unknown = await refused(
            daemon.snapshots.GetSnapshot(
                pb.GetSnapshotRequest(name=f"{WORKSPACE}/snapshots/{'0' * 64}")
            )
        )

        assert isinstance(empty, BlobMissing)
        assert partial.metadata["first"] == digest_bytes(blobs[0])
        assert first == again == found.snapshot
        assert (first.file_count, first.size_bytes) == (3, 3)
        assert unknown.reason == "SNAPSHOT_NOT_FOUND"

    with_daemon(test)


def test_a_link_that_is_safe_deep_down_is_refused_where_it_leads_out() -> None:
    async def test(daemon: Served) -> None:
        deep, deep_blobs = tree({"d/d/link": "../../x", "x": b"1"})
        inner = {"link": "../../x"}
        shallow, shallow_blobs = tree({"d": b""} | {f"e/{k}": v for k, v in inner.items()})
        await daemon.upload(*deep_blobs, *shallow_blobs)

        assert (await declare(daemon, deep)).snapshot.file_count == 2
        assert (await refused(declare(daemon, shallow))).reason == "PATH_UNSAFE"

    with_daemon(test)


def test_trees_that_lie_or_are_too_large_are_refused() -> None:
    async def test(daemon: Served) -> None:
        content = digest_bytes(b"abc")
        await daemon.upload(b"abc")

        async def reason(*entries: Any) -> str:
            encoded = encode_directory(entries)
            await daemon.upload(*encoded.blobs.values())
            return reason_of(await refused(declare(daemon, encoded.digest)))

        inner = encode_directory([FileEntry("f", content, 3)])
        await daemon.upload(*inner.blobs.values())
        assert await reason(FileEntry("f", content, 4)) == "MANIFEST_INVALID"
        assert await reason(DirectoryEntry("d", inner.digest, 1, 4)) == "MANIFEST_INVALID"
        assert await reason(DirectoryEntry("d", inner.digest, 1, 1 << 31)) == "SNAPSHOT_TOO_LARGE"
        assert await reason(DirectoryEntry("d", inner.digest, 100_001, 3)) == "SNAPSHOT_TOO_LARGE"
        chunks = encode_chunks([(content, 4 << 20)] * 3)
        await daemon.upload(chunks)
        chunked = FileEntry("f", digest_bytes(chunks), 13 << 20, is_chunked=True)
        assert await reason(chunked) == "MANIFEST_INVALID"
        await daemon.upload(b"no manifest")
        assert reason_of(await refused(declare(daemon, digest_bytes(b"no manifest")))) == (
            "MANIFEST_INVALID"
        )

    with_daemon(test)


def test_an_upload_that_is_cut_off_keeps_what_was_committed_and_nothing_half() -> None:
    async def test(daemon: Served) -> None:
        call = daemon.snapshots.UploadBlobs()
        first = packed(b"first")
        await call.write(pb.UploadBlobsRequest(blobs=[first]))
        while await missing(daemon, first.digest):
            pass
        call.cancel()

        assert await missing(daemon, first.digest, raw(b"never")) == [raw(b"never")]
        assert os.listdir(daemon.home / "blobs" / "tmp") == []

    with_daemon(test)
