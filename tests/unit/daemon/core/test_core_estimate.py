from __future__ import annotations

from collections.abc import Sequence

import pytest

from runyard_daemon.core.estimate import (
    AHEAD_PLAYED,
    Estimate,
    Running,
    Scene,
    Took,
    estimate_active,
    estimate_waiting,
    took,
)
from runyard_daemon.core.types import (
    ActiveAttempt,
    AttemptRef,
    Node,
    NodeId,
    QueuedRun,
)

NODE = Node(NodeId("n"), "n", "local", 1, capacity=QueuedRun("", "", 0, 0).request)
HISTORY = {"iris": Took(40.0, 60.0, 200.0, 3)}


def waiting(number: int) -> QueuedRun:
    return QueuedRun(f"r{number}", "local", 0, number)


def running(elapsed_s: float, experiment: str = "iris") -> Running:
    return Running(ActiveAttempt(AttemptRef("a1", 1, 1), NODE.id), experiment, elapsed_s)


def estimate(
    active: Sequence[Running], ahead: int = 0, experiment: str = "iris", nodes: int = 1
) -> Estimate:
    queue = [waiting(number) for number in range(1, ahead + 2)]
    scene = Scene(
        run=queue[-1],
        nodes=[NODE][:nodes],
        running=active,
        ahead=queue[:-1],
        experiments={run.run_id: experiment for run in queue},
    )
    return estimate_waiting(scene, HISTORY)


def test_earlier_runs_are_summed_up_without_their_extremes_once_there_are_ten() -> None:
    assert took([]) is None
    assert took([3.0, 1.0, 2.0]) == Took(1.0, 2.0, 3.0, 3)
    assert took([float(n) for n in range(20)]) == Took(2.0, 10.0, 17.0, 20)


def test_run_behind_an_active_one_starts_when_that_may_end() -> None:
    found = estimate([running(10.0)])

    assert (found.earliest_start_s, found.latest_start_s) == (30.0, 190.0)
    assert found.took == HISTORY["iris"]
    assert found.text == (
        "it may start in 30 s to 3 min; 3 runs of iris took 40 s to 3 min, most often about 60 s"
    )


def test_runs_ahead_count_by_what_they_may_take() -> None:
    found = estimate([running(0.0)], ahead=2)

    assert (found.earliest_start_s, found.latest_start_s) == (120.0, 600.0)


def test_run_behind_one_that_takes_longer_than_any_before_has_no_latest_start() -> None:
    found = estimate([running(500.0)])

    assert (found.earliest_start_s, found.latest_start_s) == (0.0, None)
    assert found.text.startswith("it may start at any moment or much later")


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (estimate([running(5.0, "new")]), "no run of new has ended on this target yet"),
        (estimate([], nodes=0), "nothing that runs now makes room for it"),
        (estimate([], ahead=AHEAD_PLAYED + 1), f"more than {AHEAD_PLAYED} runs are ahead"),
    ],
)
def test_start_that_nothing_tells_is_said_to_be_unknown_and_why(found: Estimate, why: str) -> None:
    assert found.text.startswith(f"its start is unknown: {why}")
    assert (found.earliest_start_s, found.latest_start_s) == (None, None)


def test_start_is_estimated_although_the_experiment_is_new() -> None:
    found = estimate([running(10.0)], experiment="new")

    assert found.earliest_start_s == 30.0
    assert found.took is None
    assert "no run of new has ended on this target yet" in found.text


def test_active_run_may_end_after_what_earlier_ones_took() -> None:
    found = estimate_active("iris", HISTORY["iris"], 50.0)

    assert (found.earliest_end_s, found.latest_end_s) == (0.0, 150.0)
    assert "it may end in 0 s to 2 min" in found.text


def test_active_run_that_takes_longer_than_those_before_says_so() -> None:
    found = estimate_active("iris", HISTORY["iris"], 201.0)

    assert found.latest_end_s is None
    assert found.text.endswith("it takes longer than those before")


def test_active_run_of_a_new_experiment_has_an_unknown_end() -> None:
    assert estimate_active("iris", None, 5.0).text == (
        "its end is unknown: no run of iris has ended on this target yet"
    )
