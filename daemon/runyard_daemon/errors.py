"""Errors that only a daemon raises; clients know them by code and reason."""

from __future__ import annotations

from runyard_contract.errors import Invalid, RunyardError, Unavailable


class NodeUnreachable(Unavailable):
    """No node that could answer is connected now."""

    reason = "NODE_UNREACHABLE"


class CursorExpired(Invalid):
    """A watch cursor is older than the events that are kept."""

    reason = "CURSOR_EXPIRED"
    code = "OUT_OF_RANGE"


class StreamIdle(RunyardError):
    """A stream brought nothing for too long."""

    reason = "STREAM_IDLE"
    code = "DEADLINE_EXCEEDED"
    retryable = True
    retry_after_s = 1.0
