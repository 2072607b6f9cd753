"""The content store as the event loop uses it: every call runs in the disk executor."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import zstandard

from runyard_contract.content.batch import TEMPORARY, Batch, check_size
from runyard_contract.content.store import ContentStore
from runyard_contract.errors import DigestMismatch, MessageTooLarge
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_daemon.core.pins import Pins

DISK_THREADS = 4
COMMIT_BYTES = 64 << 20
COMMIT_AFTER_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Packed:
    """A blob as it came over the wire."""

    digest: str
    size_bytes: int
    """As announced, unpacked."""
    is_zstd: bool
    data: bytes

    def unpack(self) -> bytes:
        """The bytes, which have the announced size. Their digest is checked where they are stored.

        Raises DigestMismatch, or MessageTooLarge for more than a blob may have. No more memory is
        taken than was announced: a frame says its size before anything is unpacked.
        """
        if self.size_bytes > CHUNKED_ABOVE_BYTES:
            raise MessageTooLarge(
                f"a blob of {self.size_bytes} bytes is over the limit of {CHUNKED_ABOVE_BYTES}",
                hint="send a file of that size as chunks",
                size_bytes=str(self.size_bytes),
                limit_bytes=str(CHUNKED_ABOVE_BYTES),
            )
        data = self._decompress() if self.is_zstd else self.data
        check_size(self.digest, self.size_bytes, data)
        return data

    def _decompress(self) -> bytes:
        try:
            framed_bytes = zstandard.frame_content_size(self.data)
            if framed_bytes == self.size_bytes:
                unpacker = zstandard.ZstdDecompressor(max_window_size=CHUNKED_ABOVE_BYTES)
                return unpacker.decompress(
                    self.data, max_output_size=max(1, self.size_bytes), allow_extra_data=False
                )
        except zstandard.ZstdError as error:
            raise self._mismatch(f"its packed bytes can't be read ({error})") from None
        raise self._mismatch(f"its frame states {framed_bytes} bytes")

    def _mismatch(self, why: str) -> DigestMismatch:
        return DigestMismatch(
            f"the blob {self.digest} was announced with {self.size_bytes} bytes, but {why}",
            digest=self.digest,
            announced_bytes=str(self.size_bytes),
        )


class Underway:
    """Work that looks for blobs and then makes a record that names them."""

    def __init__(self) -> None:
        self._open: set[asyncio.Event] = set()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Such work, from before its first look until its record is durable or given up."""
        over = asyncio.Event()
        self._open.add(over)
        try:
            yield
        finally:
            self._open.discard(over)
            over.set()

    async def settled(self) -> None:
        """Returns when all work that is under way now is over."""
        for over in list(self._open):
            await over.wait()


class Upload:
    """Blobs of one stream, made durable and visible in a few large steps.

    `add` commits what has waited for a second or is 64 MiB: each commit waits for the disk twice,
    and what a stream that is cut off had not committed is sent again. `blobs` and `size_bytes`
    count what was new.
    """

    def __init__(
        self, disk: ThreadPoolExecutor, batch: Batch, pin: Callable[[Sequence[str]], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._disk = disk
        self._batch = batch
        self._pin = pin
        self.due_s: float | None = None
        """When to call `add` at the latest, if only with nothing, on the loop's clock."""
        self.blobs = 0
        self.size_bytes = 0

    async def add(self, blobs: Sequence[Packed]) -> None:
        """Unpacks, verifies and stores blobs."""
        self._pin([blob.digest for blob in blobs])
        is_due = self.due_s is not None and self._loop.time() >= self.due_s
        await self._run(lambda: self._add(blobs, is_due))
        if not self._batch.size_bytes:
            self.due_s = None
        elif self.due_s is None:
            self.due_s = self._loop.time() + COMMIT_AFTER_S

    async def commit(self) -> None:
        """Makes all that was added durable and visible."""
        await self._run(self._commit)

    async def _run(self, work: Callable[[], None]) -> None:
        await self._loop.run_in_executor(self._disk, work)

    def _add(self, blobs: Sequence[Packed], is_due: bool) -> None:
        self._batch.add((blob.digest, blob.unpack()) for blob in blobs)
        if is_due or self._batch.size_bytes >= COMMIT_BYTES:
            self._commit()

    def _commit(self) -> None:
        committed = self._batch.commit()
        self.blobs += committed.blobs
        self.size_bytes += committed.size_bytes


class Content:
    """The daemon's blobs. Methods raise what the content store raises."""

    def __init__(self, root: Path) -> None:
        self.store = ContentStore(root)
        self.spool_folder = root / TEMPORARY
        """For bytes that wait, on the file system of the store; emptied at a start."""
        self.store.remove_leftovers()
        self.underway = Underway()
        self.pins = Pins()
        self._disk = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")
        self.stored_bytes = 0
        """Of new blobs that uploads stored so far."""

    def close(self) -> None:
        """Waits for what is under way and closes the store."""
        self._disk.shutdown(wait=True, cancel_futures=True)
        self.store.close()

    async def run(self, work: Callable[[ContentStore], T]) -> T:
        """Runs blocking work on the store in the disk executor."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, self.store)

    async def missing(self, digests: Sequence[str]) -> list[str]:
        """Those of the digests that the store lacks, in order. The others are pinned."""
        self.pin(digests)
        return await self.run(lambda store: store.missing(digests))

    def pinned(self) -> frozenset[str]:
        """Blobs that somebody may be about to name."""
        return self.pins.held(time.monotonic())

    def pin(self, digests: Sequence[str]) -> None:
        """Keeps blobs for a while that somebody is about to name."""
        self.pins.add(digests, time.monotonic())

    @contextlib.asynccontextmanager
    async def upload(self) -> AsyncIterator[Upload]:
        """Takes blobs that come bit by bit; what was not committed when the block ends is dropped.

        A blob that was there already may be of a batch that is not durable yet: only `commit` makes
        sure of it.
        """
        batch = self.store.batch()
        upload = Upload(self._disk, batch, self.pin)
        self.pins.begin_upload()
        try:
            yield upload
        finally:
            self.pins.end_upload()
            self.stored_bytes += upload.size_bytes
            # In the executor, behind what a call that was cancelled may still be doing there. A
            # daemon that stops leaves the rest to `remove_leftovers`.
            with contextlib.suppress(RuntimeError):
                self._disk.submit(batch.close)

    async def read(self, digest: str) -> bytes:
        """The verified bytes of a blob."""
        return await self.run(lambda store: store.read(digest))
