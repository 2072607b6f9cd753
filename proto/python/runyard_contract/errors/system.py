"""Errors of a request that is right, but cannot be served in the system's present state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

from runyard_contract.errors.base import EXIT_UNAVAILABLE, RunyardError


class Refused(RunyardError):
    """The system is not in the state that the call needs."""

    code = "FAILED_PRECONDITION"


class BlobMissing(Refused):
    """A snapshot names blobs that the store does not hold."""

    reason = "BLOB_MISSING"

    @classmethod
    def of(cls, digests: Iterable[str]) -> Self:
        """The usual error for these missing digests (at least one)."""
        missing = list(digests)
        return cls(
            f"{len(missing)} blobs are not in the store (first: {missing[0]})",
            hint="submit again; only what is missing is sent",
            missing=str(len(missing)),
            first=missing[0],
        )


class StateNotAllowed(Refused):
    """The verb is not allowed in this state. Metadata: `state`, `allowed` (comma-separated)."""

    reason = "STATE_NOT_ALLOWED"


class LeaseSuperseded(Refused):
    """A newer attempt or epoch holds the run: this one must stop."""

    reason = "LEASE_SUPERSEDED"


class SessionSuperseded(Refused):
    """A newer session of the same agent took over."""

    reason = "SESSION_SUPERSEDED"
    code = "ABORTED"


class EtagMismatch(Refused):
    """The thing changed since it was read: read it again."""

    reason = "ETAG_MISMATCH"
    code = "ABORTED"


class RunFailed(Refused):
    """A run that was waited for did not complete. Metadata: `run_id`, `state`, `end_class`."""

    reason = "RUN_FAILED"
    is_local = True


class VersionMismatch(Refused):
    """Client, daemon or agent are of versions that do not talk to each other."""

    reason = "VERSION_MISMATCH"
    exit_code = EXIT_UNAVAILABLE


class NotListening(Refused):
    """The daemon listens on its Unix socket only."""

    reason = "NOT_LISTENING"


class AlreadyRunning(Refused):
    """Another daemon holds this data directory. Metadata: `pid`, `home`."""

    reason = "ALREADY_RUNNING"
    is_local = True


class DatabaseNewer(Refused):
    """The database was written by a newer version."""

    reason = "DATABASE_NEWER"
    is_local = True
    exit_code = EXIT_UNAVAILABLE


class HomeUnusable(Refused):
    """The data directory can't be used: network file system, not writable, owner or mode."""

    reason = "HOME_UNUSABLE"
    is_local = True
    exit_code = EXIT_UNAVAILABLE


class BackupInvalid(Refused):
    """A file is no whole backup: cut off, changed, or made by something else. Metadata: `what`."""

    reason = "BACKUP_INVALID"
    is_local = True


class Exhausted(RunyardError):
    """Too much of something: send less or free some."""

    code = "RESOURCE_EXHAUSTED"


class MessageTooLarge(Exhausted):
    """One message is over the limit of the transport."""

    reason = "MESSAGE_TOO_LARGE"


class DiskFull(Exhausted):
    """The disk of the data directory is full."""

    reason = "DISK_FULL"


class QueueFull(Exhausted):
    """As many runs wait as the daemon keeps."""

    reason = "QUEUE_FULL"


class Unavailable(RunyardError):
    """Nobody can answer now; the same call (with the same request id) may succeed later."""

    code = "UNAVAILABLE"
    retryable = True
    retry_after_s = 1.0
    exit_code = EXIT_UNAVAILABLE


class Draining(Unavailable):
    """The daemon is stopping."""

    reason = "DRAINING"


class WriterBusy(Unavailable):
    """The daemon's writer has more work queued than it takes."""

    reason = "WRITER_BUSY"
    retry_after_s = 0.2


class ReadOnly(Unavailable):
    """The daemon serves reads only (read-only disk, or asked to)."""

    reason = "READ_ONLY"
    retryable = False


class DiskFailed(Unavailable):
    """The disk of the data directory gave an error; nothing of the request was kept."""

    reason = "DISK_FAILED"
    retryable = False


class DaemonUnavailable(Unavailable):
    """No daemon answers."""

    reason = "DAEMON_UNAVAILABLE"
    is_local = True


class DaemonStartFailed(Unavailable):
    """The embedded daemon did not start. Metadata: `log` (its path)."""

    reason = "DAEMON_START_FAILED"
    is_local = True
    retryable = False


class NodeUnreachable(Unavailable):
    """No node that could answer is connected now."""

    reason = "NODE_UNREACHABLE"


class StreamIdle(Unavailable):
    """A stream of requests brought nothing for too long."""

    reason = "STREAM_IDLE"
    code = "DEADLINE_EXCEEDED"


class DataLoss(RunyardError):
    """Stored bytes are not what was written; never retried."""

    code = "DATA_LOSS"


class BlobCorrupt(DataLoss):
    """A stored blob does not have its digest, or is no plain file. It was put aside."""

    reason = "BLOB_CORRUPT"


class LogIndexCorrupt(DataLoss):
    """A log's order index holds a record that cannot be."""

    reason = "LOG_INDEX_CORRUPT"
