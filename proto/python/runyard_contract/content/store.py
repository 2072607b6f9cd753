"""Blobs as files named by their digest: `blobs/ab/cdef…`.

A blob is visible under its digest only when all its bytes are on the disk, and `put_many`, or a
batch's `commit`, returns only when the names are too. Every read verifies the digest; what does not
have it is moved to `quarantine/`, so that it is never served and can be sent again. No link is
followed.

One process writes (it holds the data directory's lock), any number read. Methods block and may be
called from any thread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from runyard_contract.content.batch import TEMPORARY, Batch, Shared
from runyard_contract.digest import digest_bytes, is_digest
from runyard_contract.errors import BlobCorrupt, BlobMissing, ReadOnly, of_disk
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_contract.paths import make_folder, shown, write_file_at

_QUARANTINE = "quarantine"
_NO_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW  # a FIFO in a blob's place must not block


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
        self._shared = Shared()
        if not read_only:
            for folder in (root, root / TEMPORARY, root / _QUARANTINE):
                make_folder(folder, 0o700)
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
        held = self.sizes(unique)
        return [digest for digest in unique if digest not in held]

    def sizes(self, digests: Iterable[str]) -> dict[str, int]:
        """The sizes in bytes, from their files, of those that the store holds."""
        held: dict[str, int] = {}
        for digest in digests:
            size_bytes = self._plain_size(digest)
            if size_bytes is not None:
                held[digest] = size_bytes
        with self._shared.lock:  # after the look, which may have met a name not durable yet
            for digest in self._shared.settling & held.keys():
                del held[digest]
        return held

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

    def _plain_size(self, digest: str) -> int | None:
        """The size of the plain file for this digest, None where there is none."""
        if not is_digest(digest):
            return None
        try:
            status = os.stat(_location(digest), dir_fd=self._root_fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return status.st_size if stat.S_ISREG(status.st_mode) else None

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

    def batch(self) -> Batch:
        """A batch of new blobs, empty; close it. Raises ReadOnly."""
        if self._read_only:
            raise ReadOnly(f"the content store {self._root} is open for reading only")
        return Batch(
            self._root_fd,
            self._shared,
            holds=lambda digest: self._plain_size(digest) is not None,
            locate=_location,
            guard=lambda: _disk_errors(self._root),
        )

    def put_many(self, blobs: Iterable[tuple[str, bytes | memoryview]]) -> int:
        """Stores (digest, bytes) pairs, durable on return; returns how many were new.

        All or nothing becomes visible for an error in the input: DigestMismatch or
        MessageTooLarge is raised before the first blob gets its name. DiskFull where the disk is.
        Blobs that are there already cost a look each. Several threads may write the same blob.
        """
        with self.batch() as batch:
            batch.add(blobs)
            return batch.commit().blobs

    def remove_leftovers(self) -> int:
        """Removes temporary files of writers that died; returns their number.

        Only for a process that knows itself the only writer, before it writes.
        """
        names = os.listdir(self._root / TEMPORARY)
        for name in names:
            os.unlink(f"{TEMPORARY}/{name}", dir_fd=self._root_fd)
        return len(names)


@contextlib.contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    """Turns the system's words for what a disk can't do into ours."""
    try:
        yield
    except OSError as error:
        hint = "free some space and submit again; nothing was half stored"
        known = of_disk(error, str(root), full_hint=hint)
        if known is None:
            raise
        raise known from error
