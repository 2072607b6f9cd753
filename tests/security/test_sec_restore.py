"""Attack list, row 42: crafted, damaged and rolled back backups."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import blake3
import pytest
import zstandard

from runyard_contract.digest import digest_bytes
from runyard_contract.errors import BackupInvalid, DigestMismatch, RunyardError, StateNotAllowed
from runyard_contract.states import RunState
from runyard_daemon.control.archive import DATABASE, FORMAT, HEAD, ArchiveWriter
from runyard_daemon.control.restore import READY, complete_restore, restore
from runyard_daemon.core.attempts import is_of_earlier
from runyard_daemon.store import attempts, meta, runs
from runyard_daemon.store.attempts import AttemptRecord
from runyard_daemon.store.database import Store
from support.records import NOW_US, add_run, fresh_database, run_id

Files = Iterable[tuple[str, bytes]]


def database(folder: Path, change: Callable[[sqlite3.Connection], object] | None = None) -> bytes:
    """The bytes of a whole database."""
    path = Path(tempfile.mkdtemp(dir=folder)) / DATABASE
    conn = fresh_database(path)
    if change is not None:
        change(conn)
    conn.close()
    return path.read_bytes()


def archive(*files: tuple[str, bytes], format_number: int = FORMAT) -> bytes:
    """A sealed archive of these files."""
    writer = ArchiveWriter()

    def pieces() -> Iterator[bytes]:
        yield from writer.add_note(HEAD, {"format": format_number})
        for name, data in files:
            yield from writer.add(name, len(data), [data])
        yield from writer.finish()

    return b"".join(pieces())


def foreign_tar(*members: tarfile.TarInfo) -> bytes:
    """An archive that another program wrote, sealed like ours."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in ((HEAD, b'{"format": 1}'),):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
        body = raw.getvalue()
        end = b'{"digest": "%s"}' % blake3.blake3(body).hexdigest().encode()
        info = tarfile.TarInfo("end.json")
        info.size = len(end)
        tar.addfile(info, io.BytesIO(end))
    return zstandard.ZstdCompressor().compress(raw.getvalue())


def attempt(folder: Path, packed: bytes, **options: bool) -> object:
    """Restores these bytes into the folder `home`."""
    file = folder / "crafted.backup"
    file.write_bytes(packed)
    home = folder / "home"
    home.mkdir(mode=0o700, exist_ok=True)
    options = {"is_forced": False, "keeps_queue": False} | options
    return restore(home, file, now_us=NOW_US, version="1.0", **options)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "name",
    [
        "../escaped",
        "/tmp/ry-escaped",
        "runs/../../escaped/1/stdout.txt",
        "runs/iris/../../x/stdout.txt",
        "runs/iris/run/1/..",
        "runs//run/1/stdout.txt",
        "blobs/../../escaped",
        "blobs/" + "g" * 64,
        "blobs/" + "a" * 63,
        "agent/bin/run",
        "daemon.toml",
        "runyard.db-wal",
        "runs/iris/run/1/sub/stdout.txt",
        "runs/iris/run/1/con",
    ],
)
def test_sec_42_no_name_leads_out_of_the_data_or_to_another_file(tmp_path: Path, name: str) -> None:
    packed = archive((DATABASE, database(tmp_path)), (name, b"x"))
    before = everything(tmp_path) | {"crafted.backup", "home"}

    with pytest.raises(BackupInvalid):
        attempt(tmp_path, packed)

    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
)
def test_sec_42_links_devices_and_folders_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("runs/iris/run/1/stdout.txt")
    info.type, info.linkname = kind, "/etc/passwd"

    with pytest.raises(BackupInvalid, match="no plain file"):
        attempt(tmp_path, foreign_tar(info))

    assert not list((tmp_path / "home").iterdir())


def test_sec_42_long_names_of_other_tars_are_refused_unread(tmp_path: Path) -> None:
    info = tarfile.TarInfo("runs/" + "x" * 5000)

    with pytest.raises(BackupInvalid, match="no plain file"):
        attempt(tmp_path, foreign_tar(info))


def test_sec_42_a_blob_with_other_bytes_is_refused(tmp_path: Path) -> None:
    packed = archive((DATABASE, database(tmp_path)), ("blobs/" + digest_bytes(b"a"), b"b"))

    with pytest.raises(DigestMismatch):
        attempt(tmp_path, packed)

    assert not list((tmp_path / "home").iterdir())


def test_sec_42_a_name_that_comes_twice_is_refused(tmp_path: Path) -> None:
    data = database(tmp_path)

    with pytest.raises(BackupInvalid, match="twice"):
        attempt(tmp_path, archive((DATABASE, data), (DATABASE, data)))


