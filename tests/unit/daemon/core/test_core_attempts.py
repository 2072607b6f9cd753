from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runyard_daemon.core.attempts import (
    Action,
    AttemptPhase,
    AttemptRecord,
    Decision,
    Report,
    Standing,
    incarnation_after_restore,
    is_current,
    is_of_earlier,
    judge,
    next_epoch,
    reconcile,
)
from runyard_daemon.core.end import EndReason
from runyard_daemon.core.lifecycle import Event
from runyard_daemon.core.types import AttemptRef, NodeId

NODE, OTHER = NodeId("n1"), NodeId("n2")
REF = AttemptRef("iris_1", 1, 5)
RECORD = AttemptRecord(REF, NODE, "boot-a")


def report(phase: AttemptPhase, *, was_started: bool = False) -> Report:
    return Report(REF, phase, was_started)


def settled(
    record: AttemptRecord | None, reported: Report | None, boot_id: str = "boot-a"
) -> Decision:
    records = () if record is None else (record,)
    reports = () if reported is None else (reported,)
    (decision,) = reconcile(NODE, boot_id, reports, records)
    return decision


@given(incarnation=st.integers(0, 1 << 20), last=st.integers(0, 1 << 60))
def test_epoch_is_above_every_earlier_one_and_of_its_incarnation(
    incarnation: int, last: int
) -> None:
    epoch = next_epoch(incarnation, last)

    assert epoch > last
    assert epoch >> 32 >= incarnation


def test_epoch_after_a_restore_is_above_grants_that_the_backup_does_not_know() -> None:
    granted_later = next_epoch(0, last_epoch=900)
    incarnation = incarnation_after_restore(incarnations=[0, 3], epochs=[12, granted_later])

    assert next_epoch(incarnation, last_epoch=12) > next_epoch(3, granted_later)
    assert incarnation_after_restore([], []) == 1


def test_message_is_current_only_with_run_attempt_and_epoch_of_the_newest_grant() -> None:
    assert is_current(REF, REF)
    assert not is_current(replace(REF, epoch=6), REF)
    assert not is_current(replace(REF, attempt=2), REF)
    assert not is_current(REF, None)


@pytest.mark.parametrize(
    ("phase", "was_started", "events"),
    [
        (AttemptPhase.ACCEPTED, False, (Event.STARTING,)),
        (AttemptPhase.PREPARING, False, (Event.PREPARING,)),
        (AttemptPhase.RUNNING, True, (Event.PREPARING, Event.RUNNING)),
        (AttemptPhase.EXITED, True, (Event.RUNNING, Event.EXITED)),
        (AttemptPhase.EXITED, False, (Event.EXITED,)),
        (AttemptPhase.ENDED, True, (Event.RUNNING, Event.EXITED)),
    ],
)
def test_report_counts_with_what_it_skipped_when_it_goes_further(
    phase: AttemptPhase, was_started: bool, events: tuple[Event, ...]
) -> None:
    judgement = judge(report(phase, was_started=was_started), NODE, RECORD)

    assert judgement.standing is Standing.COUNTS
    assert judgement.events == events
    assert judgement.phase is phase


@given(on_record=st.sampled_from(AttemptPhase), said=st.sampled_from(AttemptPhase))
def test_report_counts_exactly_when_it_is_news(on_record: AttemptPhase, said: AttemptPhase) -> None:
    judgement = judge(report(said), NODE, replace(RECORD, phase=on_record))

    assert (judgement.standing is Standing.COUNTS) == (said > on_record)
    if judgement.standing is not Standing.COUNTS:
        assert (judgement.standing, judgement.events) == (Standing.REPEATED, ())


@pytest.mark.parametrize(
    ("record", "sender", "standing"),
    [
        (replace(RECORD, is_current=False), NODE, Standing.SUPERSEDED),
        (replace(RECORD, is_over=True), NODE, Standing.SUPERSEDED),
        (RECORD, OTHER, Standing.SUPERSEDED),
        (None, NODE, Standing.UNKNOWN),
        (replace(RECORD, ref=replace(REF, epoch=6)), NODE, Standing.UNKNOWN),
    ],
)
def test_report_changes_nothing_when_its_attempt_is_not_the_one_that_counts(
    record: AttemptRecord | None, sender: NodeId, standing: Standing
) -> None:
    judgement = judge(report(AttemptPhase.RUNNING), sender, record)

    assert judgement.standing is standing
    assert judgement.events == ()


def test_last_report_is_only_repeated_when_its_run_is_over() -> None:
    over = replace(RECORD, phase=AttemptPhase.ENDED, is_over=True)

    assert judge(report(AttemptPhase.ENDED), NODE, over).standing is Standing.REPEATED


def test_returning_agent_keeps_its_run() -> None:
    running = replace(RECORD, phase=AttemptPhase.RUNNING)

    decision = settled(running, report(AttemptPhase.RUNNING))

    assert decision.action is Action.ADOPT
    assert not decision.is_cancel_wanted


