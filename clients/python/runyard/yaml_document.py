"""YAML files that people write: read within bounds and with positions, saved with their comments.

Every scalar is read as the text that stands in the file; what it means is for the reader of the
key to say. So `0.10` or `2019-01-01` in a list of arguments reaches the script as it was written,
and no tag can make a Python object.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runyard_contract.errors import SpecInvalid

FILE_MAX_BYTES = 128 << 10
NODES_MAX = 10_000  # after aliases are followed: a bomb of aliases ends here
DEPTH_MAX = 32

_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_LOOKS_TYPED = re.compile(
    r"(?:~|null|true|false|yes|no|on|off|[-+.]?\d.*|[-+]?\.(?:nan|inf))?\Z", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Text:
    """A scalar; `is_null` where it is empty, `~` or `null` without quotes."""

    value: str
    is_null: bool
    line: int


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """A mapping; `line` of a value is that of its key."""

    entries: Mapping[str, Node]
    line: int


Node = Text | Items | Table


class YamlDocument:
    """One YAML file: `root` to read from, `update` and `dump` to write it again.

    Args:
        source: the file's name, for errors.
        text: its content; empty for a new file.

    Raises `SpecInvalid` with file, line and column for broken YAML, a repeated key, a tag, or a
    document that is too large, too deep or no mapping.
    """

    def __init__(self, source: str, text: str = "") -> None:
        self.source = source
        self._content = _parse(source, text)
        reader = _Reader(source)
        root = reader.node(self._content, 1, 0)
        if not isinstance(root, Table):
            raise reader.error(1, "the file must hold keys and values, not a list")
        self.root = root

    def update(self, wanted: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """Makes the document say `wanted`: what is equal already stays as it is written.

        Values are None, bool, int, str, and lists and dicts of these. A key that is not there is
        added unless it has its default; a key that is not wanted is removed.
        """
        _update(self._content, self.root, wanted, defaults)

    def dump(self) -> str:
        """The document as YAML text, comments and order kept."""
        sink = io.StringIO()
        _yaml().dump(self._content, sink)
        return sink.getvalue()


def read_yaml(path: Path) -> YamlDocument:
    """Reads a YAML file of at most 128 KiB; `SpecInvalid` says what is wrong with it."""
    return YamlDocument(str(path), read_text(path))


def read_text(path: Path, limit_bytes: int = FILE_MAX_BYTES) -> str:
    """The text of a file in UTF-8. Raises `SpecInvalid` for one that is larger or none."""
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise SpecInvalid(f"cannot read {path}: {error.strerror}", file=str(path)) from None
    if len(data) > limit_bytes:
        raise SpecInvalid(f"{path} is larger than {limit_bytes >> 10} KiB", file=str(path))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecInvalid(
            f"{path} is not UTF-8 text (byte {error.start})",
            hint="save it as UTF-8",
            file=str(path),
        ) from None


def plain(node: Node) -> Any:
    """The node as None, str, list and dict."""
    if isinstance(node, Text):
        return None if node.is_null else node.value
    if isinstance(node, Items):
        return [plain(item) for item in node.items]
    return {key: plain(value) for key, value in node.entries.items()}


def _yaml() -> Any:
    from ruamel.yaml import YAML  # costs 40 ms of start-up and is needed with files only
    from ruamel.yaml.resolver import VersionedResolver
    from ruamel.yaml.scanner import RoundTripScanner

    class TextResolver(VersionedResolver):
        """Takes every scalar for text."""

        @property
        def versioned_resolver(self) -> dict[str, Any]:
            return {}

    class ShallowScanner(RoundTripScanner):
        """Gives up on deep brackets at once: what they cost grows with the square of the depth."""

        def fetch_flow_collection_start(self, TokenClass: Any, to_push: str) -> None:
            if len(self.flow_context) > DEPTH_MAX:
                raise RecursionError
            super().fetch_flow_collection_start(TokenClass, to_push)

    yaml = YAML()
    yaml.Scanner = ShallowScanner
    yaml.Resolver = TextResolver
    yaml.preserve_quotes = True
    yaml.width = 1 << 20  # never fold a line that its author did not fold
    return yaml


def _parse(source: str, text: str) -> Any:
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        content = _yaml().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problem = " ".join(filter(None, (error.context, error.problem)))
        began = error.context_mark
        if began is not None and began.line + 1 != line:
            problem += f" (it begins in line {began.line + 1})"
        raise _error(source, line, problem, column) from None
    except YAMLError as error:  # a character that YAML does not allow
        raise _error(source, 1, str(error).splitlines()[0]) from None
    except TypeError:  # ruamel's own: a key that holds a list can't be looked up
        raise _error(source, 1, "a key is a list or holds one; write keys as plain text") from None
    except RecursionError:
        raise _error(source, 1, f"nested more than {DEPTH_MAX} levels deep") from None
    return CommentedMap() if content is None else content


class _Reader:
    """Turns ruamel's objects into nodes, within the bounds."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._nodes = 0

    def node(self, value: Any, line: int, depth: int) -> Node:
        from ruamel.yaml.comments import CommentedMap, CommentedSeq
        from ruamel.yaml.scalarstring import ScalarString

        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise self.error(line, f"more than {NODES_MAX:,} values, with aliases followed")
        if depth > DEPTH_MAX:
            raise self.error(line, f"nested more than {DEPTH_MAX} levels deep")
        if isinstance(value, str):
            is_null = value in _NULL and not isinstance(value, ScalarString)
            return Text(str(value), is_null, line)
        if value is None:  # what ruamel puts where a node would hold itself
            raise self.error(line, "an alias cannot stand for what it is part of")
        tag = getattr(value, "tag", None)
        if not isinstance(value, CommentedMap | CommentedSeq) or (tag and tag.value):
            raise self.error(line, "a tag (!!…) is not taken here; write plain values")
        if isinstance(value, CommentedSeq):
            lines = [value.lc.item(index)[0] + 1 for index in range(len(value))]
            items = zip(value, lines, strict=True)
            return Items(tuple(self.node(item, at, depth + 1) for item, at in items), line)
        entries = {}
        for key in value:
            at = value.lc.key(key)[0] + 1
            if not isinstance(key, str):
                raise self.error(at, "a key must be plain text")
            entries[str(key)] = self.node(value[key], at, depth + 1)
        return Table(entries, line)

    def error(self, line: int, problem: str) -> SpecInvalid:
        return _error(self._source, line, problem)


