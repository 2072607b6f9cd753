"""Removes blobs that nothing needs.

A blob is garbage when no record leads to it, it is older than the grace period and nobody was told
of it lately. The race is with those who are just making a record that leads to it:

1. *mark* what the records lead to, as of one moment; the rest that is old enough is a candidate.
   A snapshot that no run uses is a record until it is older than the grace period;
2. *condemn* the candidates, but nothing that is pinned: whoever looks from now on misses them, and
   stores them again; meanwhile no directory is taken for complete without a look into it;
3. wait until every check that began before is over, with its record made or given up;
4. *mark again* with the records made since, and *spare* what they lead to;
5. *forget* which directories below no record were complete;
6. *sweep* the rest.

Killed at any step, each blob is there or is garbage that is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial

from runyard_contract.content.store import ContentStore
from runyard_contract.errors import BlobCorrupt, BlobMissing, StateNotAllowed
from runyard_daemon.content import Content
from runyard_daemon.control.live import Live
from runyard_daemon.control.needed import Reach, Reached, whole_only
from runyard_daemon.store import references
from runyard_daemon.store.references import Roots, Unused

GRACE_S = 24 * 3600.0
_ROWS = 500
"""Rows of one transaction, so that no submit waits long behind it."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Some blobs."""

    count: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Collected:
    """What a round removed, or would remove, and what stayed."""

    garbage: Amount
    kept: Amount


@dataclass(slots=True)
class _Stored:
    """One blob, wherever it lies."""

    size_bytes: int
    stored_s: int


class Round:
    """One round over the content store: its steps, which block, in the order of the text above."""

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._needed: set[str] = set()
        self._reach = Reach(content.read)
        self._stored: dict[str, _Stored] = {}
        self.candidates: frozenset[str] = frozenset()

    def mark(self, roots: Roots) -> None:
        """Notes all that these lead to. Raises StateNotAllowed where it can't be told."""
        self._needed |= roots.files
        for digest in roots.snapshots:
            self._mark(f"the snapshot {digest}", self._reach.tree(digest))
        for digest in roots.chunk_lists:
            self._mark(f"a file of a run ({digest})", self._reach.file(digest, is_chunked=True))
        for digest in roots.sealed:
            self._needed.update(blob for blob, _ in whole_only(self._reach.tree(digest)))

    def _mark(self, what: str, reached: Iterable[Reached]) -> None:
        try:
            self._needed.update(digest for digest, _ in reached)
        except (BlobMissing, BlobCorrupt) as error:
            raise _unknown(what, error.message) from error

    def choose(self, pinned: Collection[str], stored_until_s: float) -> None:
        """Chooses the candidates: not needed, not pinned, stored until that moment."""
        for blob in self._content.walk():
            known = self._stored.setdefault(blob.digest, _Stored(0, 0))
            known.size_bytes += blob.size_bytes
            known.stored_s = max(known.stored_s, blob.stored_s)
        self.candidates = frozenset(
            digest
            for digest, stored in self._stored.items()
            if stored.stored_s <= stored_until_s
            and digest not in self._needed
            and digest not in pinned
        )

    def not_needed(self, directories: Iterable[str]) -> list[str]:
        """Those directories to which no record leads."""
        return [digest for digest in directories if digest not in self._reach.followed]

    def condemn(self, pinned: Collection[str]) -> None:
        """Makes the candidates count as missing, all that were not pinned meanwhile."""
        self.candidates = self.candidates.difference(pinned)
        self._content.condemn(self.candidates)

    def spare(self, roots: Roots) -> None:
        """Marks again, with all records of now, and condemns less. Raises StateNotAllowed."""
        self.mark(roots)
        spared = self.candidates & self._needed
        self._content.spare(spared)
        self.candidates -= spared

    def sweep(self) -> None:
        """Removes the candidates that are left."""
        self._content.sweep()

    def give_up(self) -> None:
        """Condemns nothing any more. Idempotent; harmless after `sweep`."""
        self._content.spare(self.candidates)

    def collected(self) -> Collected:
        """What the candidates are, and the rest."""
        garbage = _amount(self._stored[digest] for digest in self.candidates)
        everything = _amount(self._stored.values())
        kept = Amount(everything.count - garbage.count, everything.size_bytes - garbage.size_bytes)
        return Collected(garbage, kept)


class GarbageCollector:
    """Runs rounds, one at a time."""

    def __init__(self, live: Live, content: Content) -> None:
        self._live = live
        self._content = content
        self._running = asyncio.Lock()

    async def collect(self, grace_s: float, *, is_dry_run: bool = False) -> Collected:
        """Removes what nothing needs and is older than `grace_s`, or only says what that is.

        Submits and uploads go on meanwhile. Raises StateNotAllowed where a damaged manifest hides
        what is needed; then nothing is removed.
        """
        async with self._running:
            content, live = self._content, self._live
            until_s = live.now_us() / 1e6 - grace_s
            pinned = content.pinned()
            found = await live.store.read(
                lambda conn: references.unused_snapshots(conn, int(until_s * 1e6))
            )
            unused = replace(found, snapshots=found.snapshots - pinned)
            roots = await live.store.read(lambda conn: references.roots(conn, unused))
            work = Round(content.store)
            await asyncio.to_thread(work.mark, roots)
            await asyncio.to_thread(work.choose, pinned, until_s)
            if not is_dry_run:
                async with live.removal:  # not while a backup copies what records of before need
                    await self._remove(work, unused)
            return work.collected()

    async def _remove(self, work: Round, unused: Unused) -> None:
        """Steps 2 to 6; what was condemned is held again whatever happens."""
        content, store = self._content, self._live.store
        await store.write(lambda conn: references.forget_snapshots(conn, unused))
        work.condemn(content.pinned())
        try:
            await content.underway.settled()
            nothing = replace(unused, snapshots=frozenset())
            roots = await store.read(lambda conn: references.roots(conn, nothing))
            await asyncio.to_thread(work.spare, roots)
            forgotten = work.not_needed(await store.read(references.complete_directories))
            for start in range(0, len(forgotten), _ROWS):
                part = forgotten[start : start + _ROWS]
                await store.write(partial(references.forget_complete, digests=part))
            await asyncio.to_thread(work.sweep)
        finally:
            work.give_up()
        await asyncio.to_thread(content.store.merge_packs)


def _amount(stored: Iterable[_Stored]) -> Amount:
    count = size_bytes = 0
    for blob in stored:
        count += 1
        size_bytes += blob.size_bytes
    return Amount(count, size_bytes)


def _unknown(what: str, why: str) -> StateNotAllowed:
    return StateNotAllowed(
        f"what {what} needs can't be told, so nothing was removed: {why}",
        hint="submit its source directory again, and check the disk",
    )
