"""Ctrl-C while a command waits for a run: the first is a request, the second leaves at once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType


class LeaveNow(BaseException):
    """The user wants to leave, whatever the run does."""


@contextlib.contextmanager
def on_interrupt(first: Callable[[], None] | None) -> Iterator[None]:
    """Calls `first` at the first SIGINT in the block; the next one raises LeaveNow in it.

    `first` runs between two steps of the block, so it must be quick. Without it the first SIGINT
    raises LeaveNow.
    """
    seen = first is None

    def handle(_number: int, _frame: FrameType | None) -> None:
        nonlocal seen
        if seen or first is None:
            raise LeaveNow
        seen = True
        first()

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
