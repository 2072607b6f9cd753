"""The files of a bundle that the supervisor reads and writes: spec, state, exit record."""

from __future__ import annotations

import errno
import json
import os

from runyard_agent.supervisor import clock
from runyard_agent.supervisor.cgroup import Limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Record = dict[str, Any]

FORMAT = 1
SPEC = "spec.json"
STATE = "state.json"
FREE_STATE = "state.free"
"""A state file of an earlier run in the same folder, which `claim` takes."""
EXIT = "exit.json"
TEMPORARY = ".tmp"
"""Ends the name that `replace` writes a record under, perhaps over one of an earlier run."""
STATE_BYTES = 320
BOOT_ID = clock.boot_id()


class SpecInvalid(ValueError):
    """spec.json is missing, unreadable or not of the format that this supervisor executes."""


class Spec:
    """What to execute: exact bytes for argv and environment, times in seconds."""

    __slots__ = (
        "argv",
        "attempt",
        "cwd",
        "end_argv",
        "env",
        "epoch",
        "grace_s",
        "limits",
        "max_duration_s",
        "merge_stderr",
        "run_id",
        "spool_bound_bytes",
    )

    def __init__(self, record: Record) -> None:
        self.run_id: str = _require(record, "run_id", str)
        self.attempt: int = _require(record, "attempt", int)
        self.epoch: int = _require(record, "epoch", int)
        self.argv = _all_bytes(_require(record, "argv", list))
        if not self.argv or not self.argv[0]:
            raise SpecInvalid("argv names no program")
        self.end_argv = _all_bytes(record.get("end_argv") or ())
        env: Record = _require(record, "env", dict)
        self.env = dict(zip(_all_bytes(env), _all_bytes(env.values()), strict=True))
        self.cwd = _bytes(_require(record, "cwd", str))
        self.merge_stderr: bool = _require(record, "merge_stderr", bool)
        self.grace_s = seconds(record.get("grace_s", 30.0))
        self.limits = _limits(record.get("limits"))
        limit = record.get("max_duration_s")
        self.max_duration_s = None if limit is None else seconds(limit)
        self.spool_bound_bytes: int = max(1, _require(record, "spool_bound_bytes", int))

    @property
    def identity(self) -> Record:
        """What names the attempt in its exit record."""
        return {"run_id": self.run_id, "attempt": self.attempt, "epoch": self.epoch}


def _limits(value: object) -> Limits | None:
    """What the run may use at most; None: it has no limits."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise SpecInvalid(f"limits is {value!r}, not an object")
    amounts = [_require(value, name, int) for name in ("cpu_millicores", "memory_bytes")]
    if min(amounts) < 0:
        raise SpecInvalid(f"limits is {value!r}, with an amount below 0")
    return Limits(*amounts) if any(amounts) else None


def _require(record: Record, name: str, kind: type) -> Any:
    value = record.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise SpecInvalid(f"{name} is {value!r}, not of type {kind.__name__}")
    return value


def _all_bytes(texts: Iterable[Any]) -> list[bytes]:
    """Arguments, or names or values of variables; which of them is wrong, `_bytes` says."""
    try:
        data = [text.encode("utf-8", "surrogateescape") for text in texts]
    except (AttributeError, UnicodeEncodeError):
        return [_bytes(text) for text in texts]
    return [_bytes(text) for text in texts] if b"\0" in b"".join(data) else data


def _bytes(text: object) -> bytes:
    if not isinstance(text, str):
        raise SpecInvalid(f"{text!r} is not text")
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise SpecInvalid(f"{text!r} can't be bytes: {error.reason}") from None
    if b"\0" in data:
        raise SpecInvalid(f"{text!r} holds a NUL byte, which no argument or variable can")
    return data


def seconds(value: object) -> float:
    """A finite number of seconds, not negative; SpecInvalid for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e12:
        return float(value)
    raise SpecInvalid(f"{value!r} is not a number of seconds")


