"""Lists the directories of a source that changed: what goes in, what stays out and why."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field

from runyard.snapshot.changes import Changes
from runyard.snapshot.hashing import unreadable
from runyard.snapshot.left_out import describe_large
from runyard.snapshot.limits import Allowance
from runyard.snapshot.stat_columns import Signature, is_trusted, signature_of
from runyard.snapshot.tree import (
    DIRECTORY,
    EXECUTABLE_FILE,
    FILE,
    LINK,
    WATCHED,
    Tree,
)
from runyard.snapshot.tree_builder import Listing, Row
from runyard_contract.errors import RunyardError, UnsafePath
from runyard_contract.ignore import IgnoreRules, RulesAtDirectory
from runyard_contract.limits import PATH_BYTES, PATH_COMPONENTS
from runyard_contract.paths import check_component, link_stays_inside, shown

_EXECUTABLE = 0o100
_SPECIAL = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass(slots=True)
class Listed:
    """What the lister found beside the rows: `by_directory` are the directories listed anew."""

    directories: set[str] = field(default_factory=set)
    large_left_out: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


class Lister:
    """Makes the rows of everything that changed; what did not is referred to by its number."""

    def __init__(self, source: str, before: Tree, changes: Changes, allowance: Allowance) -> None:
        self._source = source
        self._before = before
        self._changes = changes
        self._allowance = allowance
        self._rules = IgnoreRules.for_tree(source)
        self.found = Listed()

    def root(self) -> Row:
        """The row of the source directory itself."""
        now_ns = time.time_ns()
        signature = signature_of(os.stat(self._source))
        known = 0 if self._before.entry_counts else None
        below = self._directory((), known, is_forced=False)
        return Row("", DIRECTORY, signature, below=below, is_trusted=is_trusted(signature, now_ns))

    def _directory(
        self, parts: tuple[str, ...], known: int | None, *, is_forced: bool
    ) -> Listing | None:
        """The listing of a directory; None where it turns out to stay out.

        `known` is its number in the tree before; `is_forced`: the rules above it changed.
        """
        if known is None or is_forced or known in self._changes.listings:
            return self._list(parts, known)
        return self._update(parts, known)

    def _update(self, parts: tuple[str, ...], known: int) -> Listing:
        """A directory with the same names as before, in or below which something changed."""
        before = self._before
        listing = Listing("/".join(parts), before.rules_of(known))
        children = dict(before.children(known))
        for entry in range(*before.span(known)):
            child = children.get(entry)
            name = before.name(entry)
            if child is not None and child in self._changes.touched:
                row = self._child_directory((*parts, name), child, is_forced=False)
            elif entry in self._changes.entries:
                row = self._look_again((*parts, name), before.kinds[entry])
            else:
                row = self._unchanged(entry, child)
                self._count(parts, row)
            if row is not None:
                listing.rows.append(row)
        return listing

    def _unchanged(self, entry: int, child: int | None) -> Row:
        """The row of an entry that is what it was."""
        before = self._before
        return Row(
            before.name(entry),
            before.kinds[entry],
            before.signatures.signature(entry),
            before.digest(entry),
            before.sizes[entry],
            target=before.targets.get(entry, ""),
            below=child,
            files=before.file_counts[child] if child is not None else 1,
        )

    def _look_again(self, parts: tuple[str, ...], kind: int) -> Row | None:
        """The row of a file or link that changed in place; None where it is gone."""
        try:
            status = os.lstat(self._absolute(parts))
        except FileNotFoundError:
            return None
        if kind == LINK and stat.S_ISLNK(status.st_mode):
            return self._link(parts, signature_of(status))
        return self._file(parts, status)

    def _list(self, parts: tuple[str, ...], known: int | None) -> Listing | None:
        """Reads the names of a directory and decides on each."""
        path = "/".join(parts)
        if len(parts) > PATH_COMPONENTS or len(path) > PATH_BYTES:
            raise UnsafePath(
                f"the path {shown(path[:80])}… is too long or too deep",
                hint="keep it out with a line in the ignore file",
                path=shown(path[:80]),
            )
        try:
            with os.scandir(self._absolute(parts)) as scan:
                entries = list(scan)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise unreadable(path or ".", error) from None
        rules = self._rules.enter(parts, {entry.name for entry in entries})
        if rules.itself is not None:
            self._note_large(parts, is_dir=True, size_bytes=0)
            return None
        self.found.directories.add(path)
        known_names = self._known_names(known)
        digest = bytes.fromhex(rules.digest)
        is_forced = known is not None and self._before.rules_of(known) != digest
        listing = Listing(path, digest)
        for entry in entries:
            row = self._entry(parts, entry, rules, known_names.get(entry.name), is_forced)
            if row is not None:
                listing.rows.append(row)
        return listing

    def _known_names(self, known: int | None) -> dict[str, tuple[int, int | None]]:
        """Name to (entry, directory) of what was in a directory before."""
        if known is None:
            return {}
        children = dict(self._before.children(known))
        return {
            self._before.name(entry): (entry, children.get(entry))
            for entry in range(*self._before.span(known))
        }

    def _entry(
        self,
        parts: tuple[str, ...],
        entry: os.DirEntry[str],
        rules: RulesAtDirectory,
        known: tuple[int, int | None] | None,
        is_forced: bool,
    ) -> Row | None:
        """The row of one name, None where it stays out."""
        here = (*parts, entry.name)
        is_dir = entry.is_dir(follow_symlinks=False)
        if rules.decide(entry.name, is_dir) is not None:
            size_bytes = 0 if is_dir else _size_bytes(entry)
            self._note_large(here, is_dir=is_dir, size_bytes=size_bytes)
            return None
        _check_name(here)
        try:
            status = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return None
        number, child = known if known is not None else (None, None)
        if is_dir:
            if child is not None and child not in self._changes.touched and not is_forced:
                row = self._unchanged(self._entry_number(number), child)
                self._count(parts, row)
                return row
            return self._child_directory(here, child, is_forced=is_forced, status=status)
        if number is not None and self._before.signatures.signature(number) == signature_of(status):
            row = self._unchanged(number, None)
            self._count(parts, row)
            return row
        if entry.is_symlink():
            return self._link(here, signature_of(status))
        return self._file(here, status)

    @staticmethod
    def _entry_number(number: int | None) -> int:
        """The number of an entry that is known."""
        assert number is not None  # noqa: S101 - a known directory has a known entry
        return number

    def _child_directory(
        self,
        parts: tuple[str, ...],
        known: int | None,
        *,
        is_forced: bool,
        status: os.stat_result | None = None,
    ) -> Row | None:
        """The row of a directory whose inside must be looked at; None where it is gone."""
        now_ns = time.time_ns()
        try:
            signature = signature_of(status or os.lstat(self._absolute(parts)))
        except FileNotFoundError:
            return None
        below = self._directory(parts, known, is_forced=is_forced)
        trusted = is_trusted(signature, now_ns)
        if below is None:
            return Row(parts[-1], WATCHED, signature, is_trusted=trusted)
        return Row(parts[-1], DIRECTORY, signature, below=below, is_trusted=trusted)

    def _link(self, parts: tuple[str, ...], signature: Signature) -> Row:
        """The row of a symbolic link, which must not lead out."""
        path = "/".join(parts)
        now_ns = time.time_ns()
        try:
            target = os.readlink(self._absolute(parts))
        except OSError as error:
            raise unreadable(path, error) from None
        if not link_stays_inside(parts, target):
            raise UnsafePath(
                f"the link {shown(path)} leads out of the source directory, to {shown(target)}",
                hint="replace the link by what it links to (a relative link inside is fine), or "
                "keep it out with a line in the ignore file",
                path=shown(path),
                target=shown(target),
            )
        self._allowance.add(parts, files=1, size_bytes=0)
        return Row(
            parts[-1], LINK, signature, target=target, is_trusted=is_trusted(signature, now_ns)
        )

    def _file(self, parts: tuple[str, ...], status: os.stat_result) -> Row | None:
        """The row of a file, to be hashed later; None for what is no plain file."""
        if not stat.S_ISREG(status.st_mode):
            self.found.skipped["/".join(parts)] = _SPECIAL.get(
                stat.S_IFMT(status.st_mode), "not a file"
            )
            return None
        self._allowance.add(parts, files=1, size_bytes=status.st_size)
        kind = EXECUTABLE_FILE if status.st_mode & _EXECUTABLE else FILE
        return Row(parts[-1], kind, signature_of(status), size_bytes=status.st_size)

    def _count(self, parts: tuple[str, ...], row: Row) -> None:
        """Counts what is taken over unchanged."""
        if row.kind != WATCHED:
            self._allowance.add((*parts, row.name), files=row.files, size_bytes=row.size_bytes)

    def _note_large(self, parts: tuple[str, ...], *, is_dir: bool, size_bytes: int) -> None:
        """Remembers what stays out when it is large."""
        large = describe_large(self._absolute(parts), is_dir=is_dir, size_bytes=size_bytes)
        if large and parts[-1] != ".git":
            self.found.large_left_out["/".join(parts)] = large

    def _absolute(self, parts: tuple[str, ...]) -> str:
        """The path of these components on this machine."""
        return os.path.join(self._source, *parts)


def _size_bytes(entry: os.DirEntry[str]) -> int:
    """The size of a file that stays out, 0 where it can't be looked at."""
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:
        return 0


def _check_name(parts: tuple[str, ...]) -> None:
    """Raises UnsafePath, with the whole path, for a name that can't be kept."""
    try:
        check_component(parts[-1])
    except RunyardError as error:
        path = shown("/".join(parts))
        folder = f" (in {shown('/'.join(parts[:-1]))})" if parts[:-1] else ""
        raise UnsafePath(error.message + folder, hint=error.hint, path=path) from None
