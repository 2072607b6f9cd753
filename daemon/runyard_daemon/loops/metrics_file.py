"""Keeps a file with the daemon's figures, for a collector that reads text files."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from runyard_daemon.control.figures import Figures
from runyard_daemon.journal import Journal

PAUSE_S = 15.0


async def keep_metrics_file(figures: Figures, path: Path, journal: Journal) -> None:
    """Never returns. A reader sees a whole file always; a file that can't be written is reported.

    The report comes once, and again after it has worked in between.
    """
    is_failing = False
    while True:
        text = await figures.exposition()
        try:
            await asyncio.to_thread(write_file, path, text)
            is_failing = False
        except OSError as error:
            if not is_failing:
                journal.warning("metrics_file_failed", path=path, why=error.strerror)
            is_failing = True
        await asyncio.sleep(PAUSE_S)


def write_file(path: Path, text: str) -> None:
    """Puts a file in place in one step, readable for all: the collector is another account."""
    # A collector of text files takes those that end with `.prom`: this one does not.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(temporary, flags, 0o644)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
