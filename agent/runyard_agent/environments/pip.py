"""Environments of pip packages: resolved once into a lock, built once for each lock, by uv."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Mapping, Sequence

from runyard_agent.environments.builds import Builds, Contents, count_of, seconds_since, work_key
from runyard_agent.environments.cache import EnvironmentCache
from runyard_agent.environments.interpreters import Interpreters
from runyard_agent.environments.lock import lock_for, make_lock, packages
from runyard_agent.environments.protocol import Progress, ProvidedEnvironment, TextSink
from runyard_agent.environments.shared_work import Audience, Listener
from runyard_agent.environments.user_managed import UserManagedBuilder
from runyard_agent.environments.uv import Uv
from runyard_agent.environments.uv_pip import UvPip, Wish
from runyard_contract.paths import shown
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec


class PipBuilder:
    """Builds environments in `cache`, one for each lock.

    Args:
        cache: where they are kept, with those of other kinds.
        environ: the agent's variables; index settings of uv and pip among them are honoured.
    """

    kind = "pip"

    def __init__(self, cache: EnvironmentCache, environ: Mapping[str, str]) -> None:
        uv = Uv(environ)
        self._uv_pip = UvPip(uv)
        self._cache = cache
        self._builds = Builds(self._cache)
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
        python = await self._interpreters.find(spec.pip, listener)
        wish = self._uv_pip.wish(spec.pip, python, is_refresh=is_refresh)
        lock = await self._builds.provide(
            work_key(python.platform, spec, is_refresh=is_refresh),
            None if is_refresh else lock_for(python.platform, locks),
            lambda audience: self._resolve(wish, audience),
            lambda lock: functools.partial(self._fill, lock, wish),
            listener,
        )
        return ProvidedEnvironment(
            python=os.fsencode(self._cache.python(lock.hash)),
            env={b"VIRTUAL_ENV": os.fsencode(self._cache.folder(lock.hash))},
            lock=lock,
        )

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
        await self._uv_pip.install(lock.text, folder, wish, audience, lock_fd)
        return Contents(wish.python.version, count)
