"""The Pythons of this machine that jobs may have."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

VERSIONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")
RUNNING = f"3.{sys.version_info.minor}"


def find_pythons() -> dict[str, str]:
    """An interpreter of each version that jobs may have and this machine has, by version.

    The running one is always among them; a shim of pyenv that does not start is not one.
    """
    home = pwd.getpwuid(os.getuid()).pw_dir  # HOME is a test's own folder
    roots = dict.fromkeys([os.environ.get("PYENV_ROOT", ""), f"{home}/.pyenv"])
    found = {RUNNING: sys.executable}
    for version in VERSIONS:
        candidates = [
            *(
                path
                for root in roots
                for path in Path(root).glob(f"versions/{version}.*/bin/python")
            ),
            shutil.which(f"python{version}"),
        ]
        for candidate in candidates:
            if version not in found and candidate and _starts(candidate):
                found[version] = str(candidate)
    return {version: found[version] for version in [*VERSIONS, RUNNING] if version in found}


def _starts(python: str | Path) -> bool:
    try:
        ended = subprocess.run(
            [python, "-S", "-c", ""], capture_output=True, timeout=60, check=False
        )
    except OSError:
        return False
    return ended.returncode == 0
