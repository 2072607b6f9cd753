"""What the end of a script's stderr says: its last lines, and the exception that ended it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

LAST_LINES = 10
LINE_CHARACTERS = 400

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_GROUP_MARGIN = re.compile(r"^\s*[|+]\s?")
_FRAME = re.compile(r'^\s*File "[^"\n]+", line \d+')
_HEADER = re.compile(r"^\s*(?:\+ Exception Group )?Traceback \(most recent call last\):$")
_EXCEPTION = re.compile(r"^(?P<type>[A-Za-z_][\w.]*)(?:: (?P<message>.*))?$")
_NO_MODULE = re.compile(r"No module named (?P<quote>['\"]?)(?P<name>[\w.]+)(?P=quote)")
_CANNOT_IMPORT = re.compile(r"cannot import name '[^']+' from (?:partially .* )?'(?P<name>[\w.]+)'")
_SHARED_LIBRARY = re.compile(r"^(?P<name>lib[\w.+-]+\.so[\w.]*): cannot open shared object file")
_ERRNO_PATH = re.compile(
    r"No such file or directory: (?P<path>b?'(?:[^'\\]|\\.)*'|b?\"(?:[^\"\\]|\\.)*\")"
)
_CANNOT_OPEN = re.compile(r"can't open file (?P<path>'(?:[^'\\]|\\.)*'): \[Errno 2\]")
_TOOL_PATH = re.compile(
    r"^[\w./ -]+: (?:cannot (?:open|access|stat) )?['\u2018]?(?P<path>[^'\u2019:]+)['\u2019]?"
    r": No such file or directory$"
)

_MISSING_MODULE_TYPES = ("ModuleNotFoundError", "ImportError")


@dataclass(frozen=True, slots=True)
class PythonException:
    """The exception that a traceback ends with."""

    type: str
    """As the traceback spells it, such as "torch.OutOfMemoryError"."""
    message: str
    """Its first line."""
    module: str = ""
    """For an import that failed: the module that is missing or lacks something."""
    library: str = ""
    """For an import that failed: the shared library that the system lacks."""

    @property
    def text(self) -> str:
        """Type and message as Python prints them."""
        return f"{self.type}: {self.message}" if self.message else self.type


def last_lines(tail: bytes, count: int = LAST_LINES) -> tuple[str, ...]:
    """Gives the last `count` lines that are not blank, without colours, as a person saw them.

    Of a line that was overwritten with carriage returns, only its last text counts.
    """
    lines = [line for line in _lines(tail) if line.strip()]
    return tuple(line[:LINE_CHARACTERS] for line in lines[-count:])


def find_exception(tail: bytes) -> PythonException | None:
    """Finds the exception of the last traceback, None where there is no whole one."""
    lines = [_GROUP_MARGIN.sub("", line) for line in _lines(tail)]
    begin = max(
        (i for i, line in enumerate(lines) if _HEADER.match(line) or _FRAME.match(line)),
        default=None,
    )
    if begin is None:
        return None
    for line in lines[begin + 1 :]:
        match = None if line[:1].isspace() else _EXCEPTION.match(line)
        if match is not None:
            return _described(match["type"], (match["message"] or "")[:LINE_CHARACTERS])
    return None


def missed_paths(tail: bytes) -> tuple[str, ...]:
    """Gives the files that the script may have missed, the likeliest first; each as it wrote it.

    For an import that failed, the files that could have been the module. Whoever knows the ignore
    rules asks them about each.
    """
    exception = find_exception(tail)
    if exception is not None and exception.module:
        stem = exception.module.replace(".", "/")
        return (f"{stem}.py", f"{stem}/__init__.py", stem)
    for line in reversed(_lines(tail)):
        quoted = _ERRNO_PATH.search(line) or _CANNOT_OPEN.search(line)
        if quoted is not None:
            return (_unquoted(quoted["path"]),)
        plain = _TOOL_PATH.match(line)
        if plain is not None:
            return (plain["path"].strip(),)
    return ()


def _described(type_name: str, message: str) -> PythonException:
    if type_name not in _MISSING_MODULE_TYPES:
        return PythonException(type_name, message)
    library = _SHARED_LIBRARY.match(message)
    if library is not None:
        return PythonException(type_name, message, library=library["name"])
    module = _NO_MODULE.search(message) or _CANNOT_IMPORT.search(message)
    return PythonException(type_name, message, module=module["name"] if module else "")


def _lines(tail: bytes) -> list[str]:
    text = _COLOUR.sub("", tail.decode("utf-8", "replace"))
    return [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]


def _unquoted(literal: str) -> str:
    """What a quoted Python string or bytes literal stands for; the literal itself if it is none."""
    try:
        value = ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        return literal
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
