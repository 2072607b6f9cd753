"""Values: what a frozen, slotted dataclass does, without what that costs to define."""

from __future__ import annotations

import copy
import pickle

import pytest

from runyard_contract.value import replace, value_class


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
