from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_contract.errors import SpecInvalid
from runyard_contract.states import RunState
from runyard_daemon.core.runfilter import FilterTerms, parse_filter
from runyard_daemon.rpc.convert.times import read_time

JANUARY_31_US = 1_769_817_600_000_000


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", FilterTerms()),
        ("  ", FilterTerms()),
        ("status = failed", FilterTerms(states=frozenset({RunState.FAILED}))),
        (
            "status IN (Failed, Canceled)",
            FilterTerms(states=frozenset({RunState.FAILED, RunState.CANCELED})),
        ),
        (
            "status in (Failed,Running) and status=Failed",
            FilterTerms(states=frozenset({RunState.FAILED})),
        ),
        ('tag.a-b = "x y"', FilterTerms(tags={"a-b": "x y"})),
        (
            r'tag.q = "say \"hi\" \\ %"',
            FilterTerms(
                tags={
                    "q": r"say "
                    r'"hi" \ %'
                }
            ),
        ),
        ("property.git.branch=main", FilterTerms(properties={"git.branch": "main"})),
        ("experiment = iris AND target = local", FilterTerms(experiment="iris", target="local")),
        ('name = "AND"', FilterTerms(name="AND")),
        (
            "created >= 2026-01-31 AND created < 2026-01-31T00:00:01Z",
            FilterTerms(created_from_us=JANUARY_31_US, created_before_us=JANUARY_31_US + 1_000_000),
        ),
        (
            "created > 2026-01-31 AND created <= 2026-01-31T01:00:00+01:00",
            FilterTerms(created_from_us=JANUARY_31_US + 1, created_before_us=JANUARY_31_US + 1),
        ),
    ],
)
def test_filter_says_what_it_says(text: str, terms: FilterTerms) -> None:
    assert parse_filter(text, read_time) == terms


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("status", "its end where = or IN"),
        ("status = ", "its end where a value"),
        ("status = Broken", "no status"),
        ("stat = Failed", "did you mean status?"),
        ("status = Failed OR name = a", "'OR' where AND"),
        ("status = Failed name = a", "'name' where AND"),
        ("status IN Failed", "where ( is expected"),
        ("name < a", "where = is expected"),
        ("name = a AND name = b", "two values"),
        ('name = ""', "an empty name"),
        ('target = ""', "an empty target"),
        ("status = Failed AND status = Running", "two statuses"),
        ("created = 2026-01-31", "where < or"),
        ("created > yesterday", "no time"),
        ("tag. = a", "no field"),
        ('name = "open', "quote without its end"),
        ("(status = Failed)", "'(' where a field"),
        ("AND", "no field"),
    ],
)
def test_filter_that_says_nothing_is_refused_with_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(SpecInvalid) as caught:
        parse_filter(text, read_time)

    assert complaint in caught.value.message


@given(st.text(st.sampled_from("()<>=,\"\\ aA1.*%;'-\n\x00\ud800ANDIN")) | st.text())
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    with contextlib.suppress(SpecInvalid):
        assert isinstance(parse_filter(text, read_time), FilterTerms)
