"""Errors that may reach a user: one class for each reason, the same on both sides of the wire.

The tree (class, reason)::

    RunyardError
    ├── Invalid                     INVALID_ARGUMENT: change the request
    │   ├── SpecInvalid             SPEC_INVALID (with the fields at fault)
    │   ├── NameInvalid             NAME_INVALID
    │   ├── UnsafePath              PATH_UNSAFE
    │   ├── PathCollision           PATH_COLLISION
    │   ├── DigestMismatch          DIGEST_MISMATCH
    │   ├── OffsetOutOfRange        OFFSET_OUT_OF_RANGE (code OUT_OF_RANGE)
    │   ├── CursorExpired           CURSOR_EXPIRED (code OUT_OF_RANGE)
    │   ├── RequestIdReused         REQUEST_ID_REUSED
    │   ├── RequestIdInvalid        REQUEST_ID_INVALID
    │   ├── PageTokenMismatch       PAGE_TOKEN_MISMATCH
    │   ├── ManifestInvalid         MANIFEST_INVALID
    │   ├── SealedInvalid           SEALED_INVALID
    │   ├── SnapshotTooLarge        SNAPSHOT_TOO_LARGE
    │   ├── SourceInvalid           SOURCE_INVALID, local
    │   ├── FileUnreadable          FILE_UNREADABLE, local
    │   ├── FileChanged             FILE_CHANGED, local (code ABORTED, retryable)
    │   └── Unsupported             UNSUPPORTED (code UNIMPLEMENTED)
    ├── NotFound                    NOT_FOUND: nothing of that name, the nearest is suggested
    │   ├── WorkspaceNotFound       WORKSPACE_NOT_FOUND
    │   ├── ComputeNotFound         COMPUTE_NOT_FOUND
    │   ├── ExperimentNotFound      EXPERIMENT_NOT_FOUND
    │   ├── RunNotFound             RUN_NOT_FOUND
    │   ├── EnvironmentNotFound     ENVIRONMENT_NOT_FOUND
    │   ├── SnapshotNotFound        SNAPSHOT_NOT_FOUND
    │   ├── RunFileNotFound         FILE_NOT_FOUND
    │   └── TokenNotFound           TOKEN_NOT_FOUND
    ├── Refused                     FAILED_PRECONDITION: act first, then try again
    │   ├── BlobMissing             BLOB_MISSING
    │   ├── StateNotAllowed         STATE_NOT_ALLOWED
    │   ├── LeaseSuperseded         LEASE_SUPERSEDED
    │   ├── SessionSuperseded       SESSION_SUPERSEDED (code ABORTED)
    │   ├── EtagMismatch            ETAG_MISMATCH (code ABORTED)
    │   ├── RunFailed               RUN_FAILED, local
    │   ├── VersionMismatch         VERSION_MISMATCH
    │   ├── NotListening            NOT_LISTENING
    │   ├── AlreadyRunning          ALREADY_RUNNING, local
    │   ├── DatabaseNewer           DATABASE_NEWER, local
    │   ├── HomeUnusable            HOME_UNUSABLE, local
    │   └── BackupInvalid           BACKUP_INVALID, local
    ├── Exhausted                   RESOURCE_EXHAUSTED: too much of something
    │   ├── MessageTooLarge         MESSAGE_TOO_LARGE
    │   ├── DiskFull                DISK_FULL
    │   └── QueueFull               QUEUE_FULL
    ├── Unavailable                 UNAVAILABLE: the same call may succeed later
    │   ├── Draining                DRAINING
    │   ├── WriterBusy              WRITER_BUSY
    │   ├── ReadOnly                READ_ONLY (not retryable)
    │   ├── DiskFailed              DISK_FAILED (not retryable)
    │   ├── NodeUnreachable         NODE_UNREACHABLE
    │   ├── StreamIdle              STREAM_IDLE (code DEADLINE_EXCEEDED)
    │   ├── DaemonUnavailable       DAEMON_UNAVAILABLE, local
    │   └── DaemonStartFailed       DAEMON_START_FAILED, local (not retryable)
    ├── Denied                      the caller is not who may do this
    │   ├── Unauthenticated         UNAUTHENTICATED (code UNAUTHENTICATED)
    │   ├── PermissionDenied        PERMISSION_DENIED (code PERMISSION_DENIED)
    │   ├── UntrustedDaemon         UNTRUSTED_DAEMON, local
    │   └── CredentialsUnusable     CREDENTIALS_UNUSABLE, local
    ├── DataLoss                    DATA_LOSS: stored bytes are not what was written
    │   ├── BlobCorrupt             BLOB_CORRUPT
    │   └── LogIndexCorrupt         LOG_INDEX_CORRUPT
    ├── InternalError               INTERNAL (with the id of the incident)
    └── RemoteError                 a reason that this version does not know

Groups (Invalid, NotFound, …) have no reason of their own and are never raised. A local error is
raised and shown on one side only; every other reason is a value of `ErrorReason` in errors.proto.
Agent, SDK and command line may derive local errors of their own.
"""

