"""The workspace that a command opens."""

from __future__ import annotations

import gc
import weakref

from runyard.cli.session import open_workspace


def test_workspace_outlives_the_command_that_opened_it() -> None:
    """The process ends by itself; a channel freed while Ctrl-C unwinds can block that."""
    left_behind = weakref.ref(open_workspace())

    gc.collect()

    assert left_behind() is not None
