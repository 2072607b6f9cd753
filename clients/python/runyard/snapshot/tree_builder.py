"""Makes the tree of a scan that found changes: from new listings, and from the tree before."""

from __future__ import annotations

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
