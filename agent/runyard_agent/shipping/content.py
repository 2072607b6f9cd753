"""Files by content: hashed, asked for, and sent where the daemon lacks them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import zstandard

from runyard_agent.link import Link, Stubs
from runyard_agent.tree import FileState
from runyard_agent.workdir import open_file
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import FileChanged, FileUnreadable, RunyardError
from runyard_contract.limits import CHUNK_BYTES, CHUNKED_ABOVE_BYTES, UPLOAD_BATCH_BYTES
from runyard_contract.manifest import encode_chunks
from runyard_contract.paths import shown
from runyardpb.v1 import common_pb2, runs_pb2, snapshots_pb2

_BATCH_BYTES = 64 << 20
_BATCH_FILES = 1000
_KEPT_BYTES = 16 << 20
"""Blobs of a batch that stay in memory between hashing and sending; others are read again."""
_READ_TRIES = 3
_ZSTD_LEVEL = 3
_SMALLEST_PACKED_BYTES = 256


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file to be sent: `path` below the folder `root`, known to the run as `name`."""

    root: str
    path: str
    name: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Blob:
    """A part of a file: where it lies, and its bytes where they are kept."""

    file: LocalFile
    digest: str
    offset_bytes: int
    size_bytes: int
    data: bytes | None


@dataclass(slots=True)
class _Hashed:
    """A file with its content."""

    message: runs_pb2.RunFile
    state: FileState
    blobs: list[_Blob] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sent:
    """What came of a batch: files whose content the daemon has, and why others were left out."""

    files: list[tuple[LocalFile, runs_pb2.RunFile, FileState]]
    refused: list[tuple[LocalFile, RunyardError]]


class ContentSender:
    """Sends files' content. Reading and hashing happen in the executor `disk`."""

    def __init__(self, link: Link, disk: Executor) -> None:
        self._link = link
        self._disk = disk

    async def send(self, files: Sequence[LocalFile]) -> AsyncIterator[Sent]:
        """Sends the files in batches; each is given when its content is durable at the daemon."""
        batch: list[LocalFile] = []
        batch_bytes = 0
        for file in files:
            batch.append(file)
            batch_bytes += file.size_bytes
            if batch_bytes >= _BATCH_BYTES or len(batch) >= _BATCH_FILES:
                yield await self._send_batch(batch)
                batch, batch_bytes = [], 0
        if batch:
            yield await self._send_batch(batch)

    async def _send_batch(self, files: Sequence[LocalFile]) -> Sent:
        """Sends one batch; a file that changes under the reader is read again."""
        sent = Sent([], [])
        todo = list(files)
        for attempt in range(1, _READ_TRIES + 1):
            hashed, refused = await asyncio.get_running_loop().run_in_executor(
                self._disk, _hash_all, todo
            )
            sent.refused.extend(refused)
            changed = await self._upload(hashed)
            for file, content in hashed:
                if file not in changed:
                    sent.files.append((file, content.message, content.state))
            todo = [file for file, _ in hashed if file in changed]
            if not todo:
                break
            if attempt == _READ_TRIES:
                sent.refused.extend((file, _changed(file)) for file in todo)
        return sent

    async def _upload(self, hashed: Sequence[tuple[LocalFile, _Hashed]]) -> set[LocalFile]:
        """Sends the blobs that the daemon lacks; gives the files that had changed by then."""
        blobs = {blob.digest: blob for _, content in hashed for blob in content.blobs}
        if not blobs:
            return set()
        digests = [bytes.fromhex(digest) for digest in blobs]
        changed: set[LocalFile] = set()

        async def send(stubs: Stubs) -> None:
            asked = snapshots_pb2.FindMissingBlobsRequest(digests=digests)
            answer = await stubs.snapshots.FindMissingBlobs(asked, metadata=stubs.metadata)
            missing = [blobs[digest.hex()] for digest in answer.missing_digests]
            if missing:
                requests = self._requests(missing, changed)
                await stubs.snapshots.UploadBlobs(requests, metadata=stubs.metadata)

        await self._link.call(send)
        return changed

    async def _requests(
        self, missing: Iterable[_Blob], changed: set[LocalFile]
    ) -> AsyncIterator[snapshots_pb2.UploadBlobsRequest]:
        """The missing blobs in messages of about 1 MiB."""
        loop = asyncio.get_running_loop()
        for group in _groups(missing):
            request = await loop.run_in_executor(self._disk, _pack_all, group, changed)
            if request.blobs:
                yield request


def _groups(blobs: Iterable[_Blob]) -> Iterator[list[_Blob]]:
    """Blobs that go in one message: as many as fit, at least one."""
    group: list[_Blob] = []
    size_bytes = 0
    for blob in blobs:
        if group and size_bytes + blob.size_bytes > UPLOAD_BATCH_BYTES:
            yield group
            group, size_bytes = [], 0
        group.append(blob)
        size_bytes += blob.size_bytes
    if group:
        yield group


