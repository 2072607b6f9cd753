"""Looks at what changed in a source directory: lists, hashes, encodes, and makes the new index."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from runyard.snapshot.changes import Changes
from runyard.snapshot.hashing import hash_file
from runyard.snapshot.index import Index
from runyard.snapshot.left_out import secret_paths
from runyard.snapshot.limits import Allowance
from runyard.snapshot.listing import Listed, Lister
from runyard.snapshot.stat_columns import is_trusted
from runyard.snapshot.tree import (
    DIRECTORY,
    EXECUTABLE_FILE,
    FILE,
    LINK,
    NO_DIGEST,
    WATCHED,
    Tree,
)
from runyard.snapshot.tree_builder import Listing, Row, TreeBuilder
from runyard_contract.errors import RunyardError
from runyard_contract.limits import CHUNKED_ABOVE_BYTES
from runyard_contract.manifest import (
    DirectoryEntry,
    Encoded,
    Entry,
    FileEntry,
    LinkEntry,
    encode_directory,
)
from runyard_contract.paths import shown
from runyard_contract.value import value_class


@value_class
class Rescan:
    """The new index, and what was read for it."""

    index: Index
    files_hashed: int
    bytes_hashed: int


def rescan(source: str, known: Index, changes: Changes, allowance: Allowance | None) -> Rescan:
    """Looks at what changed. `allowance` None: the limits of a snapshot."""
    lister = Lister(source, known.tree, changes, allowance or Allowance())
    root = lister.root()
    files_hashed, bytes_hashed = _hash_files(source, root)
    _encode(root, known.tree)
    tree = TreeBuilder(known.tree).build(root)
    index = Index(
        tree=tree,
        large_left_out=_notes(
            known.large_left_out, lister.found.large_left_out, lister.found, tree
        ),
        skipped=_notes(known.skipped, lister.found.skipped, lister.found, tree),
        secrets=secret_paths(tree.paths),
    )
    return Rescan(index, files_hashed, bytes_hashed)


def _listings(row: Row) -> Iterator[Listing]:
    """All new listings below a directory's row, parents before children."""
    if isinstance(row.below, Listing):
        yield row.below
        for child in row.below.rows:
            yield from _listings(child)


def _hash_files(source: str, root: Row) -> tuple[int, int]:
    """Hashes the files that were listed anew; returns how many, and their bytes."""
    files = size_bytes = 0
    for listing in _listings(root):
        gone: list[Row] = []
        for row in listing.rows:
            if row.kind not in (FILE, EXECUTABLE_FILE) or row.digest != NO_DIGEST:
                continue
            now_ns = time.time_ns()
            path = f"{listing.path}/{row.name}" if listing.path else row.name
            hashed = hash_file(source, path)
            if hashed is None:
                gone.append(row)
                continue
            row.digest = bytes.fromhex(hashed.digest)
            row.size_bytes = hashed.size_bytes
            row.signature = hashed.signature
            row.kind = EXECUTABLE_FILE if hashed.is_executable else FILE
            row.is_trusted = is_trusted(hashed.signature, now_ns)
            files += 1
            size_bytes += hashed.size_bytes
        for row in gone:
            listing.rows.remove(row)
    return files, size_bytes


def _encode(row: Row, before: Tree) -> None:
    """Gives a directory's row the digest of its manifest and the counts of what is below."""
    if not isinstance(row.below, Listing):
        return
    for child in row.below.rows:
        _encode(child, before)
    encoded = _encoded(row.below)
    row.digest = bytes.fromhex(encoded.digest)
    row.files = encoded.files
    row.size_bytes = encoded.size_bytes


def _encoded(listing: Listing) -> Encoded:
    """The manifest of a listing; an error names the folder."""
    entries = (_manifest_entry(row) for row in listing.rows if row.kind != WATCHED)
    try:
        return encode_directory(entries)
    except RunyardError as error:
        folder = shown(listing.path) or "the source directory"
        message = f"in {folder}: {error.message}"
        raise type(error).restore(message, error.hint, error.metadata) from None


def _manifest_entry(row: Row) -> Entry:
    """The entry of a row whose digest is known."""
    if row.kind == LINK:
        return LinkEntry(row.name, row.target)
    if row.kind == DIRECTORY:
        return DirectoryEntry(row.name, row.digest.hex(), row.files, row.size_bytes)
    is_executable = row.kind == EXECUTABLE_FILE
    return FileEntry(
        row.name,
        row.digest.hex(),
        row.size_bytes,
        is_executable,
        row.size_bytes > CHUNKED_ABOVE_BYTES,
    )


def _notes(
    before: dict[str, str], fresh: dict[str, str], found: Listed, tree: Tree
) -> dict[str, str]:
    """The notes that still hold, and the new ones, by path."""
    directories = {path.decode() for path in tree.directory_paths} - found.directories
    return {
        **{path: note for path, note in before.items() if os.path.dirname(path) in directories},
        **fresh,
    }
