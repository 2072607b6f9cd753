"""Attacks on the daemon: uploads, tampered blobs, request ids, its socket and data directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import zstandard

from runyard_contract.digest import digest_bytes
from runyard_daemon.loops.janitor import tidy
from runyardpb.v1 import runs_pb2
from runyardpb.v1 import snapshots_pb2 as pb
from support.daemon_process import DaemonProcess
from support.served import (
    Served,
    create_request,
    drained,
    error_of,
    packed,
    reason_of,
    refused,
    with_daemon,
)

ANY = b"\x00" * 32


@pytest.fixture
def home() -> Iterator[Path]:
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="ry-"))
    yield root / "h"
    shutil.rmtree(root)


def blob(digest: bytes, size_bytes: int, data: bytes, *, is_zstd: bool = False) -> pb.Blob:
    kind = pb.Blob.COMPRESSION_ZSTD if is_zstd else pb.Blob.COMPRESSION_NONE
    return pb.Blob(digest=digest, size_bytes=size_bytes, compression=kind, data=data)


def bomb() -> bytes:
    """64 MiB of zeros in a few KiB, with an honest header."""
    return zstandard.ZstdCompressor().compress(bytes(64 << 20))


def lying_bomb() -> bytes:
    """The same without a size in its header."""
    return zstandard.ZstdCompressor(write_content_size=False).compress(bytes(64 << 20))


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (blob(ANY, 3, b"abc"), "DIGEST_MISMATCH"),
        (blob(bytes.fromhex(digest_bytes(b"abc")), 4, b"abc"), "DIGEST_MISMATCH"),
        (blob(bytes.fromhex(digest_bytes(b"abc")), 2, b"abc"), "DIGEST_MISMATCH"),
        (blob(bytes.fromhex(digest_bytes(b"abc")), 0, b"abc"), "DIGEST_MISMATCH"),
        (blob(bytes.fromhex(digest_bytes(b"abc")), -1, b"abc"), "DIGEST_MISMATCH"),
        (blob(bytes.fromhex(digest_bytes(b"abc")), (1 << 63) - 1, b"abc"), "MESSAGE_TOO_LARGE"),
        (blob(ANY, 3, b"no frame", is_zstd=True), "DIGEST_MISMATCH"),
        (blob(ANY, 64 << 20, bomb(), is_zstd=True), "MESSAGE_TOO_LARGE"),
        (blob(ANY, 3, bomb(), is_zstd=True), "DIGEST_MISMATCH"),
        (blob(ANY, 3, lying_bomb(), is_zstd=True), "DIGEST_MISMATCH"),
        (blob(b"short", 3, b"abc"), "SPEC_INVALID"),
    ],
)
def test_sec_19_a_blob_that_is_not_what_it_says_is_refused_and_leaves_nothing(
    sent: pb.Blob, reason: str
) -> None:
    async def test(daemon: Served) -> None:
        upload = daemon.snapshots.UploadBlobs(iter([pb.UploadBlobsRequest(blobs=[sent])]))

        assert reason_of(await refused(upload)) == reason
        stored = [p for p in (daemon.home / "blobs").rglob("*") if p.is_file()]
        assert stored == []

    with_daemon(test)


def test_sec_19_two_writers_of_one_blob_both_succeed() -> None:
    async def test(daemon: Served) -> None:
        data = os.urandom(1 << 20)
        answers = await asyncio.gather(*(daemon.upload(data) for _ in range(4)))

        assert sum(answer.stored_count for answer in answers) >= 1
        found = await drained(
            daemon.snapshots.ReadBlobs(pb.ReadBlobsRequest(digests=[packed(data).digest]))
        )
        assert found[0].blobs[0].data == data

    with_daemon(test)


def test_sec_19_an_upload_that_never_ends_is_ended() -> None:
    async def test(daemon: Served) -> None:
        call = daemon.snapshots.UploadBlobs()
        await call.write(pb.UploadBlobsRequest(blobs=[packed(b"kept")]))

        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call

        assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert os.listdir(daemon.home / "blobs" / "tmp") == []

    with_daemon(test, upload_idle_s=0.1)


@pytest.mark.parametrize("attack", ["flip", "truncate", "link"])
def test_sec_21_a_tampered_blob_is_never_served(attack: str) -> None:
    async def test(daemon: Served) -> None:
        data = b"precious content"
        await daemon.upload(data)
        digest = digest_bytes(data)
        path = daemon.home / "blobs" / digest[:2] / digest[2:]
        if attack == "flip":
            path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        elif attack == "truncate":
            path.write_bytes(data[:-1])
        else:
            path.unlink()
            path.symlink_to("/etc/passwd")

        read = pb.ReadBlobsRequest(digests=[bytes.fromhex(digest)])
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await drained(daemon.snapshots.ReadBlobs(read))
        assert error_of(failed.value).reason == "BLOB_CORRUPT"
        assert "data_loss" in daemon.journal_path.read_text()

        await daemon.upload(data)
        assert (await drained(daemon.snapshots.ReadBlobs(read)))[0].blobs[0].data == data

    with_daemon(test)


def test_sec_21_a_snapshot_with_a_tampered_manifest_is_not_declared() -> None:
    async def test(daemon: Served) -> None:
        name = await daemon.snapshot({"d/a.py": b"1"})
        root = name.rsplit("/", 1)[1]
        (daemon.home / "blobs" / root[:2] / root[2:]).write_bytes(b"RYM\x01D")
        spec = runs_pb2.RunSpec(script=runs_pb2.Script(path="d/a.py"), snapshot=name)

        error = await refused(daemon.runs.CreateRun(create_request(spec=spec)))

        assert error.reason == "BLOB_CORRUPT"

    with_daemon(test)


def test_sec_36_request_ids_are_uuids_bound_to_their_body() -> None:
    async def test(daemon: Served) -> None:
        request_id = str(uuid.uuid4())
        await daemon.submit(b"one", request_id=request_id)

        other_body = await refused(daemon.submit(b"two", request_id=request_id))
        other_case = await refused(daemon.submit(b"two", request_id=request_id.upper()))
        for wrong in ("1", "x" * 36, "' OR 1=1 --", request_id + "0"):
            error = await refused(daemon.submit(b"one", request_id=wrong))
            assert error.reason == "REQUEST_ID_INVALID"

        assert other_body.reason == other_case.reason == "REQUEST_ID_REUSED"
        listed = await daemon.runs.ListRuns(
            runs_pb2.ListRunsRequest(parent="workspaces/default/experiments/-")
        )
        assert len(listed.runs) == 1

    with_daemon(test)


def test_sec_36_old_request_ids_are_forgotten() -> None:
    async def test(daemon: Served) -> None:
        await daemon.submit(b"one")
        live = daemon.app.live
        count = "SELECT count(*) FROM requests"
        assert live.store.peek(lambda conn: conn.execute(count).fetchone()) == (1,)
        real_now_us = live.now_us
        live.now_us = lambda: real_now_us() + 8 * 86_400 * 1_000_000
        await tidy(live, daemon.app.remover, None)

        assert live.store.peek(lambda conn: conn.execute(count).fetchone()) == (0,)

    with_daemon(test)


def start(home: Path) -> subprocess.CompletedProcess[str]:
    """Starts a daemon that must not come up."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "runyard_daemon", "serve", "--home", str(home)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("mode", [0o777, 0o755, 0o710])
