"""Clients that submit trees while garbage is collected, snapshots go, and the daemon is killed.

Earns its place because "what a record leads to is there" is a matter of who looks when: each step
of the collection and of a submit is one rule here, in any order. Store, round, check of a tree and
pins are the real ones; the records are two sets. Each seeded bug is a step that a plausible
collector leaves out, and must be found.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from runyard_contract.content.store import ContentStore
from runyard_contract.digest import digest_bytes
from runyard_contract.errors import BlobMissing, RunyardError
from runyard_contract.manifest import DirectoryEntry, FileEntry, encode_directory
from runyard_daemon.control.garbage import Round
from runyard_daemon.control.snapshots import Checked, check_tree
from runyard_daemon.core.pins import PINNED_S, Pins
from runyard_daemon.store.references import Roots
from runyard_daemon.store.snapshots import DirectoryRecord
from support.stateful import check

STEPS = 8
FOLDERS = {"small": range(2), "large": range(2, 12)}
FUTURE_S = 4e9
# What is durable is not tried here, and a sync of a disk would be most of the time.
FOLDER = "/dev/shm" if Path("/dev/shm").is_dir() else "/tmp"


@dataclass(frozen=True)
class Tree:
    """A source directory: its root, all its blobs, and those of each folder by its manifest."""

    root: str
    blobs: dict[str, bytes]
    folders: dict[str, list[str]]


def make_tree(folders: Sequence[str]) -> Tree:
    blobs: dict[str, bytes] = {}
    entries = []
    below_of: dict[str, list[str]] = {}
    for name in folders:
        files = []
        for number in FOLDERS[name]:
            data = b"%d" % number * (number + 1)
            blobs[digest_bytes(data)] = data
            files.append(FileEntry(f"f{number}", digest_bytes(data), len(data)))
        below = encode_directory(files)
        blobs |= below.blobs
        below_of[below.digest] = [below.digest, *(file.digest for file in files)]
        entries.append(DirectoryEntry(name, below.digest, below.files, below.size_bytes))
    top = encode_directory(entries)
    return Tree(top.digest, blobs | top.blobs, below_of)


TREES = [make_tree(folders) for folders in (["large"], ["small", "large"])]


@dataclass
class Client:
    """A submit: what it sends, what was checked for it."""

    tree: Tree
    to_send: list[str]
    is_sent: bool = False
    checked: Checked | None = None
    round_when_checked: int = 0
    has_pins: bool = True


class GarbageMachine(RuleBasedStateMachine):
    """One daemon, up to three clients, one collection at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(dir=FOLDER, prefix="ry-")
        self.root = Path(self.folder.name) / "blobs"
        self.store = self.open_store()
        self.pins = Pins()
        self.now_s = 0.0
        self.snapshots: set[str] = set()
        self.complete: dict[str, DirectoryRecord] = {}
        self.clients: list[Client] = []
        self.round: Round | None = None
        self.step = 0
        self.waited_for: list[Client] = []

    def open_store(self) -> ContentStore:
        store = ContentStore(self.root)
        store.remove_leftovers()
        return store

    def teardown(self) -> None:
        """With nobody left a collection removes all that is not needed, and nothing else."""
        try:
            self.crash()
            self.collect(7)
            needed = {d for t in TREES if t.root in self.snapshots for d in t.blobs}
            assert {blob.digest for blob in self.store.walk()} == needed
            self.needed_blobs_are_there()
        finally:
            self.store.close()
            self.folder.cleanup()

    def roots(self) -> Roots:
        return Roots(snapshots=frozenset(self.snapshots))

    # ---- clients

    @precondition(lambda self: len(self.clients) < 3)
    @rule(number=st.integers(0, len(TREES) - 1), is_thorough=st.booleans(), steps=st.integers(0, 3))
    def submit(self, number: int, is_thorough: bool, steps: int) -> None:
        """A client asks what is lacking, and perhaps goes on at once.

        One that is not thorough takes a folder whose manifest is there for complete.
        """
        tree = TREES[number]
        if is_thorough:
            client = Client(tree, self.missing(list(tree.blobs)))
        else:
            lacking = self.missing([tree.root, *tree.folders])
            below = [digest for name in lacking for digest in tree.folders.get(name, [])]
            client = Client(tree, [*lacking, *self.missing(below)], has_pins=False)
        self.clients.append(client)
        for _ in range(steps):
            self.advance(client)

    def missing(self, digests: list[str]) -> list[str]:
        self.pin(digests)
        return self.store.missing(digests)

    @precondition(lambda self: self.clients)
    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        self.advance(self.clients[data.draw(st.integers(0, len(self.clients) - 1))])

    def advance(self, client: Client) -> None:
        """The next step of a submit: send, have it checked, have it recorded."""
        if client not in self.clients:
            return
        if not client.is_sent:
            self.pin(client.to_send)
            self.store.put_many((digest, client.tree.blobs[digest]) for digest in client.to_send)
            client.is_sent = True
        elif client.checked is None:
            try:
                client.checked = check_tree(client.tree.root, self.store, self.find_known)
            except BlobMissing:
                assert not client.has_pins, "refused although it was just told that all is there"
                self.clients.remove(client)
        else:
            self.snapshots.add(client.tree.root)
            self.complete |= {known.digest: known for known in client.checked.complete}
            self.clients.remove(client)

    @rule(number=st.integers(0, len(TREES) - 1))
    def leave_garbage(self, number: int) -> None:
        """A tree was a snapshot; all were deleted, and pins have expired since."""
        tree = TREES[number]
        self.store.put_many(tree.blobs.items())
        checked = check_tree(tree.root, self.store, self.find_known)
        self.complete |= {known.digest: known for known in checked.complete}
        self.snapshots.clear()
        self.pins_expire()

    def pins_expire(self) -> None:
        self.now_s += 2 * PINNED_S
        for client in self.clients:
            client.has_pins = False

    @rule(
        number=st.integers(0, len(TREES) - 1),
        is_thorough=st.booleans(),
        turns=st.lists(
            st.sampled_from(["client", "client", "collector", "collector", "rest", "expire"]),
            min_size=12,
            max_size=12,
        ),
    )
    def race(self, number: int, is_thorough: bool, turns: list[str]) -> None:
        """A client wants what is garbage, while it is collected."""
        self.leave_garbage(number)
        for turn in turns:
            if turn == "collector":
                self.collect(self.step + 1)
            elif turn == "rest":
                self.collect(7)
            elif turn == "expire":
                self.pins_expire()
            elif self.clients:
                self.advance(self.clients[-1])
            else:
                self.submit(number, is_thorough, 0)

    def find_known(self, directories: Sequence[DirectoryRecord]) -> set[str]:
        return set() if self.store.has_condemned else self.known(directories)

    def known(self, directories: Sequence[DirectoryRecord]) -> set[str]:
        return {known.digest for known in directories if self.complete.get(known.digest) == known}

    # ---- the collection, step by step; what a seeded bug replaces

    def pin(self, digests: list[str]) -> None:
        self.pins.add(digests, self.now_s)

    def begin(self) -> None:
        self.round = Round(self.store)
        self.round.mark(self.roots())

    def choose(self) -> None:
        assert self.round is not None
        self.round.choose(self.pins.held(self.now_s), FUTURE_S)

    def forget(self) -> None:
        assert self.round is not None
        for digest in self.round.not_needed(list(self.complete)):
            del self.complete[digest]

    def condemn(self) -> None:
        assert self.round is not None
        self.round.condemn(self.pins.held(self.now_s))
        self.waited_for = [client for client in self.clients if client.checked]

    def wait(self) -> bool:
        """Whether all that was being checked is recorded or given up."""
        return not any(client in self.clients for client in self.waited_for)

    def spare(self) -> None:
        assert self.round is not None
        self.round.spare(self.roots())

    def sweep(self) -> None:
        assert self.round is not None
        self.round.sweep()

    def finish(self) -> None:
        assert self.round is not None
        self.round.give_up()
        self.store.merge_packs()
        self.round = None

    @rule(end=st.sampled_from([2, 3, 4, 7]))
    def collect(self, end: int) -> None:
        """The next steps of a collection: until it has chosen, condemned, spared, or to its end."""
        order = (
            *(self.begin, self.choose, self.condemn, self.spare),
            *(self.forget, self.sweep, self.finish),
        )
        for number in range(self.step, end):
            if order[number] == self.spare and not self.wait():
                return
            order[number]()
            self.step = (number + 1) % len(order)

    @rule()
    def crash(self) -> None:
        self.store.close()
        self.store = self.open_store()
        self.pins, self.clients, self.round, self.step = Pins(), [], None, 0

    # ---- what must hold

    @invariant()
    def needed_blobs_are_there(self) -> None:
        for tree in TREES:
            if tree.root in self.snapshots:
                for digest, data in tree.blobs.items():
                    assert self.store.read(digest) == data


