"""The data directory: where it is, when it is refused, where its socket lies."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from runyard_contract.errors import HomeUnusable
from runyard_contract.home import (
    DaemonRecord,
    check_home,
    check_socket,
    data_home,
    network_filesystem,
    prepare_socket_folder,
    read_daemon_record,
    socket_path,
)
from support.unprivileged import open_folder, without_root

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw - nfs4 server:/home rw
31 30 8:2 / /home/local\\040disk rw - xfs /dev/sdb1 rw
32 22 0:41 / /mnt/ssh rw - fuse.sshfs user@host: rw
33 22 0:42 / /mnt/twice rw - nfs server:/a rw
34 22 8:3 / /mnt/twice rw - ext4 /dev/sdc1 rw
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="ry-") as made:
        yield Path(made)


def test_home_comes_from_the_first_variable_that_is_set() -> None:
    host = os.uname().nodename
    assert data_home({"RUNYARD_HOME": "/a/b/", "XDG_DATA_HOME": "/x"}) == Path("/a/b")
    assert data_home({"XDG_DATA_HOME": "/x", "HOME": "/u"}) == Path("/x/runyard", host)
    assert data_home({"XDG_DATA_HOME": "x", "HOME": "/u"}) == Path("/u/.local/share/runyard", host)
    assert data_home({"HOME": "/u"}) == Path("/u/.local/share/runyard", host)
    with pytest.raises(HomeUnusable, match="absolute"):
        data_home({"RUNYARD_HOME": "here"})


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/srv/x", None),
        ("/home/me/data", "nfs4"),
        ("/homes", None),
        ("/home/local disk/data", None),
        ("/mnt/ssh/x", "fuse.sshfs"),
        ("/mnt/twice/x", None),
    ],
)
def test_network_file_systems_are_known_by_their_mount(path: str, kind: str | None) -> None:
    assert network_filesystem(Path(path), MOUNTS) == kind


def test_home_on_a_network_file_system_is_refused_with_the_variable_to_set(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = f"24 1 0:5 / / rw - ext4 /dev/sda rw\n25 24 0:9 / {folder} rw - nfs4 srv:/x rw\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: mounts)

    with pytest.raises(HomeUnusable, match=r"network file system \(nfs4\)") as caught:
        check_home(folder / "h")

    assert "RUNYARD_HOME" in caught.value.hint


def test_home_is_made_private(folder: Path) -> None:
    check_home(folder / "a/b")

    assert (folder / "a/b").stat().st_mode & 0o777 == 0o700


def test_home_that_is_a_link_a_file_or_open_is_refused(folder: Path) -> None:
    (folder / "real").mkdir(mode=0o700)
    (folder / "link").symlink_to("real")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "file").write_text("")
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    for name, why in [
        ("link", "symbolic link"),
        ("dangling", "symbolic link|does not exist"),
        ("file", "not a folder"),
        ("open", "mode 0777"),
        ("file/below", "can't be used"),
    ]:
        with pytest.raises(HomeUnusable, match=why) as caught:
            check_home(folder / name)
        assert caught.value.hint
    with pytest.raises(HomeUnusable, match="does not exist"):
        check_home(folder / "missing", create=False)
    assert not (folder / "missing").exists()


def test_home_that_cannot_be_written_names_the_variable() -> None:
    with open_folder() as base:
        base.chmod(0o555)
        with without_root(), pytest.raises(HomeUnusable, match=str(base)) as caught:
            check_home(base / "h")
        base.chmod(0o755)

    assert "RUNYARD_HOME" in caught.value.hint


def test_socket_lies_in_the_home_or_in_a_private_folder_of_the_same_home(folder: Path) -> None:
    assert socket_path(folder) == folder / "daemon.sock"
    far = socket_path(folder / ("x" * 100), str(folder))
    assert far == socket_path(folder / ("x" * 100), str(folder))
    assert far != socket_path(folder / ("y" * 100), str(folder))
    assert len(os.fsencode(far)) <= 100
    assert socket_path(folder / ("x" * 100), "/tmp/" + "t" * 90).parts[:2] == ("/", "tmp")

    prepare_socket_folder(far)

    assert far.parent.stat().st_mode & 0o777 == 0o700
    far.parent.chmod(0o755)
    with pytest.raises(HomeUnusable, match="mode 0755"):
        prepare_socket_folder(far)


def test_what_stands_in_the_place_of_the_socket_is_refused(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        check_socket(folder / "daemon.sock")
    (folder / "daemon.sock").write_text("")
    with pytest.raises(HomeUnusable, match="not a socket of yours"):
        check_socket(folder / "daemon.sock")


def test_record_is_read_back_and_a_damaged_one_counts_as_none(folder: Path) -> None:
    record = DaemonRecord(7, "1", "/py", "/s", "2026-01-01T00:00:00Z", "/h")
    (folder / "daemon.json").write_bytes(record.to_json())
    assert read_daemon_record(folder) == record
    for damaged in (b"", b"{", b"[]", b'{"pid": "x"}'):
        (folder / "daemon.json").write_bytes(damaged)
        assert read_daemon_record(folder) is None
