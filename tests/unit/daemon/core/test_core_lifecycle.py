from __future__ import annotations

import pytest

from runyard_contract.states import FINAL, RunState
from runyard_daemon.core.lifecycle import (
    DUTIES,
    HELD,
    TABLE,
    WAITING,
    Event,
    applies,
    next_state,
    render_table,
    states_allowing,
)

NOT_FINAL = [state for state in RunState if state not in FINAL]


def follow(*events: Event) -> list[RunState]:
    states = [RunState.NOT_STARTED]
    for event in events:
        states.append(next_state(states[-1], event))
    return states


def test_run_goes_through_all_states_when_nothing_goes_wrong() -> None:
    states = follow(
        Event.SUBMITTED,
        Event.GRANTED,
        Event.PREPARING,
        Event.RUNNING,
        Event.EXITED,
        Event.COMPLETED,
    )

    assert [str(state) for state in states[1:]] == [
        "QUEUED",
        "STARTING",
        "PREPARING",
        "RUNNING",
        "FINALIZING",
        "COMPLETED",
    ]


def test_table_answers_every_event_in_every_state() -> None:
    for state in RunState:
        for event in Event:
            assert next_state(state, event) in RunState
            assert applies(state, event) == (next_state(state, event) is not state)


@pytest.mark.parametrize("state", sorted(FINAL))
def test_final_state_stays_whatever_happens(state: RunState) -> None:
    assert {next_state(state, event) for event in Event} == {state}


@pytest.mark.parametrize("state", NOT_FINAL)
def test_every_other_state_leads_to_an_end_and_says_who_sees_to_it(state: RunState) -> None:
    reachable = {state}
    while True:
        further = {target for s in reachable for target in TABLE[s].values()} | reachable
        if further == reachable:
            break
        reachable = further

    assert reachable & FINAL
    assert DUTIES[state].owner
    assert DUTIES[state].deadline


def test_every_state_can_be_reached() -> None:
    targets = {target for row in TABLE.values() for target in row.values()}

    assert targets | {RunState.NOT_STARTED} == set(RunState)


@pytest.mark.parametrize("state", sorted(WAITING))
def test_cancel_ends_a_run_at_once_when_no_agent_holds_it(state: RunState) -> None:
    assert next_state(state, Event.CANCEL_REQUESTED) is RunState.CANCELED


@pytest.mark.parametrize("state", sorted(HELD - {RunState.FINALIZING, RunState.CANCEL_REQUESTED}))
def test_cancel_waits_for_the_agent_when_one_holds_the_run(state: RunState) -> None:
    assert next_state(state, Event.CANCEL_REQUESTED) is RunState.CANCEL_REQUESTED


def test_cancel_changes_nothing_when_the_script_has_ended() -> None:
    assert next_state(RunState.FINALIZING, Event.CANCEL_REQUESTED) is RunState.FINALIZING


def test_cancel_is_not_forgotten_when_the_node_goes_away_or_reports_progress() -> None:
    for event in (Event.OUT_OF_TOUCH, Event.STARTING, Event.PREPARING, Event.RUNNING):
        assert next_state(RunState.CANCEL_REQUESTED, event) is RunState.CANCEL_REQUESTED


def test_script_that_ended_before_the_cancel_arrived_keeps_its_result() -> None:
    states = follow(
        Event.SUBMITTED,
        Event.GRANTED,
        Event.RUNNING,
        Event.CANCEL_REQUESTED,
        Event.EXITED,
        Event.COMPLETED,
    )

    assert states[-1] is RunState.COMPLETED


@pytest.mark.parametrize(
    ("event", "state"),
    [
        (Event.STARTING, RunState.STARTING),
        (Event.PREPARING, RunState.PREPARING),
        (Event.RUNNING, RunState.RUNNING),
        (Event.EXITED, RunState.FINALIZING),
        (Event.REQUEUED, RunState.QUEUED),
        (Event.ABANDONED, RunState.CANCELED),
    ],
)
def test_run_whose_node_was_away_is_taken_up_where_it_is(event: Event, state: RunState) -> None:
    assert next_state(RunState.NOT_RESPONDING, event) is state


def test_error_for_a_refused_verb_can_name_the_states_that_allow_it() -> None:
    allowed = states_allowing(Event.ABANDONED)

    assert RunState.NOT_RESPONDING in allowed
    assert RunState.QUEUED not in allowed


def test_rendered_table_has_a_row_for_every_state_and_every_edge() -> None:
    text = render_table()

    assert all(f"| {state} |" in text for state in RunState)
    assert text.count("→") == 1 + sum(len(row) for row in TABLE.values())
