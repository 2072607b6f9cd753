"""Blobs under their digest: small ones together in packs, others as files `blobs/ab/cdef…`.

A blob is visible under its digest only when all its bytes are on the disk, and `put_many`, or a
batch's `commit`, returns only when it is so for good. Every read verifies the digest; what does not
have it is moved to `quarantine/`, so that it is never served and can be sent again. No link is
followed.

One process writes (it holds the data directory's lock), any number read. Methods block and may be
called from any thread.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from runyard_contract.content import loose
from runyard_contract.content.batch import TEMPORARY, Batch, Shared, temporary_path
from runyard_contract.content.pack import PackIndex
from runyard_contract.content.packs import FOLDER, Packs
from runyard_contract.digest import digest_bytes, is_digest
from runyard_contract.errors import BlobCorrupt, BlobMissing, ReadOnly, of_disk
from runyard_contract.paths import make_folder, shown, write_file_at

_QUARANTINE = "quarantine"


class StoredBlob(NamedTuple):
    """A blob in the store."""

    digest: str
    size_bytes: int
    stored_s: int
    """Seconds since the Unix epoch."""


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
            for folder in (root, root / TEMPORARY, root / _QUARANTINE, root / FOLDER):
                make_folder(folder, 0o700)
        self._root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._packs = Packs(self._root_fd, temporary_path, is_writer=not read_only)

    def close(self) -> None:
        """Closes the store's descriptors. Idempotent; nothing else may be called after it."""
        if self._root_fd >= 0:
            self._packs.close()
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
            size_bytes = self._size(digest)
            if size_bytes is not None:
                held[digest] = size_bytes
        with self._shared.lock:  # after the look, which may have met a name not durable yet
            for digest in (self._shared.settling | self._shared.condemned) & held.keys():
                del held[digest]
        return held

    def read(self, digest: str) -> bytes:
        """The verified bytes of a blob.

        Raises BlobMissing, or BlobCorrupt for a blob that is damaged or no plain file.
        """
        if not is_digest(digest):
            raise BlobMissing.of([shown(digest[:80])])
        data = self._read_packed(digest)
        if data is not None:
            return data
        data = self._read_loose(digest)
        if data is None:
            # Another process has packed it since this one looked last; or another thread has
            # looked meanwhile.
            self._packs.refresh()
            data = self._read_packed(digest)
        if data is None:
            raise BlobMissing.of([digest])
        return data

    def copy_to(self, digest: str, dir_fd: int, name: str, mode: int = 0o644) -> int:
        """Writes the verified bytes as a new file in an open directory; returns their number.

        The file is not made durable. Raises what `read` raises, and FileExistsError where
        anything of that name exists, a link included.
        """
        data = self.read(digest)
        write_file_at(dir_fd, name, data, mode)
        return len(data)

    def walk(self) -> Iterator[StoredBlob]:
        """All blobs in the store; one that lies there twice comes twice."""
        for key, place in self._packs:
            yield StoredBlob(key.hex(), place.size_bytes, place.stored_s)
        for digest, size_bytes, stored_s in loose.walk(self._root_fd):
            yield StoredBlob(digest, size_bytes, stored_s)

    def _size(self, digest: str) -> int | None:
        """The size of a blob, None where there is none."""
        if not is_digest(digest):
            return None
        found = self._packs.find(digest)
        if found is not None:
            return found[1].size_bytes
        size_bytes = loose.size_bytes(self._root_fd, digest)
        if size_bytes is None:
            self._packs.refresh()  # as in `read`
            found = self._packs.find(digest)
            size_bytes = found[1].size_bytes if found is not None else None
        return size_bytes

    def _read_packed(self, digest: str) -> bytes | None:
        """The verified bytes of a blob in a pack; None: it is in none. Raises BlobCorrupt."""
        while (found := self._packs.find(digest)) is not None:
            pack, place = found
            data = self._packs.read(pack, place)
            if data is None:
                self._packs.forget(pack)
            elif len(data) == place.size_bytes and digest_bytes(data) == digest:
                return data
            else:
                kept_as = self._take_damaged_out(digest, pack, data)
                raise _corrupt(digest, "does not have its digest", kept_as)
        return None

    def _read_loose(self, digest: str) -> bytes | None:
        """The verified bytes of a blob with a file of its own. Raises BlobCorrupt."""
        try:
            data = loose.read(self._root_fd, digest)
        except loose.NoPlainFile:
            what = "is no plain file, or larger than a blob can be"
            raise _corrupt(digest, what, self._put_aside(digest)) from None
        if data is not None and digest_bytes(data) != digest:
            raise _corrupt(digest, "does not have its digest", self._put_aside(digest))
        return data

    def _put_aside(self, digest: str) -> str:
        """Moves a damaged file out of the way; says where it is."""
        if self._read_only:
            return "left in place"
        kept_as = f"{_QUARANTINE}/{digest}.{secrets.token_hex(4)}"
        loose.put_aside(self._root_fd, digest, kept_as)
        return kept_as

    def _take_damaged_out(self, digest: str, pack: PackIndex, data: bytes) -> str:
        """Takes a damaged blob out of its pack and keeps its bytes; says where."""
        if self._read_only:
            return "left in place"
        kept_as = f"{_QUARANTINE}/{digest}.{secrets.token_hex(4)}"
        (self._root / kept_as).write_bytes(data)
        key = bytes.fromhex(digest)
        self._packs.take_out(lambda other: {key} if other.name == pack.name else set())
        return kept_as

    # ---- writing

    def batch(self) -> Batch:
        """A batch of new blobs, empty; close it. Raises ReadOnly."""
        if self._read_only:
            raise ReadOnly(f"the content store {self._root} is open for reading only")
        return Batch(
            self._root_fd,
            self._shared,
            self._packs,
            holds=lambda digest: (
                digest not in self._shared.condemned
                and digest not in self._shared.settling
                and self._size(digest) is not None
            ),
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
        """Removes what writers that died left half; returns the number of temporary files.

        Only for a process that knows itself the only writer, before it writes.
        """
        names = os.listdir(self._root / TEMPORARY)
        for name in names:
            os.unlink(f"{TEMPORARY}/{name}", dir_fd=self._root_fd)
        self._packs.mend()
        return len(names)

    # ---- removing

    def condemn(self, digests: Collection[str]) -> None:
        """From now on these count as missing, though they can be read until `sweep`.

        A batch that stores one of them again saves it.
        """
        with self._shared.lock:
            self._shared.condemned |= set(digests)

    @property
    def has_condemned(self) -> bool:
        """Whether anything is about to be removed."""
        return bool(self._shared.condemned)

    def spare(self, digests: Collection[str]) -> None:
        """Takes back what `condemn` said of these."""
        with self._shared.lock:
            self._shared.condemned -= set(digests)

    def sweep(self) -> None:
        """Removes what is condemned. Killed at any moment it leaves each blob there or not."""
        with self._shared.lock:
            condemned = set(self._shared.condemned)
        for digest in condemned:
            with self._shared.lock:  # a batch that saves it does so before, or writes it again
                if digest in self._shared.condemned:
                    loose.remove(self._root_fd, digest)
        self._packs.take_out(self._condemned_in)
        self.spare(condemned)

    def _condemned_in(self, pack: PackIndex) -> set[bytes]:
        with self._shared.lock:
            condemned = set(map(bytes.fromhex, self._shared.condemned))
        return {digest for digest in condemned if pack.find(digest) is not None}

    def merge_packs(self) -> int:
        """Joins small packs and frees the space of what was swept; returns how many it replaced."""
        with _disk_errors(self._root):
            return self._packs.merge()


def _corrupt(digest: str, what: str, kept_as: str) -> BlobCorrupt:
    return BlobCorrupt(
        f"the stored blob {digest} {what}",
        hint="submit the source directory again, and check the disk",
        digest=digest,
        what=what,
        kept_as=kept_as,
    )


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
