"""Sections of configuration files: dataclasses whose attributes are the keys of a YAML mapping.

`node_count` is the key `nodeCount`; a field's metadata may name another key, or say that the key is
written only when it is set (`seldom()`). A key that is empty has its default. A class with a file
format of its own has `from_node(node, source)` and `to_plain()` instead of fields.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from typing import Any, TypeVar

from runyard.yaml_document import Items, Node, Table, Text, plain
from runyard_contract.errors import SpecInvalid
from runyard_contract.nearest import nearest

S = TypeVar("S")

_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WHOLE_NUMBER = re.compile(r"[-+]?\d{1,18}\Z")


def named(key: str, *, is_seldom: bool = False) -> dict[str, Any]:
    """Field metadata: the key's name in the file, where it is not the attribute's in camelCase."""
    return {"key": key, "seldom": is_seldom}


def seldom() -> dict[str, Any]:
    """Field metadata: the key is left out of a new file unless it is set."""
    return {"seldom": True}


@dataclasses.dataclass(frozen=True, slots=True)
class _Key:
    attribute: str
    key: str
    kind: Any
    is_seldom: bool


_keys_of: dict[type, tuple[_Key, ...]] = {}


def _keys(cls: type) -> tuple[_Key, ...]:
    if cls not in _keys_of:
        _keys_of[cls] = _read_keys(cls)
    return _keys_of[cls]


def _read_keys(cls: type) -> tuple[_Key, ...]:
    hints = typing.get_type_hints(cls)
    return tuple(
        _Key(
            field.name,
            field.metadata.get("key") or _camel_case(field.name),
            _without_none(hints[field.name]),
            field.metadata.get("seldom", False),
        )
        for field in dataclasses.fields(cls)
    )


def read_section(cls: type[S], node: Node, source: str, path: str = "") -> S:
    """Makes the section that `node` describes; `path` is its own key, for errors.

    Raises `SpecInvalid` with file and line: for an unknown key (the nearest valid one is named) and
    for a value of another type than the key's.
    """
    table = _expect(Table, node, source, path)
    by_key = {entry.key: entry for entry in _keys(cls)}
    section = cls()
    for key, value in table.entries.items():
        entry = by_key.get(key)
        if entry is None:
            raise _unknown(key, list(by_key), value.line, source, path)
        if not (isinstance(value, Text) and value.is_null):
            full = f"{path}.{key}" if path else key
            found = _read(entry.kind, value, source, full)
            try:
                setattr(section, entry.attribute, found)
            except SpecInvalid as error:  # the section's own check, which knows no file
                raise invalid(source, value.line, error.message, error.hint) from None
    return section


def plain_section(section: Any, *, is_whole: bool = True) -> dict[str, Any]:
    """The section as a mapping of keys, for `YamlDocument.update`.

    With `is_whole=False` the keys that are seldom written are left out where they have their
    default.
    """
    default = type(section)()
    found = {}
    for entry in _keys(type(section)):
        value = _plain(getattr(section, entry.attribute), is_whole)
        if (
            is_whole
            or not entry.is_seldom
            or value != _plain(getattr(default, entry.attribute), is_whole)
        ):
            found[entry.key] = value
    return found


def invalid(source: str, line: int, problem: str, hint: str = "") -> SpecInvalid:
    """The error for something at a line of a file."""
    return SpecInvalid(f"{source}:{line}: {problem}", hint=hint, file=source, line=str(line))


def _read(kind: Any, node: Node, source: str, path: str) -> Any:
    origin = typing.get_origin(kind)
    if kind is Any:
        return plain(node)
    if origin is list:
        (item,) = typing.get_args(kind)
        items = _expect(Items, node, source, path).items
        return [
            _read(item, _not_null(one, source, path), source, f"{path}[{index}]")
            for index, one in enumerate(items)
        ]
    if origin is dict:
        _, item = typing.get_args(kind)
        entries = _expect(Table, node, source, path).entries
        return {key: _read(item, one, source, f"{path}.{key}") for key, one in entries.items()}
    if hasattr(kind, "from_node"):
        return kind.from_node(node, source)
    if dataclasses.is_dataclass(kind):
        return read_section(typing.cast(type, kind), node, source, path)
    return _scalar(kind, _expect(Text, node, source, path), source, path)


def _scalar(kind: type, node: Text, source: str, path: str) -> Any:
    if kind is bool:
        truth = _TRUTH.get(node.value.lower())
        if truth is None:
            raise invalid(source, node.line, f"{path} must be true or false, not {node.value!r}")
        return truth
    if kind is int:
        if not _WHOLE_NUMBER.match(node.value):
            raise invalid(source, node.line, f"{path} must be a whole number, not {node.value!r}")
        return int(node.value)
    return "" if node.is_null else node.value


def _not_null(node: Node, source: str, path: str) -> Node:
    if isinstance(node, Text) and node.is_null:
        raise invalid(
            source, node.line, f"{path} has an empty item", 'write "" where empty text is meant'
        )
    return node


_NAMES = {Text: "a single value", Items: "a list", Table: "keys and values"}

N = TypeVar("N", Text, Items, Table)


def _expect(kind: type[N], node: Node, source: str, path: str) -> N:
    if isinstance(node, kind):
        return node
    what = path or "the file"
    raise invalid(source, node.line, f"{what} must be {_NAMES[kind]}, not {_NAMES[type(node)]}")


def _unknown(key: str, known: list[str], line: int, source: str, path: str) -> SpecInvalid:
    close = nearest(key, known)
    where = f" in {path}" if path else ""
    hint = f'did you mean "{close}"?' if close else f"known keys: {', '.join(known)}"
    error = invalid(source, line, f"unknown key {key[:100]!r}{where}", hint)
    error.metadata["key"] = key[:100]
    if close:
        error.metadata["nearest"] = close
    return error


def _plain(value: Any, is_whole: bool) -> Any:
    if hasattr(value, "to_plain"):
        return value.to_plain()
    if dataclasses.is_dataclass(value):
        return plain_section(value, is_whole=is_whole)
    if isinstance(value, dict):
        return {str(key): _plain(item, is_whole) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, is_whole) for item in value]
    return value if value is None or isinstance(value, bool | int) else str(value)


def _camel_case(attribute: str) -> str:
    first, *rest = attribute.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _without_none(hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        (kind,) = (arg for arg in typing.get_args(hint) if arg is not types.NoneType)
        return kind
    return hint
