"""The variables of an activated conda environment, computed once when it is built.

Packages bring them in two forms: files of values in `etc/conda/env_vars.d`, and scripts in
`etc/conda/activate.d` for a shell to read. PATH is left to the agent.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from runyard_agent.environments.programs import run_program
from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_contract.paths import atomic_write

VARIABLES_NAME = "activation.json"
SCRIPTS_LIMIT_S = 60.0
_FORMAT = 1
_PATH = "/usr/local/bin:/usr/bin:/bin"
_SCRIPTS = """
for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do
  . "$script" >&2
done
exec env -0
"""
_OF_THE_SHELL = frozenset({"CONDA_SHLVL", "OLDPWD", "PATH", "PS1", "PWD", "SHLVL", "_"})


def read_variables(prefix: Path) -> dict[bytes, bytes] | None:
    """The variables kept in a built environment; None where they are lost."""
    try:
        kept = json.loads((prefix / VARIABLES_NAME).read_bytes())
        if kept["format"] != _FORMAT:
            return None
        return {os.fsencode(name): os.fsencode(value) for name, value in kept["variables"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


async def keep_variables(
    prefix: Path, home: str, hear: Callable[[bytes], None], lock_fd: int
) -> None:
    """Computes the variables of a new environment and writes them to its folder.

    Args:
        home: the agent's HOME, for scripts that look there.
        hear: gets what scripts print.
        lock_fd: of the environment's folder; scripts inherit it.
    """
    variables = {"CONDA_PREFIX": str(prefix), "CONDA_DEFAULT_ENV": str(prefix)}
    variables |= _values(prefix)
    if _has_scripts(prefix):
        environ = {**variables, "HOME": home, "PATH": f"{prefix}/bin:{_PATH}", "CONDA_SHLVL": "1"}
        after = await _after_scripts(environ, hear, lock_fd)
        variables |= {
            name: value
            for name, value in after.items()
            if environ.get(name) != value and name not in _OF_THE_SHELL
        }
    content = json.dumps({"format": _FORMAT, "variables": variables}, indent=1)
    atomic_write(prefix / VARIABLES_NAME, content.encode() + b"\n")


def _has_scripts(prefix: Path) -> bool:
    return any(prefix.glob("etc/conda/activate.d/*.sh"))


def _values(prefix: Path) -> dict[str, str]:
    """The values that packages bring in files."""
    found: dict[str, str] = {}
    for path in sorted(prefix.glob("etc/conda/env_vars.d/*.json")):
        try:
            values = json.loads(path.read_bytes())
            found |= {str(name): str(value) for name, value in values.items()}
        except (OSError, ValueError, AttributeError):
            raise EnvironmentFailed(
                f"a conda package brings variables that can't be read: {path.name}",
                "choose another version of the package",
                {"path": str(path)},
            ) from None
    return found


async def _after_scripts(
    environ: Mapping[str, str], hear: Callable[[bytes], None], lock_fd: int
) -> dict[str, str]:
    """The variables of a shell that has read the activation scripts."""
    shell = shutil.which("bash", path=_PATH) or "/bin/sh"
    try:
        async with asyncio.timeout(SCRIPTS_LIMIT_S):
            outcome = await run_program(
                (shell, "-c", _SCRIPTS), hear=hear, env=environ, kept_fds=(lock_fd,)
            )
    except TimeoutError:
        why = f"did not end within {SCRIPTS_LIMIT_S:.0f} s"
    else:
        if outcome.returncode == 0:
            pairs = (os.fsdecode(one).partition("=") for one in outcome.answer.split(b"\0") if one)
            return {name: value for name, _, value in pairs}
        why = f"ended with {outcome.returncode}"
    raise EnvironmentFailed(
        f"activating the conda environment failed: a script in etc/conda/activate.d {why}",
        "see logs/environment.txt for what it printed; leave out the package that brings it",
    )
