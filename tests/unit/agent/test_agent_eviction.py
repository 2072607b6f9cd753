from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from runyard_agent.core.eviction import Stored, to_evict, to_prune

OLD = Stored("old", 40, 1_000)
MIDDLE = Stored("middle", 30, 2_000)
NEW = Stored("new", 20, 3_000)


def in_use(stored: Stored) -> Stored:
    return replace(stored, is_in_use=True)


def test_nothing_goes_within_the_bound() -> None:
    assert to_evict([OLD, MIDDLE, NEW], 90) == []
    assert to_evict([], 0) == []


def test_least_recently_used_goes_first_and_no_more_than_needed() -> None:
    assert to_evict([NEW, OLD, MIDDLE], 89) == ["old"]
    assert to_evict([NEW, OLD, MIDDLE], 50) == ["old"]
    assert to_evict([NEW, OLD, MIDDLE], 49) == ["old", "middle"]


def test_one_in_use_stays_and_counts() -> None:
    assert to_evict([in_use(OLD), MIDDLE, NEW], 60) == ["middle"]
    assert to_evict([in_use(OLD), MIDDLE, in_use(NEW)], 1) == ["middle"]


def test_single_one_over_the_bound_stays_while_it_is_in_use() -> None:
    assert to_evict([in_use(OLD)], 1) == []
    assert to_evict([OLD], 1) == ["old"]


def test_equally_old_go_by_their_keys() -> None:
    same = [Stored(key, 10, 5) for key in ("c", "a", "b")]

    assert to_evict(same, 10) == ["a", "b"]


STORED = st.lists(
    st.builds(
        Stored,
        key=st.text("abcdef", min_size=1, max_size=4),
        size_bytes=st.integers(0, 100),
        last_used_unix_ns=st.integers(0, 5),
        is_in_use=st.booleans(),
    ),
    max_size=12,
    unique_by=lambda one: one.key,
)


@given(STORED, st.integers(0, 400))
def test_bound_holds_or_only_what_is_in_use_is_left(stored: list[Stored], bound: int) -> None:
    evicted = to_evict(stored, bound)

    left = [one for one in stored if one.key not in evicted]
    assert len(set(evicted)) == len(evicted)
    assert all(not one.is_in_use for one in stored if one.key in evicted)
    assert sum(one.size_bytes for one in left) <= bound or all(one.is_in_use for one in left)


@given(STORED, st.integers(0, 400))
def test_what_stays_unused_was_used_after_all_that_goes(stored: list[Stored], bound: int) -> None:
    evicted = to_evict(stored, bound)

    gone = [one.last_used_unix_ns for one in stored if one.key in evicted]
    unused = [o.last_used_unix_ns for o in stored if o.key not in evicted and not o.is_in_use]
    assert not gone or not unused or max(gone) <= min(unused)


@given(STORED, st.integers(0, 400))
def test_order_in_which_they_are_found_changes_nothing(stored: list[Stored], bound: int) -> None:
    assert to_evict(stored, bound) == to_evict(stored[::-1], bound)


def test_all_that_is_unused_is_pruned_without_a_reason() -> None:
    assert to_prune([NEW, in_use(MIDDLE), OLD], 9_000, None, None) == ["old", "new"]


def test_those_are_pruned_that_were_last_used_longer_ago() -> None:
    assert to_prune([NEW, MIDDLE, OLD], 3_500, 1_499, None) == ["old", "middle"]
    assert to_prune([NEW, MIDDLE, OLD], 3_500, 1_500, None) == ["old"]
    assert to_prune([NEW, MIDDLE, in_use(OLD)], 3_500, 1_000, None) == ["middle"]


def test_then_the_least_recently_used_are_pruned_until_the_rest_fits() -> None:
    assert to_prune([NEW, MIDDLE, OLD], 3_500, 2_000, 50) == ["old"]
    assert to_prune([NEW, MIDDLE, OLD], 3_500, 2_000, 49) == ["old", "middle"]
    assert to_prune([NEW, MIDDLE, OLD], 3_500, None, 50) == ["old"]


@given(STORED, st.integers(0, 6), st.none() | st.integers(0, 6), st.none() | st.integers(0, 400))
def test_nothing_in_use_is_pruned_and_no_reason_is_left_over(
    stored: list[Stored], now: int, older_than: int | None, bound: int | None
) -> None:
    pruned = to_prune(stored, now, older_than, bound)

    left = [one for one in stored if one.key not in pruned]
    unused = [one for one in left if not one.is_in_use]
    assert len(set(pruned)) == len(pruned)
    assert not any(one.is_in_use for one in stored if one.key in pruned)
    if older_than is not None:
        assert all(now - one.last_used_unix_ns <= older_than for one in unused)
    if bound is not None:
        assert sum(one.size_bytes for one in left) <= bound or not unused
    assert pruned == to_prune(stored[::-1], now, older_than, bound)