def test_sec_37_a_data_directory_open_to_others_is_refused(home: Path, mode: int) -> None:
    home.mkdir()
    home.chmod(mode)

    refusal = start(home)

    assert refusal.returncode == 5
    assert f"chmod 700 {home}" in refusal.stderr
    assert os.listdir(home) == []


def test_sec_37_a_linked_data_directory_is_refused(home: Path) -> None:
    real = home.with_name("real")
    real.mkdir(mode=0o700)
    home.symlink_to(real)

    refusal = start(home)

    assert refusal.returncode == 5
    assert "symbolic link" in refusal.stderr
    assert os.listdir(real) == []


@pytest.mark.parametrize("name", ["daemon.sock", "daemon.lock", "runyard.db-wal"])
def test_sec_37_a_link_in_the_place_of_its_files_is_refused(home: Path, name: str) -> None:
    home.mkdir(mode=0o700)
    target = home.with_name("victim")
    target.write_text("mine")
    (home / name).symlink_to(target)

    refusal = start(home)

    assert refusal.returncode == 5
    assert str(home / name) in refusal.stderr
    assert target.read_text() == "mine"


def test_sec_37_a_stale_socket_is_replaced(home: Path) -> None:
    home.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(home / "daemon.sock"))

    with DaemonProcess(home) as daemon:
        assert daemon.info().pid == daemon.pid
        assert (home / "daemon.sock").stat().st_mode & 0o077 == 0


def test_sec_37_a_path_too_long_for_a_socket_gets_a_private_folder(home: Path) -> None:
    deep = home / ("d" * 60) / ("e" * 60)
    deep.parent.mkdir(parents=True, mode=0o700)

    with DaemonProcess(deep) as daemon:
        path = daemon.socket
        assert len(os.fsencode(path)) <= 100
        assert path.parent != deep
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert daemon.info().home == os.fsencode(deep)
    assert not path.parent.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_sec_37_another_user_can_not_connect(home: Path) -> None:
    home.parent.chmod(0o755)
    with DaemonProcess(home) as daemon:
        script = "import os,socket,sys; os.setgid(65534); os.setuid(65534); " + (
            "socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
        )
        tried = subprocess.run(
            [sys.executable, "-I", "-S", "-c", script, str(daemon.socket)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )

    assert tried.returncode == 1
    assert "PermissionError" in tried.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_sec_37_a_data_directory_of_another_user_is_refused(home: Path) -> None:
    home.mkdir(mode=0o700)
    os.chown(home, 65534, 65534)

    refusal = start(home)

    assert refusal.returncode == 5
    assert "65534" in refusal.stderr


def test_sec_38_a_second_daemon_is_refused_and_the_first_serves_on(home: Path) -> None:
    with DaemonProcess(home) as daemon:
        refusal = start(home)

        assert refusal.returncode == 1
        assert f"pid {daemon.pid}" in refusal.stderr
        assert "[ALREADY_RUNNING]" in refusal.stderr
        assert daemon.info().pid == daemon.pid


def test_sec_38_a_database_of_a_newer_version_is_left_alone(home: Path) -> None:
    with DaemonProcess(home):
        pass
    with contextlib.closing(sqlite3.connect(home / "runyard.db")) as conn:
        conn.execute("PRAGMA user_version = 9999")
    before = (home / "runyard.db").read_bytes()

    refusal = start(home)

    assert refusal.returncode == 5
    assert "[DATABASE_NEWER]" in refusal.stderr
    assert (home / "runyard.db").read_bytes() == before
