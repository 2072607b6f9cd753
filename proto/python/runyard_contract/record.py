"""Classes for values that are made many times for each run.

A frozen dataclass sets each field through `object.__setattr__`, which takes three times as long as
an assignment: of what a short run costs the daemon that was a tenth. A record is frozen for the
type checker, which looks at all of the code, and costs what a plain class does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, overload

ClassT = TypeVar("ClassT")
ValueT = TypeVar("ValueT")


@overload
def record(cls: type[ClassT]) -> type[ClassT]: ...


@overload
def record(*, kw_only: bool) -> Callable[[type[ClassT]], type[ClassT]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def record(
    cls: type[ClassT] | None = None, *, kw_only: bool = False
) -> type[ClassT] | Callable[[type[ClassT]], type[ClassT]]:
    """Makes a class as `dataclass(frozen=True, slots=True)` does, frozen by the checker only."""

    def made(cls: type[ClassT]) -> type[ClassT]:
        return dataclass(slots=True, unsafe_hash=True, kw_only=kw_only)(cls)

    return made if cls is None else made(cls)


if TYPE_CHECKING:
    from dataclasses import replace as replace  # whose changes a checker compares with the fields
else:

    def replace(original: ValueT, **changes: Any) -> ValueT:
        """As `dataclasses.replace`, in a third of its time."""
        names, values = _fields(type(original))
        return type(original)(**{**dict(zip(names, values(original), strict=True)), **changes})


@functools.cache
def _fields(cls: type[Any]) -> tuple[tuple[str, ...], Callable[[object], tuple[Any, ...]]]:
    """Names of a record's fields, and what reads them all; it has two at least."""
    names = tuple(known.name for known in dataclasses.fields(cls))
    return names, attrgetter(*names)
