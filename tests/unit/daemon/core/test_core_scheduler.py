from __future__ import annotations

from dataclasses import replace
from itertools import permutations

from runyard_daemon.core.scheduler import Board, place
from runyard_daemon.core.types import (
    ActiveAttempt,
    AttemptRef,
    Node,
    NodeId,
    QueuedRun,
    Resources,
)

GIB = 1 << 30


def node(
    name: str, slots: int = 2, compute: str = "local", *, cpus: int = 8, gpus: int = 0
) -> Node:
    capacity = Resources(cpus * 1_000, 32 * GIB, gpus)
    return Node(NodeId(name), name, compute, slots, capacity)


def run(
    number: int, priority: int = 0, compute: str = "local", *, cpus: int = 0, gpus: int = 0
) -> QueuedRun:
    return QueuedRun(f"r{number}", compute, priority, number, Resources(cpus * 1_000, 0, gpus))


def board(*items: Node | QueuedRun) -> Board:
    made = Board()
    for item in items:
        if isinstance(item, Node):
            made.set_node(item)
        else:
            made.add_run(item)
    return made


def placed(a_board: Board) -> list[tuple[str, str]]:
    return [(grant.run.run_id, grant.node) for grant in a_board.ready()]


def test_first_come_is_first_served_over_the_slots() -> None:
    a_board = board(node("n1", slots=2), run(1), run(2), run(3))

    assert placed(a_board) == [("r1", "n1"), ("r2", "n1")]
    a_board.release("r1")
    assert placed(a_board) == [("r3", "n1")]


def test_higher_priority_goes_first_and_keeps_the_order_among_equals() -> None:
    a_board = board(node("n1", slots=3), run(1), run(2, priority=5), run(3, priority=5), run(4))

    assert [run_id for run_id, _ in placed(a_board)] == ["r2", "r3", "r1"]


def test_submit_into_a_full_target_waits_and_into_a_free_one_starts() -> None:
    a_board = board(node("n1", slots=1), run(1))
    assert placed(a_board) == [("r1", "n1")]

    a_board.add_run(run(2))

    assert placed(a_board) == []
    assert a_board.waiting_count("local") == 1


def test_large_run_at_the_head_is_not_passed_by_small_ones() -> None:
    a_board = board(node("n1", slots=4, cpus=4), run(1, cpus=3))
    assert placed(a_board) == [("r1", "n1")]

    a_board.add_run(run(2, cpus=4))
    a_board.add_run(run(3, cpus=1))
    assert placed(a_board) == []

    a_board.release("r1")
    assert placed(a_board) == [("r2", "n1")]


def test_run_passes_a_blocked_one_on_a_node_that_could_never_hold_that() -> None:
    nodes = [node("big", slots=1, cpus=8), node("small", slots=1, cpus=2)]
    a_board = board(*nodes, run(1, cpus=8))
    assert placed(a_board) == [("r1", "big")]

    a_board.add_run(run(2, cpus=8))
    a_board.add_run(run(3, cpus=1))

    assert placed(a_board) == [("r3", "small")]


def test_run_that_nothing_could_hold_delays_nobody_until_a_node_for_it_comes() -> None:
    a_board = board(node("n1"), run(1, gpus=8), run(2))

    assert placed(a_board) == [("r2", "n1")]
    a_board.set_node(node("g1", gpus=8))
    assert placed(a_board) == [("r1", "g1")]


def test_run_without_gpus_leaves_the_gpu_node_to_others() -> None:
    a_board = board(node("a-gpu", gpus=4), node("z-cpu"), run(1))

    assert placed(a_board) == [("r1", "z-cpu")]


def test_run_goes_where_it_leaves_the_smallest_gap() -> None:
    a_board = board(node("a", cpus=8), node("b", cpus=4), run(1, cpus=3))

    assert placed(a_board) == [("r1", "b")]


def test_targets_do_not_wait_for_each_other() -> None:
    a_board = board(
        node("n1", slots=1), node("g1", compute="gpu1"), run(1), run(2), run(3, compute="gpu1")
    )

    assert placed(a_board) == [("r3", "g1"), ("r1", "n1")]


def test_node_that_is_away_or_drains_takes_nothing_and_keeps_what_it_has() -> None:
    a_board = board(node("n1", slots=2), run(1))
    assert placed(a_board) == [("r1", "n1")]

    for change in ({"is_connected": False}, {"is_accepting": False}):
        a_board.set_node(replace(node("n1", slots=2), **change))  # type: ignore[arg-type]
        a_board.add_run(run(2))
        assert placed(a_board) == []

    a_board.set_node(node("n1", slots=2))
    assert placed(a_board) == [("r2", "n1")]
    assert set(a_board.held_on(NodeId("n1"))) == {"r1", "r2"}