def _pack_all(group: Sequence[_Blob], changed: set[LocalFile]) -> snapshots_pb2.UploadBlobsRequest:
    """A message with blobs; files that have other bytes by now are added to `changed`."""
    request = snapshots_pb2.UploadBlobsRequest()
    for blob in group:
        packed = _pack(blob)
        if packed is None:
            changed.add(blob.file)
        else:
            request.blobs.append(packed)
    return request


def _hash_all(
    files: Sequence[LocalFile],
) -> tuple[list[tuple[LocalFile, _Hashed]], list[tuple[LocalFile, RunyardError]]]:
    """Hashes files; those that can't be read come with the reason."""
    hashed: list[tuple[LocalFile, _Hashed]] = []
    refused: list[tuple[LocalFile, RunyardError]] = []
    kept_bytes = 0
    for file in files:
        try:
            content = _hash(file, _KEPT_BYTES - kept_bytes)
        except OSError as error:
            why = f"{shown(file.name)} can't be read: {error.strerror}"
            refused.append((file, FileUnreadable(why, path=shown(file.name))))
        except RunyardError as error:
            refused.append((file, error))
        else:
            kept_bytes += sum(len(blob.data or b"") for blob in content.blobs)
            hashed.append((file, content))
    return hashed, refused


def _hash(file: LocalFile, keep_bytes: int) -> _Hashed:
    """Reads a file whole, in chunks where it is large; again where it changes meanwhile."""
    for _ in range(_READ_TRIES):
        fd = open_file(file.root, file.path)
        try:
            before = os.fstat(fd)
            blobs = _read_blobs(fd, file, before.st_size, keep_bytes)
            state = FileState.of(os.fstat(fd))
        finally:
            os.close(fd)
        if blobs is not None and FileState.of(before) == state:
            return _Hashed(_message(file, before, blobs), state, blobs)
    raise _changed(file)


def _read_blobs(fd: int, file: LocalFile, size_bytes: int, keep_bytes: int) -> list[_Blob] | None:
    """The blobs of a file, the list of its chunks last; None where it has another size by now."""
    is_chunked = size_bytes > CHUNKED_ABOVE_BYTES
    step = CHUNK_BYTES if is_chunked else max(size_bytes, 1)
    blobs = []
    for offset in range(0, max(size_bytes, 1), step):
        wanted = min(step, size_bytes - offset)
        data = os.pread(fd, wanted, offset)
        if len(data) != wanted:
            return None
        keep = size_bytes <= keep_bytes
        blobs.append(_Blob(file, digest_bytes(data), offset, wanted, data if keep else None))
    if is_chunked:
        chunks = encode_chunks([(blob.digest, blob.size_bytes) for blob in blobs])
        blobs.append(_Blob(file, digest_bytes(chunks), 0, len(chunks), chunks))
    return blobs


def _message(file: LocalFile, status: os.stat_result, blobs: Sequence[_Blob]) -> runs_pb2.RunFile:
    """The file as the daemon records it."""
    message = runs_pb2.RunFile(
        path=file.name,
        size_bytes=status.st_size,
        is_executable=bool(status.st_mode & 0o100),
        content=common_pb2.FileContent(
            digest=bytes.fromhex(blobs[-1].digest),
            size_bytes=status.st_size,
            is_chunked=len(blobs) > 1,
        ),
    )
    message.update_time.FromNanoseconds(max(0, status.st_mtime_ns))
    return message


def _pack(blob: _Blob) -> snapshots_pb2.Blob | None:
    """A blob for the way; None where its file has other bytes by now."""
    data = blob.data if blob.data is not None else _read_again(blob)
    if data is None:
        return None
    packed = snapshots_pb2.Blob(
        digest=bytes.fromhex(blob.digest),
        size_bytes=len(data),
        compression=snapshots_pb2.Blob.COMPRESSION_NONE,
        data=data,
    )
    if len(data) >= _SMALLEST_PACKED_BYTES:
        smaller = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(data)
        if len(smaller) < len(data):
            packed.compression = snapshots_pb2.Blob.COMPRESSION_ZSTD
            packed.data = smaller
    return packed


def _read_again(blob: _Blob) -> bytes | None:
    """The bytes of a blob that was hashed before; None where they are no longer those."""
    try:
        fd = open_file(blob.file.root, blob.file.path)
        try:
            data = os.pread(fd, blob.size_bytes, blob.offset_bytes)
        finally:
            os.close(fd)
    except (OSError, RunyardError):
        return None
    return data if digest_bytes(data) == blob.digest else None


def _changed(file: LocalFile) -> FileChanged:
    """The error for a file that is never the same twice."""
    return FileChanged(
        f"{shown(file.name)} kept changing while it was read",
        hint="let one process write it, and write it before the script ends",
        path=shown(file.name),
    )
