"""The daemon's own log: one JSON object a line, an event's name and its values.

Values are never part of a format: whatever a peer sent stands as one escaped JSON string, so that
it can't forge a line. Nothing secret is ever passed: no environment value, no argument of a job.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import traceback
from datetime import UTC, datetime

_VALUE_CHARS = 4000


class Journal:
    """Writes events to a descriptor. Never raises: a full disk must not end the daemon."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def info(self, event: str, **values: object) -> None:
        """Something expected happened."""
        self._write("info", event, values)

    def warning(self, event: str, **values: object) -> None:
        """Something a person may want to look at happened; the daemon goes on."""
        self._write("warning", event, values)

    def error(self, event: str, **values: object) -> None:
        """Something failed that should not."""
        self._write("error", event, values)

    def failure(self, event: str, error: BaseException, **values: object) -> None:
        """A defect: with the traceback, whose frames show code and no values."""
        lines = traceback.format_exception(error)
        self._write("error", event, {**values, "traceback": "".join(lines)})

    def _write(self, level: str, event: str, values: dict[str, object]) -> None:
        now = datetime.fromtimestamp(time.time(), UTC)
        record: dict[str, object] = {
            "time": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "event": event,
        }
        for name, value in values.items():
            record[name] = value if isinstance(value, bool | int | float) else _shown(value)
        line = json.dumps(record, ensure_ascii=True) + "\n"
        with contextlib.suppress(OSError):
            os.write(self._fd, line.encode("ascii"))


def _shown(value: object) -> str | None:
    """The value as text, cut where it is long."""
    if value is None:
        return None
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= _VALUE_CHARS else text[:_VALUE_CHARS] + "…"


class _Bridge(logging.Handler):
    """Brings what libraries log with the standard library into the journal."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        write = self._journal.error if record.levelno >= logging.ERROR else self._journal.warning
        values: dict[str, object] = {"logger": record.name, "message": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            values["traceback"] = "".join(traceback.format_exception(record.exc_info[1]))
        write("library", **values)


def take_over_logging(journal: Journal) -> None:
    """Sends warnings of libraries (asyncio, grpc) to the journal instead of stderr."""
    root = logging.getLogger()
    root.handlers[:] = [_Bridge(journal)]
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)
