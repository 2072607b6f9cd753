"""The Python that an environment is built on: which one it is, and what its wheels are called."""

from __future__ import annotations

import asyncio
import json
import os
import re
from dataclasses import dataclass

from runyard_agent.environments.diagnosis import diagnose
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_agent.environments.shared_work import Listener
from runyard_agent.environments.user_managed import UserManagedBuilder
from runyard_agent.environments.uv import Uv, without_shims
from runyard_contract.paths import shown
from runyardpb.v1.environments_pb2 import EnvironmentSpec, PipPackages

PROBE_LIMIT_S = 20.0
# Works on any Python 3. Only glibc knows the name; what has none is taken for musl.
_PROBE = """
import json, os, platform, sys, sysconfig
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (OSError, ValueError):
    libc = None
print(json.dumps([sys.implementation.name, list(sys.version_info[:3]), sys.platform,
    platform.machine(), bool(libc), bool(sysconfig.get_config_var("Py_GIL_DISABLED"))]))
"""
_DOWNLOADS = {"UV_PYTHON_DOWNLOADS": "automatic"}
_TAGS = {"cpython": "cp", "pypy": "pp"}
_VERSION = re.compile(r"3(\.\d{1,2}){0,2}\Z")
_TAGGED = re.compile(r"-cp(?P<major>\d)(?P<minor>\d+)\Z")
_INSTALLED = re.compile(r"^cpython-(\d+\.\d+)", re.MULTILINE)


