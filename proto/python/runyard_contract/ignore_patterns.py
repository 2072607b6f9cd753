"""The lines of one ignore file, compiled for the question "which line matches this entry?".

pathspec translates each line to a regular expression. Two things are done around it:

* An entry is matched by itself, never through a folder above it: the caller walks down and does
  not enter what is ignored. So `*/` with a `!` never brings back a file because of its folder.
* Most lines are plain names, plain paths and `*.ext`. The plain ones are looked up in a dictionary
  and need no pathspec; all other lines of one sort are joined to one expression that is tried
  first, since most entries match none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PLAIN = re.compile(r"/?([^*?\[\\/]+(?:/[^*?\[\\/]+)*)")
_MATCHED_THROUGH_FOLDER = "ps_d"  # pathspec's group for the slash behind a matching folder


@dataclass(frozen=True, slots=True)
class Pattern:
    """One line: its number from 1, its text, and what it means.

    `is_anchored`: matches the path from the ignore file's folder, else the name alone.
    `glob` is the pattern without `!` and the slash at the end.
    """

    line: int
    text: str
    glob: str
    ignores: bool
    is_dir_only: bool
    is_anchored: bool


def parse_lines(lines: Iterable[str]) -> list[Pattern]:
    """The patterns in these lines; comments and blank lines hold none."""
    patterns: list[Pattern] = []
    for number, line in enumerate(lines, 1):
        text = _without_trailing_spaces(line.removesuffix("\r"))
        if not text or text.startswith("#"):
            continue
        ignores = not text.startswith("!")
        glob = text if ignores else text[1:]
        is_dir_only = glob.endswith("/")
        glob = glob.removesuffix("/")
        if glob:
            is_anchored = "/" in glob
            patterns.append(Pattern(number, text, glob, ignores, is_dir_only, is_anchored))
    return patterns


def _without_trailing_spaces(line: str) -> str:
    """The line without the spaces at its end, except one that a backslash protects."""
    text = line.rstrip(" ")
    if len(text) < len(line) and (len(text) - len(text.rstrip("\\"))) % 2:
        text += " "
    return text


def _compiled(pattern: Pattern) -> re.Pattern[str] | None:
    """The expression for a line that is no plain name; None for one that matches nothing."""
    from pathspec import GitIgnoreSpec

    # A name pattern is anchored because it is matched against a name. A leading "!" or "#" is
    # part of the glob here; the slash keeps pathspec from reading it as a sign.
    glob = pattern.glob if pattern.glob.startswith("/") else f"/{pattern.glob}"
    try:
        (translated,) = GitIgnoreSpec.from_lines([glob]).patterns
    except (ValueError, re.error):
        return None
    expression = translated.regex
    return expression if isinstance(expression, re.Pattern) else None


class PatternList:
    """The patterns of one file, in their order."""

    __slots__ = ("_globs", "_patterns", "_plain")

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        self._patterns = patterns
        # Both in two: [False] what is compared with the name, [True] with the path.
        self._plain: tuple[dict[str, list[int]], dict[str, list[int]]] = ({}, {})
        globs: tuple[list[tuple[int, re.Pattern[str]]], ...] = ([], [])
        for index, pattern in enumerate(patterns):
            plain = _PLAIN.fullmatch(pattern.glob)
            if plain:
                self._plain[pattern.is_anchored].setdefault(plain[1], []).append(index)
                continue
            expression = _compiled(pattern)
            if expression is not None:
                globs[pattern.is_anchored].append((index, expression))
        self._globs = tuple(_Alternatives(some) for some in globs)

    def last_match(self, name: str, relative: str, is_dir: bool) -> Pattern | None:
        """The last pattern that matches an entry; `relative` is its path from the file's folder."""
        best = -1
        for plain, globs, subject in zip(self._plain, self._globs, (name, relative), strict=True):
            for index in (*plain.get(subject, ()), *globs.matches(subject)):
                if index > best and (is_dir or not self._patterns[index].is_dir_only):
                    best = index
        return self._patterns[best] if best >= 0 else None


class _Alternatives:
    """Expressions of one sort, with one that tells whether any of them matches."""

    __slots__ = ("_any", "_expressions")

    def __init__(self, expressions: Sequence[tuple[int, re.Pattern[str]]]) -> None:
        self._expressions = expressions
        # A group may have its name once in an expression.
        joined = "|".join(
            f"(?:{expression.pattern})".replace(f"(?P<{_MATCHED_THROUGH_FOLDER}>", "(?:")
            for _, expression in expressions
        )
        self._any = re.compile(joined) if expressions else None

    def matches(self, subject: str) -> list[int]:
        """The numbers of the expressions that match the subject itself."""
        if self._any is None or self._any.search(subject) is None:
            return []
        found: list[int] = []
        for index, expression in self._expressions:
            match = expression.search(subject)
            if match is not None and not match.groupdict().get(_MATCHED_THROUGH_FOLDER):
                found.append(index)
        return found
