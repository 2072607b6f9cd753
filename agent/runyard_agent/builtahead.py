"""Working folders made before they are wanted: of large snapshots that come again and again.

A sweep over parameters submits one snapshot many times. While one of its runs executes, the folder
of the next is laid out in the background, from the content store as any other; the run that comes
finds it and only renames it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Executor

from runyard_agent import journal
from runyard_agent.folders import Folders
from runyard_agent.workdir import Abandoned, LayoutFailed, WorkIndex
from runyard_contract.errors import RunyardError

NICENESS = 10
_SEEN_MAX = 64

LayOut = Callable[[str, Callable[[], bool]], WorkIndex]
"""Lays a snapshot out at a path, for as long as it is wanted."""


class BuiltAhead:
    """Builds one folder at a time, in `disk`, at low priority; each snapshot has at most one.

    Of the snapshots that come while one is being built, the last has its turn after it.
    """

    def __init__(self, folders: Folders, disk: Executor) -> None:
        self._folders = folders
        self._disk = disk
        self._seen: dict[str, None] = {}
        self._is_building = False
        self._next: tuple[str, LayOut] | None = None
        self._is_wanted = True

    def started(self, root_digest: str, lay_out: LayOut) -> None:
        """A run of this snapshot was handed over: builds for the next, if it is not the first."""
        is_repeated = root_digest in self._seen
        self._seen.pop(root_digest, None)
        self._seen[root_digest] = None
        while len(self._seen) > _SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        if is_repeated:
            self._next = root_digest, lay_out
            self._go_on()

    def _go_on(self) -> None:
        """Builds what is next, unless something is being built."""
        if self._is_building or self._next is None or not self._is_wanted:
            return
        (root_digest, lay_out), self._next = self._next, None
        if self._folders.has(root_digest):
            return
        path = self._folders.new_path()
        loop = asyncio.get_running_loop()
        building = loop.run_in_executor(self._disk, self._build, path, lay_out)
        self._is_building = True
        building.add_done_callback(lambda done: self._built(root_digest, path, done))

    def close(self) -> None:
        """Leaves what is being built; the next agent finds it abandoned."""
        self._is_wanted = False

    def _build(self, path: str, lay_out: LayOut) -> None:
        """Makes a folder as a bundle has it. Blocks."""
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)  # of this thread
        try:
            os.mkdir(path, 0o700)
            os.mkdir(path + "/job", 0o755)
            lay_out(path + "/work", lambda: self._is_wanted).save(path + "/work.index")
        finally:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, 0, 0)

    def _built(self, root_digest: str, path: str, done: asyncio.Future[None]) -> None:
        """The folder is ready, or not worth keeping; the next has its turn."""
        self._is_building = False
        if done.cancelled():
            return
        error = done.exception()
        if error is None:
            self._folders.add_built(path, root_digest)
        elif isinstance(error, OSError | RunyardError | LayoutFailed | Abandoned):
            journal.info("not_built_ahead", why=str(error))
            self._folders.discard(path)
        else:
            journal.failure("not_built_ahead", error)
            self._folders.discard(path)
        self._go_on()
