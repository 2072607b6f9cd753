"""Ctrl-C before the commands are loaded."""

from __future__ import annotations

import subprocess
import sys

# Presses Ctrl-C in the middle of the import of click.
PRESSED = """
import os, signal, sys

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
from runyard.cli.entry import main
main()
"""


def test_interrupt_during_start_says_so_without_a_traceback() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", PRESSED], capture_output=True, check=False)

    assert done.returncode == 130
    assert done.stderr == b"runyard: interrupted\n"
