"""A source directory as it was found: every entry with its signature and digest, in flat columns.

Directories are numbered in breadth-first order, the root is 0. The entries of directory 0 come
first, then those of directory 1, and so on; entry number n of kind DIRECTORY, counted over all
entries, is directory n + 1. So a tree of 100,000 files is a dozen arrays, which load in
milliseconds, and an unchanged directory is copied as slices.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from runyard.snapshot.stat_columns import (
    UNTRUSTED_SIGNATURE,
    Signature,
    StatColumns,
)
from runyard_contract.digest import DIGEST_BYTES
from runyard_contract.limits import CHUNKED_ABOVE_BYTES

if TYPE_CHECKING:
    from runyard_contract.manifest import Entry

DIRECTORY = 0
FILE = 1
EXECUTABLE_FILE = 2
LINK = 3
# A folder that is out because of what lies in it: not part of the snapshot, only watched.
WATCHED = 4

NO_DIGEST = bytes(DIGEST_BYTES)


@dataclass(slots=True)
class Row:
    """One entry that was looked at in this scan.

    `digest` is that of the content, the manifest, or of nothing (links); `below` is what was found
    in a directory: a new listing, or the number of the directory in the tree before, unchanged.
    """

    name: str
    kind: int
    signature: Signature
    digest: bytes = NO_DIGEST
    size_bytes: int = 0
    target: str = ""
    below: Listing | int | None = None
    files: int = 0
    is_trusted: bool = True


@dataclass(slots=True)
class Listing:
    """The rows of one directory. `rules` is the digest of the ignore rules that made it."""

    path: str
    rules: bytes
    rows: list[Row] = field(default_factory=list)


class Tree:
    """The flat columns (see the module's text)."""

    def __init__(self) -> None:
        self.paths: list[bytes] = []  # of entries, relative to the root
        self.kinds = bytearray()
        self.digests = bytearray()
        self.sizes = array("Q")  # of files; of all below for directories
        self.signatures = StatColumns()
        self.targets: dict[int, str] = {}
        self.directory_paths: list[bytes] = []
        self.entry_counts = array("Q")  # by directory
        self.child_counts = array("Q")  # by directory: directories among its entries
        self.file_counts = array("Q")  # by directory: files and links below it
        self.rules = bytearray()  # by directory: digest of its ignore rules
        self.root_signature: Signature = UNTRUSTED_SIGNATURE
        self.root_digest = NO_DIGEST
        self._starts: list[int] = []
        self._first_children: list[int] = []

    def __len__(self) -> int:
        return len(self.paths)

    def seal(self) -> None:
        """Computes where each directory's entries and children begin; the columns are complete."""
        self._starts = list(accumulate(self.entry_counts, initial=0))
        self._first_children = list(accumulate(self.child_counts, initial=1))

    @property
    def files(self) -> int:
        """Files and links in the whole tree."""
        return self.file_counts[0] if self.file_counts else 0

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        counted = (FILE, EXECUTABLE_FILE, DIRECTORY)
        return sum(self.sizes[n] for n in range(*self.span(0)) if self.kinds[n] in counted)

    def span(self, directory: int) -> tuple[int, int]:
        """The entries `[start, end)` of a directory."""
        return self._starts[directory], self._starts[directory + 1]

    def directory_of(self, entry: int) -> int:
        """The directory that an entry lies in."""
        return bisect_right(self._starts, entry) - 1

    def children(self, directory: int) -> Iterator[tuple[int, int]]:
        """(entry, directory) of the directories in a directory."""
        start, end = self.span(directory)
        number = self._first_children[directory]
        for entry in range(start, end):
            if self.kinds[entry] == DIRECTORY:
                yield entry, number
                number += 1

    def name(self, entry: int) -> str:
        """The last component of an entry's path."""
        return self.paths[entry].rsplit(b"/", 1)[-1].decode()

    def digest(self, entry: int) -> bytes:
        """The digest of an entry."""
        return bytes(self.digests[entry * DIGEST_BYTES : (entry + 1) * DIGEST_BYTES])

    def rules_of(self, directory: int) -> bytes:
        """The digest of the ignore rules that made a directory's listing."""
        return bytes(self.rules[directory * DIGEST_BYTES : (directory + 1) * DIGEST_BYTES])

    def manifest_entries(self, directory: int) -> list[Entry]:
        """The entries of a directory as its manifest holds them."""
        child = dict(self.children(directory))
        return [
            entry
            for number in range(*self.span(directory))
            if (entry := self._manifest_entry(number, child.get(number))) is not None
        ]

    def _manifest_entry(self, number: int, child: int | None) -> Entry | None:
        """One entry of a manifest, None for what is only watched."""
        from runyard_contract.manifest import DirectoryEntry, FileEntry, LinkEntry

        kind = self.kinds[number]
        name = self.name(number)
        if kind == LINK:
            return LinkEntry(name, self.targets[number])
        if kind == WATCHED:
            return None
        digest = self.digest(number).hex()
        size_bytes = self.sizes[number]
        if child is not None:
            return DirectoryEntry(name, digest, self.file_counts[child], size_bytes)
        return FileEntry(
            name, digest, size_bytes, kind == EXECUTABLE_FILE, size_bytes > CHUNKED_ABOVE_BYTES
        )


class TreeBuilder:
    """Writes the columns of a new tree from listings, and from slices of the tree before."""

    def __init__(self, before: Tree) -> None:
        self._before = before
        self._tree = Tree()

    def build(self, root: Row) -> Tree:
        """The tree below this row, whose digests are all known."""
        tree = self._tree
        tree.root_signature = root.signature if root.is_trusted else UNTRUSTED_SIGNATURE
        tree.root_digest = root.digest
        queue: list[tuple[Listing | int, int]] = [(_below(root), root.files)]
        for below, files in queue:  # grows while it is walked: breadth first
            tree.file_counts.append(files)
            if isinstance(below, int):
                queue += self._copy(below)
            else:
                queue += self._write(below)
        tree.seal()
        return tree

    def _copy(self, directory: int) -> list[tuple[Listing | int, int]]:
        """Takes over a directory of the tree before; returns its children."""
        before, tree = self._before, self._tree
        start, end = before.span(directory)
        shift = len(tree) - start
        if before.targets:
            for entry in range(start, end):
                if before.kinds[entry] == LINK:
                    tree.targets[entry + shift] = before.targets[entry]
        tree.paths += before.paths[start:end]
        tree.kinds += before.kinds[start:end]
        tree.digests += before.digests[start * DIGEST_BYTES : end * DIGEST_BYTES]
        tree.sizes.extend(before.sizes[start:end])
        tree.signatures.extend(before.signatures, start, end)
        tree.directory_paths.append(before.directory_paths[directory])
        tree.entry_counts.append(end - start)
        tree.child_counts.append(before.child_counts[directory])
        tree.rules += before.rules_of(directory)
        return [(child, before.file_counts[child]) for _, child in before.children(directory)]

    def _write(self, listing: Listing) -> list[tuple[Listing | int, int]]:
        """Writes a listing of this scan; returns its children."""
        tree = self._tree
        children: list[tuple[Listing | int, int]] = []
        prefix = f"{listing.path}/" if listing.path else ""
        for row in listing.rows:
            if row.kind == LINK:
                tree.targets[len(tree)] = row.target
            elif row.kind == DIRECTORY:
                children.append((_below(row), row.files))
            tree.paths.append(f"{prefix}{row.name}".encode())
            tree.kinds.append(row.kind)
            tree.digests += row.digest
            tree.sizes.append(row.size_bytes)
            tree.signatures.append(row.signature if row.is_trusted else UNTRUSTED_SIGNATURE)
        tree.directory_paths.append(listing.path.encode())
        tree.entry_counts.append(len(listing.rows))
        tree.child_counts.append(len(children))
        tree.rules += listing.rules
        return children


def _below(row: Row) -> Listing | int:
    """What a directory's row found in it."""
    assert row.below is not None, row.name  # noqa: S101 - set by the scan for every directory
    return row.below
