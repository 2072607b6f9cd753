"""Whose daemon serves a data directory: decided here, carried out by `embedded`. Pure.

The newest build wins and stays: a newer client replaces an older daemon that a client started, an
older client uses the newer daemon while that serves it, so two environments never take turns. A
daemon that a person serves is theirs to replace.
"""

from __future__ import annotations

from enum import Enum

from runyard_contract.compatibility import is_newer, mismatch, serves
from runyard_contract.errors import VersionMismatch
from runyard_contract.home import DaemonRecord


class Step(Enum):
    """What a client does about the daemon that it finds."""

    USE = "use"
    ASK = "ask who started it"
    REPLACE = "replace"


def step(own: str, daemon: str, *, is_embedded: bool | None = None) -> Step:
    """What a client of the build `own` does about a daemon of the build `daemon`.

    Args:
        is_embedded: a client started the daemon, not a person; None where that is not known.

    Raises VersionMismatch, which names what to upgrade.
    """
    if is_newer(own, daemon):
        if is_embedded is None:
            return Step.ASK
        if is_embedded:
            return Step.REPLACE
    if serves(daemon, own):
        return Step.USE
    error = mismatch(daemon, own)
    if is_newer(own, daemon):
        error.message += "; it was started with `runyard daemon serve`, so no client replaces it"
    raise error


def interpreters(own: str, own_interpreter: str, last: DaemonRecord | None) -> tuple[str, ...]:
    """The interpreters to start a daemon with where none runs, the first that works.

    That of the last daemon where it was a newer build that serves this client, as its database may
    be newer too; else and after it this client's own.
    """
    if (
        last is not None
        and last.interpreter != own_interpreter
        and is_newer(last.version, own)
        and serves(last.version, own)
    ):
        return (last.interpreter, own_interpreter)
    return (own_interpreter,)


def cannot_wait(own: str, daemon: str) -> VersionMismatch:
    """The error for a call that may not replace the daemon, though a client of its build would."""
    return VersionMismatch(
        f"the daemon is runyard {daemon}, older than this client, {own}",
        hint="any command that needs a daemon replaces it; active runs go on",
        daemon=daemon,
        client=own,
    )
