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

    def directory_entries(self) -> list[int]:
        """The entries of kind DIRECTORY: that of directory 1 first."""
        found: list[int] = []
        entry = self.kinds.find(DIRECTORY)
        while entry >= 0:
            found.append(entry)
            entry = self.kinds.find(DIRECTORY, entry + 1)
        return found

    def children_of(self, directories: range) -> range:
        """The directories in directories that follow each other: they follow each other, too."""
        return range(
            self._first_children[directories[0]], self._first_children[directories[-1] + 1]
        )

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
