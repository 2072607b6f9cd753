"""Which conda program a node has of its own: micromamba, mamba or conda."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from runyard_agent.environments.programs import run_program

AUTO, BUILT_IN = "auto", "builtin"
"""Settings: the node's own where it has one, and never. Anything else is the path of a program."""

NAMES = ("micromamba", "mamba", "conda")
"""In the order in which they are looked for."""
OLDEST = {"conda": (24, 9), "mamba": (2, 0)}
"""The first versions that check SHA-256 sums of explicit lists."""
VERSION_LIMIT_S = 20.0
_NAMED_BY = {"micromamba": "MAMBA_EXE", "mamba": "MAMBA_EXE", "conda": "CONDA_EXE"}
_FOLDERS = (
    *("~/micromamba/bin", "~/.local/bin", "~/miniforge3/bin", "~/mambaforge/bin"),
    *("~/miniconda3/bin", "~/anaconda3/bin", "/opt/conda/bin"),
)
_VERSION = re.compile(r"^(?:(?P<name>[a-z]+) )?(?P<version>\d+(?:\.\d+)+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CondaProgram:
    """A program that works. `version` is such as "24.9.2"; `is_conda`: and none of mamba's."""

    path: str
    version: str
    is_conda: bool

    @property
    def words(self) -> str:
        """For people, such as "conda 24.9.2 (/opt/conda/bin/conda)"."""
        return f"{os.path.basename(self.path)} {self.version} ({self.path})"


@dataclass(frozen=True, slots=True)
class Unfit:
    """A program that can't be used, and why, in a few words."""

    path: str
    why: str


def candidates(setting: str, environ: Mapping[str, str]) -> Iterator[str]:
    """Paths of programs that may be there, the preferred ones first.

    Args:
        setting: `AUTO`, `BUILT_IN` or a path.
        environ: the agent's variables; MAMBA_EXE, CONDA_EXE, PATH and HOME among them count.
    """
    if setting not in (AUTO, BUILT_IN):
        yield setting
    if setting != AUTO:
        return
    home = environ.get("HOME", "")
    for name in NAMES:
        named = environ.get(_NAMED_BY[name], "")
        if os.path.basename(named) == name and os.path.isabs(named):
            yield named
        on_path = shutil.which(name, path=environ.get("PATH", ""))
        if on_path is not None:
            yield os.path.abspath(on_path)
        for folder in _FOLDERS:
            path = Path(folder.replace("~", home, 1)) / name
            if path.is_absolute() and os.access(path, os.X_OK):
                yield str(path)


def judge(path: str, said: str) -> CondaProgram | Unfit:
    """The program at `path`, by what it prints for `--version`."""
    found = _VERSION.search(said)
    if found is None:
        return Unfit(path, "does not tell its version")
    is_conda = found["name"] == "conda"
    oldest = OLDEST["conda" if is_conda else "mamba"]
    if tuple(map(int, found["version"].split("."))) < oldest:
        needed = ".".join(map(str, oldest))
        return Unfit(path, f"is of version {found['version']}, and {needed} is needed")
    return CondaProgram(path, found["version"], is_conda)


class ProgramSearch:
    """Finds the node's own program, and keeps what was found out of each.

    Args:
        setting: `AUTO`, `BUILT_IN` or the path of a program.
        environ: the agent's variables.
    """

    def __init__(self, setting: str, environ: Mapping[str, str]) -> None:
        self._setting = setting
        self._environ = environ
        self._judged: dict[tuple[str, int], CondaProgram | Unfit] = {}

    async def find(self) -> tuple[CondaProgram | None, list[Unfit]]:
        """The first that can be used, and those before it that can't."""
        unfit: list[Unfit] = []
        for path in dict.fromkeys(candidates(self._setting, self._environ)):
            found = await self._judge(path)
            if isinstance(found, CondaProgram):
                return found, unfit
            unfit.append(found)
        return None, unfit

    async def _judge(self, path: str) -> CondaProgram | Unfit:
        try:
            key = path, os.stat(path).st_mtime_ns
        except OSError as error:
            return Unfit(path, f"can't be started: {error.strerror}")
        if key not in self._judged:
            self._judged[key] = await self._ask(path)
        return self._judged[key]

    async def _ask(self, path: str) -> CondaProgram | Unfit:
        try:
            async with asyncio.timeout(VERSION_LIMIT_S):
                outcome = await run_program((path, "--version"), env=variables(self._environ))
        except OSError as error:
            return Unfit(path, f"can't be started: {error.strerror}")
        except TimeoutError:
            return Unfit(path, f"does not tell its version within {VERSION_LIMIT_S:.0f} s")
        if outcome.returncode != 0:
            return Unfit(path, f"ends with {outcome.returncode} when asked for its version")
        return judge(path, outcome.answer.decode("utf-8", "replace"))


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """What a program gets of the agent's variables: not those that change what it resolves."""
    dropped = ("CONDA_DEFAULT_ENV", "CONDA_PREFIX", "CONDA_SUBDIR", "MAMBA_NO_BANNER")
    kept = {
        name: value
        for name, value in environ.items()
        if name not in dropped and not name.startswith("PYTHON")
    }
    return kept | {
        "CONDA_ADD_PIP_AS_PYTHON_DEPENDENCY": "false",
        "CONDA_NOTIFY_OUTDATED_CONDA": "false",
        "CONDA_NUMBER_CHANNEL_NOTICES": "0",
        "CONDA_REGISTER_ENVS": "false",
        "MAMBA_ADD_PIP_AS_PYTHON_DEPENDENCY": "false",
        "NO_COLOR": "1",
    }
