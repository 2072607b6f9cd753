"""A backup of the whole data directory while the daemon works: one stream of bytes.

The records are copied first, at one moment; then what those records need, which stays while
`Live.removal` is held: blobs, each verified as it is read, and the files of their runs, which only
grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import blake3

from runyard_contract.content.store import ContentStore
from runyard_contract.paths import open_dir
from runyard_daemon.content import Content
from runyard_daemon.control.archive import DATABASE, FORMAT, HEAD, ArchiveWriter
from runyard_daemon.control.live import Live
from runyard_daemon.control.needed import needed_blobs
from runyard_daemon.store.copy import DatabaseCopy, copy_database

SCRATCH_PREFIX: Final = ".backup-"
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What a finished backup holds."""

    digest: str
    """BLAKE3 of the file, hexadecimal."""
    size_bytes: int
    run_count: int
    blob_count: int
    file_count: int
    time_us: int
    """The moment that it shows."""


class Backup:
    """Makes backups of one data directory."""

    def __init__(self, live: Live, content: Content, home: Path, version: str) -> None:
        self._live = live
        self._content = content
        self._home = home
        self._version = version

    async def stream(self) -> AsyncGenerator[bytes | BackupFacts, None]:
        """The bytes of the file, piece by piece, and last what it holds.

        Raises DiskFull where there is no room for a copy of the records, BlobCorrupt, BlobMissing.
        """
        loop = asyncio.get_running_loop()
        disk = ThreadPoolExecutor(1, thread_name_prefix="backup")
        steps = self._steps()
        try:
            async with self._live.removal:
                while (step := await loop.run_in_executor(disk, next, steps, None)) is not None:
                    yield step
        finally:
            disk.submit(steps.close)  # behind a step that still runs, where the call was cancelled
            disk.shutdown(wait=False)

    def _steps(self) -> Generator[bytes | BackupFacts, None, None]:
        """What `stream` gives. Blocks on the disk between its pieces."""
        time_us = self._live.now_us()
        scratch = Path(tempfile.mkdtemp(prefix=SCRATCH_PREFIX, dir=self._home))
        try:
            path = scratch / DATABASE
            copy_database(self._live.store.path, path)
            with contextlib.closing(DatabaseCopy(path)) as copy:
                contents = _Contents(self._home, self._content.store, copy)
                head = {"format": FORMAT, "version": self._version, "time_us": time_us}
                pieces = _joined(contents.pack(path, head))
                digest, size_bytes = blake3.blake3(), 0
                for piece in pieces:
                    digest.update(piece)
                    size_bytes += len(piece)
                    yield piece
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        yield BackupFacts(
            digest=digest.hexdigest(),
            size_bytes=size_bytes,
            run_count=contents.runs,
            blob_count=contents.blobs,
            file_count=contents.files,
            time_us=time_us,
        )


class _Contents:
    """What goes into one backup, counted as it does."""

    def __init__(self, home: Path, blobs: ContentStore, copy: DatabaseCopy) -> None:
        self._home = home
        self._store = blobs
        self._copy = copy
        self.runs = self.blobs = self.files = 0

    def pack(self, database: Path, head: dict[str, Any]) -> Iterator[bytes]:
        """The bytes of the archive."""
        archive = ArchiveWriter()
        yield from archive.add_note(HEAD, head)
        with database.open("rb") as file:
            yield from _add(archive, DATABASE, file)
        yield from self._pack_blobs(archive)
        yield from self._pack_runs(archive)
        yield from archive.finish()

    def _pack_blobs(self, archive: ArchiveWriter) -> Iterator[bytes]:
        copy, read = self._copy, self._store.read
        blobs = needed_blobs(copy.snapshots(), copy.files(), read, copy.sealed())
        for digest, data in blobs:
            yield from archive.add(f"blobs/{digest}", len(data), [data])
            self.blobs += 1

    def _pack_runs(self, archive: ArchiveWriter) -> Iterator[bytes]:
        root_fd = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for experiment, run_id in self._copy.runs():
                self.runs += 1
                for parts in _run_files(root_fd, experiment, run_id):
                    yield from _add_file(archive, root_fd, parts)
                    self.files += 1
        finally:
            os.close(root_fd)


def _joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of about a MiB."""
    waiting: list[bytes] = []
    size_bytes = 0
    for piece in pieces:
        if not piece:
            continue
        waiting.append(piece)
        size_bytes += len(piece)
        if size_bytes >= _PIECE:
            yield b"".join(waiting)
            waiting, size_bytes = [], 0
    if waiting:
        yield b"".join(waiting)


def _run_files(root_fd: int, experiment: str, run_id: str) -> Iterator[tuple[str, ...]]:
    """The paths below the data directory of all plain files of a run."""
    folder = ("runs", experiment, run_id)
    for attempt in _names(root_fd, folder, is_folder=True):
        for name in _names(root_fd, (*folder, attempt), is_folder=False):
            yield (*folder, attempt, name)


def _names(root_fd: int, parts: tuple[str, ...], *, is_folder: bool) -> list[str]:
    """The names of folders, or of plain files, in a folder; none where it is not there."""
    try:
        fd = open_dir(root_fd, parts)
    except FileNotFoundError:
        return []
    try:
        with os.scandir(fd) as entries:
            return sorted(
                entry.name
                for entry in entries
                if (entry.is_dir if is_folder else entry.is_file)(follow_symlinks=False)
            )
    finally:
        os.close(fd)


def _add_file(archive: ArchiveWriter, root_fd: int, parts: tuple[str, ...]) -> Iterator[bytes]:
    """Adds a file as long as it is now: it may grow meanwhile, but never changes before its end."""
    folder_fd = open_dir(root_fd, parts[:-1])
    try:
        fd = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    finally:
        os.close(folder_fd)
    with os.fdopen(fd, "rb") as file:
        yield from _add(archive, "/".join(parts), file)


def _add(archive: ArchiveWriter, name: str, file: IO[bytes]) -> Iterator[bytes]:
    size_bytes = os.fstat(file.fileno()).st_size
    return archive.add(name, size_bytes, _pieces(file, size_bytes))


def _pieces(file: IO[bytes], size_bytes: int) -> Iterator[bytes]:
    left = size_bytes
    while left and (piece := file.read(min(left, _PIECE))):
        left -= len(piece)
        yield piece