def read(bundle: str, name: str) -> Record | None:
    """A record of a bundle; None where it is missing or (a crash while writing it) not whole."""
    try:
        fd = os.open(f"{bundle}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        record = json.loads(os.read(fd, os.fstat(fd).st_size + 1).decode())
    except (ValueError, RecursionError):
        return None
    finally:
        os.close(fd)
    return record if isinstance(record, dict) else None


def read_spec(bundle: str) -> Spec:
    """The bundle's spec; SpecInvalid says what is wrong with it."""
    try:
        record = read(bundle, SPEC)
    except OSError as error:
        raise SpecInvalid(f"{SPEC} can't be read: {error.strerror}") from None
    if record is None:
        raise SpecInvalid(f"{SPEC} is missing or not a JSON object")
    if record.get("format") != FORMAT:
        raise SpecInvalid(f"{SPEC} has format {record.get('format')!r}, this one reads {FORMAT}")
    return Spec(record)


def state(phase: str, started_at_unix_ns: int, pid: int | None, start_ticks: int | None) -> Record:
    """The content of state.json."""
    return {
        "format": FORMAT,
        "phase": phase,
        "pid": pid,
        "start_ticks": start_ticks,
        "boot_id": BOOT_ID,
        "supervisor_pid": os.getpid(),
        "started_at_unix_ns": started_at_unix_ns,
    }


def is_taken(bundle: str) -> bool:
    """Whether some supervisor has, or had, this attempt: it must never be executed again."""
    return os.path.lexists(f"{bundle}/{STATE}") or os.path.lexists(f"{bundle}/{EXIT}")


def claim(bundle: str, content: Record) -> int:
    """Creates state.json and returns its descriptor, for `overwrite`.

    FileExistsError where another supervisor was first.
    """
    if os.path.lexists(f"{bundle}/{EXIT}"):
        raise FileExistsError(errno.EEXIST, "the attempt has an exit record", bundle)
    flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    path = f"{bundle}/{STATE}"
    try:
        # One name, one winner: as exclusive as making the file, and no file is made.
        os.rename(f"{bundle}/{FREE_STATE}", path)
        fd = os.open(path, flags)
    except FileNotFoundError:
        fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        overwrite(fd, content)
    except OSError:
        os.close(fd)
        raise
    return fd


def overwrite(fd: int, content: Record) -> None:
    """Writes state.json in place: one write of one length, a tenth of the cost of a rename."""
    os.pwrite(fd, encode(content).ljust(STATE_BYTES), 0)


def encode(content: Record) -> bytes:
    """A record as it is in its file."""
    return json.dumps(content).encode("ascii")


def replace(bundle: str, name: str, content: Record) -> int:
    """Replaces a record atomically; returns its descriptor, to be synced or just closed."""
    return put(bundle, name, encode(content))


def put(bundle: str, name: str, data: bytes) -> int:
    """The same with a record that is encoded already."""
    path = f"{bundle}/{name}"
    # Over what is there: of a file that is cut to nothing ext4 writes the blocks when it is closed.
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(path + TEMPORARY, flags, 0o600)
    try:
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        if os.fstat(fd).st_size > len(data):
            os.ftruncate(fd, len(data))
        os.rename(path + TEMPORARY, path)
    except OSError:
        os.close(fd)
        raise
    return fd


def exit_record(identity: Record, reason: str, **values: Any) -> Record:
    """The content of exit.json; what is not given stays at "nothing happened"."""
    content: Record = {
        "format": FORMAT,
        "run_id": identity.get("run_id"),
        "attempt": identity.get("attempt"),
        "epoch": identity.get("epoch"),
        "reason": reason,
        "exit_code": None,
        "signal": None,
        "stopped_by": None,
        "started_at_unix_ns": None,
        "first_output_at_unix_ns": None,
        "ended_at_unix_ns": clock.unix_ns(),
        "duration_ns": 0,
        "stdout_bytes": 0,
        "stderr_bytes": 0,
        "order_bytes": 0,
        "user_cpu_s": 0.0,
        "system_cpu_s": 0.0,
        "max_rss_bytes": 0,
        "survivors": 0,
        "oom": None,
        "limits": None,
        "disk_full": None,
        "error": None,
    }
    content.update(values)
    return content
