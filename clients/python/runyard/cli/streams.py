"""What a script prints goes on to this command's own streams."""

from __future__ import annotations

from runyard.cli.output import STDERR_FD, STDOUT_FD, Output, write_all
from runyard.cli.render.terminal import TerminalFilter
from runyard.follow import STDOUT


class ScriptStreams:
    """The script's two streams: unchanged into pipes and files, filtered on a terminal.

    Args:
        output: where this command writes; with --json both streams go to its stderr.
        is_raw: filter nothing.
    """

    def __init__(self, output: Output, *, is_raw: bool) -> None:
        self._output = output
        self._is_raw = is_raw
        self._filters: dict[str, TerminalFilter] = {}
        self._is_mid_line = False

    def write(self, stream: str, data: bytes) -> None:
        """Passes on what the script wrote. BrokenPipeError where nobody reads any more."""
        fd = self._fd(stream)
        if self._output.is_terminal(fd) and not self._is_raw:
            data = self._filters.setdefault(stream, TerminalFilter()).feed(data)
        self._write(fd, data)

    def finish(self) -> None:
        """Ends the streams: colours are reset, and on a terminal what follows is on a new line."""
        for stream, stream_filter in self._filters.items():
            self._write(self._fd(stream), stream_filter.finish())
        self._filters.clear()
        if self._is_mid_line:
            self._output.say("")
            self._is_mid_line = False

    def _fd(self, stream: str) -> int:
        return STDOUT_FD if stream == STDOUT and not self._output.is_json else STDERR_FD

    def _write(self, fd: int, data: bytes) -> None:
        if not data:
            return
        write_all(fd, data)
        if self._output.is_terminal(fd):
            self._is_mid_line = not data.endswith((b"\n", b"\n\x1b[0m"))
