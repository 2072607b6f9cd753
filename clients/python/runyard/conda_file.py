"""What a conda `environment.yml` says, as it stands there."""

from __future__ import annotations

from dataclasses import dataclass, field

from runyard.requirements import Place
from runyard.schema import invalid
from runyard.yaml_document import Items, Node, Table, Text

_KNOWN = ("name", "channels", "dependencies", "constraints")


@dataclass(slots=True)
class CondaFile:
    """The content of one file; `pip` and `constraints` are lines with the places they are at.

    `name` is empty where the file has none; `conda` holds the dependencies without those of pip.
    """

    name: str = ""
    channels: list[str] = field(default_factory=list)
    conda: list[str] = field(default_factory=list)
    pip: list[tuple[Place, str]] = field(default_factory=list)
    constraints: list[tuple[Place, str]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


def read_conda(node: Node, source: str) -> CondaFile:
    """Reads a file's content. Raises `SpecInvalid` with source and line."""
    if not isinstance(node, Table):
        raise invalid(source, node.line, "conda dependencies must be keys and values")
    found = CondaFile()
    for key, value in node.entries.items():
        if key == "name" and isinstance(value, Text):
            found.name = "" if value.is_null else value.value
        elif key == "channels" and isinstance(value, Items):
            found.channels = [_text(one, source, "a channel") for one in value.items]
        elif key == "dependencies" and isinstance(value, Items):
            _read_dependencies(found, value, source)
        elif key == "constraints" and isinstance(value, Items):
            found.constraints = [
                (Place(source, one.line), _text(one, source, "a constraint")) for one in value.items
            ]
        elif key == "variables" and isinstance(value, Table):
            found.variables = {
                name: _text(one, source, f"the variable {name}")
                for name, one in value.entries.items()
            }
        elif key != "prefix":
            _refuse(key, value, source)
    return found


def _refuse(key: str, value: Node, source: str) -> None:
    """Raises for a key that is unknown, or has a value of another form; an empty one is none."""
    is_empty = isinstance(value, Text) and value.is_null
    if key not in (*_KNOWN, "variables"):
        known = f"known keys: {', '.join(_KNOWN)}, variables"
        raise invalid(source, value.line, f"unknown key {key[:100]!r}", known)
    if key == "variables" and not is_empty:
        raise invalid(source, value.line, "variables must have a value for each name")
    if not is_empty:
        raise invalid(source, value.line, f"{key} is not of the form that conda has")


def _read_dependencies(found: CondaFile, dependencies: Items, source: str) -> None:
    for one in dependencies.items:
        if not isinstance(one, Table):
            found.conda.append(_text(one, source, "a dependency"))
            continue
        if list(one.entries) != ["pip"]:
            raise invalid(source, one.line, "only pip can have a list of its own in dependencies")
        lines = one.entries["pip"]
        if not isinstance(lines, Items):
            raise invalid(source, lines.line, "pip must have a list of requirements")
        for line in lines.items:
            text = _text(line, source, "a pip requirement")
            found.pip.append((Place(source, line.line), text))


def _text(node: Node, source: str, what: str) -> str:
    if isinstance(node, Text) and not node.is_null:
        return node.value.strip()
    raise invalid(source, node.line, f"{what} must be one line of text")
