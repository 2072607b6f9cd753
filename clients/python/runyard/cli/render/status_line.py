"""One line on a terminal that says what is going on, and goes away when there is something else."""

from __future__ import annotations

import threading
import time

from runyard.cli.output import STDERR_FD, Output, write_all
from runyard.cli.render.amounts import duration_text
from runyard.cli.render.text import clean_line

_FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAME_S = 0.1
_ERASE = b"\r\x1b[K"
# What is over sooner needs no line, which would only flicker.
_QUIET_S = 0.25


class StatusLine:
    """A line on stderr with the time since it began; on anything but a terminal, nothing.

    Use as a context manager: leaving it clears the line.
    """

    def __init__(self, output: Output) -> None:
        self._is_shown = output.is_terminal(STDERR_FD)
        self._text = ""
        self._started_s = time.monotonic()
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Shows a text, of any origin, from now on. After `clear` this does nothing."""
        if not self._is_shown:
            return
        with self._lock:
            self._text = clean_line(text)
        if self._thread is None:
            self._thread = threading.Thread(target=self._draw, name="runyard-status", daemon=True)
            self._thread.start()

    def clear(self) -> None:
        """Takes the line away for good. Any thread may do so."""
        self._is_shown = False
        self._is_over.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _draw(self) -> None:
        """Draws until it is over."""
        frame = 0
        if self._is_over.wait(_QUIET_S):
            return
        while True:
            with self._lock:
                text = self._text
            elapsed = duration_text(time.monotonic() - self._started_s)
            import shutil  # brings two compression libraries; most commands are over by now

            width = shutil.get_terminal_size().columns - 4 - len(elapsed)
            line = f"{_FRAMES[frame % len(_FRAMES)]} {text[: max(width, 0)]} {elapsed}"
            write_all(STDERR_FD, _ERASE + line.encode("utf-8", "backslashreplace"))
            frame += 1
            if self._is_over.wait(_FRAME_S):
                write_all(STDERR_FD, _ERASE)
                return
