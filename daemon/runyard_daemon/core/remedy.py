"""The smallest changes that would let a waiting run start, found with the scheduler's own code.

Each change is on one axis: what the run asks for, its priority, or another run that goes. A change
is given only where the scheduler, asked with it, would place the run; and nothing smaller on its
axis would do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from runyard_contract.limits import PRIORITY_MAX
from runyard_daemon.core.amounts import DIMENSIONS, Dimension
from runyard_daemon.core.room import Room, empty_room, fits
from runyard_daemon.core.scheduler import Board
from runyard_daemon.core.types import Node, QueuedRun, Resources

PRIORITIES_TRIED = 64
"""Where the runs ahead have more different priorities than that, none is proposed."""
CANCELS_TRIED = 64
"""How many other runs are looked at, the newest first."""
CANCELS_NAMED = 3


@dataclass(frozen=True, slots=True)
class Change:
    """What would let a run start."""

    text: str
    """A sentence for people."""
    is_at_once: bool
    """It would start now; else it could start once others have ended, which it can't as it is."""
    request: Resources | None = None
    """What to ask for instead; None: the same."""
    priority: int | None = None
    """The priority to have instead; None: the same."""
    cancel: tuple[str, ...] = ()
    """Runs of which any one would have to go."""


def changes_at_once(board: Board, run_id: str) -> tuple[Change, ...]:
    """Gives what would let a waiting run start now; empty: it does anyway, or nothing small would.

    Raises KeyError where the run does not wait.
    """
    run = board.waiting_run(run_id)
    if run is None:
        raise KeyError(run_id)
    turn = board.turn_of(run_id)
    if turn.admits(run.request):
        return ()
    smaller = [
        Change(_smaller_text(run.request, request), is_at_once=True, request=request)
        for request in _reductions(
            run.request, ((node, turn.rooms[node.id]) for node in turn.unclaimed)
        )
    ]
    return (*smaller, *_sooner(board, run), *_emptier(board, run))


def changes_for_ever(run: QueuedRun, usable: Iterable[Node]) -> tuple[Change, ...]:
    """Gives what would let a run that no usable node could hold start some day."""
    places = [(node, empty_room(node)) for node in usable]
    return tuple(
        Change(_ever_text(run.request, request), is_at_once=False, request=request)
        for request in _reductions(run.request, places)
    )


def _reductions(request: Resources, places: Iterable[tuple[Node, Room]]) -> list[Resources]:
    """The largest smaller requests that fit somewhere, each with as few amounts changed as any."""
    best: dict[tuple[Dimension, ...], Resources] = {}
    for node, room in places:
        smaller = request
        for dimension in DIMENSIONS:
            free = max(0, dimension.amount(room.resources))
            if dimension.amount(request) > free:
                smaller = dimension.with_amount(smaller, free)
        changed = _changed(request, smaller)
        if not changed or not fits(smaller, node, room):
            continue
        known = best.get(changed)
        if known is None or _amounts(smaller) > _amounts(known):
            best[changed] = smaller
    fewest = min((len(changed) for changed in best), default=0)
    return [smaller for changed, smaller in best.items() if len(changed) == fewest]


def _changed(request: Resources, smaller: Resources) -> tuple[Dimension, ...]:
    return tuple(d for d in DIMENSIONS if d.amount(smaller) != d.amount(request))


def _amounts(request: Resources) -> tuple[int, ...]:
    return tuple(dimension.amount(request) for dimension in DIMENSIONS)


def _sooner(board: Board, run: QueuedRun) -> tuple[Change, ...]:
    """The lowest priority with which the run would start now."""
    ahead = board.priorities_ahead(run.run_id)
    if len(ahead) > PRIORITIES_TRIED:
        return ()
    for priority in ahead:
        higher = priority + 1
        if higher > PRIORITY_MAX:
            break
        if board.turn_of(run.run_id, priority=higher).admits(run.request):
            text = f"submitted with `--priority {higher}` it would start at once"
            return (Change(text, is_at_once=True, priority=higher),)
    return ()


def _emptier(board: Board, run: QueuedRun) -> tuple[Change, ...]:
    """Runs of which the end of any one would let the run start."""
    nodes = board.nodes_of(run.compute)
    active = [run_id for node in nodes if node.is_usable for run_id in board.held_on(node.id)]
    claiming = {claim.run_id for claim in board.turn_of(run.run_id).claims.values()}
    others = [*sorted(claiming), *reversed(active)][:CANCELS_TRIED]
    enough: list[str] = []
    for other in others:
        if board.turn_of(run.run_id, without=frozenset({other})).admits(run.request):
            enough.append(other)
            if len(enough) == CANCELS_NAMED:
                break
    if not enough:
        return ()
    text = f"it starts as soon as {' or '.join(enough)} has ended or is canceled"
    return (Change(text, is_at_once=True, cancel=tuple(enough)),)


def _smaller_text(request: Resources, smaller: Resources) -> str:
    changed = _changed(request, smaller)
    asked = " and ".join(_option(dimension, smaller) for dimension in changed)
    instead = " and ".join(d.text(d.amount(request)) for d in changed)
    text = f"with {asked} instead of {instead} it would start at once"
    if len(changed) > 1:
        return text
    (dimension,) = changed
    missing = dimension.amount(request) - dimension.amount(smaller)
    return f"{text}; as it is, it lacks {dimension.text(missing)}"


def _ever_text(request: Resources, smaller: Resources) -> str:
    options = [_option(dimension, smaller) for dimension in _changed(request, smaller)]
    return f"it could start with at most {' and '.join(options)}"


def _option(dimension: Dimension, request: Resources) -> str:
    if not dimension.amount(request):
        return f"no `{dimension.option}`"
    return f"`{dimension.option} {dimension.value(dimension.amount(request))}`"
