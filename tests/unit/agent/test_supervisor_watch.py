"""When memory is looked at, on a clock of the tests' own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from runyard_agent.supervisor.watch import LONGEST_NS, SECOND_NS, Sum, Watch

MIB = 1 << 20
GIB = 1 << 30
LOOK_NS = 60_000
MEASURE_NS = 5_000_000
Amounts = tuple[int, int, int]
"""What is resident, what of it is anonymous, and what it is when each page counts once."""


class Watched:
    """A run whose memory is a function of time, watched until it is ended or `until_ns`."""

    def __init__(self, limit_bytes: int, amounts: Callable[[int], Amounts]) -> None:
        self.watch = Watch(limit_bytes, 0)
        self.amounts = amounts
        self.pids = frozenset({10})
        self.now_ns = 0
        self.looks = 0
        self.measures = 0
        self.cost_ns = 0
        self.ended_at_ns: int | None = None

    def go_on(self, until_ns: int, *, measure_ns: int = MEASURE_NS) -> Watched:
        while self.ended_at_ns is None and self.watch.next_at_ns <= until_ns:
            assert 0 < self.watch.next_at_ns - self.now_ns <= LONGEST_NS
            self.now_ns = self.watch.next_at_ns
            resident, anonymous, used = self.amounts(self.now_ns)
            self.looks += 1
            self.cost_ns += LOOK_NS
            if self.watch.look(self.now_ns, Sum(self.pids, resident, anonymous), LOOK_NS):
                self.measures += 1
                self.cost_ns += measure_ns
                if self.watch.measure(self.now_ns, used, measure_ns):
                    self.ended_at_ns = self.now_ns
        return self


def private(used: float) -> Amounts:
    return int(used), int(used), int(used)


@pytest.mark.parametrize("bytes_per_s", [10 * MIB, 300 * MIB, GIB])
def test_growing_run_is_ended_soon_after_its_limit(bytes_per_s: int) -> None:
    run = Watched(GIB, lambda now: private(bytes_per_s * now / SECOND_NS)).go_on(200 * SECOND_NS)

    assert run.ended_at_ns is not None
    over = bytes_per_s * run.ended_at_ns / SECOND_NS - GIB
    assert 0 < over <= 16 * MIB


def test_sudden_burst_is_seen_before_it_is_many_times_the_limit() -> None:
    calm_ns = 30 * SECOND_NS

    def amounts(now: int) -> Amounts:
        return private(100 * MIB + 2 * GIB * max(0, now - calm_ns) / SECOND_NS)

    run = Watched(GIB, amounts).go_on(60 * SECOND_NS)

    assert run.ended_at_ns is not None
    assert amounts(run.ended_at_ns)[2] < 3 * GIB


@pytest.mark.parametrize("used", [MIB, 512 * MIB, GIB - MIB, GIB])
def test_steady_run_goes_on_at_one_percent_of_a_cpu(used: int) -> None:
    run = Watched(GIB, lambda now: private(used)).go_on(10 * SECOND_NS)

    assert run.ended_at_ns is None
    assert run.measures == 0
    assert run.cost_ns <= 10 * SECOND_NS / 100 + LOOK_NS


def test_run_far_from_its_limit_is_looked_at_once_a_second() -> None:
    run = Watched(64 * GIB, lambda now: private(GIB)).go_on(100 * SECOND_NS)

    assert run.looks <= 110


def test_shared_pages_count_once() -> None:
    """Workers that were forked off a large parent: resident nine times, there once."""
    run = Watched(6 * GIB, lambda now: (36 * GIB, 36 * GIB, 4 * GIB)).go_on(100 * SECOND_NS)

    assert run.ended_at_ns is None
    assert run.measures > 1
    assert run.cost_ns <= 100 * SECOND_NS / 50


def test_pages_that_workers_copy_are_found_though_nothing_more_is_resident() -> None:
    def amounts(now: int) -> Amounts:
        return 36 * GIB, 36 * GIB, int(4 * GIB + GIB * now / SECOND_NS)

    run = Watched(6 * GIB, amounts).go_on(100 * SECOND_NS)

    assert run.ended_at_ns is not None
    assert run.ended_at_ns <= 4 * SECOND_NS


def test_growth_where_files_are_mapped_is_found_though_their_pages_make_room() -> None:
    """What is resident stays the same: each page of a file that goes is one that was taken."""

    def amounts(now: int) -> Amounts:
        taken = int(GIB * now / SECOND_NS / 4)
        return 20 * GIB, taken, taken

    run = Watched(2 * GIB, amounts).go_on(60 * SECOND_NS, measure_ns=SECOND_NS)

    assert run.ended_at_ns is not None
    assert amounts(run.ended_at_ns)[2] < 3 * GIB


def test_end_of_a_worker_makes_what_was_measured_void() -> None:
    run = Watched(6 * GIB, lambda now: (36 * GIB, 36 * GIB, 4 * GIB))
    run.pids = frozenset(range(10, 19))
    run.go_on(SECOND_NS)
    run.amounts = lambda now: private(7 * GIB)
    run.pids = frozenset({10})

    run.go_on(3 * SECOND_NS)

    assert run.ended_at_ns is not None


def test_new_worker_has_the_sum_measured_again_and_ends_nothing() -> None:
    run = Watched(6 * GIB, lambda now: (8 * GIB, 8 * GIB, 4 * GIB)).go_on(SECOND_NS)
    measures = run.measures
    run.amounts = lambda now: (12 * GIB, 12 * GIB, 4 * GIB)
    run.pids |= {11}

    run.go_on(2 * SECOND_NS)

    assert run.ended_at_ns is None
    assert run.measures > measures


def test_measuring_that_takes_long_is_done_no_more_than_once_a_second_when_it_is_urgent() -> None:
    """Each look finds one process more: what was measured is too old at once."""
    run = Watched(6 * GIB, lambda now: (40 * GIB + now, 40 * GIB + now, 4 * GIB))
    for second in range(1, 21):
        run.pids = frozenset({second})
        run.go_on(second * SECOND_NS, measure_ns=300_000_000)

    assert run.ended_at_ns is None
    assert run.measures <= 21