def test_sec_42_an_archive_cut_off_or_changed_anywhere_is_refused(tmp_path: Path) -> None:
    log = b"line\n" * 500
    whole = archive((DATABASE, database(tmp_path)), ("runs/iris/r/1/stdout.txt", log))
    raw = bytearray(zstandard.ZstdDecompressor().decompressobj().decompress(whole))
    place = raw.index(b"line\n" * 100)
    raw[place : place + 4] = b"LINE"
    pack = zstandard.ZstdCompressor().compress
    spoiled = [whole[: len(whole) * n // 8] for n in range(8)]
    spoiled += [pack(bytes(raw)), pack(bytes(raw[:2048])), b"", b"not zstd", pack(b"not tar" * 500)]

    for packed in spoiled:
        with pytest.raises(BackupInvalid):
            attempt(tmp_path, packed)

    assert not list((tmp_path / "home").iterdir())


def test_sec_42_a_newer_format_is_refused(tmp_path: Path) -> None:
    packed = archive((DATABASE, database(tmp_path)), format_number=FORMAT + 1)

    with pytest.raises(BackupInvalid, match="format"):
        attempt(tmp_path, packed)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END",
        "CREATE VIEW v AS SELECT * FROM runs",
        "DROP TABLE events",
        "PRAGMA application_id = 7",
        "PRAGMA user_version = 99",
    ],
)
def test_sec_42_a_database_that_is_not_ours_is_refused(tmp_path: Path, statement: str) -> None:
    data = database(tmp_path, lambda conn: conn.execute(statement))

    with pytest.raises(RunyardError):
        attempt(tmp_path, archive((DATABASE, data)))

    assert not list((tmp_path / "home").iterdir())


def test_sec_42_an_empty_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / DATABASE
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("VACUUM")  # writes the header of a database without tables

    with pytest.raises(BackupInvalid):
        attempt(tmp_path, archive((DATABASE, path.read_bytes())))
    assert everything(tmp_path / "home") == set()


def test_sec_42_data_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    (home / "runs").mkdir()
    (home / "runs" / "mine").write_text("precious")
    packed = archive((DATABASE, database(tmp_path)))

    with pytest.raises(StateNotAllowed, match="holds data already"):
        attempt(tmp_path, packed)
    facts = attempt(tmp_path, packed, is_forced=True)

    assert (Path(facts.replaced) / "runs" / "mine").read_text() == "precious"  # type: ignore[attr-defined]


def test_sec_42_a_rolled_back_database_starts_no_run_again_and_fences_all_epochs(
    tmp_path: Path,
) -> None:
    def busy(conn: sqlite3.Connection) -> None:
        add_run(conn, 1)
        for _ in range(3):
            meta.next_epochs(conn, 1)

    packed = archive((DATABASE, database(tmp_path, busy)))
    first = attempt(tmp_path, packed)
    store = Store.open(tmp_path / "home" / DATABASE)
    once, run = store.peek(meta.get), store.peek(lambda conn: runs.get(conn, run_id(1)))
    store.close()
    second = attempt(tmp_path, packed, is_forced=True)
    store = Store.open(tmp_path / "home" / DATABASE)
    again = store.peek(meta.get)
    store.close()

    assert first.ended_runs == second.ended_runs == 1  # type: ignore[attr-defined]
    assert run is not None
    assert run.state is RunState.FAILED
    # A second restore of the same backup, too, gives epochs that the first never gave.
    assert 0 < once.incarnation < again.incarnation
    assert is_of_earlier(again.incarnation, once.incarnation << 32 | 1_000_000)
    assert once.page_key != again.page_key


@pytest.mark.parametrize("keeps_queue", [False, True])
def test_sec_42_a_run_that_was_sent_ahead_waits_again_only_where_nothing_was_executed(
    tmp_path: Path, keeps_queue: bool
) -> None:
    def ahead(conn: sqlite3.Connection) -> None:
        add_run(conn, 1)
        attempts.insert(
            conn,
            AttemptRecord(
                run_id=run_id(1),
                attempt=1,
                epoch=meta.next_epochs(conn, 1)[0],
                node_id="local/n",
                grant_time_us=NOW_US,
                phase="AHEAD",
            ),
        )

    packed = archive((DATABASE, database(tmp_path, ahead)))
    facts = attempt(tmp_path, packed, keeps_queue=keeps_queue)
    store = Store.open(tmp_path / "home" / DATABASE)
    run = store.peek(lambda conn: runs.get(conn, run_id(1)))
    left = store.peek(lambda conn: attempts.current(conn, run_id(1)))
    store.close()

    assert run is not None
    assert run.state is RunState.QUEUED
    assert (facts.ended_runs, facts.active_runs) == (0, 0 if keeps_queue else 1)  # type: ignore[attr-defined]
    assert (left is None) is keeps_queue


@pytest.mark.parametrize("done", range(4))
def test_sec_42_a_restore_cut_off_after_its_decision_is_finished_by_the_next_start(
    tmp_path: Path, done: int
) -> None:
    """Each of the first renames is the last one that a crash let happen."""
    home = tmp_path / "home"
    new = home / READY / "new"
    new.mkdir(parents=True)
    for folder, word in ((home, b"old"), (new, b"new")):
        (folder / "blobs").mkdir()
        (folder / DATABASE).write_bytes(word)
    (home / f"{DATABASE}-wal").write_bytes(b"old log")
    renames = [
        (home / DATABASE, home / READY / DATABASE),
        (home / f"{DATABASE}-wal", home / READY / f"{DATABASE}-wal"),
        (new / DATABASE, home / DATABASE),
    ]
    for source, target in renames[:done]:
        source.rename(target)

    replaced = complete_restore(home, NOW_US)
    complete_restore(home, NOW_US)

    assert (home / DATABASE).read_bytes() == b"new"
    assert not (home / f"{DATABASE}-wal").exists()
    assert replaced is not None
    assert (replaced / DATABASE).read_bytes() == b"old"
    assert (replaced / f"{DATABASE}-wal").read_bytes() == b"old log"
    assert not (home / READY).exists()
