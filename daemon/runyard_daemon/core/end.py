"""From the facts of an end to its cause: a class, one sentence, and what to try next."""

from __future__ import annotations

import errno
from dataclasses import replace
from enum import StrEnum

from runyard_contract.record import record
from runyard_contract.states import EndClass, RunState
from runyard_daemon.core.lastwords import PythonException, find_exception, last_lines
from runyard_daemon.core.lifecycle import Event
from runyard_daemon.core.packages import distribution_of
from runyard_daemon.core.shortage import Memory, Shortage, find_shortage
from runyard_daemon.core.signals import MEMORY_ADVICE, signal_advice, signal_name
from runyard_daemon.core.types import Cause

OTHER_EXIT_STATUS = 125
"""What a waiting command returns when neither the script's own exit nor a stray signal ended it."""


class EndReason(StrEnum):
    """What ended an attempt: the agent's words, then those that only the daemon can say."""

    EXITED = "exited"
    SIGNALED = "signaled"
    SPAWN_FAILED = "spawn_failed"
    ENVIRONMENT_FAILED = "environment_failed"
    SNAPSHOT_FAILED = "snapshot_failed"
    SUPERVISOR_LOST = "supervisor_lost"
    NODE_RESTARTED = "node_restarted"
    NEVER_STARTED = "never_started"
    BUILT = "built"
    """A run that only builds an environment did so."""
    AGENT_FAILED = "agent_failed"
    ATTEMPT_LOST = "attempt_lost"
    """The node is back and no longer has the attempt's folder."""
    RESTORED = "restored"
    """The records went back to a backup made before the end, and no node has the attempt now."""
    ABANDONED = "abandoned"
    """Somebody gave the attempt up while its node was out of touch."""


class StoppedBy(StrEnum):
    """Who stopped a script that would have gone on."""

    NOBODY = ""
    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SUPERVISOR_LOST = "supervisor_lost"


@record
class KeptOut:
    """A file that the script missed and that an ignore rule kept out of the snapshot."""

    path: str
    file: str
    """The ignore file, relative to the source directory; empty for a built-in rule."""
    line: int
    """Its line, from 1; 0 for a built-in rule."""
    pattern: str

    @property
    def rule(self) -> str:
        """The rule in one piece, such as ".gitignore:3: data/"."""
        return (
            f"{self.file}:{self.line}: {self.pattern}" if self.file else f"built in: {self.pattern}"
        )


@record
class EndFacts:
    """All that is known about the end of an attempt."""

    reason: EndReason
    run_id: str
    program: str = "the script"
    """What people call it: the script's path or the command's first word."""
    exit_code: int | None = None
    signal: int | None = None
    stopped_by: StoppedBy = StoppedBy.NOBODY
    by: str = ""
    """Who canceled or abandoned it."""
    max_duration_s: float | None = None
    errno: int = 0
    """Why the process could not be started."""
    message: str = ""
    """The agent's own sentence about a failure."""
    advice: str = ""
    """The agent's own advice about a failure."""
    stderr_tail: bytes = b""
    """The end of stderr (of the merged log where both streams are one)."""
    kept_out: KeptOut | None = None
    interpreter: str = ""
    """The interpreter of a user-managed environment; empty for any other."""
    out_of_memory: Memory = Memory.NOBODYS
    """Whose memory was short when it ended, by the node's word."""
    is_disk_full: bool = False
    """Whether the disk of its folder had no room left when it ended."""


@record
class Outcome:
    """What a command that waited for the run returns, and whose word that is."""

    exit_status: int
    source: str
    """"script": its own exit code; "signal": 128+n; "runyard": neither, so 125."""


def classify(facts: EndFacts) -> Cause:
    """Draws the conclusion. Total: any facts give a cause, and a script's own exit code is kept."""
    if facts.reason is EndReason.ABANDONED:
        return _cause(facts, EndClass.CANCELED, f"abandoned{_by(facts)} while its node was away")
    if facts.stopped_by is StoppedBy.CANCEL:
        return _cause(facts, EndClass.CANCELED, f"canceled{_by(facts)}")
    if facts.stopped_by is StoppedBy.TIMEOUT:
        return _timed_out(facts)
    if facts.stopped_by is StoppedBy.SUPERVISOR_LOST or facts.reason is EndReason.SUPERVISOR_LOST:
        return _cause(
            facts,
            EndClass.SUPERVISOR_LOST,
            "the process that watched the run was killed, so its processes were ended",
            "look for what killed it on the node (often memory: `dmesg`), then submit again",
        )
    if facts.reason is EndReason.EXITED:
        return _exited(facts)
    if facts.reason is EndReason.SIGNALED and facts.signal:
        return _signaled(facts, facts.signal)
    return _not_executed(facts)


def final_event(cause: Cause) -> Event:
    """Gives the event that makes a run with this cause final."""
    if cause.end_class is EndClass.NONE:
        return Event.COMPLETED
    return Event.CANCELED if cause.end_class is EndClass.CANCELED else Event.FAILED


