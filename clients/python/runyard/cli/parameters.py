"""The kinds of values that options take, each with the rule that it breaks in its message."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from runyard import quantities
from runyard.environment_names import name_and_version
from runyard_contract import ids
from runyard_contract.errors import NameInvalid, SpecInvalid
from runyard_contract.limits import TAG_VALUE_BYTES

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from runyard_contract.states import RunState

    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic since click 8.4 only

ENV_NAME_BYTES = 1024
ENV_VALUE_BYTES = 131_072
_ZERO_DURATIONS = ("0", "0s")


class Kind(_ParamType):
    """A kind of value.

    Args:
        name: what the help calls it.
        read: gives the value of a text, or raises SpecInvalid, NameInvalid or ValueError, the last
            with what the text is not.
    """

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value of a text; a usage error says what is wrong with it."""
        if not isinstance(value, str):
            return value  # a default
        try:
            return self._read(value)
        except SpecInvalid as error:
            found = error.violations
            message = found[0].description if found else f"{error.message}; {error.hint}"
        except NameInvalid as error:
            message = f"{error.message}; {error.hint}"
        except ValueError as error:
            message = f"{value[:80]!r} {error}"
        raise click.BadParameter(message, ctx=ctx, param=param)


class PathKind(_ParamType):
    """The path of a file, or with `is_folder` of a folder, which the shell completes.

    click's own asks for a translation of its name, which loads the locale.
    """

    name = "path"

    def __init__(self, *, is_folder: bool = False) -> None:
        self._is_folder = is_folder

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Leaves it to the shell."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir" if self._is_folder else "file")]


def _grace(text: str) -> float:
    if text.strip().lower() in _ZERO_DURATIONS:
        return 0.0
    return quantities.grace_s(quantities.duration_s(text))


def _age(text: str) -> float:
    return 0.0 if text.strip().lower() in _ZERO_DURATIONS else quantities.duration_s(text)


def _whole_number(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError("is not a whole number") from None
    if number < 1:
        raise ValueError("is not over 0")
    return number


def _tag(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ValueError("is not of the form KEY=VALUE")
    return _tag_filter(f"{key}={value}")


def _tag_filter(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    try:
        size_bytes = len(value.encode())
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8") from None
    if size_bytes > TAG_VALUE_BYTES:
        raise ValueError(f"has a value of more than {TAG_VALUE_BYTES:,} bytes")
    return ids.check_tag_key(key), value


def _environment_variable(text: str) -> tuple[bytes, bytes | None]:
    name, equals, value = os.fsencode(text).partition(b"=")
    if not 0 < len(name) <= ENV_NAME_BYTES:
        raise ValueError("is not of the form NAME or NAME=VALUE")
    if len(value) > ENV_VALUE_BYTES:
        raise ValueError(f"has a value of more than {ENV_VALUE_BYTES:,} bytes")
    return name, value if equals else None


def _status(text: str) -> RunState:
    from runyard.run_listing import state_of_word  # brings grpc

    return state_of_word(text)


DURATION = Kind("duration", quantities.duration_s)
"""Seconds of "90", "90s", "15m", "2h", "1d" or "1h30m", over zero."""
GRACE = Kind("duration", _grace)
"""As DURATION, from zero to an hour."""
AGE = Kind("duration", _age)
"""As DURATION, from zero."""
MEMORY = Kind("size", quantities.memory_bytes)
"""Bytes of "512M" or "24GiB"."""
CPUS = Kind("number", lambda text: quantities.cpu_millicores(text) / 1000)
"""Processors; parts of one are possible."""
GPUS = Kind("number", quantities.gpu_count)
"""Whole GPUs."""
PRIORITY = Kind("number", quantities.priority)
"""A run's place in the queue."""
COUNT = Kind("number", _whole_number)
"""A whole number over zero."""
TAG = Kind("key=value", _tag)
"""KEY=VALUE, as a pair."""
TAG_FILTER = Kind("key[=value]", _tag_filter)
"""KEY=VALUE, or KEY for any value, which is then empty."""
ENVIRONMENT_VARIABLE = Kind("name[=value]", _environment_variable)
"""NAME=VALUE, or NAME of a variable of the caller (value None), as bytes."""
STATUS = Kind("status", _status)
"""The state of a word such as "Running"."""
EXPERIMENT = Kind("experiment", ids.check_experiment_name)
COMPUTE = Kind("target", ids.check_compute_name)
ENVIRONMENT = Kind("name", ids.check_environment_name)
ENVIRONMENT_VERSION = Kind("name[:version]", name_and_version)
"""Name and number of a version, None for the newest."""
FILE = PathKind()
FOLDER = PathKind(is_folder=True)
