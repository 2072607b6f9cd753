"""Finds out, with few questions, what the daemon lacks of a snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from runyard.snapshot.tree import EXECUTABLE_FILE, FILE, Tree
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_contract.manifest import Directory, decode_directory, encode_directory

Missing = Callable[[Iterable[str]], set[str]]


@dataclass(slots=True)
class Plan:
    """What must be sent: digest to an entry that has this content, and manifests by depth.

    Content goes first, then the deepest manifests, the root's last. So a directory whose manifest
    the store holds is whole, even after an upload that was cut off.
    """

    files: dict[str, int] = field(default_factory=dict)
    chunked: dict[str, int] = field(default_factory=dict)
    manifests: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the store lacks nothing."""
        return not (self.files or self.chunked or self.manifests)


class Planner:
    """Goes down a tree level by level, only into directories that the store lacks.

    Args:
        missing: says which of some digests the store lacks.
        is_thorough: ask for everything, because the store lost content of manifests that it has.
    """

    def __init__(self, tree: Tree, missing: Missing, *, is_thorough: bool = False) -> None:
        self._tree = tree
        self._missing = missing
        self._is_thorough = is_thorough
        self._plan = Plan()
        self._seen: set[int] = set()  # entries of files to ask for

    def plan(self) -> Plan:
        """What must be sent."""
        level = {self._tree.root_digest.hex(): 0}
        while level:
            level = self._descend(level)
        self._add_files()
        return self._plan

    def _descend(self, level: dict[str, int]) -> dict[str, int]:
        """Plans the manifests of these directories (digest to number); returns those below."""
        lacking = self._missing(level)
        below: dict[str, int] = {}
        manifests: dict[str, bytes] = {}
        for digest, directory in level.items():
            if digest not in lacking and not self._is_thorough:
                continue
            blobs = dict(encode_directory(self._tree.manifest_entries(directory)).blobs)
            if len(blobs) > 1:
                parts = self._missing(blobs.keys() - {digest})
                wanted = None if self._is_thorough else _names_in(blobs[part] for part in parts)
                blobs = {d: data for d, data in blobs.items() if d in parts or d == digest}
            else:
                wanted = None
            if digest in lacking:
                manifests.update(blobs)
            below.update(self._below(directory, wanted))
        if manifests:
            self._plan.manifests.append(manifests)
        return below

    def _below(self, directory: int, wanted: set[str] | None) -> dict[str, int]:
        """Remembers a directory's files and returns its directories, of these names or all."""
        tree = self._tree
        children = dict(tree.children(directory))
        below: dict[str, int] = {}
        for entry in range(*tree.span(directory)):
            if wanted is not None and tree.name(entry) not in wanted:
                continue
            if tree.kinds[entry] in (FILE, EXECUTABLE_FILE):
                self._seen.add(entry)
            elif entry in children:
                below[tree.digest(entry).hex()] = children[entry]
        return below

    def _add_files(self) -> None:
        """Plans the files that are lacking."""
        tree = self._tree
        by_digest = {tree.digest(entry).hex(): entry for entry in self._seen}
        lacking = self._missing(by_digest)
        for digest, entry in by_digest.items():
            if tree.sizes[entry] > CHUNKED_ABOVE_BYTES:
                if digest in lacking or self._is_thorough:
                    self._plan.chunked[digest] = entry
            elif digest in lacking:
                self._plan.files[digest] = entry


def _names_in(parts: Iterable[bytes]) -> set[str]:
    """The names in these parts of a large directory."""
    names: set[str] = set()
    for data in parts:
        decoded = decode_directory(data)
        if isinstance(decoded, Directory):
            names.update(entry.name for entry in decoded.entries)
    return names