class TakesNoSecondLook(GarbageMachine):
    def spare(self) -> None:
        pass


class DoesNotWait(GarbageMachine):
    def wait(self) -> bool:
        return True


class KeepsDirectoriesComplete(GarbageMachine):
    def forget(self) -> None:
        pass


class TrustsDirectoriesMeanwhile(GarbageMachine):
    def find_known(self, directories: Sequence[DirectoryRecord]) -> set[str]:
        return self.known(directories)


class RemovesWhatIsStillOffered(GarbageMachine):
    """Blobs count as held until the moment they are removed."""

    def condemn(self) -> None:
        super().condemn()
        assert self.round is not None
        self.store.spare(self.round.candidates)

    def sweep(self) -> None:
        assert self.round is not None
        self.store.condemn(self.round.candidates)
        self.round.sweep()


class RemovesWhatWasStoredAgain(GarbageMachine):
    """What a client stored in the middle of a round is removed with the old copy."""

    def sweep(self) -> None:
        assert self.round is not None
        self.store.condemn(self.round.candidates)
        self.round.sweep()


class PinsNothing(GarbageMachine):
    def pin(self, digests: list[str]) -> None:
        pass


def test_model_garbage_keeps_what_a_record_leads_to() -> None:
    check(GarbageMachine, 15, steps=STEPS, is_seeded=False)


@pytest.mark.slow
def test_model_garbage_keeps_what_a_record_leads_to_in_many_histories() -> None:
    check(GarbageMachine, 100, steps=STEPS, is_seeded=False)


@pytest.mark.parametrize(
    "bug",
    [
        TakesNoSecondLook,
        DoesNotWait,
        KeepsDirectoriesComplete,
        TrustsDirectoriesMeanwhile,
        RemovesWhatIsStillOffered,
        RemovesWhatWasStoredAgain,
        PinsNothing,
    ],
)
@pytest.mark.slow
def test_model_garbage_finds_a_broken_collector(bug: type[GarbageMachine]) -> None:
    with pytest.raises((AssertionError, RunyardError)):
        check(bug, 400, steps=STEPS, is_seeded=True)
