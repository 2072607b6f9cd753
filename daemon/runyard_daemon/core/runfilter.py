"""The filter of a listing: comparisons joined by AND, from text to values.

`status IN (Failed, Canceled) AND tag.model = small AND created >= 2026-01-31 AND name = "base*"`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from runyard_contract.errors import SpecInvalid
from runyard_contract.nearest import nearest
from runyard_contract.paths import shown
from runyard_contract.states import RunState, from_v1_word

FILTER_BYTES: Final = 4096
_FIELDS: Final = ("status", "experiment", "target", "name", "created", "tag.KEY", "property.KEY")
_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<sign><=|>=|=|<|>|\(|\)|,)|"(?P<quoted>(?:[^"\\]|\\["\\])*)"|(?P<word>[^\s"<>=(),]+))"""
)
ReadTime = Callable[[str], int]
"""Microseconds since the Unix epoch of a text; raises ValueError."""
_TIMES: Final = ("<", "<=", ">", ">=")


@dataclass(frozen=True, slots=True)
class FilterTerms:
    """What a filter says. What is empty or None does not count."""

    states: frozenset[RunState] = frozenset()
    experiment: str = ""
    target: str = ""
    name: str = ""
    """A `*` at the end: any rest."""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    created_from_us: int | None = None
    created_before_us: int | None = None


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    place: int
    is_sign: bool = False
    is_quoted: bool = False

    def is_word(self, word: str) -> bool:
        """Whether it is this word of the grammar."""
        return not self.is_sign and not self.is_quoted and self.text.upper() == word


_END: Final = _Token("", -1, is_sign=True)


def parse_filter(text: str, read_time: ReadTime) -> FilterTerms:
    """Gives what a filter says. Raises SpecInvalid, with the place of what is wrong."""
    if len(text.encode("utf-8", "surrogatepass")) > FILTER_BYTES:
        raise _fault(f"has over {FILTER_BYTES:,} bytes", 0)
    return _Parser(_tokens(text), read_time).terms() if text.strip() else FilterTerms()


def _tokens(text: str) -> list[_Token]:
    tokens = []
    place = 0
    end = len(text.rstrip())
    while place < end:
        found = _TOKEN.match(text, place)
        if found is None:
            raise _fault("has a quote without its end", place)
        place = found.end()
        start = found.start(found.lastgroup or 0)
        if found["quoted"] is not None:
            plain = re.sub(r"\\(.)", r"\1", found["quoted"])
            tokens.append(_Token(plain, start, is_quoted=True))
        else:
            tokens.append(_Token(found[found.lastgroup or 0], start, found["sign"] is not None))
    return tokens


class _Parser:
    """Reads comparisons one after another."""

    def __init__(self, tokens: list[_Token], read_time: ReadTime) -> None:
        self._tokens = tokens
        self._read_time = read_time
        self._next = 0
        self._states: frozenset[RunState] | None = None
        self._texts: dict[str, str] = {}
        self._labels: dict[str, dict[str, str]] = {"tag": {}, "property": {}}
        self._created: dict[str, int] = {}

    def terms(self) -> FilterTerms:
        """All comparisons, put together."""
        self._comparison()
        while (token := self._take()) is not _END:
            if not token.is_word("AND"):
                raise _fault(f"has {_named(token)} where AND joins two comparisons", token.place)
            self._comparison()
        return FilterTerms(
            states=self._states or frozenset(),
            experiment=self._texts.get("experiment", ""),
            target=self._texts.get("target", ""),
            name=self._texts.get("name", ""),
            tags=self._labels["tag"],
            properties=self._labels["property"],
            created_from_us=self._created.get("from"),
            created_before_us=self._created.get("before"),
        )

    def _comparison(self) -> None:
        subject = self._take()
        if subject.is_sign:
            raise _fault(f"has {_named(subject)} where a field is expected", subject.place)
        kind, _, key = subject.text.partition(".")
        if subject.text == "status":
            self._status()
        elif subject.text == "created":
            self._time()
        elif subject.text in ("experiment", "target", "name"):
            self._once(self._texts, subject.text, subject.place)
            if not self._texts[subject.text]:
                raise _fault(f"asks for an empty {subject.text}, which no run has", subject.place)
        elif kind in self._labels and key:
            self._once(self._labels[kind], key, subject.place)
        else:
            close = nearest(subject.text, [name for name in _FIELDS if "." not in name])
            known = f"did you mean {close}?" if close else f"use {', '.join(_FIELDS)}"
            raise _fault(f"names {_named(subject)}, which is no field: {known}", subject.place)

    def _once(self, into: dict[str, str], key: str, place: int) -> None:
        """`key = value`, which may not come again with another value."""
        self._sign(("=",))
        value = self._value().text
        if into.setdefault(key, value) != value:
            raise _fault(f"asks for two values of {shown(key)}, which no run has", place)

    def _status(self) -> None:
        token = self._take()
        if token.is_word("IN"):
            self._sign(("(",))
            found = {self._state()}
            while self._sign((",", ")")) == ",":
                found.add(self._state())
        elif token.is_sign and token.text == "=":
            found = {self._state()}
        else:
            raise _fault(f"has {_named(token)} where = or IN is expected", token.place)
        self._states = frozenset(found) if self._states is None else self._states & found
        if not self._states:
            raise _fault("asks for two statuses at once, which no run has", token.place)

    def _state(self) -> RunState:
        token = self._value()
        try:
            return from_v1_word(token.text)
        except ValueError:
            raise _fault(f"names {_named(token)}, which is no status", token.place) from None

    def _time(self) -> None:
        sign = self._sign(_TIMES)
        token = self._value()
        try:
            at_us = self._read_time(token.text)
        except ValueError:
            raise _fault(
                f"has {_named(token)}, which is no time such as 2026-01-31 or 2026-01-31T12:00:00Z",
                token.place,
            ) from None
        at_us += sign in (">", "<=")  # whole microseconds: > is >= of the next
        name, narrower = _BOUNDS[sign[0]]
        self._created[name] = narrower(self._created.get(name, at_us), at_us)

    def _value(self) -> _Token:
        token = self._take()
        if token.is_sign:
            raise _fault(f"has {_named(token)} where a value is expected", token.place)
        return token

    def _sign(self, allowed: tuple[str, ...]) -> str:
        token = self._take()
        if not token.is_sign or token.text not in allowed:
            raise _fault(
                f"has {_named(token)} where {' or '.join(allowed)} is expected", token.place
            )
        return token.text

    def _take(self) -> _Token:
        if self._next == len(self._tokens):
            return _END
        self._next += 1
        return self._tokens[self._next - 1]


_BOUNDS: Final[Mapping[str, tuple[str, Callable[[int, int], int]]]] = {
    ">": ("from", max),
    "<": ("before", min),
}


def _named(token: _Token) -> str:
    return "its end" if token is _END else repr(shown(token.text[:60]))


def _fault(what: str, place: int) -> SpecInvalid:
    where = f" (at character {place + 1})" if place > 0 else ""
    return SpecInvalid(violations=[("filter", f"{what}{where}")])
