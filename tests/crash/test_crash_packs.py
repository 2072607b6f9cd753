"""A writer of the content store killed before each of its steps on the disk.

Every call that changes the file system counts as a step. The kill before step N is an exception
that no clean-up gets past: from then on every such call fails, as if the process were gone. N goes
from 1 until the work is done without a kill.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes

Blob = tuple[str, bytes]
STEPS = ("write", "rename", "unlink", "mkdir", "fsync")


class Killed(BaseException):
    """The process is gone."""


class Killer:
    """Kills before one step, and all later ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
        self.left = step
        for name in STEPS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **options: object) -> object:
            self.left -= 1
            if self.left <= 0:
                raise Killed
            return call(*args, **options)

        return counted


def blobs_of(name: str, count: int) -> list[Blob]:
    blobs = [f"{name} {number} ".encode() * (number + 1) for number in range(count)]
    return [(digest_bytes(data), data) for data in blobs]


OLD, NEW, GONE = blobs_of("old", 30), blobs_of("new", 30), blobs_of("gone", 60)
LOOSE = blobs_of("loose", 3)


def put(store: ContentStore) -> None:
    store.put_many([*NEW, (digest_bytes(bytes(200_000)), bytes(200_000))])


def put_few(store: ContentStore) -> None:
    store.put_many(NEW[:3])


def sweep(store: ContentStore) -> None:
    store.condemn([digest for digest, _ in (*GONE, *LOOSE)])
    store.sweep()


def sweep_and_merge(store: ContentStore) -> None:
    sweep(store)
    store.merge_packs()


def killed_before(step: int, root: Path, work: Callable[[ContentStore], None]) -> bool:
    """Prepares a store, does the work, kills it; True where it was killed."""
    with ContentStore(root) as store:
        store.put_many([*OLD[:15], *GONE[:50]])
        store.put_many([*OLD[15:], *GONE[50:]])
        store.put_many(LOOSE)
    with pytest.MonkeyPatch.context() as patched:
        with ContentStore(root) as store:
            Killer(patched, step)
            try:
                work(store)
            except Killed:
                return True
    return False


@pytest.mark.parametrize("work", [put, put_few, sweep, sweep_and_merge])
def test_crash_packs_leaves_every_blob_whole_or_not_there(
    tmp_path: Path, work: Callable[[ContentStore], None]
) -> None:
    for step in itertools.count(1):
        root = tmp_path / str(step)
        was_killed = killed_before(step, root, work)

        with ContentStore(root, read_only=True) as reader:  # before anything is mended
            assert all(reader.read(digest) == data for digest, data in OLD), step
        with ContentStore(root) as store:
            store.remove_leftovers()
            assert os.listdir(root / "tmp") == []
            held = store.sizes(digest for digest, _ in (*OLD, *NEW, *GONE, *LOOSE))
            for digest, data in (*OLD, *NEW, *GONE, *LOOSE):
                assert digest not in held or store.read(digest) == data, step
            assert {digest for digest, _ in OLD} <= held.keys(), step
            work(store)  # what was cut off can be done again
            store.put_many(NEW)
            assert all(store.read(digest) == data for digest, data in (*OLD, *NEW)), step
        indexes = {path.stem for path in (root / "packs").glob("*.idx")}
        assert indexes == {path.stem for path in (root / "packs").glob("*.pack")}, step
        if not was_killed:
            assert step > 4
            return