_Identity = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python of this node: its path, version ("3.11.7") and platform ("linux-x86_64-cp311")."""

    path: str
    version: str
    platform: str

    def is_version(self, wanted: str) -> bool:
        """Whether it is of this version, of which the last parts may be missing ("3.11")."""
        parts = wanted.split(".")
        return self.version.split(".")[: len(parts)] == parts


class Interpreters:
    """Finds interpreters; an answer holds as long as the file is the same one.

    Args:
        uv: looks for versions.
        user_managed: checks named interpreters and sees through shims.
    """

    def __init__(self, uv: Uv, user_managed: UserManagedBuilder) -> None:
        self._uv = uv
        self._user_managed = user_managed
        self._probed: dict[_Identity, Interpreter] = {}
        self._by_version: dict[str, str] = {}

    async def find(self, pip: PipPackages, listener: Listener) -> Interpreter:
        """The Python that a specification asks for.

        Its `base_interpreter_path` where that exists and is of the version asked for, else one of
        this node of that version, which is downloaded where it is missing; without a version the
        node's python3. Raises EnvironmentFailed.
        """
        wanted = pip.python_version
        if wanted and not _VERSION.match(wanted):
            raise EnvironmentFailed(
                f'"{shown(wanted)}" is no version of Python', "write it as 3.11", {"python": wanted}
            )
        if pip.base_interpreter_path or not wanted:
            try:
                named = await self._named(pip.base_interpreter_path, listener)
            except EnvironmentFailed:
                if not wanted:
                    raise
            else:
                if not wanted or named.is_version(wanted):
                    return named
        known = self._known(self._by_version.get(wanted, ""))
        if known is not None:
            return known
        path = self._by_version[wanted] = await self._of_version(wanted, listener)
        return await self._probe(path)

    async def _named(self, name: bytes, listener: Listener) -> Interpreter:
        """An interpreter by path or name; empty: python3."""
        spec = EnvironmentSpec()
        spec.user_managed.interpreter_path = name
        provided = await self._user_managed.provide(
            spec, (), log=listener.log, progress=listener.progress
        )
        return await self._probe(os.fsdecode(provided.python))

    async def _of_version(self, wanted: str, listener: Listener) -> str:
        """Path of a Python of this version, here or from the network."""
        listener.progress(f"looking for Python {wanted}")
        path = await self._look(wanted)
        if path is not None:
            return path
        if self._uv.may_download_python:
            listener.progress(f"downloading Python {wanted}")
            listener.log.write(
                f"Python {wanted} is not on this machine; downloading it.\n".encode()
            )
            outcome = await self._uv.run(
                "python", "install", wanted, hear=listener.log.write, env=_DOWNLOADS
            )
            path = await self._look(wanted) if outcome.returncode == 0 else None
            if path is not None:
                return path
            fault = diagnose(outcome.said, wanted)
            why = f"and could not be downloaded: {fault.message}"
        else:
            why = "and UV_PYTHON_DOWNLOADS=never forbids to download it"
        here = await self._installed()
        raise EnvironmentFailed(
            f"Python {wanted} is not on this machine {why}",
            f"install it, or ask for one that is here: {', '.join(here) or 'none was found'}",
            {"python": wanted, "candidates": ", ".join(here)},
        )

    async def _look(self, wanted: str) -> str | None:
        """Path of an installed Python of this version."""
        env = {"PATH": self._search_path(wanted)}
        outcome = await self._uv.run("python", "find", "--system", "--no-project", wanted, env=env)
        path = outcome.answer.decode("utf-8", "surrogateescape").strip()
        return path if outcome.returncode == 0 and path else None

    async def _installed(self) -> list[str]:
        """Versions of the Pythons on this machine, newest first."""
        env = {"PATH": self._search_path("3")}
        outcome = await self._uv.run("python", "list", "--only-installed", env=env)
        found = set(_INSTALLED.findall(outcome.answer.decode("utf-8", "replace")))
        return sorted(found, key=lambda version: int(version.split(".")[1]), reverse=True)

    def _search_path(self, wanted: str) -> str:
        """PATH without shims, which start only the chosen version, but with pyenv's Pythons."""
        environ = self._uv.environ
        root = environ.get("PYENV_ROOT") or os.path.join(environ.get("HOME", "/"), ".pyenv")
        versions = os.path.join(root, "versions")
        try:
            names = sorted(os.listdir(versions), reverse=True)
        except OSError:
            names = []
        folders = [
            os.path.join(versions, name, "bin")
            for name in names
            if name == wanted or name.startswith(f"{wanted}.")
        ]
        return ":".join([without_shims(environ.get("PATH", os.defpath)), *folders])

    async def _probe(self, path: str) -> Interpreter:
        """What an interpreter is; it is asked once."""
        known = self._known(path)
        if known is None:
            known = await _ask(path)
            identity = _identity(path)
            if identity is not None:
                self._probed[identity] = known
        return known

    def _known(self, path: str) -> Interpreter | None:
        """What an interpreter said when it was asked; None where it is another file by now."""
        identity = _identity(path)
        return None if identity is None else self._probed.get(identity)


def version_of(platform: str) -> str:
    """The version in the name of a platform: "3.11" of "linux-x86_64-cp311"; empty: none."""
    found = _TAGGED.search(platform)
    return f"{found['major']}.{found['minor']}" if found else ""


def _identity(path: str) -> _Identity | None:
    """Names a file for as long as it is the same; None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return path, status.st_ino, status.st_mtime_ns


async def _ask(path: str) -> Interpreter:
    """Starts an interpreter once, without anything that is installed in it."""
    process = await asyncio.create_subprocess_exec(
        path,
        "-I",
        "-S",
        "-c",
        _PROBE,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PROBE_LIMIT_S):
            out, err = await process.communicate()
        name, version, system, machine, is_glibc, is_free_threaded = json.loads(out)
    except (TimeoutError, ValueError):
        said = "" if process.returncode is None else err.decode("utf-8", "replace").strip()
        why = said.rpartition("\n")[2] or "no answer"
        raise EnvironmentFailed(
            f"the Python {shown(path)} does not start: {why}",
            "repair it, or name another one",
            {"interpreter": shown(path)},
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    tag = f"{_TAGS.get(name, name)}{version[0]}{version[1]}{'t' if is_free_threaded else ''}"
    libc = "" if is_glibc or system != "linux" else "-musl"
    return Interpreter(path, ".".join(map(str, version)), f"{system}-{machine}{libc}-{tag}")
