"""Where a command writes: stdout for what was asked for, stderr for all that it says besides."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from runyard.cli.render.text import clean

_COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
STDOUT_FD = 1
STDERR_FD = 2


class Output:
    """The two streams of a command.

    Args:
        environ: NO_COLOR and TERM decide on colours, which are for terminals only.
        is_json: results are JSON for programs; errors come as JSON too, beside their text.
    """

    def __init__(self, environ: Mapping[str, str], *, is_json: bool = False) -> None:
        self.is_json = is_json
        self._may_colour = not environ.get("NO_COLOR") and environ.get("TERM", "") != "dumb"
        self._is_terminal = {fd: _is_terminal(fd) for fd in (STDOUT_FD, STDERR_FD)}

    def is_terminal(self, fd: int) -> bool:
        """Whether a person's terminal is behind this descriptor."""
        return self._is_terminal[fd]

    def has_colours(self, fd: int) -> bool:
        """Whether colours may be used on this descriptor."""
        return self._may_colour and self._is_terminal[fd]

    def paint(self, text: str, colour: str, fd: int = STDERR_FD) -> str:
        """The text in a colour where the descriptor has colours."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.has_colours(fd) else text

    def say(self, line: str) -> None:
        """A line on stderr. It is not made safe: clean what came from elsewhere."""
        _write_text(sys.stderr, STDERR_FD, line + "\n")

    def print(self, text: str) -> None:
        """Text on stdout, with a newline. Clean what came from elsewhere."""
        _write_text(sys.stdout, STDOUT_FD, text + "\n")

    def print_json(self, value: Any) -> None:
        """A value as JSON on stdout, in the form that stays: indented by 2, one newline."""
        write_all(STDOUT_FD, json.dumps(value, indent=2).encode("ascii") + b"\n")

    def fact(self, name: str, value: str) -> None:
        """A line "name  value" on stdout."""
        self.print(f"{self.paint(f'{name:<14}', 'dim', STDOUT_FD)} {clean(value)}")


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes all bytes to a descriptor. Raises OSError, BrokenPipeError where nobody reads."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _write_text(stream: TextIO | None, fd: int, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    write_all(fd, text.encode(encoding, "backslashreplace"))


def _is_terminal(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False
