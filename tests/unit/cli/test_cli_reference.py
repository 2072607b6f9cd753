"""The page that documents the command line is what the commands say of themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_reference_is_current() -> None:
    script = ROOT / "scripts" / "write_cli_reference.py"

    checked = subprocess.run(
        [sys.executable, script, "--check"], capture_output=True, text=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
