"""The environment that the user looks after: an interpreter on this node, checked before the run.

An interpreter is asked once whether it starts and where it really lies (a pyenv shim says so); the
answer holds as long as the file is the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import os
import re
import stat
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from runyard_agent.environments.protocol import (
    EnvironmentFailed,
    Progress,
    ProvidedEnvironment,
    TextSink,
)
from runyard_contract.paths import shown
from runyardpb.v1.environments_pb2 import EnvironmentLock, EnvironmentSpec

START_LIMIT_S = 20.0
_ASK = "import sys; sys.stdout.write(sys.executable + chr(0) + '%d.%d' % sys.version_info[:2])"
_SHIM_FOLDERS = (b"/shims/", b"/.asdf/", b"/.pyenv/")
_PYTHON_NAME = re.compile(rb"python(\d+(\.\d+)?)?\Z")
_DEFAULT_PATH = b"/usr/local/bin:/usr/bin:/bin"


class _Identity(NamedTuple):
    """Names a file for as long as it is the same."""

    path: bytes
    inode: int
    mtime_ns: int


class UserManagedBuilder:
    """Checks and resolves interpreters. Names without a slash are looked up along `search_path`.

    Args:
        search_path: like $PATH, as bytes. Default: the agent's own.
    """

    kind = "user_managed"

    def __init__(self, search_path: bytes | None = None) -> None:
        self._search_path = (
            os.environb.get(b"PATH", _DEFAULT_PATH) if search_path is None else search_path
        )
        self._real: dict[_Identity, bytes] = {}
        self._asking: dict[_Identity, asyncio.Lock] = {}

    async def provide(
        self,
        spec: EnvironmentSpec,
        locks: Sequence[EnvironmentLock],
        *,
        log: TextSink,
        progress: Progress,
        is_refresh: bool = False,
    ) -> ProvidedEnvironment:
        """Gives the interpreter that the specification names, once it has been seen to start.

        There is nothing in it to be resolved anew.
        """
        if is_refresh:
            raise EnvironmentFailed(
                "the environment is a Python of its user's, in which nothing is resolved",
                "change its packages yourself, or build it without --refresh",
            )
        name = spec.user_managed.interpreter_path or b"python3"
        path = self._find(name)
        identity = self._identify(name, path)
        real = self._real.get(identity)
        if real is None:
            async with self._asking.setdefault(identity, asyncio.Lock()):
                real = self._real.get(identity)
                if real is None:
                    real = await self._ask(path, log)
                    self._real[identity] = real
            self._asking.pop(identity, None)
        return ProvidedEnvironment(python=real, env=_variables(real))

    def _find(self, name: bytes) -> bytes:
        """The path that a name or path stands for; EnvironmentFailed where there is none."""
        if b"/" in name:
            return os.path.abspath(os.path.expanduser(name))
        for folder in self._search_path.split(b":"):
            candidate = os.path.join(folder, name)
            if folder and os.path.isfile(candidate) and os.access(candidate, os.X_OK):
                return candidate
        raise _failed(name, "is not on the PATH of the agent", self._near(name))

    def _identify(self, name: bytes, path: bytes) -> _Identity:
        """What tells whether an answer about this path still holds."""
        try:
            status = os.stat(path)
        except OSError as error:
            why = "does not exist" if isinstance(error, FileNotFoundError) else error.strerror
            raise _failed(name, str(why), self._near(path)) from None
        if stat.S_ISDIR(status.st_mode):
            raise _failed(name, "is a folder", self._near(os.path.join(path, b"bin", b"python")))
        if not os.access(path, os.X_OK):
            raise _failed(name, "can't be executed (no permission)", self._near(path))
        return _Identity(path, status.st_ino, status.st_mtime_ns)

    async def _ask(self, path: bytes, log: TextSink) -> bytes:
        """Starts the interpreter once; the path to use: its own, behind a shim the real one."""
        try:
            process = await asyncio.create_subprocess_exec(
                path,
                "-c",
                _ASK,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            )
        except OSError as error:
            raise _failed(path, f"can't be started: {error.strerror}", self._near(path)) from None
        try:
            async with asyncio.timeout(START_LIMIT_S):
                out, err = await process.communicate()
        except TimeoutError:
            why = f"did not start within {START_LIMIT_S:.0f} s"
            raise _failed(path, why, self._near(path)) from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        executable, zero, version = out.partition(b"\0")
        if process.returncode != 0 or not zero or not version:
            log.write(err)
            last = err.strip().rpartition(b"\n")[2].decode("utf-8", "replace")
            why = f"is no working Python: {last or f'it ended with {process.returncode}'}"
            raise _failed(path, why, self._near(path))
        return executable if executable and _is_shim(path) else path

    def _near(self, wanted: bytes) -> list[bytes]:
        """Interpreters that exist and may have been meant, best first."""
        folders = [os.path.dirname(wanted), os.path.join(os.path.dirname(wanted), b"bin")]
        found = dict.fromkeys(_pythons(f for f in folders if f))
        found.update(dict.fromkeys(_pythons(self._search_path.split(b":"))))
        found.pop(wanted, None)
        texts = {os.fsdecode(path): path for path in found}
        close = difflib.get_close_matches(os.fsdecode(wanted), list(texts), n=2, cutoff=0.3)
        return [texts[text] for text in dict.fromkeys([*close, *texts])][:3]


def _pythons(folders: Iterable[bytes]) -> list[bytes]:
    """Executables in these folders that are called like a Python interpreter."""
    found = []
    for folder in folders:
        with contextlib.suppress(OSError):
            for name in sorted(os.listdir(folder)):
                path = os.path.join(folder, name)
                if _PYTHON_NAME.match(name) and os.access(path, os.X_OK):
                    found.append(path)
    return found


def _is_shim(path: bytes) -> bool:
    """Whether the file only looks for the real interpreter at each start (pyenv, asdf)."""
    return any(folder in path for folder in _SHIM_FOLDERS) and not os.path.realpath(path).endswith(
        (b"/bin/python", b"/bin/python3")
    )


def _variables(python: bytes) -> dict[bytes, bytes]:
    """What activating the interpreter's environment would set."""
    prefix = os.path.dirname(os.path.dirname(python))
    if os.path.exists(os.path.join(prefix, b"pyvenv.cfg")):
        return {b"VIRTUAL_ENV": prefix}
    if os.path.isdir(os.path.join(prefix, b"conda-meta")):
        return {b"CONDA_PREFIX": prefix}
    return {}


def _failed(interpreter: bytes, why: str, near: Sequence[bytes]) -> EnvironmentFailed:
    """The error for an interpreter, with what may have been meant instead."""
    name = shown(os.fsdecode(interpreter))
    candidates = ", ".join(shown(os.fsdecode(path)) for path in near)
    advice = "set interpreter_path to a Python on this machine"
    if candidates:
        advice += f"; found here: {candidates}"
    return EnvironmentFailed(
        f"the interpreter {name} {why}", advice, {"interpreter": name, "candidates": candidates}
    )
