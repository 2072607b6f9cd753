"""The kinds of values that options take, each with the rule that it breaks in its message."""

from __future__ import annotations

import os
from typing import Any, NoReturn

import click
from runyard_contract import ids
from runyard_contract.errors import NameInvalid
from runyard_contract.limits import (
    CPUS_MAX,
    MAX_DURATION_S,
    MEMORY_MAX_BYTES,
    TAG_VALUE_BYTES,
)

from runyard.cli.quantities import format_duration, format_size, parse_duration, parse_size

ENV_NAME_BYTES = 1024
ENV_VALUE_BYTES = 131_072


class _Kind(click.ParamType):
    """A kind of value that is read by one function, which raises ValueError."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value of a text; a usage error says what is wrong with it."""
        if not isinstance(value, str):
            return value  # a default
        try:
            return self.read(value)
        except NameInvalid as error:
            self._refuse(f"{error.message}; {error.hint}", param, ctx)
        except ValueError as error:
            self._refuse(f"{value[:80]!r} {error}", param, ctx)

    def read(self, text: str) -> Any:
        """The value of a text. Raises ValueError (what the text is not) or NameInvalid."""
        raise NotImplementedError

    def _refuse(
        self, message: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> NoReturn:
        raise click.BadParameter(message, ctx=ctx, param=param)


class Duration(_Kind):
    """Seconds from `least_s` (or above it, if zero is no duration) to a year."""

    name = "duration"

    def __init__(self, *, most_s: float = MAX_DURATION_S, may_be_zero: bool = False) -> None:
        self._most_s = most_s
        self._may_be_zero = may_be_zero

    def read(self, text: str) -> float:
        """The seconds."""
        seconds = parse_duration(text)
        if seconds > self._most_s:
            raise ValueError(f"is longer than {format_duration(self._most_s)}")
        if seconds <= 0 and not self._may_be_zero:
            raise ValueError("is no time at all")
        return seconds


class Size(_Kind):
    """Bytes of memory."""

    name = "size"

    def read(self, text: str) -> int:
        """The bytes."""
        size_bytes = parse_size(text)
        if size_bytes > MEMORY_MAX_BYTES:
            raise ValueError(f"is more than {format_size(MEMORY_MAX_BYTES)}")
        return size_bytes


class Cpus(_Kind):
    """Processors; parts of one are possible."""

    name = "number"

    def read(self, text: str) -> float:
        """The number."""
        try:
            cpus = float(text)
        except ValueError:
            raise ValueError("is not a number such as 2 or 0.5") from None
        if not 0 <= cpus <= CPUS_MAX:
            raise ValueError(f"is not between 0 and {CPUS_MAX:,}")
        return cpus


class WholeNumber(_Kind):
    """A whole number between two bounds, which belong to it."""

    name = "number"

    def __init__(self, least: int, most: int) -> None:
        self._least = least
        self._most = most

    def read(self, text: str) -> int:
        """The number."""
        try:
            number = int(text)
        except ValueError:
            raise ValueError("is not a whole number") from None
        if not self._least <= number <= self._most:
            raise ValueError(f"is not between {self._least:,} and {self._most:,}")
        return number


class Tag(_Kind):
    """`KEY=VALUE` of a tag, as a pair. Without `=VALUE`, where that is allowed, any value."""

    name = "key=value"

    def __init__(self, *, needs_value: bool = True) -> None:
        self._needs_value = needs_value

    def read(self, text: str) -> tuple[str, str]:
        """The key and the value."""
        key, equals, value = text.partition("=")
        if not equals and self._needs_value:
            raise ValueError("is not of the form KEY=VALUE")
        try:
            size_bytes = len(value.encode())
        except UnicodeEncodeError:
            raise ValueError("is not UTF-8") from None
        if size_bytes > TAG_VALUE_BYTES:
            raise ValueError(f"has a value of more than {TAG_VALUE_BYTES:,} bytes")
        return ids.check_tag_key(key), value


class EnvironmentVariable(_Kind):
    """`NAME=VALUE`, or `NAME` of a variable of the caller (value None). Both are bytes."""

    name = "name[=value]"

    def read(self, text: str) -> tuple[bytes, bytes | None]:
        """Name and value."""
        name, equals, value = os.fsencode(text).partition(b"=")
        if not 0 < len(name) <= ENV_NAME_BYTES:
            raise ValueError("is not of the form NAME or NAME=VALUE")
        if len(value) > ENV_VALUE_BYTES:
            raise ValueError(f"has a value of more than {ENV_VALUE_BYTES:,} bytes")
        return name, value if equals else None


class ExperimentName(_Kind):
    """The name of an experiment."""

    name = "experiment"

    def read(self, text: str) -> str:
        """The name."""
        return ids.check_experiment_name(text)


class ComputeName(_Kind):
    """The name of a compute target."""

    name = "target"

    def read(self, text: str) -> str:
        """The name."""
        return ids.check_compute_name(text)


class EnvironmentName(_Kind):
    """The name of an environment."""

    name = "name"

    def read(self, text: str) -> str:
        """The name."""
        return ids.check_environment_name(text)
