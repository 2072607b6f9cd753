from __future__ import annotations

from runyard_daemon.core.phases import Milestones, Phase, Span, waterfall
from runyard_daemon.core.types import WallTime

T = 1_764_000_000.0


def at(seconds: float) -> WallTime:
    return WallTime(T + seconds)


def span(phase: Phase, start: float, duration_s: float) -> Span:
    return Span(phase, at(start), duration_s)


REPORTED = (
    span(Phase.SNAPSHOT, 2, 1),
    span(Phase.ENVIRONMENT, 3, 4),
    span(Phase.START, 7, 0.5),
    span(Phase.FIRST_OUTPUT, 7.5, 2),
    span(Phase.SCRIPT, 7.5, 10),
)


def test_waterfall_has_every_phase_when_the_run_is_over() -> None:
    marks = Milestones(at(0), granted=at(2), finished=at(20))

    spans = waterfall(marks, REPORTED, now=at(99))

    assert [(s.phase, s.start - T, s.duration_s) for s in spans] == [
        ("waiting", 0, 2),
        ("snapshot", 2, 1),
        ("environment", 3, 4),
        ("start", 7, 0.5),
        ("first_output", 7.5, 2),
        ("script", 7.5, 10),
        ("outputs", 17.5, 2.5),
    ]
    assert not any(s.is_open for s in spans)


def test_waterfall_shows_what_a_waiting_run_has_waited_so_far() -> None:
    spans = waterfall(Milestones(at(0)), (), now=at(7))

    assert spans == (Span(Phase.WAITING, at(0), 7.0, is_open=True),)


def test_waterfall_leaves_the_phase_open_that_the_run_is_in() -> None:
    marks = Milestones(at(0), granted=at(2))

    preparing = waterfall(marks, REPORTED[:1], now=at(5))
    silent = waterfall(marks, REPORTED[:3], now=at(9))
    talking = waterfall(marks, REPORTED[:4], now=at(30))

    assert preparing[-1] == Span(Phase.ENVIRONMENT, at(3), 2.0, is_open=True)
    assert silent[-1] == Span(Phase.SCRIPT, at(7.5), 1.5, is_open=True)
    assert talking[-1] == Span(Phase.SCRIPT, at(7.5), 22.5, is_open=True)


def test_waterfall_ends_the_phase_in_which_a_run_was_canceled() -> None:
    marks = Milestones(at(0), granted=at(2), finished=at(6))

    spans = waterfall(marks, REPORTED[:1], now=at(99))

    assert spans[-1] == Span(Phase.ENVIRONMENT, at(3), 3.0)


def test_waterfall_ends_the_wait_of_a_run_that_was_never_granted() -> None:
    spans = waterfall(Milestones(at(0), finished=at(4)), (), now=at(99))

    assert spans == (Span(Phase.WAITING, at(0), 4.0),)


def test_waterfall_begins_with_what_the_client_spent_on_the_snapshot() -> None:
    marks = Milestones(at(0), client_snapshot_s=1.5)

    spans = waterfall(marks, (), now=at(1))

    assert spans[0] == Span(Phase.SNAPSHOT, at(-1.5), 1.5)


def test_waterfall_moves_spans_of_a_slow_clock_behind_the_grant_and_keeps_durations() -> None:
    marks = Milestones(at(0), granted=at(2), finished=at(20))
    slow = tuple(Span(s.phase, WallTime(s.start - 3_600), s.duration_s) for s in REPORTED)

    assert waterfall(marks, slow, now=at(20)) == waterfall(marks, REPORTED, now=at(20))


def test_waterfall_has_no_negative_duration_when_the_clock_was_set_back() -> None:
    marks = Milestones(at(0), granted=at(-50), finished=at(-40))

    assert all(s.duration_s >= 0 for s in waterfall(marks, REPORTED, now=at(-30)))


def test_waterfall_counts_the_last_report_of_a_phase() -> None:
    marks = Milestones(at(0), granted=at(2))
    again = (*REPORTED[:1], span(Phase.SNAPSHOT, 2, 1.25))

    spans = waterfall(marks, again, now=at(4))

    assert [s.duration_s for s in spans if s.phase is Phase.SNAPSHOT] == [1.25]
