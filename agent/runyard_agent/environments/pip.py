"""Environments of pip packages: resolved once into a lock, built once for each lock, by uv."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from runyard_agent.environments.cache import EnvironmentCache, Record, folder_bytes
from runyard_agent.environments.diagnosis import Fault, diagnose
from runyard_agent.environments.interpreters import Interpreter, Interpreters
from runyard_agent.environments.lock import is_hashed, lock_for, make_lock, packages
from runyard_agent.environments.protocol import (
    EnvironmentFailed,
    Progress,
    ProvidedEnvironment,
    TextSink,
)
from runyard_agent.environments.shared_work import Audience, Listener, SharedWork
from runyard_agent.environments.user_managed import UserManagedBuilder
from runyard_agent.environments.uv import Outcome, Uv
from runyard_contract.paths import shown
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec, PipPackages

LOCK_NAME = "runyard-lock.txt"
NEWEST_LIMIT_S = 15.0
_TRUE = ("1", "true", "t", "yes", "y", "on")
_LONG_STEPS = ("Downloading", "Building", "Updating")


class PipBuilder:
    """Builds environments below `root`, one for each lock.

    Args:
        root: absolute path of an existing folder.
        environ: the agent's variables; index settings of uv and pip among them are honoured.
    """

    kind = "pip"

    def __init__(self, root: Path, environ: Mapping[str, str]) -> None:
        self._uv = Uv(environ)
        self._cache = EnvironmentCache(root)
        search_path = environ.get("PATH")
        self._interpreters = Interpreters(
            self._uv, UserManagedBuilder(os.fsencode(search_path) if search_path else None)
        )
        self._resolving: SharedWork[EnvironmentLock] = SharedWork(
            "resolve", "Another run needs the same packages; waiting for it."
        )
        self._building: SharedWork[Record] = SharedWork(
            "build", "Another run is building the same environment; waiting for it."
        )

    async def provide(
        self,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        *,
        log: TextSink,
        progress: Progress,
    ) -> ProvidedEnvironment:
        """See EnvironmentBuilder. What is built already is given without uv and network."""
        listener = Listener(log, progress)
        python = await self._interpreters.find(spec.pip, listener)
        options = index_options(spec.pip, self._uv.environ)
        lock = lock_for(python.platform, locks)
        if lock is None:

            async def resolve_and_build(audience: Audience) -> EnvironmentLock:
                resolved = await self._resolve(spec.pip, options, python, audience)
                shared = Listener(audience, audience.progress)
                await self._ensure_built(resolved, options, python, shared)
                return resolved

            # Who asks during the build takes part in it too, instead of resolving once more.
            key = python.platform + spec.SerializeToString(deterministic=True).hex()
            lock = await self._resolving.do(key, resolve_and_build, listener)
        else:
            await self._ensure_built(lock, options, python, listener)
        self._cache.touch(lock.hash)
        return ProvidedEnvironment(
            python=os.fsencode(self._cache.python(lock.hash)),
            env={b"VIRTUAL_ENV": os.fsencode(self._cache.folder(lock.hash))},
            lock=lock,
        )

    async def _ensure_built(
        self,
        lock: EnvironmentLock,
        options: Sequence[str],
        python: Interpreter,
        listener: Listener,
    ) -> None:
        """Builds what a lock says, unless it is there."""
        record = self._cache.ready(lock.hash)
        if record is None:
            await self._building.do(
                lock.hash, lambda audience: self._build(lock, options, python, audience), listener
            )
            return
        found = f"Python {record.python}, {_count(record.packages)}"
        listener.log.write(f"Environment {lock.hash[:16]} is already built ({found}).\n".encode())

    async def _resolve(
        self,
        pip: PipPackages,
        options: Sequence[str],
        python: Interpreter,
        audience: Audience,
    ) -> EnvironmentLock:
        """Finds exact versions, with the hashes of all their files."""
        refuse_options(pip)
        began = time.monotonic()
        count = len(pip.requirements)
        audience.progress("resolving packages")
        audience.say(
            f"Resolving {count} requirement{'s' * (count != 1)}"
            f" for Python {python.version} ({python.platform})."
        )
        with _in_memory("\n".join(pip.constraints)) as fd:
            constraints = ("-c", f"/proc/self/fd/{fd}") if pip.constraints else ()
            outcome = await self._uv.run(
                *("pip", "compile", "--generate-hashes", "--no-header", "--no-annotate"),
                *("--python", python.path, *options, *constraints, "-"),
                given="\n".join(pip.requirements) + "\n",
                hear=audience.write,
                kept_fds=(fd,),
            )
        if outcome.returncode != 0:
            raise await self._failure(outcome, options, python, audience)
        text = outcome.answer.decode("utf-8", "replace")
        lock = make_lock(python.platform, text, time.time_ns())
        audience.say(
            f"Resolved in {_seconds(began)}: {_count(packages(text))}, lock {lock.hash[:16]}."
        )
        return lock

    async def _build(
        self,
        lock: EnvironmentLock,
        options: Sequence[str],
        python: Interpreter,
        audience: Audience,
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
                return await self._install(lock, options, python, audience, fd)
            except BaseException:
                await self._cache.discard(lock.hash)
                raise

    async def _install(
        self,
        lock: EnvironmentLock,
        options: Sequence[str],
        python: Interpreter,
        audience: Audience,
        lock_fd: int,
    ) -> Record:
        """Makes the folder, fills it, and seals it."""
        began = time.monotonic()
        folder = self._cache.folder(lock.hash)
        count = packages(lock.text)
        steps = _Steps(_count(count), audience)
        audience.say(
            f"Building environment {lock.hash[:16]} in {shown(str(folder))}:"
            f" {_count(count)}, Python {python.version} ({shown(python.path)})."
        )

        async def uv(*arguments: str) -> None:
            outcome = await self._uv.run(*arguments, hear=steps.hear, kept_fds=(lock_fd,))
            if outcome.returncode != 0:
                raise await self._failure(outcome, options, python, audience)

        await uv("venv", "--quiet", "--no-project", "--python", python.path, str(folder))
        lock_file = folder / LOCK_NAME
        lock_file.write_text(lock.text, encoding="utf-8")
        if count:
            hashes = ["--require-hashes"] if is_hashed(lock.text) else []
            await uv(
                *("pip", "install", "--no-deps", "--compile-bytecode", *hashes, *options),
                *("--python", str(self._cache.python(lock.hash)), "-r", str(lock_file)),
            )
        record = Record(
            lock_hash=lock.hash,
            platform=lock.platform,
            created_at_unix_ns=time.time_ns(),
            size_bytes=await asyncio.to_thread(folder_bytes, folder),
            python=python.version,
            packages=count,
        )
        self._cache.seal(record)
        audience.say(f"Built in {_seconds(began)}, {record.size_bytes / 1e6:.1f} MB.")
        return record

    async def _failure(
        self, outcome: Outcome, options: Sequence[str], python: Interpreter, audience: Audience
    ) -> EnvironmentFailed:
        """The error for what uv said; where a version does not exist, with the newest that does."""
        fault = diagnose(outcome.said, python.version)
        if fault.unknown_release:
            fault = await self._with_newest(fault, options, python)
        audience.say(f"Failed: {fault.message}")
        return EnvironmentFailed(fault.message, fault.advice, fault.metadata)

    async def _with_newest(
        self, fault: Fault, options: Sequence[str], python: Interpreter
    ) -> Fault:
        """Names the newest version of the package, if that can be found out quickly."""
        name = fault.unknown_release
        try:
            async with asyncio.timeout(NEWEST_LIMIT_S):
                outcome = await self._uv.run(
                    *("pip", "compile", "--no-deps", "--no-header", "--no-annotate", "--no-build"),
                    *("--python", python.path, *options, "-"),
                    given=f"{name}\n",
                )
        except TimeoutError:
            return fault
        newest = outcome.answer.decode("utf-8", "replace").strip().partition("==")[2]
        if outcome.returncode != 0 or not newest:
            return fault
        return Fault(
            f"{fault.message}; the newest is {newest}",
            f"name a version that exists, such as {name}=={newest}",
            {**fault.metadata, "newest": newest},
        )


class _Steps:
    """Reads from uv's output what it does now, for the status line."""

    def __init__(self, packages: str, audience: Audience) -> None:
        self._packages = packages
        self._audience = audience
        self._line = b""
        audience.progress(f"installing {packages}")

    def hear(self, data: bytes) -> None:
        """Passes output on to the log, and shows the last step that it names."""
        self._audience.write(data)
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            step = line.decode("utf-8", "replace").strip()
            if step.startswith(_LONG_STEPS):
                self._audience.progress(f"installing {self._packages}: {step}")
            elif step.startswith("Prepared"):
                self._audience.progress(f"installing {self._packages}")
            elif step.startswith("Installed"):
                self._audience.progress(f"compiling {self._packages} to bytecode")


