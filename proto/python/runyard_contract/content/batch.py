"""Blobs on their way into a content store: written as they come, made visible all at once.

A few blobs get a file each. From the ninth small one on they go into one pack: a file made for each
costs more than writing its bytes.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from runyard_contract.content import loose
from runyard_contract.content.durable import SYNCFS_ABOVE_FILES, sync_file_system, sync_names
from runyard_contract.content.pack import PackFile
from runyard_contract.content.packs import FOLDER, Packs
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import DigestMismatch, MessageTooLarge
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_contract.paths import shown, write_all

TEMPORARY = "tmp"
PACKED_UP_TO_BYTES = 128 << 10
"""A larger blob always gets a file of its own."""
LOOSE_AT_MOST = 8
"""More small blobs than these in one batch make a pack."""
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Shared:
    """What all batches of one store know of each other."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    settling: set[str] = field(default_factory=set)
    """Blobs that are getting their names, not durably yet: until then they count as missing, and
    another batch writes its own."""
    condemned: set[str] = field(default_factory=set)
    """Blobs that are about to be removed: they count as missing, and are written again if asked."""
    publications: int = 0
    """How often names of a batch became durable."""


class Committed(NamedTuple):
    """What a commit made new in the store."""

    blobs: int
    size_bytes: int


class _Written(NamedTuple):
    """A blob that has no name of its own yet."""

    temporary: str
    size_bytes: int


def check_size(digest: str, announced_bytes: int, data: bytes | memoryview) -> None:
    """Raises DigestMismatch unless `data` has the size that was announced for this digest."""
    if len(data) != announced_bytes:
        raise DigestMismatch(
            f"{len(data)} bytes came for the blob {digest}, announced were {announced_bytes}",
            digest=shown(digest),
            announced_bytes=str(announced_bytes),
            received_bytes=str(len(data)),
        )


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


def temporary_path() -> str:
    """A fresh path below the store's folder for a file that is being written."""
    return f"{TEMPORARY}/{secrets.token_hex(8)}"


