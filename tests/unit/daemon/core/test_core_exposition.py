from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from runyard_daemon.core.exposition import (
    Kind,
    counter,
    gauge,
    histograms,
    labelled,
    render,
)
from runyard_daemon.core.histogram import Histogram

AWKWARD = 'back\\slash "quoted"\nnext line, {brace} ü'


def parsed(text: str) -> dict[str, list[tuple[str, dict[str, str], float]]]:
    """What Prometheus's own parser reads."""
    return {
        family.name: [(sample.name, sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(text)
    }


def test_gauge_and_counter_are_read_back_by_prometheus() -> None:
    text = render([gauge("a_bytes", "Help.", 12.5), counter("b_total", "Help.", 1 << 60)])

    assert parsed(text) == {
        "a_bytes": [("a_bytes", {}, 12.5)],
        "b": [("b_total", {}, float(1 << 60))],
    }


def test_labels_and_help_with_every_awkward_character_forge_no_line() -> None:
    text = render([labelled("a", Kind.GAUGE, AWKWARD, [({"name": AWKWARD}, 1.0)])])

    assert parsed(text) == {"a": [("a", {"name": AWKWARD}, 1.0)]}
    assert len(text.splitlines()) == 3


def test_histogram_counts_are_cumulative_and_end_with_all() -> None:
    histogram = Histogram(bounds_s=(0.1, 1.0))
    for duration_s in (0.1, 0.5, 0.7, 99.0):
        histogram.observe(duration_s)

    samples = parsed(render([histograms("t_seconds", "Help.", [({"of": "x"}, histogram)])]))

    assert samples == {
        "t_seconds": [
            ("t_seconds_bucket", {"of": "x", "le": "0.1"}, 1.0),
            ("t_seconds_bucket", {"of": "x", "le": "1"}, 3.0),
            ("t_seconds_bucket", {"of": "x", "le": "+Inf"}, 4.0),
            ("t_seconds_sum", {"of": "x"}, histogram.sum_s),
            ("t_seconds_count", {"of": "x"}, 4.0),
        ]
    }


def test_family_without_samples_is_left_out() -> None:
    assert render([labelled("a", Kind.GAUGE, "Help.", [])]) == ""
