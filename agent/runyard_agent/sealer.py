"""Seals environments that this node has built, for other nodes to fetch."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path

from runyard_agent import journal
from runyard_agent.core.sealing import SealMode, is_worth_sealing
from runyard_agent.environments.builds import CHANGES_WITH_USE, count_of, seconds_since
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.intactness import measure
from runyard_agent.environments.libc import needed_libc
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_agent.environments.records import Record
from runyard_agent.environments.sealed import SealedSource
from runyard_agent.environments.sealing import NotSealable, Survey, survey
from runyard_agent.link import Link, Stubs
from runyard_agent.shipping.content import ContentSender, LocalFile
from runyard_contract.errors import RunyardError
from runyard_contract.manifest import DirectoryEntry, Encoded, Entry, FileEntry, encode_directory
from runyard_contract.sealed import (
    CONTENTS,
    DESCRIPTION,
    SEALED_KINDS,
    Sealed,
    SealedFile,
    digests_of,
    encode_sealed,
)
from runyard_contract.version import build_id
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1.common_pb2 import FileContent
from runyardpb.v1.environments_pb2 import EnvironmentLock

_SCRATCH = "sealing"


class Sealer:
    """Seals what is built, in the background where nobody waits for it.

    Args:
        scratch: an existing folder for what has to be rewritten.
        mode: which environments: those that are worth it, all, or none but those asked for.
        group: where work goes on in the background.
    """

    def __init__(
        self,
        cache: EnvironmentCache,
        source: SealedSource,
        sender: ContentSender,
        link: Link,
        node_id: str,
        scratch: Path,
        mode: SealMode,
        group: asyncio.TaskGroup,
    ) -> None:
        self._cache = cache
        self._source = source
        self._sender = sender
        self._link = link
        self._node_id = node_id
        self._scratch = scratch / _SCRATCH
        self._mode = mode
        self._group = group
        self._tried: set[str] = set()
        self._working = asyncio.Lock()
        shutil.rmtree(self._scratch, ignore_errors=True)  # of an agent that was killed

    def consider(self, lock: EnvironmentLock, say: Callable[[str], None]) -> None:
        """A run was given an environment: seals it in the background where that is worth it.

        An environment is tried once; one that was found damaged at the daemon always.
        """
        key = lock.hash
        record = self._cache.ready(key)
        if record is None or record.kind not in SEALED_KINDS or record.is_fetched:
            return
        is_damaged = key in self._source.damaged
        if key in self._tried or (lock.HasField("sealed") and not is_damaged):
            return
        is_worth = is_worth_sealing(record.build_s, record.size_bytes, record.file_count)
        if self._mode == "never" or (self._mode == "auto" and not is_worth and not is_damaged):
            return
        self._tried.add(key)
        say("Sealing it meanwhile, so that other nodes fetch it instead of building it.")
        self._group.create_task(self._in_background(key), name=f"seal {key[:16]}")

    async def seal(self, key: str, say: Callable[[str], None]) -> None:
        """Seals a built environment now, also one that was sealed before.

        Raises EnvironmentFailed.
        """
        record = self._cache.ready(key)
        if record is None or record.kind not in SEALED_KINDS:
            raise EnvironmentFailed(
                "nothing of this environment is built in a folder of this node, so that it can't "
                "be sealed",
                "seal environments of pip or conda packages; carry images with `docker save`",
            )
        try:
            await self._seal(record, say)
        except NotSealable as error:
            raise EnvironmentFailed(
                f"the environment can't be sealed: {error.why}",
                f"remove {self._cache.folder(key)} on the node and build it again, or leave out "
                "the package that the file belongs to",
                {"lock": key},
            ) from None
        except (RunyardError, OSError) as error:
            raise EnvironmentFailed(
                f"the environment could not be sealed: {error}",
                "try again; see agent.log on the node",
                {"lock": key},
            ) from error

    async def _in_background(self, key: str) -> None:
        try:
            record = self._cache.ready(key)
            if record is not None:
                await self._seal(record, lambda line: None)
        except NotSealable as error:
            journal.info("environment_not_sealed", lock=key, why=error.why)
        except (RunyardError, OSError) as error:
            journal.failure("environment_not_sealed", error, lock=key)

    async def _seal(self, record: Record, say: Callable[[str], None]) -> None:
        """One at a time, and never one that is removed meanwhile."""
        user, key = f"sealing {record.lock_hash}", record.lock_hash
        async with self._working, self._folder() as scratch:
            self._cache.uses.wait(user)
            self._cache.uses.has(user, key)
            try:
                await self._seal_in(record, scratch, say)
            finally:
                self._cache.uses.release(user)

    async def _seal_in(self, record: Record, scratch: Path, say: Callable[[str], None]) -> None:
        began_s = time.monotonic()
        folder = self._cache.folder(record.lock_hash)
        found = await asyncio.to_thread(_look, folder, record, scratch)
        contents = await self._send([part.local for part in found.parts])
        files = [
            SealedFile(
                part.path,
                content.digest.hex(),
                content.size_bytes,
                part.is_executable,
                part.placement,
            )
            for part, content in zip(found.parts, contents, strict=True)
        ]
        sealed = _described(record, files, found, folder)
        root = await self._send_tree(sealed, scratch)
        request = pb.KeepSealedRequest(
            lock_hash=record.lock_hash, root_digest=bytes.fromhex(root), node_id=self._node_id
        )

        async def keep(stubs: Stubs) -> pb.KeepSealedResponse:
            response: pb.KeepSealedResponse = await stubs.agent.KeepSealed(
                request, metadata=stubs.metadata
            )
            return response

        kept = (await self._link.call(keep)).sealed
        self._source.damaged.discard(record.lock_hash)
        journal.info("environment_sealed", lock=record.lock_hash, size_bytes=kept.size_bytes)
        say(
            f"Sealed in {seconds_since(began_s)}: {count_of(len(files), 'file')}, "
            f"{kept.size_bytes / (1 << 20):.1f} MiB."
        )

    async def _send(self, files: Sequence[LocalFile]) -> list[FileContent]:
        """Has the daemon store these files; gives what they are, in order."""
        found: dict[LocalFile, FileContent] = {}
        async for sent in self._sender.send(files):
            for _, error in sent.refused:
                raise error
            found.update((file, message.content) for file, message, _ in sent.files)
        return [found[file] for file in files]

    async def _send_tree(self, sealed: Sealed, scratch: Path) -> str:
        """Has the daemon store the tree around the files; gives its root's digest."""
        description = await asyncio.to_thread(_write, scratch, DESCRIPTION, encode_sealed(sealed))
        (content,) = await self._send([description])
        of_description = _entry(
            DESCRIPTION, content.digest.hex(), content.size_bytes, content.is_chunked
        )
        files = {file.digest: file for file in sealed.files}
        contents = encode_directory(
            _entry(digest, digest, file.size_bytes, file.is_chunked)
            for digest, file in files.items()
        )
        root = encode_directory(
            [
                of_description,
                DirectoryEntry(CONTENTS, contents.digest, contents.files, contents.size_bytes),
            ]
        )
        await self._send(await asyncio.to_thread(_write_manifests, scratch, (contents, root)))
        return root.digest

    @contextlib.asynccontextmanager
    async def _folder(self) -> AsyncIterator[Path]:
        """An empty folder for a while."""
        self._scratch.mkdir()
        try:
            yield self._scratch
        finally:
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)