from __future__ import annotations

from runyard_contract.errors.access import (
    CredentialsUnusable,
    Denied,
    PermissionDenied,
    Unauthenticated,
    UntrustedDaemon,
)
from runyard_contract.errors.base import (
    EXIT_AUTH,
    EXIT_FAILED,
    EXIT_NOT_FOUND,
    EXIT_UNAVAILABLE,
    EXIT_USAGE,
    InternalError,
    RemoteError,
    RunyardError,
    class_for_reason,
    reasons,
)
from runyard_contract.errors.disk import of_disk
from runyard_contract.errors.request import (
    ComputeNotFound,
    CursorExpired,
    DigestMismatch,
    EnvironmentNotFound,
    ExperimentNotFound,
    FieldViolation,
    FileChanged,
    FileUnreadable,
    Invalid,
    ManifestInvalid,
    NameInvalid,
    NotFound,
    OffsetOutOfRange,
    PageTokenMismatch,
    PathCollision,
    RequestIdInvalid,
    RequestIdReused,
    RunFileNotFound,
    RunNotFound,
    SealedInvalid,
    SnapshotNotFound,
    SnapshotTooLarge,
    SourceInvalid,
    SpecInvalid,
    TokenNotFound,
    UnsafePath,
    Unsupported,
    WorkspaceNotFound,
)
from runyard_contract.errors.system import (
    AlreadyRunning,
    BackupInvalid,
    BlobCorrupt,
    BlobMissing,
    DaemonStartFailed,
    DaemonUnavailable,
    DatabaseNewer,
    DataLoss,
    DiskFailed,
    DiskFull,
    Draining,
    EtagMismatch,
    Exhausted,
    HomeUnusable,
    LeaseSuperseded,
    LogIndexCorrupt,
    MessageTooLarge,
    NodeUnreachable,
    NotListening,
    QueueFull,
    ReadOnly,
    Refused,
    RunFailed,
    SessionSuperseded,
    StateNotAllowed,
    StreamIdle,
    Unavailable,
    VersionMismatch,
    WriterBusy,
)

__all__ = [
    "AlreadyRunning",
    "BackupInvalid",
    "BlobCorrupt",
    "BlobMissing",
    "ComputeNotFound",
    "CredentialsUnusable",
    "CursorExpired",
    "DaemonStartFailed",
    "DaemonUnavailable",
    "DataLoss",
    "Denied",
    "DatabaseNewer",
    "DigestMismatch",
    "DiskFailed",
    "DiskFull",
    "QueueFull",
    "Draining",
    "EXIT_AUTH",
    "EXIT_FAILED",
    "EXIT_NOT_FOUND",
    "EXIT_UNAVAILABLE",
    "EXIT_USAGE",
    "EnvironmentNotFound",
    "EtagMismatch",
    "Exhausted",
    "ExperimentNotFound",
    "FieldViolation",
    "FileChanged",
    "FileUnreadable",
    "HomeUnusable",
    "InternalError",
    "Invalid",
    "LeaseSuperseded",
    "LogIndexCorrupt",
    "ManifestInvalid",
    "MessageTooLarge",
    "NameInvalid",
    "NodeUnreachable",
    "NotFound",
    "NotListening",
    "OffsetOutOfRange",
    "PageTokenMismatch",
    "PathCollision",
    "PermissionDenied",
    "ReadOnly",
    "Refused",
    "RemoteError",
    "RequestIdInvalid",
    "RequestIdReused",
    "RunFailed",
    "RunFileNotFound",
    "RunNotFound",
    "RunyardError",
    "SealedInvalid",
    "SessionSuperseded",
    "SnapshotNotFound",
    "SnapshotTooLarge",
    "SourceInvalid",
    "SpecInvalid",
    "StateNotAllowed",
    "StreamIdle",
    "TokenNotFound",
    "Unauthenticated",
    "Unavailable",
    "UnsafePath",
    "UntrustedDaemon",
    "Unsupported",
    "VersionMismatch",
    "WorkspaceNotFound",
    "WriterBusy",
    "class_for_reason",
    "of_disk",
    "reasons",
]
