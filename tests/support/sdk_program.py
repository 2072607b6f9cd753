"""Programs that use the SDK, run as users run them: in a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from support.house import House


def program(house: House, folder: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Runs a program that uses the SDK, in a folder, in the house's environment."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=house.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def result_of(house: House, folder: Path, code: str) -> dict[str, object]:
    """What the program's `result` holds at its end."""
    done = program(house, folder, code + "\nimport json\nprint('RESULT', json.dumps(result))")
    found: dict[str, object] = json.loads(done.stdout.rpartition("RESULT ")[2])
    return found
