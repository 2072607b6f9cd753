"""AdminService.CollectGarbage over the wire: what goes, what stays, what a submit meets."""

from __future__ import annotations

import asyncio
import itertools
import os
import time

import grpc
from google.protobuf.duration_pb2 import Duration

from runyard_contract.digest import digest_bytes
from runyard_contract.manifest import encode_chunks
from runyard_daemon.core.pins import PINNED_S
from runyardpb.v1 import admin_pb2, common_pb2, runs_pb2, snapshots_pb2
from support.served import Served, error_of, reason_of, refused, tree, with_daemon

_LATER = itertools.count(1)


async def collect(
    daemon: Served, grace_s: int | None = 0, *, dry: bool = False
) -> admin_pb2.CollectGarbageResponse:
    grace = None if grace_s is None else Duration(seconds=grace_s)
    request = admin_pb2.CollectGarbageRequest(grace=grace, is_dry_run=dry)
    answer: admin_pb2.CollectGarbageResponse = await daemon.admin.CollectGarbage(request)
    return answer


async def held(daemon: Served, *blobs: bytes) -> list[bool]:
    """Which of these the store has, without pinning them."""
    digests = [digest_bytes(blob) for blob in blobs]
    sizes = daemon.app.content.store.sizes(digests)
    return [digest in sizes for digest in digests]


async def submit(daemon: Served, snapshot: str) -> runs_pb2.Run:
    command = runs_pb2.Command(argv=[b"true"])
    return await daemon.submit(spec=runs_pb2.RunSpec(snapshot=snapshot, command=command))


def content_of(blob: bytes, size_bytes: int, *, is_chunked: bool = False) -> common_pb2.FileContent:
    digest = bytes.fromhex(digest_bytes(blob))
    return common_pb2.FileContent(digest=digest, size_bytes=size_bytes, is_chunked=is_chunked)


def pins_expire(daemon: Served) -> None:
    """As after hours without a client that asks."""
    daemon.app.content.pins.held(time.monotonic() + next(_LATER) * 2 * PINNED_S)


def test_what_nothing_needs_goes_after_a_look_first() -> None:
    async def test(daemon: Served) -> None:
        garbage = [os.urandom(100) for _ in range(20)]
        name = await daemon.snapshot({f"f{n}": b"%d" % n for n in range(20)} | {"d/x": b"x"})
        await submit(daemon, name)
        await daemon.upload(*garbage)
        pins_expire(daemon)

        young = await collect(daemon, None)
        dry = await collect(daemon, dry=True)
        before = await held(daemon, *garbage)
        done = await collect(daemon)

        assert young.removed_count == 0
        assert (dry.removed_count, dry.removed_bytes) == (20, 2000)
        assert before == [True] * 20
        assert (done.removed_count, done.removed_bytes) == (20, 2000)
        assert done.kept_count == 23  # 20 files, one in a folder, two manifests
        assert await held(daemon, *garbage) == [False] * 20
        assert await held(daemon, b"1", b"x") == [True, True]
        assert (await collect(daemon)).removed_count == 0
        assert (await submit(daemon, name)).name

    with_daemon(test)


def test_a_snapshot_that_no_run_uses_goes_when_it_is_old_and_can_be_made_again() -> None:
    async def test(daemon: Served) -> None:
        used = await daemon.snapshot({"d/a": b"both", "d/b": b"used"})
        unused = await daemon.snapshot({"d/a": b"both", "d/c": b"unused"})
        await submit(daemon, used)
        just_made = await collect(daemon)
        pins_expire(daemon)
        young = await collect(daemon, 3600)
        dry = await collect(daemon, dry=True)

        done = await collect(daemon)
        gone = await refused(submit(daemon, unused))

        assert (just_made.removed_count, young.removed_count) == (0, 0)
        assert (dry.removed_count, done.removed_count) == (3, 3)  # one file, two manifests
        assert await held(daemon, b"both", b"used", b"unused") == [True, True, False]
        assert reason_of(gone) == "BLOB_MISSING"
        assert await daemon.snapshot({"d/a": b"both", "d/c": b"unused"}) == unused
        await submit(daemon, unused)
        pins_expire(daemon)
        assert (await collect(daemon)).removed_count == 0

    with_daemon(test)


