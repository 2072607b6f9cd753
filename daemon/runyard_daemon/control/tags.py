"""Tags and properties that jobs set by lines in a file: each line applied once, in order.

How far the file was applied is kept in the same transaction as what it changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from runyard_contract.limits import TAGS_MAX
from runyard_daemon.control.finish import merged_warnings
from runyard_daemon.control.live import HeldAttempt, Live
from runyard_daemon.control.spec import label_violations
from runyard_daemon.logs.tags import FreshTags, read_fresh
from runyard_daemon.store import Connection, attempts, labels, runs


class JobTags:
    """Applies fresh lines of tags files."""

    def __init__(self, live: Live, logs_root: Path) -> None:
        self._live = live
        self._root = logs_root
        self._turns: dict[str, asyncio.Lock] = {}

    async def drain(self, held: HeldAttempt) -> None:
        """Applies all whole lines that the file holds now; returns after they are durable."""
        turn = self._turns.setdefault(held.ref.run_id, asyncio.Lock())
        try:
            async with turn:
                while await self._step(held):
                    pass
        finally:
            if not turn.locked():
                self._turns.pop(held.ref.run_id, None)

    async def _step(self, held: HeldAttempt) -> bool:
        """Applies what one look finds; whether there was anything."""
        record = self._live.store.peek(
            lambda conn: attempts.get(conn, held.ref.run_id, held.ref.attempt)
        )
        if record is None or record.ref != held.ref:
            return False
        before = record.tags_read_bytes
        fresh = await asyncio.to_thread(read_fresh, self._root, held.key, before)
        if fresh.next_offset_bytes == before:
            return False
        await self._live.store.write(lambda conn: _apply(conn, held, before, fresh))
        self._live.changed(held.ref.run_id)
        return True


def _apply(conn: Connection, held: HeldAttempt, before: int, fresh: FreshTags) -> None:
    """Writes fresh lines and how far they reach, unless somebody else did."""
    record = attempts.get(conn, held.ref.run_id, held.ref.attempt)
    run = runs.get(conn, held.ref.run_id)
    if record is None or run is None or record.tags_read_bytes != before:
        return
    if not attempts.update(conn, held.ref, tags_read_bytes=fresh.next_offset_bytes):
        return
    warnings: list[str] = []
    tags = _kept(run.tags, fresh.tags, "tag", warnings)
    properties = _kept(run.properties, fresh.properties, "property", warnings)
    if tags:
        labels.set_tags(conn, run.run_id, tags)
    if properties:
        taken = labels.add_properties(conn, run.run_id, properties)
        warnings += [f'the property "{key}" is set already and keeps its value' for key in taken]
    if fresh.skipped_lines:
        warnings.append(f"{fresh.skipped_lines} lines of the job's tags file could not be read")
    if warnings:
        runs.update(conn, run.run_id, warnings=merged_warnings(run.warnings, tuple(warnings)))


def _kept(
    known: Mapping[str, str], updates: Mapping[str, str], noun: str, warnings: list[str]
) -> dict[str, str]:
    """The updates that keep the rules of labels; what is left out gives a warning."""
    kept: dict[str, str] = {}
    for key, value in updates.items():
        faults = list(label_violations(noun, {key: value}))
        if faults:
            warnings.append(f"the job set a {noun} that is left out: {faults[0][0]} {faults[0][1]}")
        elif key not in known and len(known.keys() | kept.keys()) >= TAGS_MAX:
            warnings.append(f"the job set more than {TAGS_MAX} of: {noun}; the rest is left out")
        else:
            kept[key] = value
    return kept
