"""Environments of conda packages: resolved once into a lock, built once for each lock.

The node's own micromamba, mamba or conda solves and installs the conda packages, else rattler;
uv the pip packages among them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from runyard_agent.environments.activation import keep_variables, read_variables
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
from runyard_agent.environments.conda_lock import CondaLock, read_lock, write_lock
from runyard_agent.environments.conda_programs import BUILT_IN
from runyard_agent.environments.conda_solvers import CondaSolvers
from runyard_agent.environments.interpreters import Interpreter
from runyard_agent.environments.lock import lock_for, make_lock
from runyard_agent.environments.protocol import (
    EnvironmentFailed,
    Progress,
    ProvidedEnvironment,
    TextSink,
)
from runyard_agent.environments.rattler_calls import Mirrors, lock_platform
from runyard_agent.environments.sealed import SealedSource, check_starts
from runyard_agent.environments.shared_work import Audience, Listener, failures_told
from runyard_agent.environments.uv import Uv
from runyard_agent.environments.uv_pip import LOCK_NAME, Steps, UvPip, Wish
from runyard_contract.environment_spec import lock_hash, match_spec_channel, match_spec_name
from runyard_contract.paths import shown
from runyardpb.v1.environments_pb2 import (
    CondaPackages,
    EnvironmentLock,
    EnvironmentSpec,
    PipPackages,
)

PIP_LOCK_NAME = "runyard-pip-lock.txt"


class CondaBuilder:
    """Builds environments in `cache`, one for each lock.

    Args:
        cache: where they are kept, with those of other kinds.
        environ: the agent's variables; settings of rattler, uv and pip among them are honoured.
        mirrors: where channels are read instead.
        program: "auto": the node's own conda program where it has one; "builtin": never; its path.
        sealed: where environments that other nodes have built are fetched from. None: nowhere.
        is_offline: nothing is resolved, downloaded or built.
    """

    kind = "conda"

    def __init__(
        self,
        cache: EnvironmentCache,
        environ: Mapping[str, str],
        mirrors: Mirrors | None = None,
        program: str = BUILT_IN,
        sealed: SealedSource | None = None,
        *,
        is_offline: bool = False,
    ) -> None:
        self._environ = environ
        self._conda = CondaSolvers(environ, mirrors, program)
        self._uv_pip = UvPip(Uv(environ))
        self._cache = cache
        self._sealed = sealed
        self._builds = Builds(self._cache, self.kind, is_offline=is_offline)

    async def provide(
        self,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        *,
        log: TextSink,
        progress: Progress,
        is_refresh: bool = False,
    ) -> ProvidedEnvironment:
        """See EnvironmentBuilder. What is built already is given without solver and network."""
        listener = Listener(log, progress)
        platform = lock_platform()

        def recipe(lock: EnvironmentLock) -> Recipe:
            fetch = functools.partial(self._fetch, lock, self._sealed)
            fill = functools.partial(self._fill, lock, spec.conda)
            return Recipe(fill, fetch if self._sealed is not None else None)

        lock = await self._builds.provide(
            work_key(platform, spec, is_refresh=is_refresh),
            None if is_refresh else lock_for(platform, locks),
            lambda audience: self._resolve(spec.conda, platform, audience, is_refresh),
            recipe,
            listener,
        )
        return ProvidedEnvironment(
            python=os.fsencode(self._cache.python(lock.hash)),
            env=await self._variables(lock.hash, log),
            lock=lock,
        )

    async def _variables(self, key: str, log: TextSink) -> dict[bytes, bytes]:
        """The variables of a built environment; computed again where they are lost."""
        folder = self._cache.folder(key)
        found = read_variables(folder)
        if found is None:
            log.write(b"The variables of its activation are lost; computing them again.\n")
            async with self._cache.reserved(key, lambda: None) as fd:
                await keep_variables(folder, self._environ.get("HOME", "/"), log.write, fd)
            found = read_variables(folder)
        return found or {}

    async def _resolve(
        self, conda: CondaPackages, platform: str, audience: Audience, is_refresh: bool
    ) -> EnvironmentLock:
        """Finds exact versions of conda and pip packages, with the hashes of their files."""
        began_s = time.monotonic()
        specs, channels = _match_specs(conda), _channels(conda)
        audience.progress("resolving conda packages")
        audience.say(
            f"Resolving {count_of(len(specs), 'conda package')} for {platform}"
            f" from {', '.join(map(shown, channels))}."
        )
        with failures_told(audience):
            found = await self._conda.solve(specs, channels, audience.write, is_refresh=is_refresh)
        if conda.pip_requirements:
            found = await self._with_pip(found, conda, platform, audience, is_refresh)
        lock = make_lock(platform, write_lock(found), time.time_ns())
        audience.say(
            f"Resolved in {seconds_since(began_s)}: {_contents(found)}, lock {lock.hash[:16]}."
        )
        return lock

    async def _with_pip(
        self,
        found: CondaLock,
        conda: CondaPackages,
        platform: str,
        audience: Audience,
        is_refresh: bool,
    ) -> CondaLock:
        """Adds the pip packages, which need the conda packages installed to be resolved."""
        key = lock_hash(platform, write_lock(found))
        audience.progress("resolving pip packages")
        async with self._installed(key, found, audience) as python:
            python_found = Interpreter(python, found.python, platform)
            wish = self._wish(conda, python_found, is_refresh=is_refresh)
            pip = await self._uv_pip.resolve_missing(wish, audience)
        return CondaLock(found.packages, found.needs, pip)

    @contextlib.asynccontextmanager
    async def _installed(
        self, key: str, found: CondaLock, audience: Audience
    ) -> AsyncIterator[str]:
        """The interpreter of an environment of the conda packages alone, for a while.

        It lies where such an environment would be built, and is that one if there is one.
        """

        def waits() -> None:
            audience.say("Another process is building with these packages; waiting for it.")

        async with self._cache.reserved(key, waits) as fd:
            if self._cache.ready(key) is not None:
                yield str(self._cache.python(key))
                return
            await self._cache.discard(key)
            try:
                with failures_told(audience):
                    hear = Steps("conda packages", audience).hear
                    await self._conda.install(found, self._cache.folder(key), hear, (fd,))
                yield str(self._cache.python(key))
            finally:
                await self._cache.discard(key)

    async def _fill(
        self, lock: EnvironmentLock, conda: CondaPackages, audience: Audience, lock_fd: int
    ) -> Contents:
        """Makes the folder of an environment and installs into it."""
        with failures_told(audience):
            found = read_lock(lock.text)
        folder = self._cache.folder(lock.hash)
        audience.say(
            f"Building environment {lock.hash[:16]} in {shown(str(folder))}: {_contents(found)},"
            f" Python {found.python}."
        )
        for package in found.packages:
            audience.say(f"  {package.release}")
        doing = count_of(len(found.packages), "conda package")
        audience.progress(f"installing {doing}")
        with failures_told(audience):
            hear = Steps(doing, audience).hear
            async with self._fresh_cache(lock.hash) as fresh:
                await self._conda.install(found, folder, hear, (lock_fd,), fresh)
        (folder / LOCK_NAME).write_text(lock.text, encoding="utf-8")
        if found.pip:
            audience.progress(f"installing {count_of(found.pip_count, 'pip package')}")
            python = Interpreter(str(self._cache.python(lock.hash)), found.python, lock.platform)
            wish = self._wish(conda, python)
            await self._uv_pip.install(
                *(found.pip, folder, wish, audience, lock_fd),
                lock_name=PIP_LOCK_NAME,
                is_fresh=lock.hash in self._cache.rebuilt,
            )
        with failures_told(audience):
            await keep_variables(folder, self._environ.get("HOME", "/"), audience.write, lock_fd)
        return Contents(found.python, len(found.packages) + found.pip_count)

    @contextlib.asynccontextmanager
    async def _fresh_cache(self, key: str) -> AsyncIterator[Path | None]:
        """A folder for packages while a damaged environment is built again; None: the usual."""
        if key not in self._cache.rebuilt:
            yield None
            return
        folder = self._cache.scratch(key)
        try:
            yield folder
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _fetch(
        self, lock: EnvironmentLock, sealed: SealedSource | None, audience: Audience, lock_fd: int
    ) -> Contents:
        """Lays out what is sealed, and computes the variables of its activation here."""
        if sealed is None:
            raise SealedUnusable("this agent fetches none")
        folder = self._cache.folder(lock.hash)
        folder.mkdir()
        found = await sealed.lay_out(lock, self.kind, folder, audience)
        version = await check_starts(self._cache.python(lock.hash), found, lock_fd)
        try:
            await keep_variables(folder, self._environ.get("HOME", "/"), audience.write, lock_fd)
        except EnvironmentFailed as failed:
            raise SealedUnusable(failed.message) from failed
        return Contents(version, found.packages)

    def _wish(self, conda: CondaPackages, python: Interpreter, *, is_refresh: bool = False) -> Wish:
        """What pip is asked for."""
        pip = PipPackages(
            requirements=conda.pip_requirements,
            constraints=conda.pip_constraints,
            index_options=conda.pip_index_options,
        )
        return self._uv_pip.wish(pip, python, is_refresh=is_refresh)


def _match_specs(conda: CondaPackages) -> list[str]:
    """What the solver is asked for: always with a Python, which makes it an environment."""
    specs = list(conda.packages)
    if conda.python_version:
        specs.append(f"python={conda.python_version}")
    elif not any(match_spec_name(one) == "python" for one in specs):
        specs.append("python")
    return specs


def _channels(conda: CondaPackages) -> list[str]:
    """Where packages are looked for: the channels, then those that only match specs name."""
    named = (match_spec_channel(one) for one in conda.packages)
    return [*dict.fromkeys([*conda.channels, *filter(None, named)])]


def _contents(found: CondaLock) -> str:
    """The packages of a lock in words."""
    words = count_of(len(found.packages), "conda package")
    return f"{words}, {count_of(found.pip_count, 'pip package')}" if found.pip else words
