"""Rows 13, 17 and 39 of the attack list, as far as they are the client's."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard import Experiment, Run, ScriptRunConfig, Workspace
from runyard.snapshot.scan import scan
from runyard.snapshot.take import LocalSnapshot
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import DigestMismatch, FileChanged, FileUnreadable, UnsafePath
from runyardpb.v1 import runs_pb2
from support.fake_control import FakeControl, fake_control
from support.unprivileged import open_folder, without_root

HOSTILE_PATHS = [
    "../x",
    "a/../../x",
    "/etc/cron.d/x",
    "//x",
    "./a",
    "a//b",
    "a/",
    "",
    ".",
    "..",
    "C:\\x",
    "\\\\srv\\x",
    "..\\x",
    "a\0b",
    "a\nb",
    "CON",
    "aux.txt",
    "a:stream",
    "trailing.",
    "trailing ",
    "x" * 300,
    "/".join("d" * 300),
]
LITERAL_PATHS = ["%2e%2e/x", "%252e%252e/x", "..;/x", "\u2024\u2024/x", "\uff0e\uff0e/x"]


@pytest.fixture
def control() -> Iterator[FakeControl]:
    with fake_control() as running:
        yield running


@pytest.fixture
def run(control: FakeControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("RUNYARD_HOME", str(tmp_path / "home"))
    source = tmp_path / "source"
    source.mkdir()
    (source / "train.py").write_text("")
    with Workspace(address=f"unix:{control.socket}") as workspace:
        config = ScriptRunConfig(source_directory=source, script="train.py")
        yield Experiment(workspace, "iris").submit(config)


def serve(control: FakeControl, path: str, data: bytes, digest: str = "") -> None:
    """Makes the server offer a file under this path."""
    record = runs_pb2.RunFile(path=path, size_bytes=len(data))
    record.content.digest = bytes.fromhex(digest or digest_bytes(data))
    control.state.file_records = [record]
    control.state.files[path] = data


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("path", HOSTILE_PATHS)
def test_sec_39_server_cannot_write_outside_the_chosen_folder(
    control: FakeControl, run: Run, tmp_path: Path, path: str
) -> None:
    serve(control, path, b"evil")
    target = tmp_path / "down/here"
    before = everything_in(tmp_path)

    with pytest.raises(UnsafePath):
        run.download_files(output_directory=target)

    created = everything_in(tmp_path) - before
    assert created <= {"down", "down/here"}


@pytest.mark.parametrize("path", LITERAL_PATHS)
def test_sec_13_encoded_dots_are_literal_names(
    control: FakeControl, run: Run, tmp_path: Path, path: str
) -> None:
    serve(control, path, b"harmless")

    (written,) = run.download_files(output_directory=tmp_path / "down")

    assert Path(written) == tmp_path / "down" / path
    assert Path(written).read_bytes() == b"harmless"


@pytest.mark.parametrize("path", ["../x", "..", "/etc/x", "a/..", "a\\b"])
def test_sec_39_single_download_into_a_folder_keeps_its_name_inside(
    control: FakeControl, run: Run, tmp_path: Path, path: str
) -> None:
    serve(control, path, b"evil")
    target = tmp_path / "into"
    target.mkdir()
    before = everything_in(tmp_path)

    with pytest.raises(UnsafePath):
        run.download_file(path, target)

    assert everything_in(tmp_path) == before


def test_sec_39_download_does_not_follow_a_link_in_the_folder(
    control: FakeControl, run: Run, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    down = tmp_path / "down"
    down.mkdir()
    (down / "outputs").symlink_to(outside)
    serve(control, "outputs/x", b"evil")

    with pytest.raises(UnsafePath, match="link"):
        run.download_files(output_directory=down)

    assert list(outside.iterdir()) == []


def test_sec_39_download_replaces_a_link_instead_of_writing_through_it(
    control: FakeControl, run: Run, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "x").symlink_to(victim)
    serve(control, "x", b"new")

    run.download_files(output_directory=tmp_path)

    assert victim.read_text() == "precious"
    assert (tmp_path / "x").read_bytes() == b"new"
    assert not (tmp_path / "x").is_symlink()


def test_sec_39_damaged_download_leaves_the_old_file_and_nothing_else(
    control: FakeControl, run: Run, tmp_path: Path
) -> None:
    down = tmp_path / "down"
    down.mkdir()
    (down / "model").write_text("old")
    serve(control, "model", b"tampered", digest=digest_bytes(b"true"))

    with pytest.raises(DigestMismatch, match="model"):
        run.download_files(output_directory=down)

    assert (down / "model").read_text() == "old"
    assert everything_in(down) == {"model"}


RESTLESS_BYTES = 96 << 20  # so large that a reading takes longer than a writer ever pauses
WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | (os.O_APPEND if sys.argv[2] == "grow" else 0))
is_told = False
while True:
    if sys.argv[2] == "grow":
        os.write(fd, b"more")
    else:
        os.pwrite(fd, os.urandom(64), 0)
    is_told = is_told or print("up", flush=True) is None
"""