class Batch:
    """Blobs that become visible and durable together, with `commit`; it can be filled again then.

    `close` (or the end of a `with` block) drops what was not committed; after an error nothing else
    may be called. One thread at a time may add and commit; `close` may come from another one, and
    waits for it.

    Args:
        root_fd: the store's folder.
        shared: of the store.
        packs: of the store.
        holds: whether the store has a blob.
        guard: turns errors of the disk into ours.
    """

    def __init__(
        self,
        root_fd: int,
        shared: Shared,
        packs: Packs,
        holds: Callable[[str], bool],
        guard: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._root_fd = root_fd
        self._shared = shared
        self._packs = packs
        self._holds = holds
        self._guard = guard
        self._working = threading.Lock()
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        """Starts empty."""
        self._few: dict[str, bytes] = {}
        self._written: dict[str, _Written] = {}
        self._pack: PackFile | None = None
        self._index_path = ""
        self._seen_publications = self._shared.publications
        self.size_bytes = 0
        """Bytes that wait for `commit`."""

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def add(self, blobs: Iterable[tuple[str, bytes | memoryview]]) -> None:
        """Takes what the store lacks of these (digest, bytes), without a name.

        Raises DigestMismatch, MessageTooLarge over a blob's limit, DiskFull.
        """
        with self._at_work():
            for digest, data in blobs:
                _check_digest(digest, data)
                if self._has(digest) or self._holds(digest):
                    continue
                self._take(digest, data)
                self.size_bytes += len(data)

    def _has(self, digest: str) -> bool:
        """Whether the blob waits here already."""
        if digest in self._few or digest in self._written:
            return True
        return self._pack is not None and bytes.fromhex(digest) in self._pack.places

    def _take(self, digest: str, data: bytes | memoryview) -> None:
        """Keeps a new blob: small ones in memory, until they are enough for a pack."""
        if len(data) > PACKED_UP_TO_BYTES:
            self._write_file(digest, data)
        elif self._pack is not None:
            self._pack.add(bytes.fromhex(digest), data, int(time.time()))
        elif len(self._few) < LOOSE_AT_MOST:
            self._few[digest] = bytes(data)
        else:
            self._pack = self._packs.new_file()
            stored_s = int(time.time())
            for known, few in (*self._few.items(), (digest, data)):
                self._pack.add(bytes.fromhex(known), few, stored_s)
            self._few = {}

    def _write_file(self, digest: str, data: bytes | memoryview) -> None:
        temporary = temporary_path()
        fd = os.open(temporary, _CREATE, 0o600, dir_fd=self._root_fd)
        self._written[digest] = _Written(temporary, len(data))
        try:
            write_all(fd, data)
        finally:
            os.close(fd)

    def commit(self) -> Committed:
        """Makes the bytes durable, gives the blobs their names, makes the names durable.

        Raises DiskFull.
        """
        with self._at_work():
            committed = self._publish()
            self._begin()
            return committed

    def close(self) -> None:
        """Drops what was not committed. Idempotent; nothing else may be called after it."""
        with self._working:
            self._is_closed = True
            self._drop()

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Keeps `close` waiting; what fails leaves a batch that can only be closed."""
        with self._working, self._guard():
            if self._is_closed:
                raise RuntimeError("the batch is closed, or an earlier call failed")
            self._is_closed = True
            yield
            self._is_closed = False

    def _publish(self) -> Committed:
        """See `commit`."""
        for digest, data in self._few.items():
            self._write_file(digest, data)
        fresh, fresh_packed = self._announce()
        size_bytes = sum(self._written[digest].size_bytes for digest in fresh)
        if fresh_packed:
            self._write_index(fresh_packed)
            size_bytes += sum(fresh_packed.values())
        self._sync_files(fresh)
        folders = {digest[:2] for digest in fresh}
        for digest in fresh:
            if loose.rename(self._root_fd, self._written.pop(digest).temporary, digest):
                folders.add(".")
        name = ""
        if self._pack is not None and self._index_path:
            name = self._packs.publish(self._pack.path, self._index_path)
            folders.add(FOLDER)
        if not (len(folders) > SYNCFS_ABOVE_FILES and sync_file_system(self._root_fd)):
            sync_names(self._root_fd, folders)
        if name:
            self._packs.adopt(name)
        with self._shared.lock:
            self._shared.settling -= fresh | fresh_packed.keys()
            if fresh or fresh_packed:
                self._shared.publications += 1
        self._drop()
        return Committed(len(fresh) + len(fresh_packed), size_bytes)

    def _announce(self) -> tuple[set[str], dict[str, int]]:
        """Decides what gets a name: files, and packed blobs with their sizes."""
        packed: dict[str, int] = {}
        if self._pack is not None:
            places = self._pack.places.items()
            packed = {digest.hex(): place.size_bytes for digest, place in places}
        shared = self._shared
        with shared.lock:
            fresh = self._still_new(self._written)
            fresh_packed = {digest: packed[digest] for digest in self._still_new(packed)}
            shared.settling |= fresh | fresh_packed.keys()
            # What was condemned is stored again here, so it stays.
            shared.condemned -= fresh | fresh_packed.keys()
        return fresh, fresh_packed

    def _still_new(self, digests: Iterable[str]) -> set[str]:
        """Those that no other batch named durably since they were written: that stays so."""
        if self._shared.publications == self._seen_publications:
            return set(digests)
        return {digest for digest in digests if not self._holds(digest)}

    def _write_index(self, fresh: Iterable[str]) -> None:
        """Writes what the pack lacks to be one: its end, and the index of what is new in it."""
        assert self._pack is not None  # noqa: S101 - there are blobs in it
        self._pack.finish()
        keys = map(bytes.fromhex, fresh)
        places = [(key, self._pack.places[key]) for key in keys]
        self._index_path = self._packs.write_index(places, self._pack.size_bytes)

    def _sync_files(self, fresh: set[str]) -> None:
        """Makes the bytes of all that gets a name durable."""
        paths = [self._written[digest].temporary for digest in fresh]
        if self._pack is not None and self._index_path:
            paths += [self._pack.path, self._index_path]
        if not (len(paths) > SYNCFS_ABOVE_FILES and sync_file_system(self._root_fd)):
            sync_names(self._root_fd, paths)

    def _drop(self) -> None:
        """Removes what has no name."""
        paths = [written.temporary for written in self._written.values()]
        if self._pack is not None:
            self._pack.close()
            paths += [self._pack.path, self._index_path]
        for path in filter(None, paths):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path, dir_fd=self._root_fd)
