"""Puts a backup in the place of a data directory that no daemon serves.

Everything is unpacked and checked beside what is there. Then one rename decides; what follows it is
finished by the next start if it is cut off. What was there before is kept, moved aside.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from runyard_contract.content.store import ContentStore
from runyard_contract.errors import BackupInvalid, DiskFull, StateNotAllowed
from runyard_contract.paths import create_file_at, open_dir, sync_dir, write_all
from runyard_daemon.control.advance import DAEMON, advance
from runyard_daemon.control.archive import DATABASE, ArchiveReader, Member
from runyard_daemon.control.finish import end_record, final_phases
from runyard_daemon.core.attempts import incarnation_after_restore
from runyard_daemon.core.end import EndFacts, EndReason, classify
from runyard_daemon.core.lifecycle import Event
from runyard_daemon.store import Connection, attempts, experiments, meta, runs, unfinished
from runyard_daemon.store.database import Store
from runyard_daemon.store.restored import check_restored, known_incarnation

READY: Final = ".restore.ready"
"""A restore that is decided: what is in its folder `new` takes the place of what was there."""
_NEW: Final = "new"
_SCRATCH_PREFIX: Final = ".restore-"
_KEPT: Final = (DATABASE, "blobs", "runs")
_BESIDE_DATABASE: Final = ("-wal", "-shm", "-journal")
_BATCH_BYTES: Final = 32 << 20
_BLOB_BYTES: Final = 16 << 20
_EPOCH_2020_S: Final = 1_577_836_800


@dataclass(frozen=True, slots=True)
class RestoreFacts:
    """What a restore brought."""

    run_count: int
    ended_runs: int
    """Waited in the backup, and were ended."""
    active_runs: int
    """Were with agents in the backup: settled when these say Hello."""
    replaced: str
    """Where what was there before is kept; empty: nothing was there."""


def restore(
    home: Path, file: Path, *, now_us: int, version: str, is_forced: bool, keeps_queue: bool
) -> RestoreFacts:
    """Restores a data directory, whose lock the caller holds, from a backup.

    Args:
        is_forced: also where there is data already, which is moved aside.
        keeps_queue: runs that waited go on waiting. Only where nothing was executed since the
            backup; else they are ended, because they may have been.

    Raises BackupInvalid with nothing changed, StateNotAllowed for a directory with data, OSError.
    """
    complete_restore(home, now_us)
    if not is_forced and any((home / name).exists() for name in _KEPT):
        raise StateNotAllowed(
            f"{home} holds data already",
            hint="set RUNYARD_HOME to another folder, or add --force: what is there is moved aside",
            home=str(home),
        )
    scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=home))
    try:
        new = scratch / _NEW
        new.mkdir(mode=0o700)
        _unpack(file, new)
        check_restored(new / DATABASE)
        known = known_incarnation(home / DATABASE), now_us // 1_000_000 - _EPOCH_2020_S
        facts = asyncio.run(
            _settle(new / DATABASE, known, now_us, version, keeps_queue=keeps_queue)
        )
        os.sync()  # thousands of small files: one wait for all of them
        scratch.rename(home / READY)
        sync_dir(home)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    replaced = complete_restore(home, now_us)
    return RestoreFacts(*facts, replaced=str(replaced or ""))


def is_decided(home: Path) -> bool:
    """Whether a restore has begun to take the place of what was there: it is finished by whoever
    opens the directory next."""
    return (home / READY).is_dir()


def complete_restore(home: Path, now_us: int) -> Path | None:
    """Finishes a restore that was decided; gives where what it replaced lies now."""
    ready = home / READY
    if not ready.is_dir():
        return None
    for name in _KEPT:
        if not (ready / _NEW / name).exists():
            continue
        # The old log must be gone before the new database can be found beside it.
        suffixes = ("", *_BESIDE_DATABASE) if name == DATABASE else ("",)
        for old in (home / f"{name}{suffix}" for suffix in suffixes):
            if old.exists():
                old.rename(ready / old.name)
        sync_dir(home)
        (ready / _NEW / name).rename(home / name)
    shutil.rmtree(ready / _NEW, ignore_errors=True)
    if not any(ready.iterdir()):
        ready.rmdir()
        return None
    moment = datetime.fromtimestamp(now_us / 1e6, UTC)
    replaced = home / f"replaced-{moment:%Y%m%dT%H%M%S.%fZ}"
    ready.rename(replaced)
    sync_dir(home)
    return replaced


def _unpack(file: Path, new: Path) -> None:
    """Writes all members of a backup below a new folder, blobs into a content store there."""
    (new / "runs").mkdir(mode=0o700)
    root_fd = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with file.open("rb") as packed, ContentStore(new / "blobs") as store:
            blobs: list[tuple[str, bytes]] = []
            for member in ArchiveReader(packed).members():
                if member.parts[0] != "blobs":
                    _write(root_fd, member)
                    continue
                blobs.append((member.parts[1], member.read(_BLOB_BYTES)))
                if sum(len(data) for _, data in blobs) >= _BATCH_BYTES:
                    store.put_many(blobs)
                    blobs.clear()
            store.put_many(blobs)
    finally:
        os.close(root_fd)
    if not (new / DATABASE).exists():
        raise BackupInvalid(
            "the file is no whole backup: it has no database",
            hint="use another backup; nothing was changed",
            what="no database",
        )


def _write(root_fd: int, member: Member) -> None:
    """Writes a plain file; raises BackupInvalid where one of its name came before, DiskFull."""
    disk = os.fstatvfs(root_fd)
    if member.size_bytes > disk.f_bavail * disk.f_frsize:
        raise DiskFull(
            f"{member.name} has {member.size_bytes} bytes, more than the disk has free",
            hint="free some space and restore again; nothing was changed",
            size_bytes=str(member.size_bytes),
        )
    *folder, name = member.parts
    folder_fd = open_dir(root_fd, folder, create=True, mode=0o700)
    try:
        fd = create_file_at(folder_fd, name, 0o600)
    except FileExistsError:
        raise BackupInvalid(
            f"the file is no whole backup: {member.name} comes twice",
            hint="use another backup; nothing was changed",
            what="a name comes twice",
        ) from None
    finally:
        os.close(folder_fd)
    try:
        for piece in member.pieces:
            write_all(fd, piece)
    finally:
        os.close(fd)


async def _settle(
    database: Path, known: tuple[int, ...], now_us: int, version: str, *, keeps_queue: bool
) -> tuple[int, int, int]:
    """Brings the schema up, raises the incarnation, ends what waited.

    Gives the numbers of runs on record, of those that it ended, and of those with agents.
    """
    store = Store.open(database, version=version)
    try:

        def write(conn: Connection) -> tuple[int, int, int]:
            incarnations = (*known, meta.get(conn).incarnation)
            meta.raise_incarnation(conn, incarnation_after_restore(incarnations, ()))
            held = unfinished.granted(conn)
            if keeps_queue:
                for run in held:
                    if run.is_ahead:
                        attempts.remove(conn, run.ref)
                held = [run for run in held if not run.is_ahead]
            # What was sent ahead may have begun: it is for its agent's Hello to settle.
            waiting = () if keeps_queue else tuple(unfinished.waiting(conn))
            ended = sum(_end(conn, run.run_id, now_us) for run in waiting)
            return experiments.total_runs(conn), ended, len(held)

        return await store.write(write)
    finally:
        store.close()


def _end(conn: Connection, run_id: str, now_us: int) -> bool:
    """Ends a run that waited: it may have been executed after the backup was made."""
    run = runs.get(conn, run_id)
    if run is None:
        return False
    cause = classify(EndFacts(EndReason.RESTORED, run_id))
    advance(
        conn,
        run,
        [(Event.RESTORED, cause.message)],
        DAEMON,
        now_us,
        end_time_us=now_us,
        end=end_record(cause),
        phases=final_phases(run, now_us),
    )
    return True
