"""Declares trees in the content store snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from runyard_daemon.content import Content
from runyard_daemon.control import catalog
from runyard_daemon.control.live import Live
from runyard_daemon.control.snapshots import check_tree
from runyard_daemon.store import Connection, snapshots
from runyard_daemon.store.snapshots import DirectoryRecord, SnapshotRecord


class Declarer:
    """Checks trees and keeps them as snapshots."""

    def __init__(self, live: Live, content: Content) -> None:
        self._live = live
        self._content = content

    async def declare(self, workspace: str, root: str) -> SnapshotRecord:
        """Makes a tree a snapshot after checking that it is safe, within limits and complete.

        Directories that were checked before are not walked again. Idempotent. Raises what
        `check_tree` raises, and WorkspaceNotFound.
        """
        store = self._live.store
        spelled = store.peek(lambda conn: catalog.workspace(conn, workspace)).name
        self._content.pin([root])  # the run that will use it is still to come
        known = store.peek(lambda conn: snapshots.get(conn, spelled, root))
        if known is not None:
            return known
        # To its end also for a caller that is gone: a garbage collection waits for this.
        return await self._live.background.whole(self._declare(spelled, root), "declare")

    async def _declare(self, workspace: str, root: str) -> SnapshotRecord:
        with self._content.underway.one():
            return await self._check_and_keep(workspace, root)

    async def _check_and_keep(self, workspace: str, root: str) -> SnapshotRecord:
        store = self._live.store
        loop = asyncio.get_running_loop()

        def find_known(directories: Sequence[DirectoryRecord]) -> set[str]:
            """Asks the store from the thread that walks."""
            if not directories or self._content.store.has_condemned:
                return set()
            digests = [directory.digest for directory in directories]
            reading = store.read(lambda conn: snapshots.find_complete(conn, digests))
            found = asyncio.run_coroutine_threadsafe(reading, loop).result()
            return {
                directory.digest
                for directory in directories
                if found.get(directory.digest) == directory
            }

        checked = await self._content.run(lambda content: check_tree(root, content, find_known))
        record = SnapshotRecord(
            workspace, root, checked.files, checked.size_bytes, self._live.now_us()
        )

        def write(conn: Connection) -> SnapshotRecord:
            snapshots.add_complete(conn, checked.complete)
            return snapshots.put(conn, record)

        return await store.write(write)
