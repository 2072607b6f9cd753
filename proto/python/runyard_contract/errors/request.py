"""Errors of a request that is wrong and stays wrong, and of names that do not exist."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Self

from runyard_contract.errors.base import EXIT_NOT_FOUND, EXIT_USAGE, RunyardError
from runyard_contract.value import value_class


class Invalid(RunyardError):
    """The request is wrong and stays wrong: change it."""

    code = "INVALID_ARGUMENT"


@value_class
class FieldViolation:
    """One field at fault: `field` is its path ("resources.gpus", "tags[a]")."""

    field: str
    description: str


class SpecInvalid(Invalid):
    """A specification (run, run configuration, environment, query) breaks a rule.

    Args:
        message: empty for a message made of the violations.
        violations: (field path, description) pairs, in the order of the fields.
    """

    reason = "SPEC_INVALID"
    exit_code = EXIT_USAGE
    violations: tuple[FieldViolation, ...] = ()

    def __init__(
        self,
        message: str = "",
        *,
        violations: Iterable[tuple[str, str]] = (),
        hint: str = "",
        **metadata: str,
    ) -> None:
        found = tuple(FieldViolation(field, description) for field, description in violations)
        super().__init__(
            message or "; ".join(f"{v.field}: {v.description}" for v in found),
            hint=hint,
            **metadata,
        )
        self.violations = found


class NameInvalid(Invalid):
    """A name (experiment, compute, workspace, tag, metric, …) breaks its rule."""

    reason = "NAME_INVALID"
    exit_code = EXIT_USAGE


class UnsafePath(Invalid):
    """A path is absolute, leaves its root or cannot exist on every client."""

    reason = "PATH_UNSAFE"


class PathCollision(Invalid):
    """Two names of one folder are the same name on some file system."""

    reason = "PATH_COLLISION"


class DigestMismatch(Invalid):
    """Bytes sent do not have the digest or the size that was announced for them."""

    reason = "DIGEST_MISMATCH"


class OffsetOutOfRange(Invalid):
    """An offset is negative or lies beyond what is stored."""

    reason = "OFFSET_OUT_OF_RANGE"
    code = "OUT_OF_RANGE"


class CursorExpired(Invalid):
    """A watch cursor is older than the events that are kept."""

    reason = "CURSOR_EXPIRED"
    code = "OUT_OF_RANGE"


class RequestIdReused(Invalid):
    """A request id was used before for another request."""

    reason = "REQUEST_ID_REUSED"


class RequestIdInvalid(Invalid):
    """A request id is not a UUID."""

    reason = "REQUEST_ID_INVALID"


class PageTokenMismatch(Invalid):
    """A page token belongs to another query, or was changed."""

    reason = "PAGE_TOKEN_MISMATCH"
    exit_code = EXIT_USAGE


class ManifestInvalid(Invalid):
    """A manifest is not the canonical encoding of a directory."""

    reason = "MANIFEST_INVALID"


class SealedInvalid(Invalid):
    """A file or a tree is no whole sealed environment. Metadata: `what`."""

    reason = "SEALED_INVALID"

    @classmethod
    def because(cls, what: str) -> SealedInvalid:
        """The error where `what` is wrong with it."""
        return cls(
            f"this is no whole sealed environment: {what}",
            hint="export it again with `runyard environment export`; nothing was kept of it",
            what=what,
        )


class SnapshotTooLarge(Invalid):
    """A source directory is over the limit of bytes or files."""

    reason = "SNAPSHOT_TOO_LARGE"


class SourceInvalid(Invalid):
    """A source directory cannot be taken: missing, empty, or too wide to be meant."""

    reason = "SOURCE_INVALID"
    is_local = True
    exit_code = EXIT_USAGE


class FileUnreadable(Invalid):
    """A file of the source directory cannot be read, or is no file, folder or link."""

    reason = "FILE_UNREADABLE"
    is_local = True


class FileChanged(Invalid):
    """A file kept changing while it was read."""

    reason = "FILE_CHANGED"
    code = "ABORTED"
    is_local = True
    retryable = True
    retry_after_s = 1.0


class Unsupported(Invalid):
    """An option that is known but not served yet."""

    reason = "UNSUPPORTED"
    code = "UNIMPLEMENTED"
    exit_code = EXIT_USAGE


class NotFound(RunyardError):
    """Nothing of that name exists (or the caller may not know of it)."""

    code = "NOT_FOUND"
    exit_code = EXIT_NOT_FOUND
    noun: ClassVar[str] = "thing"
    list_command: ClassVar[str] = ""

    @classmethod
    def named(cls, name: str, nearest: str | None = None) -> Self:
        """The usual error: `no run named "x"`, the nearest name when given, the list command."""
        message = f'no {cls.noun} named "{name}"'
        hint = f"list what there is with `{cls.list_command}`" if cls.list_command else ""
        if nearest:
            message += f'; did you mean "{nearest}"?'
            return cls(message, hint=hint, name=name, nearest=nearest)
        return cls(message, hint=hint, name=name)


class WorkspaceNotFound(NotFound):
    """No workspace of that name."""

    reason = "WORKSPACE_NOT_FOUND"
    noun = "workspace"


class ComputeNotFound(NotFound):
    """No compute target of that name."""

    reason = "COMPUTE_NOT_FOUND"
    noun = "compute target"
    list_command = "runyard compute list"


class ExperimentNotFound(NotFound):
    """No experiment of that name."""

    reason = "EXPERIMENT_NOT_FOUND"
    noun = "experiment"
    list_command = "runyard experiment list"


class RunNotFound(NotFound):
    """No run of that id."""

    reason = "RUN_NOT_FOUND"
    noun = "run"
    list_command = "runyard runs list"


class EnvironmentNotFound(NotFound):
    """No environment of that name or version."""

    reason = "ENVIRONMENT_NOT_FOUND"
    noun = "environment"
    list_command = "runyard environment list"


class SnapshotNotFound(NotFound):
    """No snapshot of that digest."""

    reason = "SNAPSHOT_NOT_FOUND"
    noun = "snapshot"


class RunFileNotFound(NotFound):
    """The run has no file of that name."""

    reason = "FILE_NOT_FOUND"
    noun = "file"
    list_command = "runyard runs files RUN"


class TokenNotFound(NotFound):
    """No token of that id."""

    reason = "TOKEN_NOT_FOUND"
    noun = "token"
    list_command = "runyard daemon token list"
