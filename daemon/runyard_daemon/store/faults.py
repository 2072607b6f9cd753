"""What an error of SQLite means to the caller whose transaction it ended."""

from __future__ import annotations

import sqlite3

from runyard_contract.errors import (
    DiskFailed,
    DiskFull,
    Draining,
    ReadOnly,
    RunyardError,
    WriterBusy,
)

# After a failed fsync the kernel may have dropped the pages that were to be written, and a second
# fsync would report success: nothing may be acknowledged on this file any more.
_FATAL = frozenset(
    {"SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC", "SQLITE_CORRUPT", "SQLITE_NOTADB"}
)
_DAMAGED = ("SQLITE_CORRUPT", "SQLITE_NOTADB")
_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_SHMSIZE"})


def is_fatal(error: sqlite3.Error) -> bool:
    """Whether nothing may be acknowledged any more after this error."""
    name = _name(error)
    return name in _FATAL or name.startswith("SQLITE_CORRUPT_")


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the error says that the database's content is wrong."""
    return _name(error).startswith(_DAMAGED)


def translate(error: sqlite3.Error) -> RunyardError | sqlite3.Error:
    """Gives the error that a user should see; the error itself where it is a defect."""
    name = _name(error)
    if name in _FULL:
        return DiskFull(
            f"the daemon's disk is full: nothing was written ({error}, {name})",
            hint="free space in the data directory (`runyard doctor` shows it), then try again",
            sqlite_error=name,
        )
    if name == "SQLITE_READONLY" or name.startswith("SQLITE_READONLY_"):
        return ReadOnly(
            f"the daemon's database can't be written ({error}, {name})",
            hint="make the data directory writable, then start the daemon again",
            sqlite_error=name,
        )
    if name == "SQLITE_BUSY" or name.startswith("SQLITE_BUSY_"):
        return WriterBusy(
            "another program holds the daemon's database",
            hint="end other programs that opened runyard.db, then try again",
            sqlite_error=name,
        )
    if is_fatal(error):
        return stopped(name)
    if name == "SQLITE_CANTOPEN" or name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN_")):
        return failed(error)
    return error


def failed(error: sqlite3.Error) -> DiskFailed:
    """The error for a write that the disk refused, and that may be tried again."""
    name = _name(error)
    return DiskFailed(
        f"the daemon's disk refused a write: nothing was kept ({error}, {name})",
        hint="look at the disk's free space and at the kernel's log (`dmesg`), then try again",
        sqlite_error=name,
    )


def stopped(cause: str) -> Draining:
    """The error for whoever waits for a daemon that must not write any more."""
    return Draining(
        f"the daemon stops because its database can't be trusted to keep writes ({cause})",
        hint="try again in a few seconds; if it happens again, check the disk",
        cause=cause,
    )


def _name(error: sqlite3.Error) -> str:
    """Such as "SQLITE_FULL"; empty for errors that SQLite itself did not report."""
    return getattr(error, "sqlite_errorname", "")
