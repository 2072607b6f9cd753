"""Which files of a source directory stay out of its snapshot, and by which line of which file.

One kind of ignore file decides for the whole tree: the first of `.runyardignore`, `.amlignore`
and `.gitignore` that exists at its root. The kinds are never merged; files of the other kinds are
files like any other. Nested files of the deciding kind count for their folder, as in git: the
deepest file with a matching line decides, in it the last matching line; what lies below an ignored
folder can't be brought back. The deciding files themselves are always part of the snapshot, so
that whoever has the snapshot can tell why a file is not in it.

Below all of them stands a built-in list; a line such as `!outputs/` brings its entries back, all
but `.git`.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from runyard_contract.digest import digest_bytes
from runyard_contract.errors import FileUnreadable
from runyard_contract.ignore_patterns import Pattern, PatternList, parse_lines
from runyard_contract.limits import IGNORE_FILE_BYTES
from runyard_contract.paths import shown

KINDS = (".runyardignore", ".amlignore", ".gitignore")
BUILT_IN = "built-in"

_GIT = ".git"
_VENV_MARK = "pyvenv.cfg"
_BUILT_IN_LINES = ("/outputs/", "/logs/", ".azureml/", "__pycache__/", ".ipynb_checkpoints/")


@dataclass(frozen=True, slots=True)
class Rule:
    """The line that keeps a path out: `file` relative to the root, or "built-in" (line 0)."""

    file: str
    line: int
    pattern: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else f"{self.file} rule"
        return f"{where}: {self.pattern}"


_GIT_RULE = Rule(BUILT_IN, 0, _GIT)
_VENV_RULE = Rule(BUILT_IN, 0, f"folders with a {_VENV_MARK}")


@dataclass(frozen=True, slots=True)
class _RuleFile:
    """One ignore file: where it lies, its patterns, and the digest of its text."""

    folder: tuple[str, ...]
    path: str
    patterns: PatternList
    digest: str


@lru_cache(maxsize=1)
def _built_in() -> PatternList:
    """The built-in list, compiled when first needed (patterns load pathspec)."""
    return PatternList(parse_lines(_BUILT_IN_LINES))


class RulesAtDirectory:
    """The rules as they stand in one directory; made by `IgnoreRules.enter`."""

    __slots__ = ("_chain", "_kind", "_parts", "digest", "itself")

    def __init__(
        self, kind: str | None, parts: tuple[str, ...], chain: tuple[_RuleFile, ...]
    ) -> None:
        self._kind = kind
        self._parts = parts
        self._chain = chain  # deepest first
        self.digest = digest_bytes(
            "\n".join([kind or "", *(f"{f.path} {f.digest}" for f in chain)]).encode()
        )
        """Changes when any rule that may decide in this directory does."""
        self.itself: Rule | None = None
        """The rule that keeps this whole directory out because of what lies in it."""

    def decide(self, name: str, is_dir: bool) -> Rule | None:
        """The rule that keeps this entry of the directory out, None where it goes in.

        The directory itself must not be out (git's rule: nothing below it can come back).
        """
        if name == _GIT:
            return _GIT_RULE
        if name == self._kind and not is_dir:
            return None
        found = self.deciding_line(name, is_dir)
        if found is not None:
            file, pattern = found
            return Rule(file, pattern.line, pattern.text) if pattern.ignores else None
        built_in = _built_in().last_match(name, "/".join((*self._parts, name)), is_dir)
        return Rule(BUILT_IN, 0, built_in.text) if built_in else None

    def deciding_line(self, name: str, is_dir: bool) -> tuple[str, Pattern] | None:
        """The (file, line) that decides on this entry, for or against it; None where no line does.

        The built-in rules are not asked.
        """
        for file in self._chain:
            relative = "/".join((*self._parts[len(file.folder) :], name))
            pattern = file.patterns.last_match(name, relative, is_dir)
            if pattern is not None:
                return file.path, pattern
        return None


ReadFile = Callable[[tuple[str, ...]], bytes | None]


class IgnoreRules:
    """The ignore rules of one source directory.

    Args:
        kind: name of the deciding kind of file, None where the root has none.
        read: gives the bytes of the file at these components, None where there is none. Asked
            for each ignore file at most once.
    """

    def __init__(self, kind: str | None, read: ReadFile) -> None:
        self.kind = kind
        self._read = read
        self._files: dict[tuple[str, ...], _RuleFile | None] = {}

    @classmethod
    def for_tree(cls, root: str | os.PathLike[str]) -> IgnoreRules:
        """The rules of the directory tree at `root`, read as they are asked for.

        Raises FileUnreadable (here or from `enter`) for an ignore file that can't be read.
        """
        base = Path(root)

        def read(parts: tuple[str, ...]) -> bytes | None:
            return _read_ignore_file(base.joinpath(*parts), "/".join(parts))

        kind = next((kind for kind in KINDS if _is_file(base / kind)), None)
        return cls(kind, read)

    @classmethod
    def from_files(cls, files: Mapping[str, bytes]) -> IgnoreRules:
        """The rules given by ignore files in memory: relative path (with `/`) to content."""
        kind = next((kind for kind in KINDS if kind in files), None)
        return cls(kind, lambda parts: files.get("/".join(parts)))

    def enter(
        self, dir_parts: Sequence[str], listing: Collection[str] | None = None
    ) -> RulesAtDirectory:
        """The rules as they stand in the directory at these components below the root.

        `listing` holds the names in that directory, where the caller has them: it saves a look
        for an ignore file, and only with it a virtual environment is known by its pyvenv.cfg
        (see `RulesAtDirectory.itself`; the root itself never counts as one).
        """
        parts = tuple(dir_parts)
        chain: list[_RuleFile] = []
        for depth in range(len(parts), -1, -1):
            here = depth == len(parts) and listing is not None
            file = self._file_in(parts[:depth], listing if here else None)
            if file is not None:
                chain.append(file)
        rules = RulesAtDirectory(self.kind, parts, tuple(chain))
        if parts and listing is not None and _VENV_MARK in listing:
            above = RulesAtDirectory(
                self.kind, parts[:-1], tuple(f for f in chain if len(f.folder) < len(parts))
            )
            if above.deciding_line(parts[-1], True) is None:
                rules.itself = _VENV_RULE
        return rules

    def explain(self, path: str, is_dir: bool | None = None) -> Rule | None:
        """The rule that keeps this path (relative, with `/`) out, None where none does.

        Each folder above is looked at first. The path need not exist; `is_dir` None means that it
        may be a file or a folder.
        """
        parts = [part for part in path.split("/") if part not in {"", "."}]
        if not parts or ".." in parts or path.startswith("/"):
            return None
        for depth in range(len(parts) - 1):
            rule = self.enter(parts[:depth]).decide(parts[depth], True)
            if rule is not None:
                return rule
        rules = self.enter(parts[:-1])
        is_either = is_dir is None and parts[-1] != self.kind
        forms = (False, True) if is_either else (bool(is_dir),)
        return next((rule for form in forms if (rule := rules.decide(parts[-1], form))), None)

    def _file_in(
        self, folder: tuple[str, ...], listing: Collection[str] | None
    ) -> _RuleFile | None:
        """The ignore file of a folder, read once."""
        if self.kind is None:
            return None
        if folder not in self._files:
            data = None
            if listing is None or self.kind in listing:
                data = self._read((*folder, self.kind))
            self._files[folder] = (
                None if data is None else _parse_file(folder, "/".join((*folder, self.kind)), data)
            )
        return self._files[folder]


def explain_missing(root: str | os.PathLike[str], relative_path: str) -> Rule | None:
    """Which rule kept this path out of the snapshot that was made from (or unpacked at) `root`.

    None where no rule did, and for a path that is absolute or leads out. It need not exist.
    """
    return IgnoreRules.for_tree(root).explain(os.path.normpath(relative_path).replace(os.sep, "/"))


def _parse_file(folder: tuple[str, ...], path: str, data: bytes) -> _RuleFile:
    """Reads the text of an ignore file: UTF-8, with or without a byte order mark, LF or CRLF."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileUnreadable(
            f"the ignore file {shown(path)} is not UTF-8 (at byte {error.start})",
            hint="save it as UTF-8",
            path=shown(path),
            offset_bytes=str(error.start),
        ) from None
    patterns = PatternList(parse_lines(text.split("\n")))
    return _RuleFile(folder, path, patterns, digest_bytes(data))


def _is_file(path: Path) -> bool:
    """Whether there is a file (or a link to one) that can be read without blocking."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False


def _read_ignore_file(path: Path, relative: str) -> bytes | None:
    """The bytes of an ignore file, None where there is none."""
    if not _is_file(path):
        return None
    try:
        with path.open("rb") as file:
            data = file.read(IGNORE_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FileUnreadable(
            f"the ignore file {shown(relative)} can't be read: {error.strerror}",
            hint="make it readable, or remove it",
            path=shown(relative),
            cause=error.strerror or "",
        ) from error
    if len(data) > IGNORE_FILE_BYTES:
        raise FileUnreadable(
            f"the ignore file {shown(relative)} is larger than {IGNORE_FILE_BYTES} bytes",
            hint="ignore folders instead of single files",
            path=shown(relative),
            limit_bytes=str(IGNORE_FILE_BYTES),
        )
    return data