def test_what_an_upload_was_told_of_stays() -> None:
    async def test(daemon: Served) -> None:
        asked, sent, other = b"asked", b"sent", b"other"
        await daemon.upload(asked, other)
        pins_expire(daemon)
        digest = bytes.fromhex(digest_bytes(asked))
        request = snapshots_pb2.FindMissingBlobsRequest(digests=[digest])
        await daemon.snapshots.FindMissingBlobs(request)
        await daemon.upload(sent)

        assert (await collect(daemon)).removed_count == 1
        assert await held(daemon, asked, sent, other) == [True, True, False]

    with_daemon(test)


def test_files_of_runs_stay_with_their_chunks() -> None:
    async def test(daemon: Served) -> None:
        run = await daemon.submit()
        model, part, other = b"model" * 1000, bytes(4 << 20), b"other"
        chunks = encode_chunks([(digest_bytes(part), len(part))] * 3)
        await daemon.upload(model, part, chunks, other)
        pins_expire(daemon)
        files = [
            runs_pb2.RunFile(path=path, content=content)
            for path, content in (
                ("outputs/small", content_of(model, len(model))),
                ("outputs/large", content_of(chunks, 3 * len(part), is_chunked=True)),
            )
        ]
        await daemon.runs.AddRunFiles(runs_pb2.AddRunFilesRequest(name=run.name, files=files))

        assert (await collect(daemon)).removed_count == 1
        assert await held(daemon, model, part, chunks, other) == [True, True, True, False]

    with_daemon(test)


def test_collections_and_submits_at_once_leave_every_run_its_snapshot() -> None:
    async def test(daemon: Served) -> None:
        async def submit_anyhow(number: int) -> None:
            """As the SDK: what is missing by now is sent again."""
            files = {f"f{n}": b"%d %d" % (number % 3, n) for n in range(15)}
            while True:
                try:
                    await submit(daemon, await daemon.snapshot(files))
                    return
                except grpc.aio.AioRpcError as failed:
                    if reason_of(error_of(failed)) != "BLOB_MISSING":
                        raise

        async def clean() -> None:
            for _ in range(6):
                pins_expire(daemon)
                await collect(daemon)

        await asyncio.gather(clean(), *(submit_anyhow(number) for number in range(12)))

        for number in range(3):
            _, blobs = tree({f"f{n}": b"%d %d" % (number, n) for n in range(15)})
            assert await held(daemon, *blobs) == [True] * 16

    with_daemon(test)


def test_nothing_is_removed_where_a_damaged_manifest_hides_what_is_needed() -> None:
    async def test(daemon: Served) -> None:
        name = await daemon.snapshot({"d/x": b"needed"})
        await submit(daemon, name)
        digest = name.rsplit("/", 1)[1]
        (daemon.home / "blobs" / digest[:2] / digest[2:]).write_bytes(b"damaged")
        await daemon.upload(b"garbage")
        pins_expire(daemon)

        error = await refused(collect(daemon))

        assert reason_of(error) == "STATE_NOT_ALLOWED"
        assert digest in error.message
        assert await held(daemon, b"needed", b"garbage") == [True, True]
        await daemon.snapshot({"d/x": b"needed"})  # submitted again, it is whole again
        pins_expire(daemon)
        assert (await collect(daemon)).removed_count == 1

    with_daemon(test)


def test_a_negative_grace_is_refused() -> None:
    async def test(daemon: Served) -> None:
        error = await refused(collect(daemon, -1))

        assert [violation.field for violation in error.violations] == ["grace"]

    with_daemon(test)
