"""Immutable classes for values that cost next to nothing to define.

A frozen, slotted dataclass compiles its methods when it is defined, about a millisecond each: for a
command that lives a tenth of a second, the thirty that it meets were a fifth of its time. What the
command line imports at its start is declared with `value_class` instead; all else is a dataclass.
"""

from __future__ import annotations

from typing import Any, NoReturn, Self, TypeVar, dataclass_transform

ClassT = TypeVar("ClassT")
ValueT = TypeVar("ValueT")
_MISSING = object()


class _Value:
    """What all values share: made from their fields, equal by them, never changed."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()
    _defaults: tuple[Any, ...] = ()

    def __init__(self, *given: Any, **named: Any) -> None:
        fields = self.__match_args__
        if len(given) > len(fields):
            raise TypeError(f"{type(self).__name__} has {len(fields)} fields, not {len(given)}")
        for field, value in zip(fields, given, strict=False):
            object.__setattr__(self, field, value)
        for index in range(len(given), len(fields)):
            field = fields[index]
            value = named.pop(field, self._defaults[index])
            if value is _MISSING:
                raise TypeError(f"{type(self).__name__} lacks the field {field!r}")
            object.__setattr__(self, field, value)
        if named:
            raise TypeError(f"{type(self).__name__} takes no (second) {next(iter(named))!r}")

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field) for field in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        shown = (f"{field}={getattr(self, field)!r}" for field in self.__match_args__)
        return f"{type(self).__qualname__}({', '.join(shown)})"

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} can't be set: values don't change")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"{type(self).__name__}.{name} can't be deleted: values don't change")

    def __reduce__(self) -> tuple[type[Self], tuple[Any, ...]]:
        return type(self), self._values()


@dataclass_transform(frozen_default=True)
def value_class(cls: type[ClassT]) -> type[ClassT]:
    """Makes the annotated names of a class its fields, as `dataclass(frozen=True, slots=True)`.

    What is assigned to a name is its default, shared by all: it must not be changeable. Such a
    class has no other base, and its file has `from __future__ import annotations`.
    """
    fields = tuple(cls.__annotations__)
    members = {
        name: member
        for name, member in vars(cls).items()
        if name not in ("__dict__", "__weakref__", *fields)
    }
    members["__slots__"] = members["__match_args__"] = fields
    members["_defaults"] = tuple(vars(cls).get(field, _MISSING) for field in fields)
    made: Any = type(cls.__name__, (_Value,), members)
    return made  # type: ignore[no-any-return]  # a checker goes by dataclass_transform


def replace(original: ValueT, **changes: Any) -> ValueT:
    """A copy of a value with other fields, as `dataclasses.replace`."""
    if not isinstance(original, _Value):
        raise TypeError(f"{type(original).__name__} is no value")
    kept = dict(zip(original.__match_args__, original._values(), strict=True))
    return type(original)(**{**kept, **changes})
