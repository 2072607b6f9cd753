"""Files of runs: registered by content, listed together with the logs, read verified."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from runyard_contract.content.store import ContentStore
from runyard_contract.errors import BlobMissing, LeaseSuperseded, RunFileNotFound, SpecInvalid
from runyard_contract.limits import CHUNKED_ABOVE_BYTES, LOG_CHUNK_BYTES
from runyard_contract.manifest import chunked_size_bytes, decode_chunks
from runyard_contract.nearest import nearest
from runyard_contract.paths import split_rel
from runyard_daemon.content import Content
from runyard_daemon.control.attemptlogs import AttemptLogs
from runyard_daemon.control.callers import caller, may_act_for
from runyard_daemon.control.live import Live
from runyard_daemon.control.runenvironment import (
    ENVIRONMENT_PATHS,
    Describe,
    environment_files,
)
from runyard_daemon.core.types import AttemptRef
from runyard_daemon.logs.layout import AttemptKey, LogFile
from runyard_daemon.store import Connection, attempts, files
from runyard_daemon.store.files import FileRecord
from runyard_daemon.store.runs import RunRecord

FILES_MAX = 10_000
"""Files of one call."""
LOG_PATHS = {
    "logs/stdout.txt": LogFile.STDOUT,
    "logs/stderr.txt": LogFile.STDERR,
    "logs/environment.txt": LogFile.ENVIRONMENT,
}


@dataclass(frozen=True, slots=True)
class LogListing:
    """A log among the files of a run, or another that is not there by content."""

    path: str
    size_bytes: int


class RunFiles:
    """Registers, lists and reads files of runs."""

    def __init__(self, live: Live, content: Content, logs: AttemptLogs, describe: Describe) -> None:
        self._live = live
        self._describe = describe
        self._content = content
        self._logs = logs

    async def register(self, ref: AttemptRef, found: Sequence[FileRecord]) -> None:
        """Registers files of an attempt. Idempotent.

        Raises LeaseSuperseded unless it is its run's newest, BlobMissing, UnsafePath, SpecInvalid.
        """

        who = caller()

        def write(conn: Connection) -> None:
            newest = attempts.current(conn, ref.run_id)
            if newest is None or newest.ref != ref or not may_act_for(who, newest.node_id):
                raise LeaseSuperseded(
                    f"attempt {ref.attempt} of {ref.run_id} with epoch {ref.epoch} does not count "
                    "any more",
                    hint="stop the attempt and drop its reports",
                    run_id=ref.run_id,
                )
            files.put(conn, ref.run_id, found)

        await self._live.background.whole(self._keep(found, write), "register files")
        self._live.changed(ref.run_id)

    async def add(self, run: RunRecord, found: Sequence[FileRecord]) -> None:
        """Adds files to a run's record; a path that exists is replaced. Idempotent."""

        def write(conn: Connection) -> None:
            files.put(conn, run.run_id, found)

        await self._live.background.whole(self._keep(found, write), "add files")
        self._live.changed(run.run_id)

    async def _keep(self, found: Sequence[FileRecord], write: Callable[[Connection], None]) -> None:
        """Checks and records; to its end also for a caller that is gone, since a garbage
        collection waits for this."""
        with self._content.underway.one():
            await self._check(found)
            await self._live.store.write(write)

    async def _check(self, found: Sequence[FileRecord]) -> None:
        """Raises unless all paths are safe and all blobs are here with the announced sizes."""
        if len(found) > FILES_MAX:
            raise SpecInvalid(
                violations=[("files", f"{len(found)} in one call; at most {FILES_MAX}")]
            )
        for index, file in enumerate(found):
            split_rel(file.path)
            if file.path in LOG_PATHS:
                raise SpecInvalid(
                    violations=[(f"files[{index}].path", f"{file.path} is a log of the run")]
                )
            if file.path in ENVIRONMENT_PATHS:
                raise SpecInvalid(
                    violations=[(f"files[{index}].path", f"{file.path} tells of its environment")]
                )
            if len(file.digest) != 64 or file.size_bytes < 0:
                raise SpecInvalid(violations=[(f"files[{index}].content", "needs digest and size")])
        await self._content.run(lambda store: _check_content(store, found))

    async def listing(
        self, run: RunRecord, prefix: str, after: str, limit: int
    ) -> list[FileRecord | LogListing]:
        """Up to `limit` files and logs by path that begin with `prefix`, behind `after`."""
        known: list[FileRecord | LogListing] = list(
            await self._live.store.read(
                lambda conn: files.page(conn, run.run_id, prefix, after, limit)
            )
        )
        known += [
            made
            for made in (*self._log_listing(run), *await self._environment_listing(run))
            if made.path.startswith(prefix) and made.path > after
        ]
        return sorted(known, key=lambda file: file.path)[:limit]

    def _log_listing(self, run: RunRecord) -> list[LogListing]:
        if not run.attempt:
            return []
        sizes = self._logs.reader.sizes(_key(run))
        return [LogListing(path, sizes[file]) for path, file in LOG_PATHS.items() if file in sizes]

    async def _environment_listing(self, run: RunRecord) -> list[LogListing]:
        files = await self._environment(run)
        return [LogListing(path, len(data)) for path, data in files.items()]

    async def _environment(self, run: RunRecord) -> Mapping[str, bytes]:
        return await self._live.store.read(
            lambda conn: environment_files(conn, run, self._describe)
        )

    async def read(self, run: RunRecord, path: str, offset_bytes: int) -> AsyncIterator[bytes]:
        """The bytes of a file from an offset on, up to 1 MiB at a time; content is verified.

        Raises RunFileNotFound (with the nearest), BlobCorrupt, SpecInvalid.
        """
        if offset_bytes < 0:
            raise SpecInvalid(violations=[("offset_bytes", f"{offset_bytes} is negative")])
        file = self._live.store.peek(lambda conn: files.get(conn, run.run_id, path))
        if file is not None:
            async for data in self._read_content(file, offset_bytes):
                yield data
            return
        if path in ENVIRONMENT_PATHS and path in (made := await self._environment(run)):
            for start in range(offset_bytes, len(made[path]), LOG_CHUNK_BYTES):
                yield made[path][start : start + LOG_CHUNK_BYTES]
            return
        log = LOG_PATHS.get(path)
        if log is None or not run.attempt or log not in self._logs.reader.sizes(_key(run)):
            raise await self._not_found(run, path)
        async for data in self._read_log(_key(run), log, offset_bytes):
            yield data

    async def _read_content(self, file: FileRecord, offset_bytes: int) -> AsyncIterator[bytes]:
        """A file's blob, or its chunks one after another."""
        parts: Sequence[tuple[str, int]] = [(file.digest, file.size_bytes)]
        if file.is_chunked:
            parts = decode_chunks(await self._content.read(file.digest))
        for digest, size_bytes in parts:
            if offset_bytes < size_bytes:
                data = await self._content.read(digest)
                for start in range(offset_bytes, size_bytes, LOG_CHUNK_BYTES):
                    yield data[start : start + LOG_CHUNK_BYTES]
            offset_bytes = max(0, offset_bytes - size_bytes)

    async def _read_log(
        self, key: AttemptKey, file: LogFile, offset_bytes: int
    ) -> AsyncIterator[bytes]:
        """A log as far as it is there now."""
        while True:
            data = await asyncio.to_thread(
                self._logs.read, key, file, offset_bytes, LOG_CHUNK_BYTES
            )
            if not data:
                return
            yield data
            offset_bytes += len(data)

    async def _not_found(self, run: RunRecord, path: str) -> RunFileNotFound:
        known = await self._live.store.read(lambda conn: files.paths(conn, run.run_id))
        known += [log.path for log in self._log_listing(run)]
        known += await self._environment(run)
        return RunFileNotFound.named(path, nearest(path, known))


def _key(run: RunRecord) -> AttemptKey:
    return AttemptKey(run.experiment, run.run_id, run.attempt)


def _check_content(store: ContentStore, found: Sequence[FileRecord]) -> None:
    held = store.sizes(file.digest for file in found)
    missing = [file.digest for file in found if file.digest not in held]
    if missing:
        raise BlobMissing.of(missing)
    for file in found:
        if not file.is_chunked:
            is_right = file.size_bytes == held[file.digest]
            if not is_right or file.size_bytes > CHUNKED_ABOVE_BYTES:
                raise _wrong_size(file)
            continue
        chunks = decode_chunks(store.read(file.digest))
        lacking = store.missing(digest for digest, _ in chunks)
        if lacking:
            raise BlobMissing.of(lacking)
        if chunked_size_bytes(chunks) != file.size_bytes:
            raise _wrong_size(file)


def _wrong_size(file: FileRecord) -> SpecInvalid:
    return SpecInvalid(
        violations=[
            ("files.content.size_bytes", f"{file.size_bytes} is not the size of {file.path}")
        ]
    )
