"""Values of options: what people write for durations, sizes, tags and variables."""

from __future__ import annotations

import contextlib
import os

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard.cli import parameters
from runyard.cli.render.amounts import count_text, duration_text
from runyard_contract.limits import MAX_DURATION_S

KINDS = [kind for kind in vars(parameters).values() if isinstance(kind, parameters.Kind)]
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def read(kind: parameters.Kind, text: str) -> object:
    return kind.convert(text, None, None)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (parameters.DURATION, "90", 90),
        (parameters.DURATION, "90s", 90),
        (parameters.DURATION, "15m", 900),
        (parameters.DURATION, "1h30m", 5400),
        (parameters.DURATION, "1d", 86_400),
        (parameters.GRACE, "0", 0),
        (parameters.GRACE, "0s", 0),
        (parameters.GRACE, "1h", 3600),
        (parameters.MEMORY, "512M", 512 << 20),
        (parameters.MEMORY, "24GiB", 24 << 30),
        (parameters.MEMORY, "24G", 24 << 30),
        (parameters.CPUS, "0.5", 0.5),
        (parameters.GPUS, "0", 0),
        (parameters.PRIORITY, "-1000", -1000),
        (parameters.TAG, "a=b=c", ("a", "b=c")),
        (parameters.TAG, "a=", ("a", "")),
        (parameters.TAG_FILTER, "a", ("a", "")),
        (parameters.ENVIRONMENT_VARIABLE, "A", (b"A", None)),
        (parameters.ENVIRONMENT_VARIABLE, "A=", (b"A", b"")),
        (parameters.ENVIRONMENT_VARIABLE, "A=b=c", (b"A", b"b=c")),
        (parameters.ENVIRONMENT_VARIABLE, os.fsdecode(b"A=\xff"), (b"A", b"\xff")),
    ],
)
def test_value_is_read(kind: parameters.Kind, text: str, value: object) -> None:
    assert read(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (parameters.DURATION, "0"),
        (parameters.DURATION, "-5s"),
        (parameters.DURATION, "1m1h"),
        (parameters.DURATION, "soon"),
        (parameters.DURATION, "99999999999h"),
        (parameters.GRACE, "2h"),
        (parameters.MEMORY, "12 parsecs"),
        (parameters.MEMORY, "0"),
        (parameters.MEMORY, "9999P"),
        (parameters.CPUS, "nan"),
        (parameters.CPUS, "-1"),
        (parameters.GPUS, "-2"),
        (parameters.GPUS, "1.5"),
        (parameters.PRIORITY, "100000"),
        (parameters.TAG, "novalue"),
        (parameters.TAG, "=x"),
        (parameters.TAG, "a" * 300 + "=x"),
        (parameters.TAG, "a=" + "x" * 9000),
        (parameters.TAG, os.fsdecode(b"a=\xff")),
        (parameters.TAG, "a\x1b[2J=b"),
        (parameters.ENVIRONMENT_VARIABLE, "=x"),
        (parameters.ENVIRONMENT_VARIABLE, "A=" + "x" * 200_000),
        (parameters.COUNT, "0"),
        (parameters.EXPERIMENT, "no spaces"),
        (parameters.COMPUTE, "1local"),
    ],
)
def test_absurd_value_is_refused(kind: parameters.Kind, text: str) -> None:
    with pytest.raises(click.BadParameter):
        read(kind, text)


@given(st.sampled_from(KINDS), st.text(max_size=40))
def test_any_text_is_read_or_refused(kind: parameters.Kind, text: str) -> None:
    with contextlib.suppress(click.BadParameter):
        assert read(kind, text) is not None


@given(
    st.dictionaries(st.sampled_from("smhd"), st.integers(1, 90), min_size=1),
)
def test_duration_is_the_sum_of_its_parts(parts: dict[str, int]) -> None:
    text = "".join(f"{parts[unit]}{unit}" for unit in "dhms" if unit in parts)
    total_s = sum(count * UNITS_S[unit] for unit, count in parts.items())

    assert total_s <= MAX_DURATION_S
    assert read(parameters.DURATION, text) == total_s


@given(st.integers(1, 1 << 20), st.sampled_from("KMG"))
def test_size_counts_in_powers_of_1024(number: int, unit: str) -> None:
    expected = number << {"K": 10, "M": 20, "G": 30}[unit]

    if expected <= 1 << 46:
        for text in (f"{number}{unit}", f"{number}{unit.lower()}b", f"{number} {unit}iB"):
            assert read(parameters.MEMORY, text) == expected


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (1.44, "1.4 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (185, "3 min 5 s"),
        (3600, "1 h"),
        (7830, "2 h 10 min"),
        (86_400 * 3 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_duration_for_people(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_count_for_people() -> None:
    assert count_text(1, "file") == "1 file"
    assert count_text(2000, "file") == "2,000 files"
