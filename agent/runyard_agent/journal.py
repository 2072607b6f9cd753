"""The agent's own log: one JSON object a line on standard error, nothing a peer sends unescaped."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

_LOGGER = logging.getLogger("runyard_agent")


class _JsonLines(logging.Formatter):
    """Formats a record as one line of JSON, ASCII only, so that no value can forge a line."""

    def format(self, record: logging.LogRecord) -> str:
        milliseconds = int(record.created * 1000) % 1000
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{moment}.{milliseconds:03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line.update(getattr(record, "values", {}))
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def start() -> None:
    """Sends the log to standard error; call once, before anything else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    _LOGGER.setLevel(logging.INFO)
    logging.captureWarnings(True)


def info(event: str, **values: object) -> None:
    """Something worth knowing happened."""
    _LOGGER.info("%s", event, extra={"values": values})


def warning(event: str, **values: object) -> None:
    """Something went wrong that the agent gets over."""
    _LOGGER.warning("%s", event, extra={"values": values})


def failure(event: str, error: BaseException, **values: object) -> None:
    """Something went wrong that nobody expected; with its traceback."""
    _LOGGER.error("%s", event, exc_info=error, extra={"values": values})
