"""Sealed environments over the wire: kept, told of, held against a collection, carried as files."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import zstandard
from google.protobuf.duration_pb2 import Duration

from runyard_contract.digest import digest_bytes
from runyard_contract.environment_spec import lock_hash
from runyard_contract.errors import BlobMissing, SealedInvalid, StateNotAllowed
from runyard_contract.sealed import encode_sealed
from runyard_daemon.control.archive import ArchiveWriter
from runyardpb.agent.v1 import agent_pb2
from runyardpb.v1 import admin_pb2, environments_pb2, runs_pb2, snapshots_pb2
from support.fake_agent import FakeAgent
from support.sealed import describe, sealed_tree
from support.served import WORKSPACE, Served, create_request, refused, with_daemon

LINUX = "linux-x86_64-cp311"
TEXT = "six==1.16.0\n"
HASH = lock_hash(LINUX, TEXT)
FILES = {"lib/python3.11/site-packages/six.py": b"six", "lib/E": b"E", "lib/e": b"e"}
NAME = f"{WORKSPACE}/environments/six"
SPEC = environments_pb2.EnvironmentSpec(
    pip=environments_pb2.PipPackages(
        requirements=["six"], base_interpreter_path=b"/of/another/machine"
    )
)


@dataclass
class Carried:
    """A file of an environment, and what its stream said of it."""

    data: bytes = b""
    digest: str = ""


async def stored(daemon: Served, spec: environments_pb2.EnvironmentSpec = SPEC) -> Any:
    request = environments_pb2.CreateEnvironmentRequest(
        parent=WORKSPACE, environment_id="six", spec=spec
    )
    return (await daemon.environments.CreateEnvironment(request)).environment


async def keep_lock(daemon: Served, spec_hash: str, text: str = TEXT) -> Any:
    lock = environments_pb2.EnvironmentLock(platform=LINUX, text=text, hash=lock_hash(LINUX, text))
    request = agent_pb2.KeepLockRequest(spec_hash=spec_hash, lock=lock)
    return (await daemon.agents.KeepLock(request)).lock


def keeping(root: str, hashed: str = HASH) -> agent_pb2.KeepSealedRequest:
    return agent_pb2.KeepSealedRequest(lock_hash=hashed, root_digest=bytes.fromhex(root))


async def keep(daemon: Served, files: dict[str, bytes] = FILES) -> str:
    """Has the daemon keep these files as what is built of the lock; gives the root's digest."""
    root, blobs = sealed_tree(files, lock_hash=HASH, platform=LINUX)
    await daemon.upload(*blobs.values())
    await daemon.agents.KeepSealed(keeping(root))
    return root


async def get(daemon: Served) -> Any:
    request = environments_pb2.GetEnvironmentRequest(name=NAME)
    return (await daemon.environments.GetEnvironment(request)).environment


async def export(daemon: Served, platform: str = "") -> Carried:
    request = environments_pb2.ExportEnvironmentRequest(name=NAME, platform=platform)
    carried = Carried()
    async for piece in daemon.environments.ExportEnvironment(request):
        carried.data += piece.data
        carried.digest = piece.summary.digest
    return carried


async def take(daemon: Served, data: bytes, name: str = "") -> Any:
    async def pieces() -> AsyncIterator[environments_pb2.ImportEnvironmentRequest]:
        yield environments_pb2.ImportEnvironmentRequest(parent=WORKSPACE, environment_id=name)
        for start in range(0, len(data), 1000):
            yield environments_pb2.ImportEnvironmentRequest(data=data[start : start + 1000])

    return await daemon.environments.ImportEnvironment(pieces())


async def collect(daemon: Served) -> int:
    request = admin_pb2.CollectGarbageRequest(grace=Duration())
    return int((await daemon.admin.CollectGarbage(request)).removed_count)


async def whole(daemon: Served, root: str) -> None:
    """Reads all blobs of the sealed environment."""
    _, blobs = sealed_tree(FILES, lock_hash=HASH, platform=LINUX)
    request = snapshots_pb2.ReadBlobsRequest(digests=[bytes.fromhex(one) for one in blobs])
    found = [blob async for answer in daemon.snapshots.ReadBlobs(request) for blob in answer.blobs]
    assert {blob.digest.hex(): blob.data for blob in found} == blobs
    assert root in blobs


