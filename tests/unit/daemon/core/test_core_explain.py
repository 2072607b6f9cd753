from __future__ import annotations

from dataclasses import replace

import pytest

from runyard_contract.states import EndClass, RunState
from runyard_daemon.core.amounts import bytes_text, duration_text
from runyard_daemon.core.explain import (
    ActiveFacts,
    explain_active,
    explain_ended,
    explain_waiting,
)
from runyard_daemon.core.scheduler import Board
from runyard_daemon.core.types import Cause, Node, NodeId, QueuedRun, Resources, WallTime

GIB = 1 << 30
NOW = WallTime(1_000.0)


def node(name: str, slots: int = 2, compute: str = "local", **capacity: int) -> Node:
    return Node(NodeId(name), name, compute, slots, Resources(**capacity))


def run(number: int, compute: str = "local", **request: int) -> QueuedRun:
    return QueuedRun(f"r{number}", compute, 0, number, Resources(**request))


def board(*items: Node | QueuedRun) -> Board:
    made = Board()
    for item in items:
        if isinstance(item, Node):
            made.set_node(item)
        else:
            made.add_run(item)
    made.ready()
    return made


def test_run_behind_busy_slots_says_so_with_its_place_and_who_is_ahead() -> None:
    a_board = board(node("host1"), *(run(number) for number in range(1, 16)))

    explanation = explain_waiting(a_board, "r15", NOW)

    assert explanation.position == 13
    assert explanation.ahead == tuple(f"r{number}" for number in range(3, 13))
    assert explanation.sentences() == (
        "waits for local: 12 runs are ahead",
        "host1: all 2 slots busy",
        "ahead: r3, r4, r5, r6, r7, r8, r9, r10, r11, r12 and 2 more",
    )


def test_run_at_the_head_says_that_it_is_next() -> None:
    a_board = board(node("host1", slots=1), run(1), run(2))

    explanation = explain_waiting(a_board, "r2", NOW)

    assert explanation.summary == "waits for local: it is next, as soon as there is room"
    assert explanation.verdicts[0].reasons() == ("its only slot is busy",)


def test_run_that_has_to_wait_for_memory_says_what_is_free() -> None:
    a_board = board(
        node("gpu1", memory_bytes=32 * GIB),
        run(1, memory_bytes=20 * GIB),
        run(2, memory_bytes=24 * GIB),
    )

    explanation = explain_waiting(a_board, "r2", NOW)

    assert explanation.verdicts[0].reasons() == (
        "needs 24 GiB of memory, gpu1 has 32 GiB of memory, 12 GiB of memory free",
    )


def test_run_that_no_node_could_hold_says_the_most_there_is_and_the_smallest_change() -> None:
    a_board = board(
        node("gpu1", gpus=4, memory_bytes=20 * GIB), run(1, gpus=8, memory_bytes=24 * GIB)
    )

    explanation = explain_waiting(a_board, "r1", NOW)

    assert explanation.summary == (
        "no node of local offers 8 GPUs: the most is 4 GPUs, "
        "nor 24 GiB of memory: the most is 20 GiB of memory"
    )
    assert explanation.advice() == ("it could start with at most `--gpus 4` and `--memory 20GiB`",)
    assert explanation.verdicts[0].reasons() == (
        "needs 24 GiB of memory, gpu1 has 20 GiB of memory",
        "needs 8 GPUs, gpu1 has 4 GPUs",
    )


def test_run_whose_wishes_no_single_node_meets_together_says_that() -> None:
    a_board = board(
        node("a", compute="pool", gpus=4, cpu_millis=2_000),
        node("b", compute="pool", cpu_millis=64_000),
        run(1, "pool", gpus=1, cpu_millis=32_000),
    )

    explanation = explain_waiting(a_board, "r1", NOW)

    assert explanation.summary == "no single node of pool offers 1 GPU and 32 CPUs together"


def test_run_that_another_target_could_hold_is_told_which() -> None:
    a_board = board(node("host1"), node("g1", compute="gpu1", gpus=2), run(1, gpus=2))

    explanation = explain_waiting(a_board, "r1", NOW)

    assert explanation.remedy == "target gpu1 could hold it: submit it there with `-t gpu1`"


