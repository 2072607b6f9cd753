from __future__ import annotations

import pytest

from runyard_agent.supervisor.cgroup import Limits
from runyard_agent.supervisor.limited import choose_cpus, described

WHY = "the control groups for memory are not writable"


@pytest.mark.parametrize(
    ("cpu_millicores", "turn", "cpus"),
    [
        (1, 0, {0}),
        (1000, 1, {2}),
        (1001, 0, {0, 2}),
        (2000, 1, {4, 5}),
        (2000, 2, {0, 2}),
        (3000, 1, {5, 0, 2}),
        (9000, 3, {0, 2, 4, 5}),
    ],
)
def test_cpus_are_as_many_as_the_limit_needs_and_go_round_by_turn(
    cpu_millicores: int, turn: int, cpus: set[int]
) -> None:
    assert choose_cpus({5, 0, 4, 2}, cpu_millicores, turn) == cpus


@pytest.mark.parametrize(
    ("limits", "kept", "told"),
    [
        (Limits(500, 1 << 30), ["cpu", "memory"], "cgroup v2"),
        (Limits(0, 1 << 30), ["memory"], "cgroup v2"),
        (
            Limits(2000, 1 << 30),
            ["memory"],
            f"memory: cgroup v2; cpu: affinity to 2 CPUs ({WHY})",
        ),
        (
            Limits(500, 1 << 30),
            [],
            f"memory: watched; cpu: affinity to 1 CPU, rounded up from 0.5 ({WHY})",
        ),
        (Limits(0, 1 << 30), [], f"memory: watched ({WHY})"),
    ],
)
def test_record_says_what_keeps_which_limit_and_what_is_approximated(
    limits: Limits, kept: list[str], told: str
) -> None:
    assert described(limits, kept, "cgroup v2" if kept else "", WHY) == told