def exported() -> Carried:
    """A file of a daemon that is gone."""
    carried: list[Carried] = []

    async def test(daemon: Served) -> None:
        environment = await stored(daemon)
        await keep_lock(daemon, environment.spec_hash)
        await keep(daemon)
        carried.append(await export(daemon))

    with_daemon(test)
    return carried[0]


def test_sealed_environment_is_told_with_its_lock_and_outlives_a_collection() -> None:
    async def test(daemon: Served) -> None:
        environment = await stored(daemon)
        before = await keep_lock(daemon, environment.spec_hash)
        root = await keep(daemon)
        await daemon.upload(b"garbage")
        daemon.app.content.pins.held(float("inf"))

        removed = await collect(daemon)
        after = await keep_lock(daemon, environment.spec_hash)
        (lock,) = (await get(daemon)).locks
        async with FakeAgent(daemon.channel).connected() as agent:
            spec = runs_pb2.RunSpec(command=runs_pb2.Command(argv=[b"x"]), environment_name="six")
            await daemon.runs.CreateRun(create_request(spec=spec))
            lease = await agent.expect("lease")

        assert removed == 1
        await whole(daemon, root)
        assert not before.HasField("sealed")
        assert after.sealed == lock.sealed == lease.locks[0].sealed
        assert lock.sealed.root_digest.hex() == root
        assert lock.sealed.file_count == len(FILES)

    with_daemon(test)


def test_newest_sealed_environment_counts_and_the_older_one_is_garbage() -> None:
    async def test(daemon: Served) -> None:
        environment = await stored(daemon)
        await keep_lock(daemon, environment.spec_hash)
        await keep(daemon)
        newer = await keep(daemon, {**FILES, "more": b"more"})
        daemon.app.content.pins.held(float("inf"))

        removed = await collect(daemon)

        (lock,) = (await get(daemon)).locks
        assert lock.sealed.root_digest.hex() == newer
        assert removed == 3  # its description and two folders; all files are in the newer one

    with_daemon(test)


def test_damaged_sealed_environment_keeps_neither_collection_nor_backup_from_going_on() -> None:
    async def test(daemon: Served) -> None:
        environment = await stored(daemon)
        await keep_lock(daemon, environment.spec_hash)
        root = await keep(daemon)
        daemon.app.content.pins.held(float("inf"))
        daemon.app.content.store.condemn([root])
        daemon.app.content.store.sweep()

        await collect(daemon)
        pieces = [
            piece async for piece in daemon.admin.BackUpServer(admin_pb2.BackUpServerRequest())
        ]

        assert pieces[-1].HasField("summary")

    with_daemon(test)


@pytest.mark.parametrize(
    ("root_of", "error"),
    [
        (lambda: sealed_tree(FILES, lock_hash="0" * 64, platform=LINUX), SealedInvalid),
        (
            lambda: sealed_tree(FILES, lock_hash=HASH, platform=LINUX, description=b"{"),
            SealedInvalid,
        ),
        (lambda: lacking_content(), SealedInvalid),
        (lambda: climbing(), SealedInvalid),
        (lambda: ("0" * 64, {}), BlobMissing),
    ],
)
def test_tree_that_is_no_sealed_environment_is_refused(
    root_of: Callable[[], tuple[str, dict[str, bytes]]], error: type[Exception]
) -> None:
    async def test(daemon: Served) -> None:
        root, blobs = root_of()
        await daemon.upload(*blobs.values())

        found = await refused(daemon.agents.KeepSealed(keeping(root)))

        assert isinstance(found, error)

    with_daemon(test)


def lacking_content() -> tuple[str, dict[str, bytes]]:
    described = encode_sealed(describe(FILES, lock_hash=HASH, platform=LINUX))
    return sealed_tree({"x": b"x"}, lock_hash=HASH, platform=LINUX, description=described)


def climbing() -> tuple[str, dict[str, bytes]]:
    document = json.loads(encode_sealed(describe(FILES, lock_hash=HASH, platform=LINUX)))
    document["files"][0][0] = "../../etc/x"
    data = json.dumps(document).encode()
    return sealed_tree(FILES, lock_hash=HASH, platform=LINUX, description=data)


