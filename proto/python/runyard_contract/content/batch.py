"""Blobs on their way into a content store: written as they come, made visible all at once."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from runyard_contract.content.durable import SYNCFS_ABOVE_FILES, sync_file_system, sync_names
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import DigestMismatch, MessageTooLarge
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_contract.paths import shown, write_all

TEMPORARY = "tmp"
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Shared:
    """What all batches of one store know of each other."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    settling: set[str] = field(default_factory=set)
    """Blobs that have their names, but not durably yet: until then they count as missing."""
    publications: int = 0
    """How often a batch gave names."""


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


class Batch:
    """Blobs that become visible and durable together, with `commit`; it can be filled again then.

    `close` (or the end of a `with` block) drops what was not committed. One thread at a time may
    add and commit; `close` may come from another one, and waits for it.

    Args:
        root_fd: the store's folder.
        shared: of the store.
        holds: whether the store has a plain file for a digest.
        locate: the path of a blob below the folder.
        guard: turns errors of the disk into ours.
    """

    def __init__(
        self,
        root_fd: int,
        shared: Shared,
        holds: Callable[[str], bool],
        locate: Callable[[str], str],
        guard: Callable[[], contextlib.AbstractContextManager[None]],
    ) -> None:
        self._root_fd = root_fd
        self._shared = shared
        self._holds = holds
        self._locate = locate
        self._guard = guard
        self._working = threading.Lock()
        self._is_closed = False
        self._begin()

    def _begin(self) -> None:
        """Starts empty."""
        self._prefix = f"{TEMPORARY}/{secrets.token_hex(8)}"
        self._written: dict[str, _Written] = {}
        self._present: set[str] = set()
        self._seen_publications = self._shared.publications
        self.size_bytes = 0
        """Bytes that wait for `commit`."""

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def add(self, blobs: Iterable[tuple[str, bytes | memoryview]]) -> None:
        """Writes what the store lacks of these (digest, bytes), without a name.

        Raises DigestMismatch, MessageTooLarge over a blob's limit, DiskFull.
        """
        with self._at_work():
            for digest, data in blobs:
                _check_digest(digest, data)
                if digest in self._written:
                    continue
                if self._holds(digest):
                    self._present.add(digest)
                    continue
                temporary = f"{self._prefix}.{len(self._written)}"
                fd = os.open(temporary, _CREATE, 0o600, dir_fd=self._root_fd)
                self._written[digest] = _Written(temporary, len(data))
                try:
                    write_all(fd, data)
                finally:
                    os.close(fd)
                self.size_bytes += len(data)

    def commit(self) -> Committed:
        """Makes the bytes durable, gives the blobs their names, makes the names durable.

        Of the blobs that were there already, those are made durable whose writer is not done yet,
        or failed at its last step. Raises DiskFull.
        """
        with self._at_work():
            committed = self._publish()
            self._begin()
            return committed

    def close(self) -> None:
        """Drops what was not committed. Idempotent; nothing else may be called after it."""
        with self._working:
            self._is_closed = True
            for written in self._written.values():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(written.temporary, dir_fd=self._root_fd)
            self._written = {}

    @contextlib.contextmanager
    def _at_work(self) -> Iterator[None]:
        """Keeps `close` waiting."""
        with self._working, self._guard():
            if self._is_closed:
                raise RuntimeError("the batch is closed")
            yield

    def _publish(self) -> Committed:
        shared, written = self._shared, self._written
        with shared.lock:
            settling = shared.settling & self._present
        if not written and not settling:
            return Committed(0, 0)
        at_once = bool(settling) or len(written) > SYNCFS_ABOVE_FILES
        if written and not (at_once and sync_file_system(self._root_fd)):
            sync_names(self._root_fd, (blob.temporary for blob in written.values()))
        with shared.lock:
            fresh = self._still_new()
            shared.settling |= fresh
            shared.publications += 1
        folders = {digest[:2] for digest in fresh | settling}
        is_root_changed = bool(settling)
        for digest in fresh:
            is_root_changed |= self._rename(written[digest].temporary, self._locate(digest))
        if not (at_once and sync_file_system(self._root_fd)):
            sync_names(self._root_fd, (*folders, ".") if is_root_changed else folders)
        with shared.lock:
            shared.settling -= fresh | settling
        size_bytes = sum(written[digest].size_bytes for digest in fresh)
        if len(fresh) < len(written):
            for digest in written.keys() - fresh:
                os.unlink(written[digest].temporary, dir_fd=self._root_fd)
        return Committed(len(fresh), size_bytes)

    def _still_new(self) -> set[str]:
        """Those that no other batch named durably since they were written: that stays so."""
        if self._shared.publications == self._seen_publications:
            return set(self._written)
        settling = self._shared.settling
        return {d for d in self._written if d in settling or not self._holds(d)}

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
