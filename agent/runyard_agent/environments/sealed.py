"""Sealed environments on their way in: fetched from the daemon, verified, laid out, checked."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

from runyard_agent.environments.builds import SealedUnusable, count_of, seconds_since
from runyard_agent.environments.libc import is_older, libc_version
from runyard_agent.environments.programs import Outcome, run_program
from runyard_agent.environments.shared_work import Audience
from runyard_agent.environments.unsealing import place
from runyard_agent.sources import BlobSource
from runyard_agent.workdir import Blobs
from runyard_contract.errors import RunyardError, SealedInvalid, Unavailable
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_contract.manifest import FileEntry, decode_chunks, read_directory
from runyard_contract.sealed import DESCRIPTION, Sealed, decode_sealed, digests_of
from runyardpb.v1.environments_pb2 import EnvironmentLock

_FETCHED_NAME = ".fetched"
_START_LIMIT_S = 60.0
_ASK = "import json, sys; print(json.dumps(['%d.%d.%d' % sys.version_info[:3], sys.prefix]))"


class SealedSource:
    """Fetches sealed environments.

    Args:
        source: where blobs come from.
    """

    def __init__(self, source: BlobSource) -> None:
        self._source = source
        self.damaged: set[str] = set()
        """Hashes of the locks of which what is sealed was found unusable anywhere."""

    async def lay_out(
        self,
        lock: EnvironmentLock,
        kind: str,
        folder: Path,
        audience: Audience,
        *,
        keeps_existing: bool = False,
    ) -> Sealed:
        """Lays out what is sealed of a lock in `folder`, which exists; every file is verified.

        Args:
            keeps_existing: files that are there stay as they are.

        Raises SealedUnusable.
        """
        try:
            with self._source.apart(folder / _FETCHED_NAME) as source:
                return await _lay_out(source, lock, kind, folder, audience, keeps_existing)
        except RunyardError as error:
            if not isinstance(error, Unavailable):
                self.damaged.add(lock.hash)
            raise SealedUnusable(error.message) from error
        except OSError as error:
            raise SealedUnusable(f"its files can't be written: {error.strerror}") from error


async def _lay_out(
    source: BlobSource,
    lock: EnvironmentLock,
    kind: str,
    folder: Path,
    audience: Audience,
    keeps_existing: bool,
) -> Sealed:
    began_s = time.monotonic()
    audience.say(f"Fetching environment {lock.hash[:16]}, which is sealed.")
    audience.progress("fetching the environment")
    sealed = await _describe(source, lock.sealed.root_digest.hex())
    if (sealed.lock_hash, sealed.platform, sealed.kind) != (lock.hash, lock.platform, kind):
        raise SealedInvalid.because("it is of another lock than it is kept for")
    _check_usable(sealed)
    blobs = await _contents(source, sealed)
    audience.progress(f"laying out {count_of(len(sealed.files), 'file')} of the environment")
    is_wanted = True
    try:
        await asyncio.to_thread(
            lambda: place(
                sealed,
                blobs,
                folder,
                keeps_existing=keeps_existing,
                is_wanted=lambda: is_wanted,
            )
        )
    finally:
        is_wanted = False
    size_mib = sum(file.size_bytes for file in sealed.files) / (1 << 20)
    audience.say(
        f"Fetched {count_of(len(sealed.files), 'file')}, {size_mib:.1f} MiB, from the daemon "
        f"instead of building, in {seconds_since(began_s)}."
    )
    return sealed


async def _describe(source: BlobSource, root: str) -> Sealed:
    """The description in a tree."""
    blobs = await source.some([root])
    entries = {
        entry.name: entry for entry in await asyncio.to_thread(read_directory, root, blobs.read)
    }
    entry = entries.get(DESCRIPTION)
    if not isinstance(entry, FileEntry):
        raise SealedInvalid.because(f"it has no {DESCRIPTION}")
    blobs = await source.some([entry.digest])
    digests = [entry.digest]
    if entry.is_chunked:
        listed = await asyncio.to_thread(blobs.read, entry.digest)
        digests = [digest for digest, _ in decode_chunks(listed)]
        blobs = await source.some(digests)
    return await asyncio.to_thread(lambda: decode_sealed(b"".join(map(blobs.read, digests))))


async def _contents(source: BlobSource, sealed: Sealed) -> Blobs:
    """All contents of an environment, to be read."""
    sizes = digests_of(sealed.files)
    blobs = await source.some(list(sizes))
    lists = [digest for digest, size_bytes in sizes.items() if size_bytes > CHUNKED_ABOVE_BYTES]

    def chunks() -> list[str]:
        return [chunk for one in lists for chunk, _ in decode_chunks(blobs.read(one))]

    return await source.some(await asyncio.to_thread(chunks)) if lists else blobs


def _check_usable(sealed: Sealed) -> None:
    """Raises SealedUnusable where this node can't execute what another one has built."""
    here = libc_version()
    if sealed.libc and is_older(here, than=sealed.libc):
        raise SealedUnusable(
            f"it needs version {sealed.libc} of the GNU C library, this node has {here or 'none'}"
        )


async def check_starts(python: Path, sealed: Sealed, lock_fd: int) -> str:
    """Starts the interpreter of an environment that was laid out; gives its version.

    Raises SealedUnusable.
    """
    try:
        async with asyncio.timeout(_START_LIMIT_S):
            outcome = await run_program(
                (str(python), "-I", "-c", _ASK), env={}, kept_fds=(lock_fd,)
            )
    except (OSError, TimeoutError) as error:
        raise SealedUnusable(f"its Python does not start: {error or 'it hangs'}") from None
    return _version_of(outcome, python, sealed)


def _version_of(outcome: Outcome, python: Path, sealed: Sealed) -> str:
    """The version that an interpreter has told. Raises SealedUnusable where it is another one."""
    if outcome.returncode != 0:
        last = outcome.said.strip().rpartition("\n")[2]
        raise SealedUnusable(f"its Python ended with {outcome.returncode}: {last[:200]}")
    try:
        version, prefix = map(str, json.loads(outcome.answer))
    except ValueError:
        raise SealedUnusable("its Python does not say what it is") from None
    folder = python.parent.parent
    is_same = version.split(".")[:2] == sealed.python.split(".")[:2]
    if not is_same or os.path.realpath(prefix) != os.path.realpath(folder):
        raise SealedUnusable(
            f"its Python is {version} in {prefix}, not {sealed.python} in {folder}"
        )
    return version