def test_attempts_read_from_the_records_hold_their_room() -> None:
    ref = AttemptRef("r1", 1, 1)
    a_board = board(run(1), run(2, cpus=6), run(3, cpus=2))
    a_board.hold(ActiveAttempt(ref, NodeId("n1"), Resources(cpu_millis=4_000)))
    a_board.set_node(node("n1", slots=4, cpus=8))

    assert placed(a_board) == []
    assert a_board.room_of(NodeId("n1")).resources.cpu_millis == 4_000
    a_board.release("r1")
    assert placed(a_board) == [("r2", "n1"), ("r3", "n1")]


def test_run_whose_grant_could_not_be_stored_gets_its_old_place() -> None:
    a_board = board(node("n1", slots=1), run(1), run(2))
    (grant,) = a_board.ready()

    a_board.undo(grant)

    assert placed(a_board) == [("r1", "n1")]


def test_canceled_run_makes_way_for_those_behind_it() -> None:
    a_board = board(node("n1", slots=2, cpus=4), run(1, cpus=2))
    assert placed(a_board) == [("r1", "n1")]
    a_board.add_run(run(2, cpus=4))
    a_board.add_run(run(3, cpus=2))
    assert placed(a_board) == []

    a_board.remove_run("r2")

    assert placed(a_board) == [("r3", "n1")]


def test_node_that_shrank_below_what_it_holds_takes_only_what_asks_for_none_of_it() -> None:
    a_board = board(node("n1", slots=4, cpus=8), run(1, cpus=6))
    assert placed(a_board) == [("r1", "n1")]
    a_board.set_node(node("n1", slots=4, cpus=4))

    a_board.add_run(run(2, priority=1))
    a_board.add_run(run(3, cpus=1))

    assert placed(a_board) == [("r2", "n1")]


def test_forgotten_node_takes_its_room_with_it_and_its_attempts_come_back_with_it() -> None:
    a_board = board(node("n1", slots=1), run(1))
    assert placed(a_board) == [("r1", "n1")]

    a_board.remove_node(NodeId("n1"))
    a_board.add_run(run(2))
    assert placed(a_board) == []
    a_board.set_node(node("n1", slots=2))

    assert placed(a_board) == [("r2", "n1")]


def test_node_that_moves_to_another_target_serves_that_one() -> None:
    a_board = board(node("n1"), run(1, compute="pool"))
    assert placed(a_board) == []

    a_board.set_node(node("n1", compute="pool"))

    assert placed(a_board) == [("r1", "n1")]
    assert a_board.nodes_of("local") == ()


def test_place_does_not_depend_on_the_order_of_its_arguments() -> None:
    runs = [run(1, cpus=3), run(2, priority=1), run(3, cpus=8)]
    nodes = [node("n1", slots=1), node("n2", slots=1), node("n3", slots=1, cpus=4)]
    active = [ActiveAttempt(AttemptRef("r9", 1, 9), NodeId("n1"))]

    results = {place(q, n, active) for q in permutations(runs) for n in permutations(nodes)}

    assert len(results) == 1
    assert [(g.run.run_id, g.node) for g in results.pop()] == [("r2", "n3"), ("r1", "n2")]


def test_submit_looks_at_no_other_run_however_long_the_queue_is() -> None:
    """Counts comparisons of runs' order keys instead of measuring time."""
    compared = 0

    class CountedPriority(int):
        def __neg__(self) -> CountedPriority:
            return CountedPriority(-int(self))

        def __lt__(self, other: int) -> bool:
            nonlocal compared
            compared += 1
            return int(self) < int(other)

        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return isinstance(other, int) and int(self) == int(other)

        __hash__ = int.__hash__

    def counted(number: int) -> QueuedRun:
        return run(number)._replace(priority=CountedPriority(0))

    a_board = board(node("n1", slots=1), *(counted(number) for number in range(20_000)))
    a_board.ready()
    compared = 0

    a_board.add_run(counted(20_000))
    assert a_board.ready() == ()

    assert compared < 100


def test_room_that_a_run_claimed_is_open_again_in_the_decision_that_sends_it_ahead() -> None:
    quick = replace(node("n1", slots=1, cpus=4), max_ahead=1)
    a_board = board(quick, node("n2", slots=2, cpus=4))
    for number, (name, cpus) in enumerate([("n1", 4), ("n2", 3)], start=1):
        ref = AttemptRef(f"a{number}", 1, number)
        a_board.hold(ActiveAttempt(ref, NodeId(name), Resources(cpus * 1_000)))
    a_board.note_end(quick.id, 0.1)
    a_board.add_run(run(1, cpus=4))
    a_board.add_run(run(2, cpus=1))

    grants = a_board.ready()

    assert [(g.run.run_id, g.node, g.is_ahead) for g in grants] == [
        ("r1", "n1", True),
        ("r2", "n2", False),
    ]
    assert a_board.ready() == ()
