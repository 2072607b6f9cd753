"""The content store as the event loop uses it: every call runs in the disk executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import zstandard

from runyard_contract.content.store import ContentStore, check_blob
from runyard_contract.errors import DigestMismatch, MessageTooLarge
from runyard_contract.limits import CHUNKED_ABOVE_BYTES

DISK_THREADS = 4

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
        """The bytes, which have the announced size and digest.

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
        check_blob(self.digest, self.size_bytes, data)
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


@dataclass(frozen=True, slots=True)
class Stored:
    """What an upload brought that was not there before."""

    blobs: int = 0
    size_bytes: int = 0

    def __add__(self, other: Stored) -> Stored:
        return Stored(self.blobs + other.blobs, self.size_bytes + other.size_bytes)


class Content:
    """The daemon's blobs. Methods raise what the content store raises."""

    def __init__(self, root: Path) -> None:
        self.store = ContentStore(root)
        self.store.remove_leftovers()
        self._disk = ThreadPoolExecutor(DISK_THREADS, thread_name_prefix="disk")

    def close(self) -> None:
        """Waits for what is under way and closes the store."""
        self._disk.shutdown(wait=True, cancel_futures=True)
        self.store.close()

    async def run(self, work: Callable[[ContentStore], T]) -> T:
        """Runs blocking work on the store in the disk executor."""
        return await asyncio.get_running_loop().run_in_executor(self._disk, work, self.store)

    async def missing(self, digests: Sequence[str]) -> list[str]:
        """Those of the digests that the store lacks, in order."""
        return await self.run(lambda store: store.missing(digests))

    async def put(self, blobs: Iterable[Packed]) -> Stored:
        """Unpacks, verifies and stores blobs; durable on return."""
        return await self.run(lambda store: _put(store, blobs))

    async def read(self, digest: str) -> bytes:
        """The verified bytes of a blob."""
        return await self.run(lambda store: store.read(digest))


def _put(store: ContentStore, blobs: Iterable[Packed]) -> Stored:
    unpacked = {blob.digest: blob.unpack() for blob in blobs}
    new = store.missing(unpacked)
    store.put_many(unpacked.items())
    return Stored(len(new), sum(len(unpacked[digest]) for digest in new))
