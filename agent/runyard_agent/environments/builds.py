"""Builds of environments: one for each lock, however many ask, of whatever process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from runyard_agent.environments.activation import VARIABLES_NAME
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.intactness import Measured, note_files
from runyard_agent.environments.protocol import NotHere
from runyard_agent.environments.records import LAST_USED_NAME, READY_NAME, Record
from runyard_agent.environments.shared_work import Audience, Listener, SharedWork
from runyard_contract.paths import shown
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec

CHANGES_WITH_USE = frozenset({LAST_USED_NAME, READY_NAME, VARIABLES_NAME, ".lock"})
"""Files of an environment that change without it: records, and what is computed again when lost."""


@dataclass(frozen=True, slots=True)
class Contents:
    """What was put into an environment: the version of its Python, and how many packages.

    Of a container image `image` is the id, and `size_bytes` what it takes of the engine's disk;
    `of_lock` is its lock's hash where that is not what names it in the cache.
    """

    python: str
    packages: int
    image: str = ""
    size_bytes: int = 0
    of_lock: str = ""


Fill = Callable[[Audience, int], Awaitable[Contents]]
"""Makes an environment's folder and fills it; the number is the descriptor of the folder's lock,
which all that it starts has to inherit."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the folder of a lock's environment comes about.

    Args:
        fill: builds it.
        fetch: lays out what another node has built and sealed. Raises SealedUnusable. None: nothing
            of this kind is sealed.
    """

    fill: Fill
    fetch: Fill | None = None


Resolve = Callable[[Audience], Awaitable[EnvironmentLock]]
"""Finds the exact packages of a specification."""


def work_key(where: str, spec: EnvironmentSpec, *, is_refresh: bool) -> str:
    """Names what is resolved, and where: who asks for the same takes part in the work.

    Who wants it resolved anew does not join work that may have begun before.
    """
    key = f"{where} {spec.SerializeToString(deterministic=True).hex()}"
    return f"anew {key}" if is_refresh else key


class SealedUnusable(Exception):
    """A sealed environment can't be had on this node. `why` says so, for people."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class Builds:
    """What one agent resolves and builds in a cache of environments.

    Args:
        kind: of the specifications, such as "pip".
        is_offline: nothing is resolved or built: what is not here is fetched sealed, or refused.
    """

    def __init__(self, cache: EnvironmentCache, kind: str, *, is_offline: bool = False) -> None:
        self._cache = cache
        self._kind = kind
        self._is_offline = is_offline
        self._running: SharedWork[Record] = SharedWork(
            "build", "Another run is building the same environment; waiting for it."
        )

        self._resolving: SharedWork[EnvironmentLock] = SharedWork(
            "resolve", "Another run needs the same packages; waiting for it."
        )

    async def provide(
        self,
        key: str,
        lock: EnvironmentLock | None,
        resolve: Resolve,
        recipe: Callable[[EnvironmentLock], Recipe],
        listener: Listener,
    ) -> EnvironmentLock:
        """Has an environment ready for a run; gives its lock.

        Args:
            key: of what is asked for, on what platform.
            lock: of it, if there is one; else it is resolved.
            recipe: how the folder of a lock's environment comes about.

        Raises what `resolve` and `fill` raise, NotHere on a node that is offline.
        """
        if lock is None:
            if self._is_offline:
                why = "its packages are not locked for this node's platform and Python"
                listener.log.write(f"Failed: {why}, and this node is offline.\n".encode())
                raise NotHere(why)

            async def resolve_and_build(audience: Audience) -> EnvironmentLock:
                resolved = await resolve(audience)
                shared = Listener(audience, audience.progress)
                await self.ensure(resolved, recipe(resolved), shared)
                return resolved

            # Who asks during the build takes part in it too, instead of resolving once more.
            lock = await self._resolving.do(key, resolve_and_build, listener)
        else:
            await self.ensure(lock, recipe(lock), listener)
        self._cache.used(lock.hash)
        return lock

    async def ensure(self, lock: EnvironmentLock, recipe: Recipe, listener: Listener) -> None:
        """Builds or fetches what a lock says, unless it is there.

        Raises what `fill` raises, NotHere on a node that is offline.
        """
        record = self._cache.ready(lock.hash)
        if record is None or await self._is_to_be_rebuilt(record, listener):
            await self._running.do(
                lock.hash, lambda audience: self._build(lock, recipe, audience), listener
            )
            return
        found = (
            f"image {record.image[:19]}"
            if record.image
            else f"Python {record.python}, {count_of(record.packages)}"
        )
        listener.log.write(f"Environment {lock.hash[:16]} is already built ({found}).\n".encode())

    async def _is_to_be_rebuilt(self, record: Record, listener: Listener) -> bool:
        """Whether an environment is damaged; never while a run has it, which is told."""
        if record.image:
            return False
        key = record.lock_hash
        damage = await self._cache.looks.damage(self._cache.folder(key))
        if not damage or self._cache.ready(key) != record:  # or another has condemned it since
            return bool(damage)
        said = f"Environment {key[:16]} is damaged: {shown(damage)}"
        is_in_use = key in self._cache.uses.lock_hashes()
        what = (
            "another run has it, so it stays as it is until that ends"
            if is_in_use
            else ("building it again, with packages fetched anew")
        )
        listener.log.write(f"{said}; {what}.\n".encode("utf-8", "backslashreplace"))
        if not is_in_use:
            self._cache.condemn(key)
        return not is_in_use

    async def _build(self, lock: EnvironmentLock, recipe: Recipe, audience: Audience) -> Record:
        """Builds what a lock says, and has others make room for it."""
        record = await self._build_once(lock, recipe, audience)
        self._cache.uses.built(lock.hash)
        await self._cache.make_room()
        return record

    async def _build_once(
        self, lock: EnvironmentLock, recipe: Recipe, audience: Audience
    ) -> Record:
        """Builds what a lock says, unless another process does so meanwhile."""

        def waits() -> None:
            audience.say("Another process is building this environment; waiting for it.")
            audience.progress("waiting for another build of the environment")

        async with self._cache.reserved(lock.hash, waits) as fd:
            record = self._cache.ready(lock.hash)
            if record is not None:
                audience.say("The other process has built it.")
                return record
            await self._cache.sweep()
            await self._cache.discard(lock.hash)
            try:
                return await self._make(lock, recipe, audience, fd)
            except BaseException:
                await self._cache.discard(lock.hash)
                raise

    async def _make(
        self, lock: EnvironmentLock, recipe: Recipe, audience: Audience, lock_fd: int
    ) -> Record:
        """Fetches or builds, and makes what is there count."""
        began_s = time.monotonic()
        contents = await self._fetch(lock, recipe, audience, lock_fd)
        is_fetched = contents is not None
        if contents is None:
            began_s = time.monotonic()
            contents = await recipe.fill(audience, lock_fd)
        measured = await self._note_files(lock.hash)
        record = Record(
            lock_hash=lock.hash,
            platform=lock.platform,
            created_at_unix_ns=time.time_ns(),
            size_bytes=contents.size_bytes or measured.size_bytes,
            python=contents.python,
            packages=contents.packages,
            image=contents.image,
            of_lock=contents.of_lock,
            kind=self._kind,
            build_s=round(time.monotonic() - began_s, 3),
            is_fetched=is_fetched,
            file_count=measured.file_count,
            listing=measured.listing,
        )
        self._cache.finish(record)
        if not is_fetched:
            audience.say(f"Built in {seconds_since(began_s)}, {record.size_bytes / 1e6:.1f} MB.")
        return record

    async def _note_files(self, key: str) -> Measured:
        """Notes what is built, and measures it."""
        return await asyncio.to_thread(note_files, self._cache.folder(key), CHANGES_WITH_USE)

    async def _fetch(
        self, lock: EnvironmentLock, recipe: Recipe, audience: Audience, lock_fd: int
    ) -> Contents | None:
        """Lays out what is sealed; None where it has to be built. Raises NotHere."""
        why = "it is neither built here nor sealed"
        if recipe.fetch is not None and lock.HasField("sealed"):
            try:
                return await recipe.fetch(audience, lock_fd)
            except SealedUnusable as unusable:
                why = f"what is sealed of it can't be used: {unusable.why}"
                audience.say(f"The sealed environment can't be used: {unusable.why}.")
                await self._cache.discard(lock.hash)
        if self._is_offline:
            audience.say(f"Failed: {why}, and this node is offline.")
            raise NotHere(why)
        if recipe.fetch is not None and lock.HasField("sealed"):
            audience.say("Building it instead.")
        return None


def count_of(number: int, noun: str = "package") -> str:
    """A number of things in words, such as "2 packages"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def seconds_since(began_s: float) -> str:
    """Time since an instant of the monotonic clock, for people."""
    return f"{time.monotonic() - began_s:.1f} s"
