"""Environments of pip packages: resolved once into a lock, built once for each lock, by uv."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence

from runyard_agent.environments.builds import (
    Builds,
    Contents,
    Recipe,
    SealedUnusable,
    count_of,
    seconds_since,
    work_key,
)
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.interpreters import Interpreter, Interpreters, version_of
from runyard_agent.environments.lock import lock_for, make_lock, packages
from runyard_agent.environments.protocol import (
    EnvironmentFailed,
    Progress,
    ProvidedEnvironment,
    TextSink,
)
from runyard_agent.environments.sealed import SealedSource, check_starts
from runyard_agent.environments.shared_work import Audience, Listener
from runyard_agent.environments.user_managed import UserManagedBuilder
from runyard_agent.environments.uv import OFFLINE, Uv
from runyard_agent.environments.uv_pip import UvPip, Wish
from runyard_contract.paths import shown
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec, PipPackages


class PipBuilder:
    """Builds environments in `cache`, one for each lock.

    Args:
        cache: where they are kept, with those of other kinds.
        environ: the agent's variables; index settings of uv and pip among them are honoured.
        sealed: where environments that other nodes have built are fetched from. None: nowhere.
        is_offline: nothing is resolved, downloaded or built.
    """

    kind = "pip"

    def __init__(
        self,
        cache: EnvironmentCache,
        environ: Mapping[str, str],
        sealed: SealedSource | None = None,
        *,
        is_offline: bool = False,
    ) -> None:
        uv = Uv({**environ, **OFFLINE} if is_offline else environ)
        self._uv_pip = UvPip(uv)
        self._cache = cache
        self._sealed = sealed
        self._is_offline = is_offline
        self._builds = Builds(self._cache, self.kind, is_offline=is_offline)
        search_path = environ.get("PATH")
        self._interpreters = Interpreters(
            uv, UserManagedBuilder(os.fsencode(search_path) if search_path else None)
        )

    async def provide(
        self,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        *,
        log: TextSink,
        progress: Progress,
        is_refresh: bool = False,
    ) -> ProvidedEnvironment:
        """See EnvironmentBuilder. What is built already is given without uv and network."""
        listener = Listener(log, progress)
        python = await self._python(spec.pip, locks, listener)
        wish = self._uv_pip.wish(spec.pip, python, is_refresh=is_refresh)

        def recipe(lock: EnvironmentLock) -> Recipe:
            fetch = functools.partial(self._fetch, lock, wish, self._sealed)
            fill = functools.partial(self._fill, lock, wish)
            return Recipe(fill, fetch if self._sealed is not None else None)

        lock = await self._builds.provide(
            work_key(python.platform, spec, is_refresh=is_refresh),
            None if is_refresh else lock_for(python.platform, locks),
            lambda audience: self._resolve(wish, audience),
            recipe,
            listener,
        )
        return ProvidedEnvironment(
            python=os.fsencode(self._cache.python(lock.hash)),
            env={b"VIRTUAL_ENV": os.fsencode(self._cache.folder(lock.hash))},
            lock=lock,
        )

    async def _python(
        self, pip: PipPackages, locks: Sequence[EnvironmentLock], listener: Listener
    ) -> Interpreter:
        """The Python to build on.

        A node that is offline takes one of the version that a lock is for, where the specification
        leaves that open: nothing else can be had there.
        """
        python = await self._interpreters.find(pip, listener)
        if not self._is_offline or pip.python_version or lock_for(python.platform, locks):
            return python
        for lock in locks:
            version = version_of(lock.platform)
            if version and lock.platform.rpartition("-")[0] == python.platform.rpartition("-")[0]:
                try:
                    return await self._interpreters.find(
                        PipPackages(python_version=version), listener
                    )
                except EnvironmentFailed:
                    continue
        return python

    async def _resolve(self, wish: Wish, audience: Audience) -> EnvironmentLock:
        """Finds exact versions, with the hashes of all their files."""
        began_s = time.monotonic()
        python = wish.python
        audience.progress("resolving packages")
        audience.say(
            f"Resolving {count_of(len(wish.pip.requirements), 'requirement')}"
            f" for Python {python.version} ({python.platform})."
        )
        text = await self._uv_pip.resolve(wish, audience)
        lock = make_lock(python.platform, text, time.time_ns())
        audience.say(
            f"Resolved in {seconds_since(began_s)}: {count_of(packages(text))},"
            f" lock {lock.hash[:16]}."
        )
        return lock

    async def _fill(
        self, lock: EnvironmentLock, wish: Wish, audience: Audience, lock_fd: int
    ) -> Contents:
        """Makes the folder of an environment and installs into it."""
        folder = self._cache.folder(lock.hash)
        count = packages(lock.text)
        audience.say(
            f"Building environment {lock.hash[:16]} in {shown(str(folder))}:"
            f" {count_of(count)}, Python {wish.python.version} ({shown(wish.python.path)})."
        )
        audience.progress(f"installing {count_of(count)}")
        await self._uv_pip.make_venv(folder, wish, audience, lock_fd)
        is_fresh = lock.hash in self._cache.rebuilt
        await self._uv_pip.install(lock.text, folder, wish, audience, lock_fd, is_fresh=is_fresh)
        return Contents(wish.python.version, count)

    async def _fetch(
        self,
        lock: EnvironmentLock,
        wish: Wish,
        sealed: SealedSource | None,
        audience: Audience,
        lock_fd: int,
    ) -> Contents:
        """Makes an environment on this node's own Python, and lays out what is sealed in it."""
        if sealed is None:
            raise SealedUnusable("this agent fetches none")
        folder = self._cache.folder(lock.hash)
        try:
            await self._uv_pip.make_venv(folder, wish, audience, lock_fd)
        except EnvironmentFailed as failed:
            raise SealedUnusable(failed.message) from failed
        found = await sealed.lay_out(lock, self.kind, folder, audience, keeps_existing=True)
        version = await check_starts(self._cache.python(lock.hash), found, lock_fd)
        return Contents(version, found.packages)