def _error(source: str, line: int, problem: str, column: int | None = None) -> SpecInvalid:
    where = f"{source}:{line}" if column is None else f"{source}:{line}:{column}"
    error = SpecInvalid(
        f"{where}: {problem}",
        hint="correct the file and try again",
        file=source,
        line=str(line),
    )
    if column is not None:
        error.metadata["column"] = str(column)
    return error


def _update(
    content: Any, table: Table, wanted: Mapping[str, Any], defaults: Mapping[str, Any]
) -> None:
    for key in [key for key in content if key not in wanted]:
        del content[key]
    for key, value in wanted.items():
        node = table.entries.get(key)
        default = defaults.get(key, ...)
        if node is None:
            if value != default:
                content[key] = _written(value)
        elif isinstance(value, dict) and isinstance(node, Table):
            _update(content[key], node, value, default if isinstance(default, dict) else {})
        elif not _says(node, value):
            content[key] = _written(value)


def _says(node: Node, value: Any) -> bool:
    """Whether the node, as it is written, already means the value."""
    if isinstance(node, Text) and isinstance(value, bool | int) and not node.is_null:
        return node.value.lower() == str(value).lower()
    return bool(plain(node) == value)


def _written(value: Any) -> Any:
    """The value as ruamel shall write it: text that looks like another type gets its quotes."""
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_written(item) for item in value]
    if value is None:
        return "null"
    if isinstance(value, bool | int):
        return str(value).lower()
    return DoubleQuotedScalarString(value) if _LOOKS_TYPED.match(value) else value
