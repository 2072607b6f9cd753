"""The states of a run and the classes of its end, with their Azure ML v1 words."""

from __future__ import annotations

from enum import StrEnum


class RunState(StrEnum):
    """Where a run is in its life.

    NOT_STARTED is a client's word before the submit is acknowledged and is never stored.
    """

    NOT_STARTED = "NOT_STARTED"
    QUEUED = "QUEUED"
    PROVISIONING = "PROVISIONING"
    STARTING = "STARTING"
    PREPARING = "PREPARING"
    RUNNING = "RUNNING"
    FINALIZING = "FINALIZING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    CANCEL_REQUESTED = "CANCEL_REQUESTED"
    NOT_RESPONDING = "NOT_RESPONDING"

    @property
    def is_final(self) -> bool:
        """Whether the run has ended for good."""
        return self in FINAL


FINAL: frozenset[RunState] = frozenset({RunState.COMPLETED, RunState.FAILED, RunState.CANCELED})


class EndClass(StrEnum):
    """Why a run ended as it did. NONE: it has not ended, or it completed."""

    NONE = "NONE"
    SCRIPT_ERROR = "SCRIPT_ERROR"
    SIGNAL = "SIGNAL"
    TIMEOUT = "TIMEOUT"
    CANCELED = "CANCELED"
    ENVIRONMENT = "ENVIRONMENT"
    MISSING_IMPORT = "MISSING_IMPORT"
    IGNORED_FILE = "IGNORED_FILE"
    SUPERVISOR_LOST = "SUPERVISOR_LOST"
    NODE_RESTARTED = "NODE_RESTARTED"
    INFRASTRUCTURE = "INFRASTRUCTURE"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    DISK_FULL = "DISK_FULL"


_V1_WORDS = {state: "".join(part.title() for part in state.split("_")) for state in RunState}
_BY_V1_WORD = {word.lower(): state for state, word in _V1_WORDS.items()}


def v1_word(state: RunState) -> str:
    """The state as Azure ML v1 writes it: "NotStarted", "Queued", "CancelRequested", …"""
    return _V1_WORDS[state]


def from_v1_word(word: str) -> RunState:
    """The state of a v1 word, in any case. Raises ValueError for an unknown word."""
    state = _BY_V1_WORD.get(word.lower())
    if state is None:
        raise ValueError(f"{word!r} is no run state; one of {', '.join(_V1_WORDS.values())}")
    return state
