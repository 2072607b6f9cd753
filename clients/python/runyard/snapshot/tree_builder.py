"""Makes the tree of a scan that found changes: from new listings, and from the tree before."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from runyard.snapshot.stat_columns import UNTRUSTED_SIGNATURE, Signature
from runyard.snapshot.tree import DIRECTORY, LINK, NO_DIGEST, Tree
from runyard_contract.digest import DIGEST_BYTES


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
        queue = _Queue()
        queue.add(root)
        while queue.steps:
            below, files = queue.steps.popleft()
            if isinstance(below, range):
                self._copy(below)
                queue.add_before(self._before.children_of(below))
            else:
                tree.file_counts.append(files)
                for child in self._write(below):
                    queue.add(child)
        tree.seal()
        return tree

    def _copy(self, directories: range) -> None:
        """Takes over directories of the tree before that follow each other in it."""
        before, tree = self._before, self._tree
        first, end_directory = directories.start, directories.stop
        start, end = before.span(first)[0], before.span(end_directory - 1)[1]
        shift = len(tree) - start
        link = before.kinds.find(LINK, start, end)
        while link >= 0:
            tree.targets[link + shift] = before.targets[link]
            link = before.kinds.find(LINK, link + 1, end)
        tree.paths += before.paths[start:end]
        tree.kinds += before.kinds[start:end]
        tree.digests += before.digests[start * DIGEST_BYTES : end * DIGEST_BYTES]
        tree.sizes.extend(before.sizes[start:end])
        tree.signatures.extend(before.signatures, start, end)
        tree.directory_paths += before.directory_paths[first:end_directory]
        tree.entry_counts.extend(before.entry_counts[first:end_directory])
        tree.child_counts.extend(before.child_counts[first:end_directory])
        tree.file_counts.extend(before.file_counts[first:end_directory])
        tree.rules += before.rules[first * DIGEST_BYTES : end_directory * DIGEST_BYTES]

    def _write(self, listing: Listing) -> list[Row]:
        """Writes a listing of this scan; returns the rows of the directories in it."""
        tree = self._tree
        children: list[Row] = []
        prefix = f"{listing.path}/" if listing.path else ""
        for row in listing.rows:
            if row.kind == LINK:
                tree.targets[len(tree)] = row.target
            elif row.kind == DIRECTORY:
                children.append(row)
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


class _Queue:
    """What is to be written, breadth first: listings with their counts of files, and directories of
    the tree before, as many at once as follow each other there."""

    def __init__(self) -> None:
        self.steps: deque[tuple[Listing | range, int]] = deque()

    def add(self, row: Row) -> None:
        """What was found in a directory comes next."""
        assert row.below is not None, row.name  # noqa: S101 - set by the scan for every directory
        if isinstance(row.below, int):
            self.add_before(range(row.below, row.below + 1))
        else:
            self.steps.append((row.below, row.files))

    def add_before(self, directories: range) -> None:
        """These directories of the tree before come next, unchanged."""
        if not directories:
            return
        last = self.steps[-1][0] if self.steps else None
        if isinstance(last, range) and last.stop == directories.start:
            self.steps[-1] = range(last.start, directories.stop), 0
        else:
            self.steps.append((directories, 0))
