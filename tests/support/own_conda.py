"""A node's own conda program, made by a test: the command line and JSON of `conda create`.

No real one can be had here: neither a package index nor Debian has micromamba, mamba or conda.
What is written follows their documents: `conda create` in the command reference of conda, the
dry run's JSON as conda-lock reads it (`conda_lock/conda_solver.py`: FETCH with whole records, LINK
with names of files alone) and as mamba prints it (mamba issues 2346 and 2513: `null` for no
dependencies, timestamps in seconds, `solver_problems`), explicit lists as in CEP 23 and
`PackageInfo::from_url` of libmamba. Like them it takes no option that it does not know, checks the
sums of explicit lists, and links packages for real; rattler does both beneath.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SOURCE = """#!{python}
import sys
sys.path[:0] = {paths!r}
from support.own_conda_program import main
{before_wheel}
main({name!r}, {version!r}, {record!r}, {breaks!r}, before_wheel)
"""
VERSIONS = {"conda": "24.9.2", "mamba": "2.0.5", "micromamba": "2.0.5"}


@dataclass(frozen=True)
class OwnProgram:
    """A program at `path`, which notes its calls."""

    path: Path
    record: Path

    def calls(self) -> list[list[str]]:
        """The arguments of all calls but those for the version."""
        if not self.record.exists():
            return []
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def environments(self) -> list[dict[str, Any]]:
        """What of its variables a call was given: those of conda and mamba."""
        return [json.loads(line) for line in _beside(self.record).read_text().splitlines()]


def make_program(
    folder: Path,
    name: str = "micromamba",
    *,
    version: str = "",
    breaks: str = "",
    before_install: str = "def before_wheel(): pass",
) -> OwnProgram:
    """Writes one into a folder, which is made.

    Args:
        breaks: "solve" or "install": what it fails at, having written something; "hash": what it
            does not tell; "version": it does not know that option.
        before_install: what it calls before it installs, see `Gate.before_wheel`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, record = folder / name, folder / f"{name}.calls"
    tests = Path(__file__).resolve().parents[1]
    source = _SOURCE.format(
        python=sys.executable,
        paths=[str(tests)],
        name=name,
        version=version or VERSIONS[name],
        record=str(record),
        breaks=breaks,
        before_wheel=before_install,
    )
    path.write_text(source)
    path.chmod(0o755)
    return OwnProgram(path, record)


def _beside(record: Path) -> Path:
    return record.with_suffix(".variables")
