"""How errors are shown, and with which exit code a command ends."""

from __future__ import annotations

import contextlib
import os
import time
from typing import Any

from runyard.cli.output import Output
from runyard.cli.render.text import clean
from runyard_contract.errors import (
    EXIT_FAILED,
    EXIT_USAGE,
    Invalid,
    NotFound,
    RemoteError,
    RunyardError,
)

EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # what a shell shows of a program that SIGPIPE ended


class UsageInvalid(Invalid):
    """The command line is wrong. Metadata: `option`, where one is at fault."""

    reason = "USAGE_INVALID"
    exit_code = EXIT_USAGE


class ScriptNotFound(NotFound):
    """The script of a run is not there."""

    reason = "SCRIPT_NOT_FOUND"
    noun = "script"


class Defect(RunyardError):
    """An error that nobody foresaw. Metadata: `incident`, `log` (where the details are)."""

    reason = "CLIENT_DEFECT"


class Left(Exception):
    """The command ends before what it waits for does. `exit_code` is the command's."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"left with {exit_code}")
        self.exit_code = exit_code


def exit_code_of(error: RunyardError) -> int:
    """The exit code of an error; what the user must change before it works is wrong usage."""
    if isinstance(error, Invalid) and not error.retryable and error.exit_code == EXIT_FAILED:
        return EXIT_USAGE
    return error.exit_code


def show_error(output: Output, error: RunyardError) -> None:
    """The error as text on stderr, and with --json as JSON on stdout as well."""
    reason = error.remote_reason if isinstance(error, RemoteError) else error.reason
    output.say(f"{output.paint('runyard:', 'red')} {clean(error.message)}")
    if error.hint:
        output.say(f"  {output.paint('fix:', 'green')} {clean(error.hint)}")
    if reason:
        output.say(output.paint(f"  [{clean(reason)}]", "dim"))
    if output.is_json:
        value: dict[str, Any] = {
            "reason": reason,
            "message": error.message,
            "hint": error.hint,
            "metadata": dict(error.metadata),
        }
        output.print_json({"error": value})


def defect(error: BaseException) -> Defect:
    """What an unforeseen error shows: the incident, and the file that has the traceback."""
    import traceback

    from runyard_contract.version import build_id

    incident = os.urandom(4).hex()
    try:
        from runyard.home import client_folder, home

        folder = client_folder(home())
    except RunyardError:
        folder = None
    details = "".join(traceback.format_exception(error))
    log = folder / f"incident-{incident}.txt" if folder is not None else None
    if log is not None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with contextlib.suppress(OSError):
            log.write_text(f"{stamp} runyard {build_id()}\n{details}", errors="backslashreplace")
    where = str(log) if log is not None and log.exists() else "nowhere: no folder can be written"
    return Defect(
        f"internal error, incident {incident}: {type(error).__name__}: {error}",
        hint=f"report it with the details in {where}",
        incident=incident,
        log=where,
    )
