"""What a metric and a tag may be called and what they may hold, and their JSON.

The limits here are mirrored by the contract's: what this module lets through, the daemon takes.
"""

from __future__ import annotations

import itertools
import re
from json.encoder import encode_basestring_ascii
from typing import Any, Iterable, Mapping

NAME_MAX_BYTES = 255
TEXT_MAX_BYTES = 8192
LIST_MAX_VALUES = 10_000
LINE_MAX_BYTES = 256 << 10

INT_MIN = -(1 << 63)
INT_MAX = (1 << 63) - 1

# Control characters, line separators, marks that turn the writing direction, lone surrogates:
# a name is shown in tables and terminals, where these would disguise it or break the line.
_REFUSED_IN_NAMES = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


class NotKept(Exception):
    """A name or a value that a run can't keep; the text says why."""


def name_json(name: object) -> str:
    """The JSON text of a valid metric, column, tag or property name.

    A name has 1 to 255 bytes in UTF-8, no control character, no line separator, no mark of
    writing direction and no lone surrogate. Raises `NotKept` for any other.
    """
    if not isinstance(name, str):
        raise NotKept("a name is a string, not %s" % type(name).__name__)
    if not name:
        raise NotKept("the name is empty")
    if _REFUSED_IN_NAMES.search(name):
        raise NotKept("the name holds a control character or another that cannot be shown")
    if len(name.encode("utf-8")) > NAME_MAX_BYTES:
        raise NotKept("the name is longer than %d bytes" % NAME_MAX_BYTES)
    return encode_basestring_ascii(name)


def text_json(text: str) -> str:
    """The JSON text of a string of at most 8,192 bytes in UTF-8; a longer one raises `NotKept`.

    Lone surrogates become `?`: no reader of the line could encode them.
    """
    data = text.encode("utf-8", "replace")
    if len(data) > TEXT_MAX_BYTES:
        raise NotKept("the text is longer than %d bytes" % TEXT_MAX_BYTES)
    return encode_basestring_ascii(data.decode("utf-8"))


def scalar_json(value: Any) -> str:
    """The JSON text of one number or string.

    NaN and the infinities become strings, `True` and `False` become 1 and 0. A scalar of numpy,
    torch or the like counts as the number in it. Anything else raises `NotKept`; so may any
    exception of the value's own conversion come through.
    """
    if isinstance(value, str):
        return text_json(value)
    if isinstance(value, int):
        return _int_json(value)
    if isinstance(value, float):
        return _float_json(value)
    item = getattr(value, "item", None)
    if callable(item):
        value = item()
        if isinstance(value, (str, int, float)):
            return scalar_json(value)
    if hasattr(value, "__index__"):
        return _int_json(int(value))
    if hasattr(value, "__float__"):
        return _float_json(float(value))
    raise NotKept("%s is not a number or a string" % type(value).__name__)


def list_json(values: Any) -> str:
    """The JSON text of a list of at most 10,000 numbers and strings, from any iterable."""
    if isinstance(values, (str, bytes, Mapping)):
        raise NotKept("%s is not a list" % type(values).__name__)
    if hasattr(values, "__len__") and len(values) > LIST_MAX_VALUES:
        raise NotKept("the list has more than %d values" % LIST_MAX_VALUES)
    plain = values.tolist() if hasattr(values, "tolist") else values
    if not hasattr(plain, "__iter__"):
        raise NotKept("%s is not a list" % type(values).__name__)
    return "[%s]" % ",".join(_items_json(plain))


def row_json(columns: Mapping[str, Any]) -> str:
    """The JSON text of one table row: an object of column names and scalars, at least one."""
    if not columns:
        raise NotKept("the row has no column")
    pairs = []
    for name, value in columns.items():
        try:
            pairs.append("%s:%s" % (name_json(name), scalar_json(value)))
        except NotKept as error:
            raise NotKept("column %s: %s" % (shown(name), error)) from None
    return "{%s}" % ",".join(pairs)


def shown(name: object) -> str:
    """A name as it may stand in a line of text: quoted, escaped, at most 80 characters of it."""
    if not isinstance(name, str):
        return "(%s)" % type(name).__name__
    return ascii(name if len(name) <= 80 else name[:80] + "...")


def _items_json(values: Iterable[Any]) -> list[str]:
    texts = []
    for index, value in enumerate(itertools.islice(values, LIST_MAX_VALUES + 1)):
        if index == LIST_MAX_VALUES:
            raise NotKept("the list has more than %d values" % LIST_MAX_VALUES)
        try:
            texts.append(scalar_json(value))
        except NotKept as error:
            raise NotKept("value %d: %s" % (index, error)) from None
    return texts


def _int_json(value: int) -> str:
    if INT_MIN <= value <= INT_MAX:
        return "%d" % value
    return repr(float(value))  # OverflowError for what no double holds


def _float_json(value: float) -> str:
    if value != value:
        return '"NaN"'
    if value - value != 0.0:
        return '"Infinity"' if value > 0 else '"-Infinity"'
    return float.__repr__(value)
