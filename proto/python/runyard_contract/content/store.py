"""Blobs as files named by their digest: `blobs/ab/cdef…`.

A blob is visible under its digest only when all its bytes are on the disk, and `put_many` returns
only when the names are too. Every read verifies the digest; what does not have it is moved to
`quarantine/`, so that it is never served and can be sent again. No link is followed.

One process writes (it holds the data directory's lock), any number read. Methods block and may be
called from any thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from runyard_contract.content.durable import SYNCFS_ABOVE_FILES, sync_file_system, sync_names
from runyard_contract.digest import digest_bytes, is_digest
from runyard_contract.errors import (
    BlobCorrupt,
    BlobMissing,
    DigestMismatch,
    DiskFull,
    MessageTooLarge,
    ReadOnly,
)
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_contract.paths import shown, write_all, write_file_at

_TEMPORARY = "tmp"
_QUARANTINE = "quarantine"
_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW  # a FIFO in a blob's place must not block
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW


def check_blob(digest: str, size_bytes: int, data: bytes | memoryview) -> None:
    """Raises DigestMismatch unless `data` has this digest and this size."""
    if len(data) != size_bytes:
        raise DigestMismatch(
            f"{len(data)} bytes came for the blob {digest}, announced were {size_bytes}",
            digest=shown(digest),
            announced_bytes=str(size_bytes),
            received_bytes=str(len(data)),
        )
    _check_digest(digest, data)


def _check_digest(digest: str, data: bytes | memoryview) -> None:
    """Raises DigestMismatch unless `data` has this digest, MessageTooLarge over a blob's limit."""
    if len(data) > CHUNKED_ABOVE_BYTES:
        raise MessageTooLarge(
            f"a blob of {len(data)} bytes is over the limit of {CHUNKED_ABOVE_BYTES}",
            hint="send a file of that size as chunks",
            size_bytes=str(len(data)),
            limit_bytes=str(CHUNKED_ABOVE_BYTES),
        )
    found = digest_bytes(data)
    if found != digest:
        raise DigestMismatch(
            f"bytes sent as {shown(digest)} have the digest {found}",
            hint="submit again; if it repeats, check the network and memory of both machines",
            digest=shown(digest),
            found=found,
        )


def _location(digest: str) -> str:
    """The path of a blob below the store's root. Raises BlobMissing for what is no digest."""
    if not is_digest(digest):
        raise BlobMissing.of([shown(digest[:80])])
    return f"{digest[:2]}/{digest[2:]}"