def test_returning_agent_is_told_again_of_a_cancel_it_has_not_carried_out() -> None:
    wanted = replace(RECORD, is_cancel_wanted=True)

    assert settled(wanted, report(AttemptPhase.RUNNING)).is_cancel_wanted
    assert not settled(wanted, report(AttemptPhase.EXITED)).is_cancel_wanted


def test_lease_is_sent_again_when_the_agent_never_heard_of_it() -> None:
    assert settled(RECORD, None).action is Action.RESEND


@pytest.mark.parametrize(
    ("record", "reported", "boot_id", "reason"),
    [
        (RECORD, None, "boot-b", EndReason.NODE_RESTARTED),
        (RECORD, report(AttemptPhase.ACCEPTED), "boot-b", EndReason.NODE_RESTARTED),
        (RECORD, report(AttemptPhase.RUNNING), "boot-b", EndReason.NODE_RESTARTED),
        (
            replace(RECORD, phase=AttemptPhase.ACCEPTED),
            None,
            "boot-a",
            EndReason.ATTEMPT_LOST,
        ),
        (replace(RECORD, is_cancel_wanted=True), None, "boot-a", EndReason.NEVER_STARTED),
    ],
)
def test_attempt_is_ended_when_its_processes_cannot_exist(
    record: AttemptRecord, reported: Report | None, boot_id: str, reason: EndReason
) -> None:
    decision = settled(record, reported, boot_id)

    assert (decision.action, decision.reason) == (Action.END, reason)


def test_result_counts_although_the_node_restarted_after_the_script_had_ended() -> None:
    running = replace(RECORD, phase=AttemptPhase.RUNNING)

    decision = settled(running, report(AttemptPhase.EXITED), boot_id="boot-b")

    assert decision.action is Action.ADOPT


def test_known_result_is_kept_when_the_rest_of_the_log_is_lost() -> None:
    exited = replace(RECORD, phase=AttemptPhase.EXITED)

    assert settled(exited, None, boot_id="boot-b").action is Action.SEAL


@pytest.mark.parametrize(
    "record",
    [
        replace(RECORD, is_over=True),
        replace(RECORD, is_current=False),
        replace(RECORD, node=OTHER),
    ],
)
def test_agent_stops_what_is_no_longer_its_and_forgets_what_has_ended(
    record: AttemptRecord,
) -> None:
    assert settled(record, report(AttemptPhase.RUNNING)).action is Action.STOP
    assert settled(record, report(AttemptPhase.EXITED)).action is Action.FORGET


def test_attempt_that_the_records_do_not_know_is_found_and_left_alone() -> None:
    newer = replace(RECORD, ref=replace(REF, attempt=2, epoch=6))

    assert settled(None, report(AttemptPhase.RUNNING)).action is Action.FOUND
    decisions = reconcile(NODE, "boot-a", [report(AttemptPhase.RUNNING)], [newer])
    assert [d.action for d in decisions] == [Action.FOUND, Action.RESEND]


def test_hello_of_an_empty_node_settles_nothing_that_is_over_or_elsewhere() -> None:
    others = [replace(RECORD, is_over=True), replace(RECORD, node=OTHER)]

    assert reconcile(NODE, "boot-a", [], others[:1]) == ()
    assert reconcile(NODE, "boot-a", [], others[1:]) == ()


@pytest.mark.parametrize("phase", [p for p in AttemptPhase if p < AttemptPhase.EXITED])
def test_restored_attempt_that_its_agent_no_longer_has_is_ended_and_never_sent_again(
    phase: AttemptPhase,
) -> None:
    record = replace(RECORD, phase=phase, is_restored=True)

    assert settled(record, None) == Decision(Action.END, REF, reason=EndReason.RESTORED)
    # The machine may have restarted after it had ended: what became of it is no better known.
    assert settled(record, None, "boot-b").reason is EndReason.RESTORED


def test_restored_attempt_that_its_agent_still_has_goes_on() -> None:
    record = replace(RECORD, phase=AttemptPhase.RUNNING, is_restored=True)

    assert settled(record, report(AttemptPhase.RUNNING)).action is Action.ADOPT


def test_restored_attempts_of_a_lost_agent_are_ended_by_the_one_in_its_place() -> None:
    elsewhere = replace(RECORD, node=OTHER)
    restored = replace(elsewhere, is_restored=True)

    def decisions(record: AttemptRecord, *, is_only_node: bool) -> list[Action]:
        found = reconcile(NODE, "boot-b", (), (record,), is_only_node=is_only_node)
        return [decision.action for decision in found]

    assert decisions(restored, is_only_node=True) == [Action.END]
    assert decisions(restored, is_only_node=False) == []
    assert decisions(elsewhere, is_only_node=True) == []


def test_epochs_from_before_a_restore_are_told_from_those_after_it() -> None:
    before, after = next_epoch(3, 0), next_epoch(4, 0)

    assert is_of_earlier(4, before)
    assert not is_of_earlier(4, after)
    assert not is_of_earlier(0, next_epoch(0, 7))
