"""Where the time of a run went: its waterfall."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from runyard_contract.record import record, replace
from runyard_daemon.core.types import WallTime


class Phase(StrEnum):
    """A part of a run's life that is measured. The order is the order in time."""

    WAITING = "waiting"
    """From the submit until a node was granted."""
    SNAPSHOT = "snapshot"
    """The client's scan and upload before the submit; then the layout of the working folder."""
    ENVIRONMENT = "environment"
    """Building or checking the environment."""
    START = "start"
    """From a ready environment to a started process."""
    FIRST_OUTPUT = "first_output"
    """From the started process to its first byte of output: the first part of `script`."""
    SCRIPT = "script"
    """The whole life of the script's process."""
    OUTPUTS = "outputs"
    """From the script's end until logs and outputs were complete."""


_NEXT_AFTER = {
    None: Phase.SNAPSHOT,
    Phase.SNAPSHOT: Phase.ENVIRONMENT,
    Phase.ENVIRONMENT: Phase.START,
    Phase.START: Phase.SCRIPT,
    Phase.FIRST_OUTPUT: Phase.SCRIPT,
    Phase.SCRIPT: Phase.OUTPUTS,
}
_ORDER = {phase: index for index, phase in enumerate(Phase)}


@record
class Span:
    """One bar of the waterfall."""

    phase: Phase
    start: WallTime
    """By the daemon's clock, as near as two machines' clocks allow."""
    duration_s: float
    """By one clock, so never negative."""
    is_open: bool = False
    """It goes on; `duration_s` is what has passed."""

    @property
    def end(self) -> WallTime:
        """When it ended, or now for an open one."""
        return WallTime(self.start + self.duration_s)


@record
class Milestones:
    """What the daemon itself saw of a run, by its own clock; None: not reached."""

    submitted: WallTime
    granted: WallTime | None = None
    """When its newest attempt was granted."""
    finished: WallTime | None = None
    """When it became final, however far it had come."""
    client_snapshot_s: float = 0.0
    """What the client says it spent on the snapshot before the submit."""


def waterfall(marks: Milestones, reported: Iterable[Span], now: WallTime) -> tuple[Span, ...]:
    """Gives the phases that a run has entered, in order of time.

    `reported` is what the agent measured for the newest attempt, by its own clock: where that clock
    is behind, all its spans are moved so that none begins before the grant; durations stay. SCRIPT
    contains FIRST_OUTPUT; else no two overlap. SNAPSHOT comes twice when both client and agent
    spent time on it. The phase that a run is in now is open; a final run has no open one.
    """
    spans: list[Span] = []
    if marks.client_snapshot_s > 0:
        start = WallTime(marks.submitted - marks.client_snapshot_s)
        spans.append(Span(Phase.SNAPSHOT, start, marks.client_snapshot_s))
    limit = marks.finished if marks.finished is not None else now
    spans.append(_until(Phase.WAITING, marks.submitted, marks.granted, limit, marks.finished))
    if marks.granted is None:
        return tuple(spans)

    measured = _aligned(reported, marks.granted)
    spans.extend(measured)
    last = measured[-1] if measured else None
    phase = _NEXT_AFTER.get(last.phase if last else None)
    if last is not None and last.phase is Phase.FIRST_OUTPUT:
        spans.append(_until(Phase.SCRIPT, last.start, None, limit, marks.finished))
    elif phase is not None:
        start = last.end if last else marks.granted
        spans.append(_until(phase, start, None, limit, marks.finished))
    return tuple(spans)


def _until(
    phase: Phase, start: WallTime, end: WallTime | None, limit: WallTime, finished: WallTime | None
) -> Span:
    """A span to `end`, or, where that is not known, to the end of the run or now."""
    stop = limit if end is None else end
    return Span(phase, start, max(0.0, stop - start), is_open=end is None and finished is None)


def _aligned(reported: Iterable[Span], granted: WallTime) -> list[Span]:
    """The agent's spans in order, the last report of each phase, moved behind the grant."""
    latest = {span.phase: span for span in reported}
    ordered = sorted(latest.values(), key=lambda span: _ORDER[span.phase])
    if not ordered:
        return []
    behind_s = granted - min(span.start for span in ordered)
    if behind_s <= 0:
        return ordered
    return [replace(span, start=WallTime(span.start + behind_s)) for span in ordered]
