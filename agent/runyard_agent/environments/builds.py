"""Builds of environments: one for each lock, however many ask, of whatever process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from runyard_agent.environments.cache import EnvironmentCache, Record, folder_bytes
from runyard_agent.environments.shared_work import Audience, Listener, SharedWork
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec


@dataclass(frozen=True, slots=True)
class Contents:
    """What was put into an environment: the version of its Python, and how many packages.

    Of a container image `image` is the id, `size_bytes` what it takes of the engine's disk, and
    `of_lock` the hash of its lock where more than that names it.
    """

    python: str
    packages: int
    image: str = ""
    size_bytes: int = 0
    of_lock: str = ""


Fill = Callable[[Audience, int], Awaitable[Contents]]
"""Makes an environment's folder and fills it; the number is the descriptor of the folder's lock,
which all that it starts has to inherit."""


Resolve = Callable[[Audience], Awaitable[EnvironmentLock]]
"""Finds the exact packages of a specification."""


def work_key(where: str, spec: EnvironmentSpec, *, is_refresh: bool) -> str:
    """Names what is resolved, and where: who asks for the same takes part in the work.

    Who wants it resolved anew does not join work that may have begun before.
    """
    key = f"{where} {spec.SerializeToString(deterministic=True).hex()}"
    return f"anew {key}" if is_refresh else key


class Builds:
    """What one agent resolves and builds in a cache of environments."""

    def __init__(self, cache: EnvironmentCache) -> None:
        self._cache = cache
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
        fill: Callable[[EnvironmentLock], Fill],
        listener: Listener,
    ) -> EnvironmentLock:
        """Has an environment ready for a run; gives its lock.

        Args:
            key: of what is asked for, on what platform.
            lock: of it, if there is one; else it is resolved.
            fill: makes the folder of a lock's environment.

        Raises what `resolve` and `fill` raise.
        """
        if lock is None:

            async def resolve_and_build(audience: Audience) -> EnvironmentLock:
                resolved = await resolve(audience)
                shared = Listener(audience, audience.progress)
                await self.ensure(resolved, fill(resolved), shared)
                return resolved

            # Who asks during the build takes part in it too, instead of resolving once more.
            lock = await self._resolving.do(key, resolve_and_build, listener)
        else:
            await self.ensure(lock, fill(lock), listener)
        self._cache.used(lock.hash)
        return lock

    async def ensure(self, lock: EnvironmentLock, fill: Fill, listener: Listener) -> None:
        """Builds what a lock says, unless it is there. Raises what `fill` raises."""
        record = self._cache.ready(lock.hash)
        if record is None:
            await self._running.do(
                lock.hash, lambda audience: self._build(lock, fill, audience), listener
            )
            return
        found = (
            f"image {record.image[:19]}"
            if record.image
            else f"Python {record.python}, {count_of(record.packages)}"
        )
        listener.log.write(f"Environment {lock.hash[:16]} is already built ({found}).\n".encode())

    async def _build(self, lock: EnvironmentLock, fill: Fill, audience: Audience) -> Record:
        """Builds what a lock says, and has others make room for it."""
        record = await self._build_once(lock, fill, audience)
        self._cache.uses.built(lock.hash)
        await self._cache.make_room()
        return record

    async def _build_once(self, lock: EnvironmentLock, fill: Fill, audience: Audience) -> Record:
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
                return await self._fill_and_seal(lock, fill, audience, fd)
            except BaseException:
                await self._cache.discard(lock.hash)
                raise

    async def _fill_and_seal(
        self, lock: EnvironmentLock, fill: Fill, audience: Audience, lock_fd: int
    ) -> Record:
        began_s = time.monotonic()
        contents = await fill(audience, lock_fd)
        record = Record(
            lock_hash=lock.hash,
            platform=lock.platform,
            created_at_unix_ns=time.time_ns(),
            size_bytes=contents.size_bytes
            or await asyncio.to_thread(folder_bytes, self._cache.folder(lock.hash)),
            python=contents.python,
            packages=contents.packages,
            image=contents.image,
            of_lock=contents.of_lock,
        )
        self._cache.seal(record)
        audience.say(f"Built in {seconds_since(began_s)}, {record.size_bytes / 1e6:.1f} MB.")
        return record


def count_of(number: int, noun: str = "package") -> str:
    """A number of things in words, such as "2 packages"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def seconds_since(began_s: float) -> str:
    """Time since an instant of the monotonic clock, for people."""
    return f"{time.monotonic() - began_s:.1f} s"
