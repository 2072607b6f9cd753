"""Moves a run through its lifecycle inside a transaction."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Unpack

from runyard_daemon.core.lifecycle import Event, applies, next_state
from runyard_daemon.store import Connection, runs
from runyard_daemon.store.runs import RunChange, RunRecord
from runyard_daemon.store.transitions import TransitionRecord

USER, DAEMON, AGENT = "user", "daemon", "agent"


def advance(
    conn: Connection,
    run: RunRecord,
    happened: Iterable[tuple[Event, str]],
    actor: str,
    now_us: int,
    **changes: Unpack[RunChange],
) -> bool:
    """Applies events, with what they mean for people, and changes to a run.

    All is one change of the run, whatever its number of states.
    Returns whether anything was written: events that change nothing are no change.
    """
    state = run.state
    moves: list[TransitionRecord] = []
    for event, cause in happened:
        if applies(state, event):
            state = next_state(state, event)
            moves.append(TransitionRecord(state, now_us, cause, actor))
    if moves:
        runs.move(conn, run.run_id, moves, **changes)
    elif changes:
        runs.update(conn, run.run_id, **changes)
    return bool(moves or changes)
