"""Why a run waits, what it does, or why it ended: in values, and in sentences made of them.

The verdicts come from the scheduler's own survey and its own test of what fits, so that what is
explained is what is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from runyard_contract.states import RunState
from runyard_daemon.core.amounts import DIMENSIONS, duration_text, obstacle_text
from runyard_daemon.core.estimate import Estimate
from runyard_daemon.core.remedy import Change, changes_at_once, changes_for_ever
from runyard_daemon.core.room import Obstacle, could_fit, obstacles
from runyard_daemon.core.scheduler import Board
from runyard_daemon.core.survey import Survey
from runyard_daemon.core.types import Cause, Node, QueuedRun, WallTime

AHEAD_SHOWN = 10
"""How many of the runs ahead are named."""


@dataclass(frozen=True, slots=True)
class NodeVerdict:
    """What keeps a run from one node."""

    node: Node
    obstacles: tuple[Obstacle, ...] = ()
    kept_for: QueuedRun | None = None
    """The run ahead that the node is kept for."""
    age_s: float | None = None
    """How long the node has not been connected or accepting, where that is known."""

    @property
    def has_room(self) -> bool:
        """Whether nothing keeps the run from this node: it starts with the next decision."""
        return not self.obstacles and self.kept_for is None

    @property
    def is_lasting(self) -> bool:
        """Whether the node can't hold the run however long it waits."""
        return any(obstacle.is_lasting for obstacle in self.obstacles)

    def reasons(self) -> tuple[str, ...]:
        """Gives a clause for each thing that keeps the run from the node; empty: none."""
        clauses = [obstacle_text(obstacle, self.node, self.age_s) for obstacle in self.obstacles]
        if not clauses and self.kept_for is not None:
            clauses.append(f"kept free for {self.kept_for.run_id}, which is ahead and needs it")
        return tuple(clauses)


@dataclass(frozen=True, slots=True)
class Explanation:
    """The answer to "why?" about one run."""

    run_id: str
    summary: str
    """One sentence."""
    verdicts: tuple[NodeVerdict, ...] = ()
    """For a waiting run: every node of its target, by id."""
    position: int = 0
    """Place in the queue of its target, from 1; 0 when it does not wait."""
    ahead: tuple[str, ...] = ()
    """The first runs ahead, at most AHEAD_SHOWN."""
    ahead_count: int = 0
    remedy: str = ""
    """The smallest change that would let it start, or what to try; empty: nothing to do."""
    details: tuple[str, ...] = ()
    """Further sentences."""
    changes: tuple[Change, ...] = ()
    """For a waiting run: the smallest changes that would let it start."""
    estimate: Estimate | None = None
    """For a run that has not ended: what earlier runs let expect."""

    def advice(self) -> tuple[str, ...]:
        """Gives what would help, a sentence each; empty: nothing to do."""
        texts = [self.remedy, *(change.text for change in self.changes)]
        return tuple(dict.fromkeys(text for text in texts if text))

    def sentences(self) -> tuple[str, ...]:
        """Gives the whole explanation for people, the summary first."""
        lines = [self.summary]
        lines.extend(
            f"{verdict.node.name}: {'; '.join(verdict.reasons()) or 'has room'}"
            for verdict in self.verdicts
        )
        if self.ahead:
            more = self.ahead_count - len(self.ahead)
            lines.append(f"ahead: {', '.join(self.ahead)}" + (f" and {more} more" if more else ""))
        lines.extend(self.details)
        if self.estimate is not None:
            lines.append(self.estimate.text)
        lines.extend(self.advice())
        return tuple(lines)


@dataclass(frozen=True, slots=True)
class ActiveFacts:
    """What an active run does now."""

    run_id: str
    state: RunState
    node_name: str
    attempt: int
    since: WallTime
    """When it got into `state`."""
    status_message: str = ""
    """The agent's own words about what it does."""


def explain_waiting(board: Board, run_id: str, now: WallTime) -> Explanation:
    """Explains a run that waits on `board`. Raises KeyError where it does not wait there."""
    run = board.waiting_run(run_id)
    if run is None:
        raise KeyError(run_id)
    survey = board.survey(run.compute)
    verdicts = tuple(_verdict(run, node, survey, now) for node in board.nodes_of(run.compute))
    ahead_count, ahead = board.ahead_of(run_id, AHEAD_SHOWN)
    usable = [verdict.node for verdict in verdicts if verdict.node.is_usable]
    is_too_large = bool(usable) and not any(could_fit(run.request, node) for node in usable)
    changes = changes_for_ever(run, usable) if is_too_large else changes_at_once(board, run_id)
    summary, remedy = _waiting_words(run, verdicts, survey, ahead_count)
    elsewhere = _elsewhere(board, run) if all(v.is_lasting for v in verdicts) else ""
    return Explanation(
        run_id=run_id,
        summary=summary,
        verdicts=verdicts,
        position=ahead_count + 1,
        ahead=ahead,
        ahead_count=ahead_count,
        remedy=elsewhere or remedy,
        changes=changes,
    )


