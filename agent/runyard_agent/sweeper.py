"""Deletes what is no longer needed: later, slowly, and when nothing is in a hurry."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from runyard_agent import journal
from runyard_agent.bundles import STREAMS, Bundle

DELAY_S = 5.0
"""Between the end of a run and the deletion of its files: a burst of runs is over by then."""
PAUSE_S = 0.02
_SPOOL = (*STREAMS, "environment.txt", "lease.pb", "spec.json", "state.json")


class Sweeper:
    """Takes paths to `trash` at once (one rename) and deletes them some time later."""

    def __init__(self, trash: Path, disk: Executor, delay_s: float = DELAY_S) -> None:
        self._trash = trash
        self._disk = disk
        self._delay_s = delay_s
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        self._wake = asyncio.Event()

    def take(self, path: str) -> None:
        """Moves something out of the way; it is deleted later."""
        target = f"{self._trash}/{os.path.basename(path)}.{secrets.token_hex(4)}"
        try:
            os.rename(path, target)
        except FileNotFoundError:
            return
        except OSError as error:
            journal.warning("not_moved_to_trash", path=path, why=str(error))
            return
        self._after(self._delay_s, lambda: delete(target))

    def keep(self, bundle: Bundle, expire_unix_s: float) -> None:
        """Keeps a forgotten bundle's working folder until then; its spool goes before."""
        self._after(self._delay_s, lambda: _delete_spool(bundle.path))
        left_s = max(self._delay_s, expire_unix_s - time.time())
        self._after(left_s, lambda: delete(bundle.path))

    def restore(self) -> None:
        """Takes up what earlier agents had thrown away."""
        for name in os.listdir(self._trash):
            path = f"{self._trash}/{name}"
            self._after(self._delay_s, lambda path=path: delete(path))  # type: ignore[misc]

    def _after(self, delay_s: float, what: Callable[[], None]) -> None:
        """Notes something to be done."""
        self._number += 1
        heapq.heappush(self._due, (time.monotonic() + delay_s, self._number, what))
        self._wake.set()

    async def run(self) -> None:
        """Does what is due, one thing at a time. No timer runs while nothing waits."""
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            left_s = self._due[0][0] - time.monotonic() if self._due else None
            if left_s is None or left_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left_s):
                        await self._wake.wait()
                continue
            _, _, what = heapq.heappop(self._due)
            try:
                await loop.run_in_executor(self._disk, what)
            except OSError as error:
                journal.warning("not_deleted", why=str(error))
            await asyncio.sleep(PAUSE_S)


def delete(path: str) -> None:
    """Deletes a folder or file of a job's, whatever modes it has given its folders. Blocks."""

    def make_accessible(function: Callable[..., Any], name: str, _error: Any) -> None:
        """Opens the folder that could not be entered or changed, and tries again."""
        for folder in (os.path.dirname(name), name):
            with contextlib.suppress(OSError):
                if stat.S_ISDIR(os.lstat(folder).st_mode):
                    os.chmod(folder, 0o700)
        with contextlib.suppress(OSError):
            if function in (os.open, os.scandir, os.lstat):
                shutil.rmtree(name, ignore_errors=True)
            else:
                function(name)

    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, onerror=make_accessible)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _delete_spool(bundle: str) -> None:
    """Deletes what only shipping needed; the working folder stays."""
    for name in _SPOOL:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{bundle}/{name}")
    delete(f"{bundle}/job")
