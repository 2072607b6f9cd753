"""How a process that lives long looks for garbage."""

from __future__ import annotations

import gc

_YOUNG_OBJECTS = 20_000
"""Made since the last look, from which the youngest are looked through: a burst of runs makes some
hundred thousand a second, nearly all of which are freed without a look."""


def collect_seldom() -> None:
    """Leaves out of every later look what there is now, and looks seldom.

    Call it once what stays is loaded. With the interpreter's own figures a tenth of a busy daemon's
    time goes into looking through its modules for garbage (see `gc.freeze`).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
