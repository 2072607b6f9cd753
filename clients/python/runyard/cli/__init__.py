"""The `runyard` command: parses, calls the SDK, renders. One file a command group."""

import os
import sys

from runyard.cli.import_path import without_pythonpath

# Before anything else is imported; only the command itself imports this package.
sys.path[:] = without_pythonpath(sys.path, os.environ, __file__)
