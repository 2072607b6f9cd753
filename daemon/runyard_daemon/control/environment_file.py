"""Stored environments as files: one that carries an environment to where there is no network.

The file is an archive (see `archive`): `environment.json`, then `spec` (an EnvironmentSpec), a
`locks/<hash>` for each lock, and the `blobs/<digest>` of what is sealed of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import blake3

from runyard_contract.content.store import ContentStore
from runyard_contract.digest import is_digest
from runyard_contract.environment_spec import lock_hash
from runyard_contract.errors import (
    BlobMissing,
    DigestMismatch,
    ManifestInvalid,
    SealedInvalid,
    of_disk,
)
from runyard_contract.limits import CHUNKED_ABOVE_BYTES, LOCK_BYTES
from runyard_contract.paths import write_all
from runyard_daemon.content import COMMIT_BYTES, Content
from runyard_daemon.control import catalog
from runyard_daemon.control.archive import ArchiveKind, ArchiveReader, ArchiveWriter, is_blob
from runyard_daemon.control.live import Live
from runyard_daemon.control.needed import needed_blobs
from runyard_daemon.control.sealed import check_sealed, sealed_record
from runyard_daemon.store import Connection, environments
from runyard_daemon.store.environments import EnvironmentRecord, LockRecord, SealedRecord

SPEC_NAME: Final = "spec"
SPEC_BYTES: Final = 16 << 20
LOCKS_MAX: Final = 64
_TRIES: Final = 3


def _knows(parts: tuple[str, ...]) -> bool:
    is_lock = len(parts) == 2 and parts[0] == "locks" and is_digest(parts[1])
    return parts == (SPEC_NAME,) or is_lock or is_blob(parts)


ENVIRONMENT: Final = ArchiveKind("environment.json", 1, _knows, SealedInvalid.because)


@dataclass(frozen=True, slots=True)
class Exported:
    """What a finished file holds."""

    digest: str
    """BLAKE3 of the file, hexadecimal."""
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CheckedSpec:
    """A specification that keeps the rules: its bytes, and the hashes it is known by."""

    data: bytes
    spec_hash: str
    packages_hash: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a file: the environment, its locks, and whose place some of them took."""

    environment: EnvironmentRecord
    locks: tuple[LockRecord, ...]
    replaced: tuple[str, ...]
    """Platforms of locks that were replaced by others."""


@dataclass(frozen=True, slots=True)
class _Read:
    """What a file says, checked, its blobs stored."""

    name: str
    spec: bytes
    locks: tuple[LockRecord, ...]
    stored_bytes: int
    """Of its blobs that were new."""


async def export(
    live: Live, store: ContentStore, found: EnvironmentRecord, locks: list[LockRecord], version: str
) -> AsyncGenerator[bytes | Exported, None]:
    """The bytes of the file with these locks, which are sealed, and last what it holds.

    Raises BlobMissing, BlobCorrupt.
    """
    loop = asyncio.get_running_loop()
    disk = ThreadPoolExecutor(1, thread_name_prefix="export")
    steps = _steps(store, found, locks, version)
    try:
        async with live.removal:
            while (step := await loop.run_in_executor(disk, next, steps, None)) is not None:
                yield step
    finally:
        disk.submit(steps.close)  # behind a step that still runs, where the call was cancelled
        disk.shutdown(wait=False)


def _steps(
    store: ContentStore, found: EnvironmentRecord, locks: list[LockRecord], version: str
) -> Generator[bytes | Exported, None, None]:
    """What `export` gives. Blocks on the disk between its pieces."""
    digest, size_bytes = blake3.blake3(), 0
    for piece in _pack(store, found, locks, version):
        if piece:
            digest.update(piece)
            size_bytes += len(piece)
            yield piece
    yield Exported(digest.hexdigest(), size_bytes)


def _pack(
    store: ContentStore, found: EnvironmentRecord, locks: list[LockRecord], version: str
) -> Generator[bytes, None, None]:
    archive = ArchiveWriter()
    head = {
        "format": ENVIRONMENT.format,
        "version": version,
        "name": found.name,
        "locks": [_lock_note(lock, lock.sealed) for lock in locks if lock.sealed is not None],
    }
    yield from archive.add_note(ENVIRONMENT.head, head)
    yield from archive.add(SPEC_NAME, len(found.spec), [found.spec])
    for lock in locks:
        data = lock.text.encode()
        yield from archive.add(f"locks/{lock.hash}", len(data), [data])
    roots = [lock.sealed.digest for lock in locks if lock.sealed is not None]
    for digest, data in needed_blobs(roots, (), store.read):
        yield from archive.add(f"blobs/{digest}", len(data), [data])
    yield from archive.finish()


def _lock_note(lock: LockRecord, sealed: SealedRecord) -> dict[str, Any]:
    return {
        "hash": lock.hash,
        "platform": lock.platform,
        "create_time_us": lock.create_time_us,
        "root": sealed.digest,
    }


