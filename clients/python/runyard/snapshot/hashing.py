"""Reads files of a source directory safely: never a pipe, never without end, never half changed."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from runyard.snapshot.stat_columns import Signature, signature_of
from runyard_contract.digest import Hasher, digest_bytes
from runyard_contract.errors import FileChanged, FileUnreadable, RunyardError
from runyard_contract.limits import CHUNK_BYTES, CHUNKED_ABOVE_BYTES
from runyard_contract.manifest import encode_chunks
from runyard_contract.paths import shown

READ_TRIES = 3
_EXECUTABLE = 0o100
_READ_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe put in the file's place must not block
    | getattr(os, "O_BINARY", 0)
)


class _Changing(Exception):
    """The file changed while it was read."""


@dataclass(frozen=True, slots=True)
class HashedFile:
    """A file by content: `digest` is of its bytes, or of its chunk list when `is_chunked`."""

    digest: str
    size_bytes: int
    is_executable: bool
    is_chunked: bool
    signature: Signature


class ContentHasher:
    """The digest of a file's content as a manifest names it, from bytes that come in pieces."""

    def __init__(self) -> None:
        self._whole = Hasher()
        self._chunk = bytearray()
        self._chunks: list[tuple[str, int]] = []
        self._size_bytes = 0

    def update(self, data: bytes) -> None:
        """Adds the next bytes."""
        self._whole.update(data)
        self._size_bytes += len(data)
        self._chunk += data
        while len(self._chunk) >= CHUNK_BYTES:
            self._cut(CHUNK_BYTES)

    def _cut(self, size_bytes: int) -> None:
        """Closes a chunk."""
        self._chunks.append((digest_bytes(bytes(self._chunk[:size_bytes])), size_bytes))
        del self._chunk[:size_bytes]

    def result(self) -> tuple[str, int, bool]:
        """(digest, size in bytes, whether the digest is of a chunk list) of all bytes."""
        if self._size_bytes <= CHUNKED_ABOVE_BYTES:
            return self._whole.hexdigest(), self._size_bytes, False
        if self._chunk:
            self._cut(len(self._chunk))
        return digest_bytes(encode_chunks(self._chunks)), self._size_bytes, True


def hash_file(root: str, path: str) -> HashedFile | None:
    """Reads and hashes the file at `path` below `root`; None where there is none any more.

    A file that changes meanwhile is read again, three times in all. Raises FileChanged,
    or FileUnreadable for what can't be read or is no plain file.
    """
    for _ in range(READ_TRIES):
        try:
            return _hash_once(root, path)
        except FileNotFoundError:
            return None
        except _Changing:
            continue
    raise changed(path)


def _hash_once(root: str, path: str) -> HashedFile:
    """Reads the file once; `_Changing` where its size or times moved."""
    with _Opened(root, path) as file:
        if file.size_bytes <= CHUNKED_ABOVE_BYTES:
            digest = digest_bytes(file.read_small())
        else:
            digest = digest_bytes(encode_chunks([(digest_bytes(c), len(c)) for c in file.chunks()]))
        return HashedFile(
            digest,
            file.size_bytes,
            file.is_executable,
            file.size_bytes > CHUNKED_ABOVE_BYTES,
            file.unchanged_signature(),
        )


def read_small_file(root: str, path: str, digest: str) -> bytes:
    """The bytes of a file of at most 8 MiB that must have this digest, else FileChanged."""
    try:
        with _Opened(root, path) as file:
            data = file.read_small() if file.size_bytes <= CHUNKED_ABOVE_BYTES else b""
    except (_Changing, FileNotFoundError):
        raise changed(path) from None
    if digest_bytes(data) != digest:
        raise changed(path)
    return data


def read_chunks(root: str, path: str) -> Iterator[bytes]:
    """The chunks of a large file, in order. The caller compares their digests."""
    try:
        with _Opened(root, path) as file:
            yield from file.chunks()
    except (_Changing, FileNotFoundError):
        raise changed(path) from None


def changed(path: str) -> FileChanged:
    """The error for a file that does not hold still."""
    return FileChanged(
        f"{shown(path)} changed while it was read",
        hint="submit again when nothing writes to it, or keep it out in the ignore file",
        path=shown(path),
    )


def unreadable(path: str, error: OSError) -> RunyardError:
    """The error for a file or folder that the system refuses."""
    return FileUnreadable(
        f"{shown(path)} can't be read: {error.strerror}",
        hint="make it readable, or keep it out with a line in the ignore file",
        path=shown(path),
        cause=error.strerror or "",
    )


class _Opened:
    """A plain file that is open for reading, with what it was at that moment."""

    def __init__(self, root: str, path: str) -> None:
        try:
            self._fd = os.open(f"{root}/{path}", _READ_FLAGS)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno == errno.ELOOP:  # a link was put in its place
                raise _Changing from None
            raise unreadable(path, error) from None
        self._path = path
        status = os.fstat(self._fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._fd)
            raise _Changing
        self.size_bytes = status.st_size
        self.is_executable = bool(status.st_mode & _EXECUTABLE)
        self._signature = signature_of(status)

    def __enter__(self) -> _Opened:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _read(self, limit_bytes: int) -> bytes:
        """Up to so many bytes."""
        try:
            return os.read(self._fd, limit_bytes)
        except OSError as error:
            raise unreadable(self._path, error) from None

    def read_small(self) -> bytes:
        """The whole file. Never more than its size, however fast it grows."""
        data = self._read(self.size_bytes + 1) if self.size_bytes else b""
        while len(data) < self.size_bytes and (more := self._read(self.size_bytes - len(data) + 1)):
            data += more
        if len(data) != self.size_bytes:
            raise _Changing
        return data

    def chunks(self) -> Iterator[bytes]:
        """The file in chunks of 4 MiB, the last one shorter."""
        left = self.size_bytes
        while left:
            wanted = min(CHUNK_BYTES, left)
            chunk = bytearray()
            while len(chunk) < wanted and (more := self._read(wanted - len(chunk))):
                chunk += more
            if len(chunk) != wanted:
                raise _Changing
            left -= wanted
            yield bytes(chunk)

    def unchanged_signature(self) -> Signature:
        """The file's signature, after it was read; `_Changing` where it is not what it was."""
        now = signature_of(os.fstat(self._fd))
        if now != self._signature:
            raise _Changing
        return now
