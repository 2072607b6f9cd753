"""Where the `runyard` command begins, before anything else of it is imported.

Ctrl-C leaves at once until the commands are loaded: as an exception it would be a traceback in the
middle of an import.
"""

import gc
import os
import signal
import sys

from runyard.cli.deferred_imports import defer_imports
from runyard.cli.import_path import without_pythonpath

_EXIT_INTERRUPTED = 130
# Imports make objects that stay: looking through them for garbage, as often as the default has it,
# costs a twentieth of a command.
_COLLECT_AFTER_OBJECTS = 50_000


def _leave(_number: int, _frame: object) -> None:
    os.write(2, b"runyard: interrupted\n")
    os._exit(_EXIT_INTERRUPTED)


def main() -> None:
    """The entry point of the console script. Never returns."""
    signal.signal(signal.SIGINT, _leave)
    sys.path[:] = without_pythonpath(sys.path, os.environ, __file__)
    gc.set_threshold(_COLLECT_AFTER_OBJECTS)
    defer_imports()
    from runyard.cli.main import entry

    signal.signal(signal.SIGINT, signal.default_int_handler)
    entry()