def final_state(cause: Cause) -> RunState:
    """Gives the final state of a run with this cause."""
    return RunState[final_event(cause).name]


_BY_ITSELF = frozenset(
    {
        EndClass.NONE,
        EndClass.SCRIPT_ERROR,
        EndClass.MISSING_IMPORT,
        EndClass.IGNORED_FILE,
        EndClass.OUT_OF_MEMORY,
        EndClass.DISK_FULL,
    }
)
_BY_SIGNAL = frozenset({EndClass.SIGNAL, EndClass.OUT_OF_MEMORY, EndClass.DISK_FULL})


def outcome(cause: Cause) -> Outcome:
    """Gives what `runyard run` and `runyard runs wait` return for a run that ended."""
    if cause.end_class in _BY_ITSELF and cause.exit_code is not None:
        return Outcome(cause.exit_code, "script")
    if cause.end_class is EndClass.NONE:
        return Outcome(0, "runyard")
    if cause.end_class in _BY_SIGNAL and cause.signal is not None:
        return Outcome(128 + cause.signal, "signal")
    return Outcome(OTHER_EXIT_STATUS, "runyard")


def _exited(facts: EndFacts) -> Cause:
    code = facts.exit_code or 0
    if code == 0:
        return _cause(facts, EndClass.NONE, f"{facts.program} completed")
    # Python exits with 1 after an exception nobody caught; another code was chosen by the script,
    # and a traceback in its log need not be why.
    exception = find_exception(facts.stderr_tail) if code == 1 else None
    if facts.kept_out is not None:
        return _kept_out(facts, facts.kept_out, exception)
    is_import = exception is not None and (exception.module or exception.library)
    short = None if is_import else _find_shortage(facts, exception)
    if exception is not None:
        return _raised(facts, exception, short)
    if short is not None:
        return _short(facts, short, f"{facts.program} exited with code {code}")
    message, advice = _exit_code_words(facts, code)
    return _cause(facts, EndClass.SCRIPT_ERROR, message, advice)


def _signaled(facts: EndFacts, number: int) -> Cause:
    said = f"{facts.program} was ended by {signal_name(number)}"
    short = _find_shortage(facts, None)
    if short is not None:
        return _short(facts, short, said)
    return _cause(
        facts, EndClass.SIGNAL, f"{said}, which runyard did not send", signal_advice(number)
    )


def _find_shortage(facts: EndFacts, exception: PythonException | None) -> Shortage | None:
    return find_shortage(
        facts.stderr_tail, exception, facts.out_of_memory, is_disk_full=facts.is_disk_full
    )


def _short(
    facts: EndFacts, short: Shortage, said: str, exception: PythonException | None = None
) -> Cause:
    cause = _cause(facts, short.end_class, f"{said}: {short.what}", short.advice, exception)
    return replace(cause, memory=short.memory.value)


def _exit_code_words(facts: EndFacts, code: int) -> tuple[str, str]:
    """Message and advice of a code, after the conventions of shells."""
    said = f"{facts.program} exited with code {code}"
    log = f"see its output with `runyard runs logs {facts.run_id}`"
    if code == 127:
        return f"{said}: shells use it for a command that was not found", (
            f"check that every command it calls is installed and on PATH; {log}"
        )
    if code == 126:
        return f"{said}: shells use it for a command that may not be executed", (
            f"make the command executable (`chmod +x`) and submit again; {log}"
        )
    if 128 < code < 128 + 65:
        number = code - 128
        return f"{said}: shells use it for a child ended by {signal_name(number)}", signal_advice(
            number
        )
    return said, log


def _raised(facts: EndFacts, exception: PythonException, short: Shortage | None) -> Cause:
    message = f"{facts.program} raised {exception.text}"
    if exception.library:
        return _cause(
            facts,
            EndClass.MISSING_IMPORT,
            message,
            f"install the system package that provides {exception.library} on the node",
            exception,
        )
    if exception.module:
        return _cause(
            facts,
            EndClass.MISSING_IMPORT,
            message,
            _import_advice(facts, exception),
            exception,
        )
    if short is not None:
        return _short(facts, short, message, exception)
    advice = f"see its output with `runyard runs logs {facts.run_id}`"
    return _cause(facts, EndClass.SCRIPT_ERROR, message, advice, exception)


def _import_advice(facts: EndFacts, exception: PythonException) -> str:
    package = distribution_of(exception.module)
    if exception.type == "ImportError":
        return (
            f"check the version of {package} in the environment, and that no file of yours has "
            f"the name of one of its modules"
        )
    listed = f"list `{package}` in a requirements file and pass it with `--env FILE`"
    if facts.interpreter:
        return f"install it with `{facts.interpreter} -m pip install {package}`, or {listed}"
    return f"{listed}; a module of your own must lie in the source directory"


