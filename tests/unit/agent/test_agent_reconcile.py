from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runyard_agent.core.reconcile import (
    Answer,
    Found,
    Recovery,
    Stage,
    Word,
    answer,
    recover,
)

FOUND = st.builds(
    Found,
    stage=st.sampled_from(Stage),
    epoch=st.none() | st.integers(1, 5),
    boot_id=st.sampled_from(["", "boot-1", "boot-2"]),
    is_supervised=st.booleans(),
)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Found(Stage.LEASED, 1), Recovery.PREPARE),
        (Found(Stage.LEASED, 1, is_supervised=True), Recovery.FOLLOW),
        (Found(Stage.LEASED), Recovery.REMOVE),
        (Found(Stage.SPAWNING, 1, "now"), Recovery.SUPERVISOR_LOST),
        (Found(Stage.SPAWNING, 1, ""), Recovery.NODE_RESTARTED),
        (Found(Stage.RUNNING, 1, "now", is_supervised=True), Recovery.FOLLOW),
        (Found(Stage.RUNNING, 1, "now"), Recovery.SUPERVISOR_LOST),
        (Found(Stage.RUNNING, 1, "before"), Recovery.NODE_RESTARTED),
        (Found(Stage.RUNNING, None, "now"), Recovery.SUPERVISOR_LOST),
        (Found(Stage.EXITED, 1, "before"), Recovery.FINISH),
        (Found(Stage.EXITED, 1, "now"), Recovery.FINISH),
        (Found(Stage.FORGOTTEN, 1), Recovery.KEEP),
        (Found(Stage.FORGOTTEN), Recovery.KEEP),
    ],
)
def test_recover_does_what_the_files_ask_for(found: Found, expected: Recovery) -> None:
    assert recover(found, "now") is expected


@given(FOUND, st.sampled_from(["boot-1", "boot-2"]))
def test_recover_never_starts_what_a_supervisor_may_have_started(
    found: Found, boot_id: str
) -> None:
    how = recover(found, boot_id)

    if how is Recovery.PREPARE:
        assert found.stage is Stage.LEASED
        assert not found.is_supervised
        assert found.epoch is not None


@given(FOUND, st.sampled_from(["boot-1", "boot-2"]))
def test_recover_never_removes_what_may_have_processes(found: Found, boot_id: str) -> None:
    may_live = found.stage in (Stage.SPAWNING, Stage.RUNNING) and found.boot_id == boot_id

    if may_live:
        assert recover(found, boot_id) in (Recovery.FOLLOW, Recovery.SUPERVISOR_LOST)


@pytest.mark.parametrize(
    ("word", "epoch", "held_epoch", "expected"),
    [
        (Word.LEASE, 3, None, Answer.START),
        (Word.LEASE, 3, 3, Answer.REPORT),
        (Word.LEASE, 4, 3, Answer.REPLACE),
        (Word.LEASE, 2, 3, Answer.IGNORE),
        (Word.CANCEL, 3, None, Answer.DENY),
        (Word.CANCEL, 3, 3, Answer.STOP),
        (Word.CANCEL, 2, 3, Answer.IGNORE),
        (Word.CANCEL, 4, 3, Answer.DROP),
        (Word.SUPERSEDED, 3, 3, Answer.DROP),
        (Word.SUPERSEDED, 3, None, Answer.IGNORE),
        (Word.FORGET, 3, 3, Answer.FORGET),
        (Word.FORGET, 2, 3, Answer.IGNORE),
        (Word.FORGET, 3, None, Answer.IGNORE),
    ],
)
def test_answer_follows_the_fence(
    word: Word, epoch: int, held_epoch: int | None, expected: Answer
) -> None:
    assert answer(word, epoch, held_epoch) is expected


@dataclass
class _Node:
    """A node whose agent may be killed between any two steps; counts what was executed."""

    stage: Stage | None = None
    epoch: int | None = None
    is_supervised: bool = False
    executed: list[int] = field(default_factory=list)
    alive: set[int] = field(default_factory=set)

    def hear(self, word: Word, epoch: int) -> None:
        done = answer(word, epoch, self.epoch if self.stage else None)
        if done in (Answer.REPLACE, Answer.DROP):
            self.alive.clear()
            self.stage = self.epoch = None
        if done in (Answer.START, Answer.REPLACE):
            self.stage, self.epoch, self.is_supervised = Stage.LEASED, epoch, False

    def hand_over(self) -> None:
        if self.stage is Stage.LEASED and not self.is_supervised:
            assert self.epoch is not None
            self.is_supervised = True
            self.stage = Stage.SPAWNING
            self.executed.append(self.epoch)
            self.alive.add(self.epoch)

    def restart_agent(self, *, supervisor_dies: bool) -> None:
        if self.stage is None:
            return
        if supervisor_dies:
            self.is_supervised = False
        how = recover(Found(self.stage, self.epoch, "boot", self.is_supervised), "boot")
        if how is Recovery.SUPERVISOR_LOST:
            self.alive.clear()
            self.stage = Stage.EXITED
        elif how is Recovery.PREPARE:
            self.hand_over()


STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(Word), st.integers(1, 3)),
        st.sampled_from(["hand over", "kill agent", "kill both"]),
    ),
    max_size=30,
)


@settings(max_examples=300)
@given(STEPS)
def test_reconcile_executes_each_grant_once_and_one_at_a_time(steps: list[object]) -> None:
    node = _Node()
    newest = 0

    for step in steps:
        if isinstance(step, tuple):
            word, epoch = step
            if word is Word.LEASE:  # a daemon never grants an older epoch after a newer one
                newest = epoch = max(newest, epoch)
                if node.epoch is None and epoch in node.executed:
                    continue  # ... nor one again that it had fenced
            node.hear(word, epoch)
        elif step == "hand over":
            node.hand_over()
        else:
            node.restart_agent(supervisor_dies=step == "kill both")

        assert len(node.executed) == len(set(node.executed)), steps
        assert len(node.alive) <= 1, steps
