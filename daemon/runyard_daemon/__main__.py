"""Starts the daemon: `python -P -m runyard_daemon serve`."""

import sys

from runyard_daemon.main import main

sys.exit(main())