def index_options(pip: PipPackages, environ: Mapping[str, str]) -> tuple[str, ...]:
    """uv's options for a specification's: where packages come from, and whether previews count.

    Raises EnvironmentFailed for an option that is not served.
    """
    once: dict[str, list[str]] = {}
    many: list[str] = []
    if environ.get("PIP_NO_INDEX", "").lower() in _TRUE:  # uv has no variable for it
        once["--no-index"] = ["--no-index"]
    for option in dict.fromkeys(pip.index_options):
        name, _, value = option.partition("=")
        if name == "--index-url" and value:
            once[name] = [name, value]  # the last one counts, as with pip
        elif name in ("--extra-index-url", "--find-links") and value:
            many += [name, value]
        elif option == "--no-index":
            once[option] = [option]
        elif option == "--pre":
            once[option] = ["--prerelease", "allow"]
        else:
            raise EnvironmentFailed(
                f"the pip option {shown(option)} is not served",
                "served are --index-url=, --extra-index-url=, --find-links=, --pre and --no-index",
                {"option": shown(option)},
            )
    has_extra = "--extra-index-url" in many or environ.get("PIP_EXTRA_INDEX_URL")
    if has_extra and not environ.get("UV_INDEX_STRATEGY"):
        # As pip does, which these options were written for: the best version of all indexes
        # counts. uv's own rule takes the first index that has a package in any version, so that
        # PyTorch's index hides most versions of numpy.
        many += ["--index-strategy", "unsafe-best-match"]
    return (*itertools.chain.from_iterable(once.values()), *many)


def refuse_options(pip: PipPackages) -> None:
    """Raises EnvironmentFailed for a requirement that uv would take for an option."""
    for line in (*pip.requirements, *pip.constraints):
        if line.lstrip().startswith("-"):
            raise EnvironmentFailed(
                f"{shown(line)} is no requirement",
                "name a package, such as name==1.2",
                {"requirement": shown(line)},
            )


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[int]:
    """A file without a name, of which nothing is left behind."""
    with os.fdopen(os.memfd_create("constraints"), "w+b") as file:
        file.write(text.encode("utf-8", "surrogateescape") + b"\n")
        file.flush()
        yield file.fileno()


def _count(number: int) -> str:
    return f"{number} package{'s' * (number != 1)}"


def _seconds(began_s: float) -> str:
    return f"{time.monotonic() - began_s:.1f} s"
