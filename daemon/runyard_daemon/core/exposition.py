"""Prometheus's text exposition format, version 0.0.4."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from runyard_daemon.core.histogram import Histogram

Labels = Mapping[str, str]
_NO_LABELS: Labels = {}


class Kind(StrEnum):
    """What a figure does over time."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """Figures of one name."""

    name: str
    kind: Kind
    help: str
    samples: tuple[tuple[str, Labels, float], ...]
    """Suffix of the name, labels, value."""


def gauge(name: str, help_text: str, value: float) -> Family:
    """A figure that goes up and down."""
    return Family(name, Kind.GAUGE, help_text, (("", _NO_LABELS, value),))


def counter(name: str, help_text: str, value: float) -> Family:
    """A figure that only grows while the daemon lives. Its name ends with `_total`."""
    return Family(name, Kind.COUNTER, help_text, (("", _NO_LABELS, value),))


def labelled(
    name: str, kind: Kind, help_text: str, values: Iterable[tuple[Labels, float]]
) -> Family:
    """A figure for each set of labels."""
    return Family(name, kind, help_text, tuple(("", labels, value) for labels, value in values))


def histograms(name: str, help_text: str, values: Iterable[tuple[Labels, Histogram]]) -> Family:
    """A histogram of seconds for each set of labels."""
    samples: list[tuple[str, Labels, float]] = []
    for labels, histogram in values:
        counts = histogram.cumulative()
        samples += [
            ("_bucket", {**labels, "le": _number(bound_s)}, count) for bound_s, count in counts
        ]
        samples.append(("_sum", labels, histogram.sum_s))
        samples.append(("_count", labels, counts[-1][1]))
    return Family(name, Kind.HISTOGRAM, help_text, tuple(samples))


def render(families: Iterable[Family]) -> str:
    """Gives the whole text; a family without samples is left out."""
    return "".join(line + "\n" for family in families if family.samples for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    help_text = family.help.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {family.name} {help_text}"
    yield f"# TYPE {family.name} {family.kind}"
    for suffix, labels, value in family.samples:
        shown = ",".join(f'{name}="{_escaped(text)}"' for name, text in labels.items())
        yield f"{family.name}{suffix}{f'{{{shown}}}' if shown else ''} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(float(value))