def test_run_that_waits_for_a_node_out_of_touch_says_since_when_and_why() -> None:
    away = replace(
        node("host1"), is_connected=False, since=WallTime(700.0), reason="its agent was stopped"
    )
    a_board = board(away, run(1))

    explanation = explain_waiting(a_board, "r1", NOW)

    assert explanation.summary == "no node of local takes runs now"
    assert explanation.verdicts[0].reasons() == ("not connected for 5 min (its agent was stopped)",)
    assert explanation.remedy == "host1 could hold it: bring it back"


def test_run_behind_a_larger_one_is_told_for_whom_the_room_is_kept() -> None:
    a_board = board(
        node("host1", slots=4, cpu_millis=4_000),
        run(1, cpu_millis=3_000),
        run(2, cpu_millis=4_000),
        run(3, cpu_millis=1_000),
    )

    explanation = explain_waiting(a_board, "r3", NOW)

    assert explanation.verdicts[0].kept_for == run(2, cpu_millis=4_000)
    assert explanation.verdicts[0].reasons() == ("kept free for r2, which is ahead and needs it",)


def test_run_for_a_target_without_nodes_says_so() -> None:
    explanation = explain_waiting(board(run(1)), "r1", NOW)

    assert explanation.summary == "local has no node yet"
    assert "runyard doctor" in explanation.remedy


def test_run_that_starts_with_the_next_decision_says_so() -> None:
    a_board = board(node("host1"))
    a_board.add_run(run(1))

    explanation = explain_waiting(a_board, "r1", NOW)

    assert explanation.summary == "it starts now"
    assert explanation.sentences()[1] == "host1: has room"
    assert a_board.ready()[0].run.run_id == "r1"


def test_run_that_does_not_wait_is_not_explained_as_waiting() -> None:
    with pytest.raises(KeyError):
        explain_waiting(board(node("host1"), run(1)), "r1", NOW)


def test_active_run_says_what_it_does_where_and_for_how_long() -> None:
    facts = ActiveFacts(
        "r1", RunState.PREPARING, "host1", 2, WallTime(960.0), "installing scikit-learn"
    )

    assert explain_active(facts, NOW).sentences() == (
        "preparing snapshot and environment on host1 for 40 s (attempt 2)",
        "installing scikit-learn",
    )


def test_run_on_a_node_out_of_touch_says_what_brings_it_back() -> None:
    facts = ActiveFacts("r1", RunState.NOT_RESPONDING, "host1", 1, WallTime(0.0))

    assert "bring the node back" in explain_active(facts, NOW).remedy


def test_ended_run_gives_cause_rule_last_lines_and_advice() -> None:
    cause = Cause(
        EndClass.IGNORED_FILE,
        "train.py missed a.csv",
        "add the line",
        rule=".gitignore:3: *.csv",
        last_lines=("FileNotFoundError",),
    )

    assert explain_ended("r1", cause).sentences() == (
        "train.py missed a.csv",
        "rule: .gitignore:3: *.csv",
        "FileNotFoundError",
        "add the line",
    )


def test_need_that_differs_by_less_than_the_rounding_is_given_exactly() -> None:
    a_board = board(node("host1", memory_bytes=GIB), run(1, memory_bytes=GIB + 1))

    (verdict,) = explain_waiting(a_board, "r1", NOW).verdicts

    assert verdict.reasons() == ("needs 1,073,741,825 bytes, host1 has 1,073,741,824 bytes",)


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [(0, "0 B"), (1, "1 B"), (1536, "1.5 KiB"), (24 * GIB, "24 GiB"), (24 * GIB - 1, "23.9 GiB")],
)
def test_size_is_rounded_down_so_that_it_can_be_asked_for(size_bytes: int, text: str) -> None:
    assert bytes_text(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (-1.0, "0 s"),
        (40.4, "40 s"),
        (119.0, "119 s"),
        (185.0, "3 min"),
        (9e3, "2 h"),
        (2e5, "2 days"),
    ],
)
def test_duration_is_given_in_the_unit_that_fits(duration_s: float, text: str) -> None:
    assert duration_text(duration_s) == text