class ContentStore:
    """The blobs below `root`.

    Args:
        root: the folder; made (0700) unless `read_only`.
        read_only: refuse `put_many` and leave damaged blobs where they are.
    """

    def __init__(self, root: Path, *, read_only: bool = False) -> None:
        self._root = root
        self._read_only = read_only
        self._lock = threading.Lock()
        # Blobs that have their names, but not durably yet: until then they count as missing.
        self._settling: set[str] = set()
        if not read_only:
            for folder in (root, root / _TEMPORARY, root / _QUARANTINE):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Closes the store's descriptor. Idempotent; nothing else may be called after it."""
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def __enter__(self) -> ContentStore:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    # ---- reading

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of the digests that the store does not hold, each once, in the order given."""
        unique = dict.fromkeys(digests)
        held = {digest for digest in unique if self._holds(digest)}
        with self._lock:  # after the look, which may have met a name that is not durable yet
            held -= self._settling
        return [digest for digest in unique if digest not in held]

    def size_bytes(self, digest: str) -> int:
        """The size of a blob, from its file. Raises BlobMissing."""
        try:
            status = os.stat(_location(digest), dir_fd=self._root_fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            raise BlobMissing.of([digest]) from None
        return status.st_size

    def read(self, digest: str) -> bytes:
        """The verified bytes of a blob.

        Raises BlobMissing, or BlobCorrupt for a blob that is damaged or no plain file.
        """
        location = _location(digest)
        try:
            fd = os.open(location, _READ, dir_fd=self._root_fd)
        except (FileNotFoundError, NotADirectoryError):
            raise BlobMissing.of([digest]) from None
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENXIO}:
                raise
            raise self._quarantined(digest, "is no plain file") from None
        try:
            data = self._read_file(fd)
        finally:
            os.close(fd)
        if data is None:
            raise self._quarantined(digest, "is no plain file, or larger than a blob can be")
        if digest_bytes(data) != digest:
            raise self._quarantined(digest, "does not have its digest")
        return data

    def copy_to(self, digest: str, dir_fd: int, name: str, mode: int = 0o644) -> int:
        """Writes the verified bytes as a new file in an open directory; returns their number.

        The file is not made durable. Raises what `read` raises, and FileExistsError where
        anything of that name exists, a link included.
        """
        data = self.read(digest)
        write_file_at(dir_fd, name, data, mode)
        return len(data)

    def _holds(self, digest: str) -> bool:
        """Whether there is a plain file for this digest."""
        if not is_digest(digest):
            return False
        try:
            status = os.stat(_location(digest), dir_fd=self._root_fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return stat.S_ISREG(status.st_mode)

    @staticmethod
    def _read_file(fd: int) -> bytes | None:
        """All bytes of an open blob, None where it can be none."""
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > CHUNKED_ABOVE_BYTES:
            return None
        data = os.read(fd, status.st_size)
        if len(data) == status.st_size:
            return data
        pieces = [data]
        while pieces[-1]:  # a read may give less than asked for
            pieces.append(os.read(fd, CHUNKED_ABOVE_BYTES))
        return b"".join(pieces)

    def _quarantined(self, digest: str, what: str) -> BlobCorrupt:
        """Puts a damaged blob aside and gives the error to raise."""
        kept_as = "left in place"
        if not self._read_only:
            kept_as = f"{_QUARANTINE}/{digest}.{secrets.token_hex(4)}"
            with contextlib.suppress(FileNotFoundError):  # another reader was faster
                os.rename(
                    _location(digest), kept_as, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd
                )
        return BlobCorrupt(
            f"the stored blob {digest} {what}",
            hint="submit the source directory again, and check the disk",
            digest=digest,
            what=what,
            kept_as=kept_as,
        )

    # ---- writing

    def put_many(self, blobs: Iterable[tuple[str, bytes | memoryview]]) -> int:
        """Stores (digest, bytes) pairs, durable on return; returns how many were new.

        All or nothing becomes visible for an error in the input: DigestMismatch or
        MessageTooLarge is raised before the first blob gets its name. DiskFull where the disk is.
        Blobs that are there already cost a look each. Several threads may write the same blob.
        """
        if self._read_only:
            raise ReadOnly(f"the content store {self._root} is open for reading only")
        written: dict[str, str] = {}
        try:
            with _disk_full(self._root):
                present = self._write_temporaries(blobs, written)
                return self._publish(written, present)
        finally:
            for temporary in written.values():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary, dir_fd=self._root_fd)

    def remove_leftovers(self) -> int:
        """Removes temporary files of writers that died; returns their number.

        Only for a process that knows itself the only writer, before it writes.
        """
        names = os.listdir(self._root / _TEMPORARY)
        for name in names:
            os.unlink(f"{_TEMPORARY}/{name}", dir_fd=self._root_fd)
        return len(names)

    def _write_temporaries(
        self, blobs: Iterable[tuple[str, bytes | memoryview]], written: dict[str, str]
    ) -> set[str]:
        """Writes what is new, and notes it in `written` (digest to temporary name).

        Returns what was there already.
        """
        present: set[str] = set()
        prefix = f"{_TEMPORARY}/{secrets.token_hex(8)}"
        for digest, data in blobs:
            _check_digest(digest, data)
            if digest in written:
                continue
            if self._holds(digest):
                present.add(digest)
                continue
            temporary = f"{prefix}.{len(written)}"
            fd = os.open(temporary, _CREATE, 0o600, dir_fd=self._root_fd)
            written[digest] = temporary
            try:
                write_all(fd, data)
            finally:
                os.close(fd)
        return present

    def _publish(self, written: dict[str, str], present: set[str]) -> int:
        """Makes the bytes durable, gives the blobs their names, makes the names durable.

        Returns how many names are new. Of the blobs that were there already, those are made
        durable whose writer is not done yet, or failed at its last step.
        """
        with self._lock:
            settling = self._settling & present
        if not written and not settling:
            return 0
        at_once = bool(settling) or len(written) > SYNCFS_ABOVE_FILES
        if written and not (at_once and sync_file_system(self._root_fd)):
            sync_names(self._root_fd, written.values())
        with self._lock:  # another writer may have been faster: what is durable stays so
            fresh = {d for d in written if d in self._settling or not self._holds(d)}
            self._settling |= fresh
        folders = {digest[:2] for digest in fresh | settling}
        is_root_changed = bool(settling)
        for digest in fresh:
            is_root_changed |= self._rename(written[digest], _location(digest))
        if not (at_once and sync_file_system(self._root_fd)):
            sync_names(self._root_fd, (*folders, ".") if is_root_changed else folders)
        with self._lock:
            self._settling -= fresh | settling
        return len(fresh)

    def _rename(self, temporary: str, location: str) -> bool:
        """Gives a written file its name. True where the folder for it had to be made."""
        try:
            os.rename(temporary, location, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                os.mkdir(location[:2], 0o700, dir_fd=self._root_fd)
            os.rename(temporary, location, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
            return True
        return False


@contextlib.contextmanager
def _disk_full(root: Path) -> Iterator[None]:
    """Turns the system's word for a full disk into ours."""
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise DiskFull(
            f"the disk of {root} is full",
            hint="free some space and submit again; nothing was half stored",
            root=str(root),
        ) from error