def test_environment_is_carried_to_another_daemon_by_a_file() -> None:
    carried = exported()
    assert carried.digest == digest_bytes(carried.data)

    async def test(daemon: Served) -> None:
        first = await take(daemon, carried.data)
        again = await take(daemon, carried.data)
        named = await take(daemon, carried.data, "other")
        daemon.app.content.pins.held(float("inf"))
        await collect(daemon)

        assert first.environment.name == f"{NAME}/versions/1"
        assert first.environment.spec.pip.requirements == ["six"]
        assert not first.environment.spec.pip.base_interpreter_path
        (lock,) = first.environment.locks
        assert (lock.text, lock.hash) == (TEXT, HASH)
        assert not first.replaced_platforms
        assert again.environment.locks[0].sealed.root_digest == lock.sealed.root_digest
        assert named.environment.name.endswith("/environments/other/versions/1")
        await whole(daemon, lock.sealed.root_digest.hex())
        assert (await export(daemon)).digest

    with_daemon(test)


def test_lock_of_a_file_takes_the_place_of_the_one_that_was_resolved_here() -> None:
    carried = exported()

    async def test(daemon: Served) -> None:
        environment = await stored(daemon)
        await keep_lock(daemon, environment.spec_hash, "six==1.17.0\n")

        taken = await take(daemon, carried.data)

        assert taken.environment.version == 1
        assert list(taken.replaced_platforms) == [LINUX]
        assert [lock.text for lock in (await get(daemon)).locks] == [TEXT]

    with_daemon(test)


def test_environment_that_is_not_sealed_says_how_to_seal_it() -> None:
    async def test(daemon: Served) -> None:
        environment = await stored(daemon)
        await keep_lock(daemon, environment.spec_hash)
        nothing = await refused(export(daemon))
        await keep(daemon)
        other = await refused(export(daemon, "linux-64"))

        error = nothing
        assert isinstance(error, StateNotAllowed)
        assert "runyard environment build six -t TARGET --seal" in error.hint
        assert f"it is for {LINUX}" in other.message

    with_daemon(test)


def test_damaged_sealed_environment_is_not_exported_and_says_how_to_mend_it() -> None:
    async def test(daemon: Served) -> None:
        environment = await stored(daemon)
        await keep_lock(daemon, environment.spec_hash)
        await keep(daemon)
        daemon.app.content.store.condemn([digest_bytes(b"six")])
        daemon.app.content.store.sweep()

        damaged = await refused(export(daemon))
        await keep(daemon)
        mended = await export(daemon)

        assert isinstance(damaged, StateNotAllowed)
        assert "runyard environment build six -t TARGET --seal" in damaged.hint
        assert mended.digest

    with_daemon(test)


def test_damaged_truncated_and_foreign_files_are_refused_and_leave_nothing() -> None:
    good = exported().data
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0xFF
    unpacked = zstandard.ZstdDecompressor().decompressobj().decompress(good)
    backup = ArchiveWriter()
    foreign = b"".join([*backup.add_note("backup.json", {"format": 1}), *backup.finish()])
    bad = {
        "cut off": good[: len(good) // 2],
        "one byte": good[:1],
        "changed": bytes(damaged),
        "noise": os.urandom(5000),
        "empty": b"",
        "a backup": foreign,
        "escape": renamed(unpacked, "../../../tmp/x"),
        "absolute": renamed(unpacked, "/tmp/x"),
        "other content": swapped(unpacked),
    }

    async def test(daemon: Served) -> None:
        for what, data in bad.items():
            found = await refused(take(daemon, data))
            assert isinstance(found, SealedInvalid), what
        listed = await daemon.environments.ListEnvironments(
            environments_pb2.ListEnvironmentsRequest(parent=WORKSPACE)
        )

        assert not listed.environments

    with_daemon(test)


def renamed(tar: bytes, name: str) -> bytes:
    """The archive with its first blob under another name."""
    return _rewritten(tar, lambda member, data: (name, data))


def swapped(tar: bytes) -> bytes:
    """The archive with other bytes under the name of its first blob."""
    return _rewritten(tar, lambda member, data: (member, data[::-1] + b"?"))


def _rewritten(tar: bytes, change: Callable[[str, bytes], tuple[str, bytes]]) -> bytes:
    writer = ArchiveWriter()
    pieces: list[bytes] = []
    is_changed = False
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            name, data = member.name, content.read()
            if name == "end.json":
                break
            if name.startswith("blobs/") and not is_changed:
                is_changed = True
                name, data = change(name, data)
            pieces += writer.add(name, len(data), [data])
    return b"".join([*pieces, *writer.finish()])