def _kept_out(facts: EndFacts, kept: KeptOut, exception: PythonException | None) -> Cause:
    where = f"line {kept.line} of {kept.file}" if kept.file else "a built-in rule"
    change = f"below it in {kept.file}" if kept.file else "in .runyardignore"
    cause = _cause(
        facts,
        EndClass.IGNORED_FILE,
        f"{facts.program} missed {kept.path}, which {where} (`{kept.pattern}`) kept out of the "
        "snapshot",
        f"add the line `!{kept.pattern}` {change}, then submit again",
        exception,
    )
    return replace(cause, path=kept.path, rule=kept.rule)


def _timed_out(facts: EndFacts) -> Cause:
    limit = f" of {facts.max_duration_s:g} s" if facts.max_duration_s is not None else ""
    return _cause(
        facts,
        EndClass.TIMEOUT,
        f"{facts.program} was stopped at its maximum duration{limit}",
        "give it longer with `--max-duration`, or let it resume from a checkpoint",
    )


_SPAWN_WORDS = {
    errno.ENOENT: (
        EndClass.ENVIRONMENT,
        "it, or the interpreter it names, does not exist on the node",
        "check the path, or name an environment that has it with `--env`",
    ),
    errno.EACCES: (
        EndClass.ENVIRONMENT,
        "the node's account may not execute it",
        "make it executable with `chmod +x` and submit again",
    ),
    errno.ENOEXEC: (
        EndClass.ENVIRONMENT,
        "it is no program: it has no `#!` line, or is of another processor",
        "start it with its interpreter, such as `-- sh script.sh`",
    ),
    errno.E2BIG: (
        EndClass.SCRIPT_ERROR,
        "its arguments and environment variables are too large together",
        "pass long values in a file",
    ),
    errno.ENOMEM: (EndClass.INFRASTRUCTURE, "the node is out of memory", MEMORY_ADVICE),
    errno.EAGAIN: (
        EndClass.INFRASTRUCTURE,
        "the node's account has too many processes",
        "end some, or raise the limit (`ulimit -u`), then submit again",
    ),
}


def _not_executed(facts: EndFacts) -> Cause:
    """The ends in which the script gave no result of its own."""
    if facts.reason is EndReason.SPAWN_FAILED:
        end_class, why, advice = _SPAWN_WORDS.get(
            facts.errno,
            (EndClass.INFRASTRUCTURE, facts.message or "unknown error", "submit again"),
        )
        return _cause(
            facts, end_class, f"{facts.program} could not be started: {why}", facts.advice or advice
        )
    end_class, message, advice = _OTHER_WORDS.get(facts.reason, _NO_RESULT)
    return _cause(facts, end_class, facts.message or message, facts.advice or advice)


_NO_RESULT = (
    EndClass.INFRASTRUCTURE,
    "the attempt ended without a result",
    "run `runyard doctor`, then submit again",
)
_OTHER_WORDS = {
    EndReason.BUILT: (EndClass.NONE, "the environment is built", ""),
    EndReason.ENVIRONMENT_FAILED: (
        EndClass.ENVIRONMENT,
        "the environment could not be provided",
        "read logs/environment.txt of the run, correct the environment and submit again",
    ),
    EndReason.SNAPSHOT_FAILED: (
        EndClass.INFRASTRUCTURE,
        "the snapshot could not be laid out on the node",
        "check the node's disk with `runyard doctor`, then submit again",
    ),
    EndReason.NODE_RESTARTED: (
        EndClass.NODE_RESTARTED,
        "the node restarted while the run was active",
        "submit it again; write checkpoints to outputs/ so that little is lost",
    ),
    EndReason.AGENT_FAILED: (
        EndClass.INFRASTRUCTURE,
        "the agent could not go on with the run",
        "run `runyard doctor` and read agent.log, then submit again",
    ),
    EndReason.RESTORED: (
        EndClass.INFRASTRUCTURE,
        "the records were restored from a backup that was made before it ended, and what became "
        "of it since is not known",
        "submit it again if it did not finish; nothing was started again by itself",
    ),
    EndReason.ATTEMPT_LOST: (
        EndClass.INFRASTRUCTURE,
        "the node no longer has the run's folder, so its result is lost",
        "check what deleted files in the agent's folder on the node, then submit again",
    ),
}


def _by(facts: EndFacts) -> str:
    return f" by {facts.by}" if facts.by else ""


def _cause(
    facts: EndFacts,
    end_class: EndClass,
    message: str,
    advice: str = "",
    exception: PythonException | None = None,
) -> Cause:
    return Cause(
        end_class=end_class,
        message=message,
        advice=advice,
        exit_code=facts.exit_code,
        signal=facts.signal,
        last_lines=() if end_class is EndClass.NONE else last_lines(facts.stderr_tail),
        exception=exception.type if exception else "",
        module=exception.module if exception else "",
        by=facts.by,
    )