class FileSpool:
    """A file without a name for bytes that come in pieces. Methods block; close it.

    Args:
        folder: on the file system of the content store.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)
        self._writing = threading.Lock()

    def add(self, data: bytes) -> None:
        """Takes the next bytes. Raises DiskFull."""
        with self._writing:
            try:
                write_all(self._file.fileno(), data)
            except OSError as error:
                hint = "free some space and import again; nothing was kept of it"
                known = of_disk(error, "the spool of an import", full_hint=hint)
                if known is None:
                    raise
                raise known from error

    def start(self) -> IO[bytes]:
        """The file, at its start."""
        self._file.seek(0)
        return self._file

    def close(self) -> None:
        """Frees the bytes. Waits for `add` on another thread, whose caller is gone. Idempotent."""
        with self._writing:
            self._file.close()


class Importer:
    """Takes files of environments, whole or not at all."""

    def __init__(self, live: Live, content: Content) -> None:
        self._live = live
        self._content = content

    async def take(
        self, file: FileSpool, workspace: str, name: str, check: Callable[[bytes], CheckedSpec]
    ) -> Imported:
        """Keeps the environment of a file under a name; empty: the one that it was exported with.

        Args:
            file: whole; closed when this is over, also for a caller that is gone.
            check: the specification behind its bytes. Raises SpecInvalid.

        Raises SealedInvalid, DiskFull, NameInvalid, WorkspaceNotFound.
        """
        work = self._take(file, workspace, name, check)
        return await self._live.background.whole(work, "import environment")

    async def _take(
        self, file: FileSpool, workspace: str, name: str, check: Callable[[bytes], CheckedSpec]
    ) -> Imported:
        with contextlib.closing(file), self._content.underway.one():
            for attempt in range(1, _TRIES + 1):
                try:
                    read = await asyncio.to_thread(self._read, file.start())
                    break
                except BlobMissing:  # what was there was just about to be removed
                    if attempt == _TRIES:
                        raise SealedInvalid.because("it lacks some of its content") from None
            self._content.stored_bytes += read.stored_bytes
            spec = check(read.spec)

            def write(conn: Connection) -> Imported:
                return self._write(conn, read, workspace, name or read.name, spec)

            return await self._live.store.write(write)

    def _write(
        self, conn: Connection, read: _Read, workspace: str, name: str, spec: CheckedSpec
    ) -> Imported:
        found = catalog.workspace(conn, workspace).name
        now_us = self._live.now_us()
        kept = environments.put(conn, found, name, spec.spec_hash, spec.data, now_us)
        replaced = []
        for lock in read.locks:
            of_spec = LockRecord(
                spec.packages_hash, lock.platform, lock.hash, lock.text, lock.create_time_us
            )
            if environments.replace_lock(conn, of_spec):
                replaced.append(lock.platform)
            if lock.sealed is not None:
                environments.keep_sealed(conn, lock.sealed)
        locks = environments.locks(conn, spec.packages_hash)
        return Imported(kept, tuple(locks), tuple(replaced))

    def _read(self, file: IO[bytes]) -> _Read:
        """Reads and checks all of a file, and stores its blobs. Blocks."""
        reader = ArchiveReader(file, ENVIRONMENT)
        spec, texts, stored_bytes = self._store_blobs(reader)
        notes = reader.note.get("locks")
        if spec is None or not isinstance(notes, list) or not 0 < len(notes) <= LOCKS_MAX:
            raise SealedInvalid.because("it has no specification, or no locks")
        name = reader.note.get("name")
        locks = tuple(self._lock(note, texts) for note in notes)
        return _Read(name if isinstance(name, str) else "", spec, locks, stored_bytes)

    def _store_blobs(self, reader: ArchiveReader) -> tuple[bytes | None, dict[str, str], int]:
        """Stores the blobs; gives the specification, the texts of locks by hash, and how many
        bytes were new."""
        spec: bytes | None = None
        texts: dict[str, str] = {}
        stored_bytes = 0
        with self._content.store.batch() as batch:
            for member in reader.members():
                kind, digest = member.parts[0], member.parts[-1]
                if kind == "blobs":
                    try:
                        batch.add([(digest, member.read(CHUNKED_ABOVE_BYTES))])
                    except DigestMismatch as error:
                        raise SealedInvalid.because(error.message) from None
                    if batch.size_bytes >= COMMIT_BYTES:
                        stored_bytes += batch.commit().size_bytes
                elif kind == "locks":
                    try:
                        texts[digest] = member.read(LOCK_BYTES).decode()
                    except UnicodeDecodeError:
                        raise SealedInvalid.because("a lock of it is no text") from None
                else:
                    spec = member.read(SPEC_BYTES)
            stored_bytes += batch.commit().size_bytes
        return spec, texts, stored_bytes

    def _lock(self, note: Any, texts: dict[str, str]) -> LockRecord:
        """A lock with what is sealed of it, both checked."""
        match note:
            case {
                "hash": str(hashed),
                "platform": str(platform),
                "create_time_us": int(create_time_us),
                "root": str(root),
            } if is_digest(root) and 0 <= create_time_us < 1 << 53:
                pass
            case _:
                raise SealedInvalid.because("a lock of it is described by what can't be")
        text = texts.get(hashed)
        if text is None or lock_hash(platform, text) != hashed:
            raise SealedInvalid.because(f"the lock for {platform[:60]} does not have its hash")
        try:
            sealed, checked = check_sealed(root, self._content.store)
        except ManifestInvalid as error:
            raise SealedInvalid.because(error.message) from None
        if (sealed.lock_hash, sealed.platform) != (hashed, platform):
            raise SealedInvalid.because(f"what is sealed for {platform[:60]} is of another lock")
        record = sealed_record(sealed, root, checked, self._live.now_us(), "")
        return LockRecord("", platform, hashed, text, create_time_us, record)
