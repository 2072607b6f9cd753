"""The base of all errors, their registry by reason, and what fits no reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_AUTH = 4
EXIT_UNAVAILABLE = 5

_BY_REASON: dict[str, type[RunyardError]] = {}


class RunyardError(Exception):
    """Base of every error that may reach a user.

    Args:
        message: what happened, to what, with the values.
        hint: one imperative sentence: what to do now. Empty: nothing to suggest.
        metadata: every dynamic value of the message, as text; names are lower_snake.

    Class attributes: `reason` (stable machine name), `code` (name of the gRPC status code),
    `retryable` (the same call may succeed later without a change), `retry_after_s` (the pause
    before it, seconds), `is_local` (raised and shown on one side: no call answers with it, and
    errors.proto has no value for it), `exit_code` (of the command line).
    """

    reason: ClassVar[str] = ""
    code: str = "UNKNOWN"
    retryable: ClassVar[bool] = False
    retry_after_s: float = 0.0
    is_local: ClassVar[bool] = False
    exit_code: int = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "", **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.metadata: dict[str, str] = metadata

    def __init_subclass__(cls) -> None:
        if "reason" in cls.__dict__:
            _BY_REASON[cls.reason] = cls

    def __reduce__(self) -> tuple[object, ...]:
        return (_restored, (type(self), self.message, self.hint, self.metadata, self.__dict__))

    @classmethod
    def restore(cls, message: str, hint: str, metadata: Mapping[str, str]) -> Self:
        """Builds the error from its parts, whatever arguments its own constructor takes."""
        error = cls.__new__(cls)
        RunyardError.__init__(error, message, hint=hint)
        error.metadata = dict(metadata)
        return error


def _restored(
    cls: type[RunyardError],
    message: str,
    hint: str,
    metadata: Mapping[str, str],
    attributes: Mapping[str, object],
) -> RunyardError:
    """Unpickles an error (multiprocessing in a user's program may carry one)."""
    error = cls.restore(message, hint, metadata)
    error.__dict__.update(attributes)
    return error


def class_for_reason(reason: str) -> type[RunyardError] | None:
    """The class of a reason, or None where this version knows no such reason."""
    return _BY_REASON.get(reason)


def reasons() -> tuple[str, ...]:
    """All reasons of this version, sorted."""
    return tuple(sorted(_BY_REASON))


class InternalError(RunyardError):
    """A defect. Metadata: `incident`, the id under which the daemon's log has the details."""

    reason = "INTERNAL"
    code = "INTERNAL"

    @classmethod
    def incident(cls, incident: str) -> Self:
        """The usual error; says nothing of the defect itself."""
        return cls(
            f"internal error, incident {incident}",
            hint="report it with the lines of daemon.log that name the incident",
            incident=incident,
        )


class RemoteError(RunyardError):
    """An error of the other side whose reason this version does not know.

    `remote_reason` is that reason (empty: none was given), `code` the gRPC code's name.
    """

    _EXIT_BY_CODE: ClassVar[Mapping[str, int]] = {
        "INVALID_ARGUMENT": EXIT_USAGE,
        "NOT_FOUND": EXIT_NOT_FOUND,
        "UNAUTHENTICATED": EXIT_AUTH,
        "PERMISSION_DENIED": EXIT_AUTH,
        "UNAVAILABLE": EXIT_UNAVAILABLE,
        "DEADLINE_EXCEEDED": EXIT_UNAVAILABLE,
    }

    remote_reason: str = ""

    @classmethod
    def of(
        cls, code: str, remote_reason: str, message: str, hint: str, metadata: Mapping[str, str]
    ) -> Self:
        """Builds the error from what the other side said."""
        error = cls.restore(message or f"the other side answered {code}", hint, metadata)
        error.code = code
        error.remote_reason = remote_reason
        error.exit_code = cls._EXIT_BY_CODE.get(code, EXIT_FAILED)
        return error
