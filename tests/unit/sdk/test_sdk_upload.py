"""Uploading a snapshot: only what is missing, in an order that survives being cut off."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from runyard.channel import Connection
from runyard.snapshot.take import LocalSnapshot
from runyard.workspace import Workspace
from runyard_contract.errors import Draining, FileChanged
from support.fake_control import FakeControl, Reviving

NOISE = random.Random(5)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    for n in range(60):
        file = folder / f"d{n % 6}/s{n % 3}/f{n}.bin"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(NOISE.randbytes(2000))
    return folder


def upload(workspace: Workspace, source: Path, folder: Path | None = None) -> LocalSnapshot:
    snapshot = LocalSnapshot(str(source), folder)
    snapshot.upload(workspace.connection, "default")
    return snapshot


def test_first_upload_sends_everything_once(
    control: FakeControl, workspace: Workspace, source: Path
) -> None:
    (source / "copy.bin").write_bytes((source / "d0/s0/f0.bin").read_bytes())

    snapshot = upload(workspace, source)

    assert snapshot.statistics.files_scanned == 61
    assert control.state.snapshots == {f"workspaces/default/snapshots/{snapshot.root_digest}"}
    # 60 different files, 6 + 6 folders and the root; equal folders are one blob
    assert control.state.blobs_received == len(control.state.blobs)
    assert snapshot.statistics.blobs_sent == control.state.blobs_received


def test_changed_file_sends_its_bytes_and_its_folders(
    control: FakeControl, workspace: Workspace, source: Path
) -> None:
    upload(workspace, source)
    control.state.bytes_received = control.state.digests_asked = 0
    (source / "d3/s0/f3.bin").write_bytes(NOISE.randbytes(3000))

    snapshot = upload(workspace, source)

    assert snapshot.statistics.blobs_sent == 4  # the file, its folder, the one above, the root
    assert 3000 < control.state.bytes_received < 3000 + 4096
    assert control.state.digests_asked < 30


def test_changed_file_in_a_folder_of_thousands_sends_one_part(
    control: FakeControl, workspace: Workspace, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for n in range(3000):
        (flat / f"file-{n:05}.txt").write_bytes(b"%d" % n)
    upload(workspace, flat)
    control.state.bytes_received = control.state.digests_asked = 0
    (flat / "file-01234.txt").write_bytes(b"other")

    upload(workspace, flat)

    assert control.state.bytes_received < 40_000
    assert control.state.digests_asked < 700


def test_large_file_sends_the_changed_chunk_only(
    control: FakeControl, workspace: Workspace, source: Path
) -> None:
    large = bytearray(NOISE.randbytes(10 << 20))
    (source / "large.bin").write_bytes(large)
    upload(workspace, source)
    control.state.bytes_received = 0
    large[6 << 20] ^= 1
    (source / "large.bin").write_bytes(large)

    upload(workspace, source)

    assert (4 << 20) < control.state.bytes_received < (4 << 20) + 65_536


def test_upload_that_was_cut_off_goes_on_where_it_was(
    control: FakeControl, workspace: Workspace, tmp_path: Path
) -> None:
    heavy = tmp_path / "heavy"
    heavy.mkdir()
    for n in range(8):
        (heavy / f"f{n}").write_bytes(NOISE.randbytes(900_000))
    control.state.upload_limit = 3

    with Connection(Reviving(control)) as connection:
        LocalSnapshot(str(heavy), None).upload(connection, "default")

    assert len(control.state.snapshots) == 1
    assert control.state.calls["UploadBlobs"] == 2
    assert control.state.blobs_received == 9  # none was sent twice


@pytest.mark.parametrize("call", ["FindMissingBlobs", "UploadBlobs", "CreateSnapshot"])
def test_upload_goes_to_the_daemon_that_comes_after_one_that_stops(
    control: FakeControl, source: Path, call: str
) -> None:
    control.state.fail_next[call] = Draining("the daemon is stopping")
    snapshot = LocalSnapshot(str(source), None)

    with Connection(Reviving(control)) as connection:
        snapshot.upload(connection, "default")

    assert control.state.snapshots == {f"workspaces/default/snapshots/{snapshot.root_digest}"}


def test_store_that_lost_a_file_below_known_folders_is_healed(
    control: FakeControl, workspace: Workspace, source: Path
) -> None:
    upload(workspace, source)
    (lost,) = [d for d, data in control.state.blobs.items() if data[:9] == first_bytes(source)]
    del control.state.blobs[lost]
    control.state.snapshots.clear()

    upload(workspace, source)

    assert lost in control.state.blobs
    assert len(control.state.snapshots) == 1


def first_bytes(source: Path) -> bytes:
    return (source / "d1/s1/f7.bin").read_bytes()[:9]


def test_text_is_packed_and_noise_is_not(
    control: FakeControl, workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/text").write_text("the same line\n" * 100_000)
    packed = upload(workspace, tmp_path / "t").statistics.bytes_sent
    (tmp_path / "n").mkdir()
    (tmp_path / "n/noise").write_bytes(NOISE.randbytes(1_000_000))

    raw = upload(workspace, tmp_path / "n").statistics.bytes_sent

    assert packed < 20_000
    assert 1_000_000 <= raw < 1_001_000


def test_nothing_is_packed_for_a_daemon_on_this_machine(
    control: FakeControl, tmp_path: Path
) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t/text").write_text("the same line\n" * 10_000)
    snapshot = LocalSnapshot(str(tmp_path / "t"), None)

    with Connection(Reviving(control)) as connection:
        snapshot.upload(connection, "default")

    assert 140_000 <= snapshot.statistics.bytes_sent < 141_000


def test_file_that_changed_after_the_scan_is_scanned_again(
    control: FakeControl, workspace: Workspace, source: Path
) -> None:
    snapshot = LocalSnapshot(str(source), None)
    before = snapshot.root_digest
    (source / "d1/s1/f1.bin").write_bytes(b"changed")

    snapshot.upload(workspace.connection, "default")

    assert snapshot.root_digest != before
    assert control.state.snapshots == {f"workspaces/default/snapshots/{snapshot.root_digest}"}


def test_file_that_is_gone_after_the_scan_is_left_out(
    control: FakeControl, workspace: Workspace, source: Path
) -> None:
    snapshot = LocalSnapshot(str(source), None)
    (source / "d1/s1/f1.bin").unlink()

    snapshot.upload(workspace.connection, "default")

    assert not snapshot.holds("d1/s1/f1.bin")


def test_file_that_never_holds_still_is_named(
    control: FakeControl, workspace: Workspace, source: Path
) -> None:
    snapshot = LocalSnapshot(str(source), None)
    target = source / "d1/s1/f1.bin"

    class Restless(LocalSnapshot):
        def _scan(self) -> None:
            super()._scan()
            target.write_bytes(NOISE.randbytes(100))

    restless = Restless(str(source), None)

    with pytest.raises(FileChanged, match=r"d1/s1/f1\.bin"):
        restless.upload(workspace.connection, "default")
    del snapshot


def test_index_makes_a_second_snapshot_read_nothing(
    control: FakeControl, workspace: Workspace, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "client"
    folder.mkdir()
    first = upload(workspace, source, folder)

    second = LocalSnapshot(str(source), folder)

    assert second.root_digest == first.root_digest
    assert second.is_known_to(workspace.connection)
    (source / "new").write_text("x")
    assert not LocalSnapshot(str(source), folder).is_known_to(workspace.connection)


def test_index_of_a_large_tree_is_kept_when_the_upload_ends(
    control: FakeControl, workspace: Workspace, tmp_path: Path
) -> None:
    source, folder = tmp_path / "large", tmp_path / "client"
    source.mkdir()
    folder.mkdir()
    for n in range(1200):
        (source / f"f{n}").write_text("same")
    upload(workspace, source, folder)

    (source / "f7").write_text("other")
    second = upload(workspace, source, folder)

    assert second.statistics.files_hashed < 1200
    assert not list(folder.glob("*.tmp"))
