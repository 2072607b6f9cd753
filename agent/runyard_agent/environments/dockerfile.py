"""What a Dockerfile says: its instructions by line, its base images, whether it copies files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

_DIRECTIVE = re.compile(r"\s*#\s*(\w+)\s*=\s*(\S+)\s*\Z")
_FROM = re.compile(
    r"(?P<before>\s*FROM\s+(?:--\S+\s+)*)(?P<image>\S+)(?:\s+AS\s+(?P<stage>\S+))?", re.IGNORECASE
)
_VARIABLE = re.compile(r"\$(?:(?P<name>\w+)|\{(?P<braced>\w+)(?::-(?P<default>[^}]*))?\})")
_URL = re.compile(r"(?:https?|git|ftp)://|git@", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its first line, from 1, its keyword in capitals, and the rest of it."""

    line: int
    keyword: str
    rest: str

    @property
    def text(self) -> str:
        """As one line for people."""
        return f"{self.keyword} {self.rest}".strip()


def instructions(text: str) -> list[Instruction]:
    """The instructions in order; the engine counts its steps by them."""
    return list(_read(text))


def _read(text: str) -> Iterator[Instruction]:
    escape, may_direct = "\\", True
    started, parts = 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        directive = _DIRECTIVE.match(line) if may_direct else None
        may_direct = directive is not None
        if directive is not None and directive[1].lower() == "escape":
            escape = directive[2]
        content = line.strip()
        if not content or content.startswith("#"):
            continue  # also within an instruction
        started = started or number
        goes_on = content.endswith(escape)
        parts.append(content.removesuffix(escape).strip() if goes_on else content)
        if not goes_on:
            yield _instruction(started, parts)
            started, parts = 0, []
    if parts:
        yield _instruction(started, parts)


def _instruction(line: int, parts: list[str]) -> Instruction:
    keyword, _, rest = " ".join(parts).partition(" ")
    return Instruction(line, keyword.upper(), rest.strip())


def copying(text: str) -> Instruction | None:
    """The first instruction that takes files of the build context; None: it needs none."""
    for one in instructions(text):
        if one.keyword not in ("COPY", "ADD"):
            continue
        words = one.rest.split()
        if any(word.startswith("--from=") for word in words):
            continue
        sources = [word for word in words if not word.startswith("--")][:-1]
        is_remote = one.keyword == "ADD" and sources and all(map(_URL.match, sources))
        if not is_remote:
            return one
    return None


def bases(text: str) -> list[str]:
    """The images that it builds on, without repetition, ARG's defaults filled in.

    Stages of its own, `scratch` and names that only the build knows are left out.
    """
    found: dict[str, None] = {}
    _over_bases(text, lambda image: found.setdefault(image))
    return list(found)


def with_bases(text: str, exact: Mapping[str, str]) -> str:
    """The same Dockerfile, line by line, on exactly these images, by the names in `bases`."""
    return _over_bases(text, exact.get)


def _over_bases(text: str, replaced: Callable[[str], str | None]) -> str:
    """The text with each base image replaced, where `replaced` gives something for it."""
    lines = text.splitlines(keepends=True)
    defaults: dict[str, str] = {}
    stages = {"scratch"}
    has_stage = False
    for one in instructions(text):
        if one.keyword == "ARG" and not has_stage:
            name, equals, value = one.rest.partition("=")
            if equals:
                defaults[name.strip()] = _filled(value.strip().strip("\"'"), defaults)
        if one.keyword != "FROM":
            continue
        has_stage = True
        match = _FROM.match(lines[one.line - 1])
        if match is None:
            continue  # written over several lines
        image = _filled(match["image"], defaults)
        if image.lower() not in stages and "$" not in image:
            exact = replaced(image)
            if exact:
                start, end = match.span("image")
                line = lines[one.line - 1]
                lines[one.line - 1] = f"{line[:start]}{exact}{line[end:]}"
        if match["stage"]:
            stages.add(match["stage"].lower())
    return "".join(lines)


def _filled(text: str, defaults: Mapping[str, str]) -> str:
    """A text with variables filled in, as far as they are known."""

    def fill(found: re.Match[str]) -> str:
        value = defaults.get(found["name"] or found["braced"], found["default"])
        return found[0] if value is None else value

    return _VARIABLE.sub(fill, text)