def explain_active(facts: ActiveFacts, now: WallTime) -> Explanation:
    """Explains a run that a node holds."""
    words = _ACTIVE_WORDS.get(facts.state, str(facts.state).lower())
    age = duration_text(now - facts.since)
    return Explanation(
        run_id=facts.run_id,
        summary=f"{words} on {facts.node_name} for {age} (attempt {facts.attempt})",
        remedy=_ACTIVE_REMEDIES.get(facts.state, ""),
        details=(facts.status_message,) if facts.status_message else (),
    )


def explain_ahead(run_id: str, node: Node, now: WallTime) -> Explanation:
    """Explains a waiting run that was sent to a node before that has room."""
    if node.is_connected:
        summary = f"waits on {node.name} itself: it starts there as soon as a slot is free"
        return Explanation(run_id=run_id, summary=summary)
    away = "" if node.since is None else f" for {duration_text(now - node.since)}"
    return Explanation(
        run_id=run_id,
        summary=f"was sent ahead to {node.name}, which is out of touch{away}",
        remedy="bring the node back: it starts the run, or gives it back to the queue",
    )


def explain_ended(run_id: str, cause: Cause) -> Explanation:
    """Explains a run that is final."""
    details = cause.last_lines
    if cause.rule:
        details = (f"rule: {cause.rule}", *details)
    return Explanation(run_id=run_id, summary=cause.message, remedy=cause.advice, details=details)


_ACTIVE_WORDS: Mapping[RunState, str] = MappingProxyType(
    {
        RunState.STARTING: "sent to the agent",
        RunState.PREPARING: "preparing snapshot and environment",
        RunState.RUNNING: "running",
        RunState.FINALIZING: "the script has ended; collecting logs and outputs",
        RunState.CANCEL_REQUESTED: "asked to end",
        RunState.NOT_RESPONDING: "the node is out of touch; the run may well go on",
    }
)
_ACTIVE_REMEDIES: Mapping[RunState, str] = MappingProxyType(
    {
        RunState.NOT_RESPONDING: "bring the node back: the run is taken up where it is",
    }
)


def _verdict(run: QueuedRun, node: Node, survey: Survey, now: WallTime) -> NodeVerdict:
    found = tuple(obstacles(run.request, node, survey.rooms[node.id]))
    starts_here = any(
        grant.run.run_id == run.run_id and grant.node == node.id and not grant.is_ahead
        for grant in survey.grants
    )
    if starts_here:
        return NodeVerdict(node)
    claimant = survey.claims.get(node.id)
    kept_for = claimant if claimant is not None and claimant.run_id != run.run_id else None
    age_s = None if node.since is None or node.is_usable else max(0.0, now - node.since)
    return NodeVerdict(node, found, kept_for, age_s)


def _waiting_words(
    run: QueuedRun, verdicts: tuple[NodeVerdict, ...], survey: Survey, ahead_count: int
) -> tuple[str, str]:
    """Summary and remedy of a waiting run."""
    if any(grant.run.run_id == run.run_id and not grant.is_ahead for grant in survey.grants):
        return "it starts now", ""
    if not verdicts:
        return f"{run.compute} has no node yet", "wait for its agent, or see `runyard doctor`"
    usable = [verdict for verdict in verdicts if verdict.node.is_usable]
    if not usable:
        return f"no node of {run.compute} takes runs now", "see `runyard compute show`"
    if all(verdict.is_lasting for verdict in usable):
        return _too_large(run, [verdict.node for verdict in usable]), ""
    if ahead_count:
        runs = "1 run is" if ahead_count == 1 else f"{ahead_count} runs are"
        return f"waits for {run.compute}: {runs} ahead", ""
    return f"waits for {run.compute}: it is next, as soon as there is room", ""


def _too_large(run: QueuedRun, usable: list[Node]) -> str:
    """Summary of a run that no usable node could hold, even if it were empty."""
    lacks = []
    for dimension in DIMENSIONS:
        need = dimension.amount(run.request)
        most = max(dimension.amount(node.capacity) for node in usable)
        if need > most:
            lacks.append(f"{dimension.text(need)}: the most is {dimension.text(most)}")
    if lacks:
        return f"no node of {run.compute} offers {', nor '.join(lacks)}"
    wanted = [d.text(d.amount(run.request)) for d in DIMENSIONS if d.amount(run.request)]
    what = f"{' and '.join(wanted)} together" if wanted else "a slot"
    return f"no single node of {run.compute} offers {what}"


def _elsewhere(board: Board, run: QueuedRun) -> str:
    """Names what else could hold a run that its target's usable nodes can't."""
    for node in board.nodes_of(run.compute):
        if not node.is_usable and could_fit(
            run.request, replace(node, is_connected=True, is_accepting=True)
        ):
            return f"{node.name} could hold it: bring it back"
    for compute in board.computes():
        if any(could_fit(run.request, node) for node in board.nodes_of(compute)):
            return f"target {compute} could hold it: submit it there with `-t {compute}`"
    return ""
