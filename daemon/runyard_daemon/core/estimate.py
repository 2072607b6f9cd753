"""When a run may start and end, from how long earlier runs of its experiment took.

The start is found by playing the queue forward with the scheduler itself, once with short runs and
once with long ones. What nothing is known about is said to be unknown.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from runyard_daemon.core.amounts import duration_text
from runyard_daemon.core.scheduler import Board
from runyard_daemon.core.types import ActiveAttempt, Node, QueuedRun

SAMPLES = 20
"""How many earlier runs count, the newest."""
AHEAD_PLAYED = 200
"""A run with more runs ahead gets no estimate of its start."""


@dataclass(frozen=True, slots=True)
class Took:
    """How long earlier runs took, in seconds."""

    low_s: float
    """The shortest; of ten and more, one in ten was shorter."""
    likely_s: float
    """The middle one."""
    high_s: float
    """The longest; of ten and more, one in ten was longer."""
    count: int
    """How many are known."""


@dataclass(frozen=True, slots=True)
class Running:
    """A run that holds a place, and how long it has run."""

    attempt: ActiveAttempt
    experiment: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class Scene:
    """All that a waiting run's start depends on."""

    run: QueuedRun
    nodes: Sequence[Node]
    running: Sequence[Running]
    ahead: Sequence[QueuedRun]
    experiments: Mapping[str, str]
    """Of the runs ahead and the run itself, by id."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What earlier runs let expect; times are seconds from now."""

    text: str
    """A sentence or two for people."""
    took: Took | None = None
    """How long the run may take; None: no run of its experiment has ended yet."""
    earliest_start_s: float | None = None
    """None: unknown, or it has started."""
    latest_start_s: float | None = None
    earliest_end_s: float | None = None
    """Of a run that has started; None: unknown, or it has not."""
    latest_end_s: float | None = None
    """None also for a run that already takes longer than those before."""


def took(durations_s: Sequence[float]) -> Took | None:
    """Sums up durations in seconds, in any order; None for none."""
    if not durations_s:
        return None
    ordered = sorted(durations_s)
    cut = len(ordered) // 10
    return Took(
        ordered[cut], ordered[len(ordered) // 2], ordered[len(ordered) - 1 - cut], len(ordered)
    )


def estimate_active(experiment: str, known: Took | None, elapsed_s: float) -> Estimate:
    """Says when a run that has run for `elapsed_s` may end."""
    if known is None:
        return Estimate(f"its end is unknown: {_no_history(experiment)}")
    if elapsed_s >= known.high_s:
        text = f"{_history(experiment, known)}: it takes longer than those before"
        return Estimate(text, known, earliest_end_s=0.0)
    earliest_s, latest_s = max(0.0, known.low_s - elapsed_s), known.high_s - elapsed_s
    text = f"{_history(experiment, known)}: it may end {_within(earliest_s, latest_s)}"
    return Estimate(text, known, earliest_end_s=earliest_s, latest_end_s=latest_s)


def estimate_waiting(scene: Scene, history: Mapping[str, Took]) -> Estimate:
    """Says when a waiting run may start and how long it may take. `history` is by experiment."""
    experiment = scene.experiments[scene.run.run_id]
    own = history.get(experiment)
    length = f"; {_history(experiment, own)}" if own else f"; {_no_history(experiment)}"
    if len(scene.ahead) > AHEAD_PLAYED:
        text = f"its start is unknown: more than {AHEAD_PLAYED} runs are ahead{length}"
        return Estimate(text, own)
    earliest_s = _start(scene, history, is_long=False)
    latest_s = _start(scene, history, is_long=True)
    if earliest_s is None:
        why = _unknown(scene, history) or "nothing that runs now makes room for it"
        return Estimate(f"its start is unknown: {why}{length if why not in length else ''}", own)
    if latest_s is None:
        soon = f"in {duration_text(earliest_s)}" if earliest_s >= 1 else "at any moment"
        when = f"{soon} or much later (a run before it takes longer than those known)"
        return Estimate(f"it may start {when}{length}", own, earliest_s)
    # A longer run ahead can let another go first: the plays bound the start only together.
    earliest_s, latest_s = min(earliest_s, latest_s), max(earliest_s, latest_s)
    text = f"it may start {_within(earliest_s, latest_s)}{length}"
    return Estimate(text, own, earliest_s, latest_s)


def _start(scene: Scene, history: Mapping[str, Took], *, is_long: bool) -> float | None:
    """Plays the queue forward; seconds until the run starts, None: unknown."""
    board = Board()
    for node in scene.nodes:
        board.set_node(node)
    ends: list[tuple[float, str]] = []
    for running in scene.running:
        board.hold(running.attempt)
        left_s = _left(history.get(running.experiment), running.elapsed_s, is_long=is_long)
        _push(ends, left_s, running.attempt.ref.run_id)
    for run in (*scene.ahead, scene.run):
        board.add_run(run)
    now_s = 0.0
    while True:
        for grant in board.ready():
            run_id = grant.run.run_id
            if run_id == scene.run.run_id:
                return now_s
            length_s = _left(history.get(scene.experiments[run_id]), 0.0, is_long=is_long)
            _push(ends, now_s + length_s, run_id)
        if not ends:
            return None
        now_s, ended = heapq.heappop(ends)
        board.release(ended)


def _push(ends: list[tuple[float, str]], at_s: float, run_id: str) -> None:
    """Notes an end; one that is not known never comes."""
    if at_s < math.inf:
        heapq.heappush(ends, (at_s, run_id))


def _left(known: Took | None, elapsed_s: float, *, is_long: bool) -> float:
    """Seconds that a run has left; infinite: unknown."""
    if known is None or (is_long and elapsed_s >= known.high_s):
        return math.inf
    return max(0.0, (known.high_s if is_long else known.low_s) - elapsed_s)


def _unknown(scene: Scene, history: Mapping[str, Took]) -> str:
    """Names the experiments before the run of which nothing is known."""
    before = [running.experiment for running in scene.running]
    before += [scene.experiments[run.run_id] for run in scene.ahead]
    lacking = [name for name in dict.fromkeys(before) if name not in history]
    return _no_history(" or ".join(lacking[:3])) if lacking else ""


def _no_history(experiment: str) -> str:
    return f"no run of {experiment} has ended on this target yet"


def _history(experiment: str, known: Took) -> str:
    runs = "1 run" if known.count == 1 else f"{known.count} runs"
    if duration_text(known.low_s) == duration_text(known.high_s):
        return f"{runs} of {experiment} took {duration_text(known.likely_s)}"
    span = f"{duration_text(known.low_s)} to {duration_text(known.high_s)}"
    return f"{runs} of {experiment} took {span}, most often about {duration_text(known.likely_s)}"


def _within(earliest_s: float, latest_s: float) -> str:
    low, high = duration_text(earliest_s), duration_text(latest_s)
    return f"in about {low}" if low == high else f"in {low} to {high}"
