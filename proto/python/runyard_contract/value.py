"""Immutable classes for values that cost next to nothing to define.

A frozen, slotted dataclass compiles its methods when it is defined, about a millisecond each: for a
command that lives a tenth of a second, the thirty that it meets were a fifth of its time. What the
command line imports at its start is declared with `value_class` instead; all else is a dataclass.
A class that turns out to be made often gets compiled methods then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, Self, TypeVar, cast, dataclass_transform

ClassT = TypeVar("ClassT")
ValueT = TypeVar("ValueT")
FieldT = TypeVar("FieldT")
_MISSING = object()
_OFTEN = 64
"""As many values of a class as take longer to make slowly than its methods do to compile."""


class _Value:
    """What all values share: made from their fields, equal by them, never changed."""

    __slots__ = ()
    __match_args__: tuple[str, ...] = ()
    _defaults: tuple[Any, ...] = ()
    _later: tuple[str, ...] = ()
    _made = 0

    def __init__(self, *given: Any, **named: Any) -> None:
        cls = type(self)
        cls._made += 1
        if cls._made == _OFTEN:
            _compile(cls)
        fields = self.__match_args__
        if len(given) > len(fields):
            raise TypeError(f"{type(self).__name__} has {len(fields)} fields, not {len(given)}")
        later = cls._later
        for field, value in zip(fields, given, strict=False):
            object.__setattr__(self, _slot(field, later), value)
        for index in range(len(given), len(fields)):
            field = fields[index]
            value = named.pop(field, self._defaults[index])
            if value is _MISSING:
                raise TypeError(f"{type(self).__name__} lacks the field {field!r}")
            object.__setattr__(self, _slot(field, later), value)
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


def _compile(cls: type[_Value]) -> None:
    """Gives a class methods of its own that know its fields."""
    names: dict[str, Any] = {}
    parameters = []
    for field, default in zip(cls.__match_args__, cls._defaults, strict=True):
        names[f"_set_{field}"] = getattr(cls, _slot(field, cls._later)).__set__
        if default is not _MISSING:
            names[f"_default_{field}"] = default
            field += f"=_default_{field}"
        parameters.append(field)
    lines = [
        f"def __init__({', '.join(['self', *parameters])}):",
        *(f" _set_{field}(self, {field})" for field in cls.__match_args__),
        f"def _values(self): return ({''.join(f'self.{field}, ' for field in cls.__match_args__)})",
    ]
    exec("\n".join(lines), names)  # noqa: S102 - of names that are written in a class
    for method in (names["__init__"], names["_values"]):
        method.__qualname__ = f"{cls.__qualname__}.{method.__name__}"
        setattr(cls, method.__name__, method)


@dataclass_transform(frozen_default=True)
def value_class(cls: type[ClassT]) -> type[ClassT]:
    """Makes the annotated names of a class its fields, as `dataclass(frozen=True, slots=True)`.

    What is assigned to a name is its default, shared by all: it must not be changeable. Such a
    class has no other base, and its file has `from __future__ import annotations`. The fields that
    it names in `_later` may be given as `later(compute)`.
    """
    fields = tuple(cls.__annotations__)
    members = {
        name: member
        for name, member in vars(cls).items()
        if name not in ("__dict__", "__weakref__", *fields)
    }
    put_off = members.get("_later", ())
    members["__slots__"] = tuple(_slot(field, put_off) for field in fields)
    members["__match_args__"] = fields
    members["_defaults"] = tuple(vars(cls).get(field, _MISSING) for field in fields)
    members.update((field, property(_reader(_slot(field, put_off)))) for field in put_off)
    made: Any = type(cls.__name__, (_Value,), members)
    return made  # type: ignore[no-any-return]  # a checker goes by dataclass_transform


def later(compute: Callable[[], FieldT]) -> FieldT:
    """Stands for a field's value, which is computed when it is first read."""
    return cast(FieldT, _Later(compute))


class _Later:
    """A value that was not asked for yet."""

    __slots__ = ("compute",)

    def __init__(self, compute: Callable[[], Any]) -> None:
        self.compute = compute


def _slot(field: str, put_off: tuple[str, ...]) -> str:
    """Where a field's value is kept: a field that may be computed later is read through a name."""
    return f"_{field}" if field in put_off else field


def _reader(slot: str) -> Callable[[_Value], Any]:
    """Reads a field that may be computed later."""

    def read(value: _Value) -> Any:
        found = getattr(value, slot)
        if type(found) is _Later:
            found = found.compute()
            object.__setattr__(value, slot, found)
        return found

    return read


def replace(original: ValueT, **changes: Any) -> ValueT:
    """A copy of a value with other fields, as `dataclasses.replace`."""
    if not isinstance(original, _Value):
        raise TypeError(f"{type(original).__name__} is no value")
    kept = dict(zip(original.__match_args__, original._values(), strict=True))
    return type(original)(**{**kept, **changes})
