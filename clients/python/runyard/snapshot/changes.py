"""What changed in a source directory since its tree was made, from signatures alone."""

from __future__ import annotations

import os
from collections.abc import Iterable

from runyard.snapshot.stat_columns import read_columns, signature_of
from runyard.snapshot.tree import DIRECTORY, WATCHED, Tree
from runyard_contract.value import value_class


@value_class
class Changes:
    """Directories and entries of a tree that are not what they were.

    `listings`: directories whose names must be read again; `touched`: those and every directory
    above a change; `entries`: files and links that must be read again.
    """

    listings: frozenset[int]
    touched: frozenset[int]
    entries: frozenset[int]

    def __bool__(self) -> bool:
        return bool(self.touched)


def find_changes(tree: Tree, root_fd: int) -> Changes:
    """Compares a tree with the source directory that is open at `root_fd`."""
    if not tree.entry_counts:
        return Changes(frozenset({0}), frozenset({0}), frozenset())
    # The root first: a change that comes during the reading is noticed next time.
    listings = {0} if signature_of(os.fstat(root_fd)) != tree.root_signature else set()
    changed = tree.signatures.differences(read_columns(root_fd, tree.paths))
    linked_rules = [n for n in tree.targets if _is_ignore_file(tree, n)]
    if not changed and not listings and not linked_rules:
        return Changes(frozenset(), frozenset(), frozenset())
    directory_entries = tree.directory_entries()
    number_of = {entry: number for number, entry in enumerate(directory_entries, 1)}
    entries: set[int] = set()
    for entry in changed:
        kind = tree.kinds[entry]
        if kind == DIRECTORY:
            listings.add(number_of[entry])
        elif kind == WATCHED or _is_ignore_file(tree, entry):
            listings.add(tree.directory_of(entry))
        if kind != DIRECTORY:
            entries.add(entry)
    # The text of rules behind a link can change without the link.
    listings.update(tree.directory_of(entry) for entry in linked_rules)
    touched = _with_parents(tree, directory_entries, [*changed, *linked_rules], listings)
    return Changes(frozenset(listings), frozenset(touched), frozenset(entries))


def _is_ignore_file(tree: Tree, entry: int) -> bool:
    """Whether the entry may hold ignore rules."""
    from runyard_contract.ignore import KINDS  # most scans find no change and no link

    name = tree.paths[entry].rsplit(b"/", 1)[-1]
    return tree.kinds[entry] != DIRECTORY and name.decode() in KINDS


def _with_parents(
    tree: Tree, directory_entries: list[int], changed: Iterable[int], listings: Iterable[int]
) -> set[int]:
    """The directories of these entries, these directories, and all above them."""
    touched: set[int] = set()
    for start in (*map(tree.directory_of, changed), *listings):
        directory = start
        while directory not in touched:
            touched.add(directory)
            if directory == 0:
                break
            directory = tree.directory_of(directory_entries[directory - 1])
    return touched