@contextlib.contextmanager
def writing(path: Path, how: str) -> Iterator[None]:
    """Changes a file in another process, without a pause, while the block runs."""
    path.touch()
    os.truncate(path, RESTLESS_BYTES)
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, path, how], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"up\n"
            yield
        finally:
            process.kill()


@pytest.mark.parametrize("how", ["grow", "overwrite"])
def test_sec_17_file_that_never_holds_still_is_named_and_nothing_hangs(
    tmp_path: Path, how: str
) -> None:
    with (
        writing(tmp_path / "train.log", how),
        pytest.raises(FileChanged, match=r"train\.log") as caught,
    ):
        LocalSnapshot(str(tmp_path), None)

    assert "ignore file" in caught.value.hint


def test_sec_17_pipe_is_never_opened_for_reading(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "a").write_text("x")

    found = scan(str(tmp_path), None)  # would hang for ever

    assert found.index.skipped == {"pipe": "a named pipe"}


def test_sec_17_pipe_in_the_place_of_a_known_file_does_not_hang(tmp_path: Path) -> None:
    from runyard.snapshot.hashing import hash_file

    os.mkfifo(tmp_path / "was-a-file")

    with pytest.raises(FileChanged, match="was-a-file"):
        hash_file(str(tmp_path), "was-a-file")


def test_sec_17_link_in_the_place_of_a_known_file_is_not_followed(tmp_path: Path) -> None:
    from runyard.snapshot.hashing import hash_file

    (tmp_path / "secret").write_text("secret")
    (tmp_path / "was-a-file").symlink_to("secret")

    with pytest.raises(FileChanged, match="was-a-file"):
        hash_file(str(tmp_path), "was-a-file")


def test_sec_17_device_is_left_out(tmp_path: Path) -> None:
    if os.geteuid() != 0:  # only root makes devices; the link to one is refused for everybody
        (tmp_path / "zero").symlink_to("/dev/zero")
        with pytest.raises(UnsafePath, match="zero"):
            scan(str(tmp_path), None)
        return
    try:
        os.mknod(tmp_path / "zero", 0o020666, os.makedev(1, 5))
    except PermissionError:
        (tmp_path / "zero").symlink_to("/dev/zero")
        with pytest.raises(UnsafePath, match="zero"):
            scan(str(tmp_path), None)
        return

    assert scan(str(tmp_path), None).index.skipped == {"zero": "a device"}


def test_sec_17_unreadable_file_is_named_with_what_to_do() -> None:
    with open_folder() as source:
        (source / "key").write_text("x")
        scan(str(source), None)
        (source / "key").chmod(0)
        with without_root(), pytest.raises(FileUnreadable, match="key") as caught:
            scan(str(source), None)

    assert "ignore file" in caught.value.hint


def test_sec_17_interrupted_scan_leaves_no_half_index(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    folder = Path(tempfile.mkdtemp(dir=tmp_path))

    with writing(source / "log", "grow"), pytest.raises(FileChanged):
        LocalSnapshot(str(source), folder)

    assert list(folder.iterdir()) == []
