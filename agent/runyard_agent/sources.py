"""Where a node gets blobs from: the daemon's store in place, or its own cache filled from there."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Protocol

import zstandard

from runyard_agent import journal
from runyard_agent.link import Link, Stubs, cancelling
from runyard_agent.workdir import Blobs
from runyard_contract.content.batch import Batch
from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import BlobMissing, DigestMismatch, RunyardError
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_contract.manifest import (
    Directory,
    DirectoryEntry,
    FileEntry,
    decode_chunks,
    decode_directory,
)
from runyardpb.v1 import snapshots_pb2

_ASKED_AT_ONCE = 1000


class BlobSource(Protocol):
    """Gives the blobs of a snapshot."""

    is_near: bool
    """Whether they are on this machine without asking anyone."""

    async def get(self, root_digest: str, inline: dict[str, bytes]) -> Blobs:
        """All blobs of a snapshot, to be read. `inline`: manifests that came with the lease."""

    async def some(self, digests: Sequence[str]) -> Blobs:
        """These blobs, to be read. Raises BlobMissing, and what the daemon says of them."""

    def apart(self, folder: Path) -> contextlib.AbstractContextManager[BlobSource]:
        """The same without the node's cache, for what is needed once: what is fetched lies in
        `folder`, which goes at the end."""


class LocalSource:
    """The daemon's own store, read in place."""

    is_near = True

    def __init__(self, store: ContentStore) -> None:
        self.store = store

    async def get(self, root_digest: str, inline: dict[str, bytes]) -> Blobs:
        """See BlobSource."""
        return self.store

    async def some(self, digests: Sequence[str]) -> Blobs:
        """See BlobSource."""
        return self.store

    def apart(self, folder: Path) -> contextlib.AbstractContextManager[BlobSource]:
        """See BlobSource."""
        return contextlib.nullcontext(self)


class FetchingSource:
    """A cache of this node's own, filled with what a snapshot needs before it is laid out."""

    is_near = False

    def __init__(self, store: ContentStore, link: Link, disk: Executor) -> None:
        self._store = store
        self._link = link
        self._disk = disk

    async def get(self, root_digest: str, inline: dict[str, bytes]) -> Blobs:
        """See BlobSource."""
        lists: list[str] = []
        contents: set[str] = set()
        level = [root_digest]
        while level:
            await self._fetch(digest for digest in level if digest not in inline)
            below: list[str] = []
            for digest in level:
                data = inline.get(digest) or await self._read(digest)
                for entry_digest, kind in _names(data):
                    {"directory": below.append, "chunks": lists.append, "file": contents.add}[kind](
                        entry_digest
                    )
            level = list(dict.fromkeys(below))
        await self._fetch(lists)
        for digest in lists:
            contents.update(chunk for chunk, _ in decode_chunks(await self._read(digest)))
        await self._fetch(sorted(contents))
        self._disk.submit(self._merge)
        return self._store

    async def some(self, digests: Sequence[str]) -> Blobs:
        """See BlobSource."""
        await self._fetch(digests)
        return self._store

    @contextlib.contextmanager
    def apart(self, folder: Path) -> Iterator[BlobSource]:
        """See BlobSource."""
        try:
            with ContentStore(folder) as store:
                yield FetchingSource(store, self._link, self._disk)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _merge(self) -> None:
        """Joins small packs of the cache, for later reads: no run waits for it, or fails by it."""
        try:
            self._store.merge_packs()
        except (OSError, RunyardError) as error:
            journal.warning("packs_not_merged", why=str(error))

    async def _read(self, digest: str) -> bytes:
        """A blob of the cache."""
        return await asyncio.get_running_loop().run_in_executor(
            self._disk, self._store.read, digest
        )

    async def _fetch(self, digests: Iterable[str]) -> None:
        """Brings blobs into the cache."""
        loop = asyncio.get_running_loop()
        missing = await loop.run_in_executor(self._disk, self._store.missing, list(digests))
        for start in range(0, len(missing), _ASKED_AT_ONCE):
            await self._fetch_some(missing[start : start + _ASKED_AT_ONCE])
        still = await loop.run_in_executor(self._disk, self._store.missing, missing)
        if still:
            raise BlobMissing.of(still)

    async def _fetch_some(self, wanted: list[str]) -> None:
        """Brings blobs into the cache, all at once; a connection that breaks begins again."""
        loop = asyncio.get_running_loop()
        request = snapshots_pb2.ReadBlobsRequest(digests=[bytes.fromhex(d) for d in wanted])

        async def fetch(stubs: Stubs) -> None:
            batch = self._store.batch()
            try:
                call = stubs.snapshots.ReadBlobs(request, metadata=stubs.metadata)
                async with cancelling(call):
                    async for response in call:
                        await loop.run_in_executor(self._disk, _keep, batch, response)
                await loop.run_in_executor(self._disk, batch.commit)
            finally:
                # Behind what a call that was cancelled may still be doing there.
                self._disk.submit(batch.close)

        await self._link.call(fetch)


def _keep(batch: Batch, response: snapshots_pb2.ReadBlobsResponse) -> None:
    """Takes what came, verified."""
    batch.add((blob.digest.hex(), unpack(blob)) for blob in response.blobs)


def unpack(blob: snapshots_pb2.Blob) -> bytes:
    """The bytes of a blob, verified. Raises DigestMismatch, before anything large is allocated."""
    if blob.size_bytes > CHUNKED_ABOVE_BYTES:
        raise DigestMismatch(f"a blob of {blob.size_bytes} bytes is larger than a blob can be")
    data = blob.data
    if blob.compression == snapshots_pb2.Blob.COMPRESSION_ZSTD:
        try:
            if zstandard.frame_content_size(data) != blob.size_bytes:
                raise DigestMismatch("a packed blob does not have the size that it names")
            data = zstandard.ZstdDecompressor().decompress(data)
        except zstandard.ZstdError as error:
            raise DigestMismatch(f"a packed blob can't be unpacked: {error}") from None
    if digest_bytes(data) != blob.digest.hex():
        raise DigestMismatch("a blob does not have its digest", digest=blob.digest.hex())
    return data


def _names(manifest: bytes) -> Iterator[tuple[str, str]]:
    """The (digest, kind) of all blobs that a manifest names."""
    decoded = decode_directory(manifest)
    if not isinstance(decoded, Directory):
        for part in decoded.parts:
            yield part.digest, "directory"
        return
    for entry in decoded.entries:
        if isinstance(entry, DirectoryEntry):
            yield entry.digest, "directory"
        elif isinstance(entry, FileEntry):
            yield entry.digest, "chunks" if entry.is_chunked else "file"
