"""What the daemon wants against what this node holds: which step each difference asks for.

Two questions, both answered without looking at anything but the arguments:

* `recover`: what to do with a bundle that a starting agent finds on disk;
* `answer`: what to do about a word of the daemon, given what is held of that attempt.

Together they keep the promise that no attempt is executed twice: only a bundle that has never
been handed to a supervisor is ever prepared, and only for the epoch that it was granted in.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """How far a bundle had come, as its files say."""

    LEASED = "leased"
    """Only prepared, never handed to a supervisor."""
    SPAWNING = "spawning"
    """A supervisor was about to start the program; whether it did is unknown."""
    RUNNING = "running"
    """The program was started."""
    RETURNED = "returned"
    """It had come ahead, was not begun in time, and never will be."""
    EXITED = "exited"
    """There is an exit record."""
    FORGOTTEN = "forgotten"
    """The daemon has everything; only its working folder is kept for a while."""


@dataclass(frozen=True, slots=True)
class Found:
    """A bundle on disk.

    `epoch` is None where its lease can't be read. `boot_id` is that of the machine's start in
    which it was handed to a supervisor, empty before. `is_supervised` says whether a living
    supervisor has it now; `is_ahead`, whether the lease came before the node had room.
    """

    stage: Stage
    epoch: int | None = None
    boot_id: str = ""
    is_supervised: bool = False
    is_ahead: bool = False


class Recovery(StrEnum):
    """What to do with a bundle that was found."""

    REMOVE = "remove"
    """It was never complete: nobody was told of it."""
    PREPARE = "prepare"
    """Lay it out again and start it."""
    FOLLOW = "follow"
    """It runs: take it up."""
    FINISH = "finish"
    """It has ended: send what is left and report."""
    NODE_RESTARTED = "node_restarted"
    """The machine restarted under it."""
    SUPERVISOR_LOST = "supervisor_lost"
    """Nobody watches it: end what is left of its processes and say so. Never start it again."""
    KEEP = "keep"
    """Nothing but a working folder that is kept for a while."""


def recover(found: Found, boot_id: str) -> Recovery:
    """What a starting agent does with a bundle; `boot_id` is that of the machine now."""
    if found.stage is Stage.FORGOTTEN:
        return Recovery.KEEP
    if found.stage is Stage.RETURNED:
        return Recovery.REMOVE
    if found.epoch is None:
        # A lease that is not whole was never acknowledged; but processes are never let go unseen.
        if found.stage is Stage.LEASED:
            return Recovery.REMOVE
        return Recovery.SUPERVISOR_LOST if found.boot_id == boot_id else Recovery.REMOVE
    if found.stage is Stage.EXITED:
        return Recovery.FINISH
    if found.is_supervised:
        return Recovery.FOLLOW
    if found.stage is Stage.LEASED:
        # One that came ahead may have been given back: the daemon takes it if no Hello names it.
        return Recovery.REMOVE if found.is_ahead else Recovery.PREPARE
    if found.boot_id != boot_id:
        return Recovery.NODE_RESTARTED
    return Recovery.SUPERVISOR_LOST


class Word(StrEnum):
    """What the daemon says of an attempt."""

    LEASE = "lease"
    CANCEL = "cancel"
    SUPERSEDED = "superseded"
    FORGET = "forget"


class Answer(StrEnum):
    """What to do about it."""

    START = "start"
    """Take the lease."""
    REPLACE = "replace"
    """End and drop what is held of an older epoch, then take the lease."""
    REPORT = "report"
    """Nothing to do: say again how far it is."""
    STOP = "stop"
    """End it."""
    DROP = "drop"
    """End it at once and forget it; nobody wants to hear of it."""
    FORGET = "forget"
    """Let its folder go."""
    DENY = "deny"
    """Report that it was never started here, and won't be."""
    IGNORE = "ignore"
    """Late words about what is no longer so."""


def answer(word: Word, epoch: int, held_epoch: int | None) -> Answer:
    """What to do about a word for `epoch`; the attempt is held with `held_epoch` (None: not)."""
    if held_epoch is None:
        return {
            Word.LEASE: Answer.START,
            Word.CANCEL: Answer.DENY,
            Word.SUPERSEDED: Answer.IGNORE,
            Word.FORGET: Answer.IGNORE,
        }[word]
    if epoch < held_epoch:
        return Answer.IGNORE
    if epoch > held_epoch:
        # The daemon speaks of a grant that never reached us: what we hold is fenced.
        return Answer.REPLACE if word is Word.LEASE else Answer.DROP
    return {
        Word.LEASE: Answer.REPORT,
        Word.CANCEL: Answer.STOP,
        Word.SUPERSEDED: Answer.DROP,
        Word.FORGET: Answer.FORGET,
    }[word]
