from __future__ import annotations

import heapq

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_daemon.core.types import QueuedRun, Resources
from runyard_daemon.core.waiting import Line, order_key


def run(number: int, priority: int = 0, gpus: int = 0) -> QueuedRun:
    return QueuedRun(f"r{number}", "local", priority, number, Resources(gpus=gpus))


def firsts(line: Line) -> list[QueuedRun]:
    heads = line.heads()
    found = [line.first_at(heapq.heappop(heads)) for _ in range(len(heads))]
    return list(dict.fromkeys(first for first in found if first is not None))


def test_line_gives_the_first_of_each_request_in_order() -> None:
    line = Line()
    for queued in (run(1), run(2, gpus=1), run(3, priority=5), run(4, priority=9, gpus=1)):
        line.add(queued)

    assert [first.run_id for first in firsts(line)] == ["r4", "r3"]
    assert [after.run_id for after in line.behind(line.get("r3"))] == ["r1"]


def test_line_tells_how_many_are_ahead_and_names_the_first() -> None:
    line = Line()
    for number in range(1, 30):
        line.add(run(number, gpus=number % 3))
    line.add(run(30, priority=1))

    assert line.ahead_of("r29", first=3) == (29, ("r30", "r1", "r2"))
    assert line.ahead_of("r30", first=3) == (0, ())


def test_line_refuses_a_run_that_does_not_wait() -> None:
    with pytest.raises(KeyError):
        Line().remove("r1")


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2), st.integers(0, 2)), max_size=60))
def test_line_agrees_with_a_sorted_list_after_any_changes(
    changes: list[tuple[int, int, int]],
) -> None:
    line = Line()
    known: dict[str, QueuedRun] = {}
    for number, priority, gpus in changes:
        queued = run(number, priority, gpus)
        if queued.run_id in known:
            assert line.remove(queued.run_id) == known.pop(queued.run_id)
        else:
            line.add(queued)
            known[queued.run_id] = queued

    in_order = sorted(known.values(), key=order_key)
    expected = list({queued.request: queued for queued in reversed(in_order)}.values())
    assert firsts(line) == sorted(expected, key=order_key)
    for first in firsts(line):
        same = [queued for queued in in_order if queued.request == first.request]
        assert [first, *line.behind(first)] == same
    assert len(line) == len(known)


def test_line_keeps_no_memory_of_the_many_that_were_canceled() -> None:
    line = Line()
    for number in range(1_000):
        line.add(run(number, gpus=number % 2))
    for number in range(2, 1_000):
        line.remove(f"r{number}")

    assert len(line) == 2
    assert len(line.heads()) < 50
    assert list(line.behind(line.get("r0"))) == []