def _look(folder: Path, record: Record, scratch: Path) -> Survey:
    """Looks through a folder. Raises NotSealable, also where files have come or gone. Blocks."""
    found = survey(folder, record.kind, record.created_at_unix_ns, scratch)
    if record.listing and measure(folder, CHANGES_WITH_USE).listing != record.listing:
        raise NotSealable("files of it have come or gone since it was built")
    return found


def _described(record: Record, files: Sequence[SealedFile], found: Survey, folder: Path) -> Sealed:
    digests_of(files)
    return Sealed(
        kind=record.kind,
        lock_hash=record.lock_hash,
        platform=record.platform,
        python=record.python,
        packages=record.packages,
        libc=needed_libc(folder),
        runyard=build_id(),
        files=tuple(files),
        links=tuple(found.links),
    )


def _entry(name: str, digest: str, size_bytes: int, is_chunked: bool) -> Entry:
    return FileEntry(name, digest, size_bytes, is_chunked=is_chunked)


def _write(scratch: Path, name: str, data: bytes) -> LocalFile:
    (scratch / name).write_bytes(data)
    return LocalFile(str(scratch), name, name, len(data))


def _write_manifests(scratch: Path, encoded: Iterable[Encoded]) -> list[LocalFile]:
    return [_write(scratch, digest, data) for one in encoded for digest, data in one.blobs.items()]
