"""Values: what a frozen, slotted dataclass does, without what that costs to define."""

from __future__ import annotations

import copy
import pickle

import pytest

from runyard_contract.value import later, replace, value_class


@value_class
class Point:
    """Two numbers and a name."""

    x: int
    y: int = 2
    name: str = ""

    @property
    def total(self) -> int:
        """Both together."""
        return self.x + self.y


@value_class
class Other:
    """The same fields, another class."""

    x: int
    y: int = 2
    name: str = ""


def test_fields_are_given_by_place_or_name_and_have_defaults() -> None:
    assert (Point(1).x, Point(1).y, Point(1, name="a").name) == (1, 2, "a")
    assert Point(1, 5).total == 6


@pytest.mark.parametrize(
    ("given", "named", "said"),
    [
        ((), {}, "lacks the field 'x'"),
        ((1, 2, "a", 4), {}, "3 fields, not 4"),
        ((1,), {"x": 2}, "'x'"),
        ((1,), {"z": 2}, "'z'"),
    ],
)
def test_wrong_fields_are_refused_by_name(
    given: tuple[int, ...], named: dict[str, int], said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        Point(*given, **named)  # type: ignore[arg-type]


def test_values_are_equal_by_class_and_fields() -> None:
    assert Point(1) == Point(1, 2)
    assert hash(Point(1)) == hash(Point(1, 2))
    assert Point(1) != Point(2)
    assert Point(1) != Other(1)


def test_a_value_can_not_be_changed_or_extended() -> None:
    point = Point(1)

    for name in ("x", "more"):
        with pytest.raises(AttributeError, match=name):
            setattr(point, name, 5)
    with pytest.raises(AttributeError, match="x"):
        del point.x  # type: ignore[misc]
    assert point == Point(1)


def test_replace_gives_a_copy_with_other_fields() -> None:
    point = Point(1, name="a")

    assert replace(point, y=7) == Point(1, 7, "a")
    assert point == Point(1, name="a")
    with pytest.raises(TypeError, match="'z'"):
        replace(point, z=1)


def test_values_are_shown_copied_and_pickled() -> None:
    point = Point(1, name="a")

    assert repr(point) == "Point(x=1, y=2, name='a')"
    assert copy.copy(point) == point
    assert pickle.loads(pickle.dumps(point)) == point  # noqa: S301 - of this test


def test_a_value_matches_a_pattern_by_place() -> None:
    match Point(3):
        case Point(x, y):
            assert (x, y) == (3, 2)


def test_a_class_that_is_made_often_goes_on_as_it_was() -> None:
    @value_class
    class Mark:
        """A mark."""

        x: int
        y: int = 2

    first = Mark(1)
    marks = [Mark(1, y=n) for n in range(1000)]

    assert (first, hash(first), repr(first)) == (marks[2], hash(marks[2]), repr(marks[2]))
    assert replace(marks[0], y=5) == marks[5] != marks[6]
    with pytest.raises(AttributeError, match="x"):
        marks[0].x = 5  # type: ignore[misc]
    for given, named, said in (
        ((), {}, "'x'"),
        ((1, 2, 3), {}, "3"),
        ((1,), {"x": 2}, "'x'"),
        ((1,), {"z": 2}, "'z'"),
    ):
        with pytest.raises(TypeError, match=said):
            Mark(*given, **named)  # type: ignore[arg-type]


@value_class
class Told:
    """A number and what was said of it."""

    number: int
    words: tuple[str, ...] = ()

    _later = ("words",)


def test_a_field_that_is_computed_later_is_computed_once_and_looks_like_any() -> None:
    asked: list[int] = []

    def words() -> tuple[str, ...]:
        asked.append(1)
        return ("a", "b")

    told = Told(1, words=later(words))
    assert told.number == 1
    assert asked == []
    assert told.words == told.words == ("a", "b")
    assert asked == [1]

    plain = Told(1, ("a", "b"))
    unread = [Told(1, later(words)) for _ in range(5)]
    assert unread[0] == plain
    assert hash(unread[1]) == hash(plain)
    assert repr(unread[2]) == repr(plain) == "Told(number=1, words=('a', 'b'))"
    assert pickle.loads(pickle.dumps(unread[3])) == plain  # noqa: S301 - of this test
    assert replace(unread[4], number=2) == Told(2, ("a", "b"))
    with pytest.raises(AttributeError, match="words"):
        plain.words = ()  # type: ignore[misc]
