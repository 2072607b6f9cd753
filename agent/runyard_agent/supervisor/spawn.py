"""Starts a program as the leader of a session of its own, with exact bytes and clean signals."""

from __future__ import annotations

import errno
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

_ALL_SIGNALS = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
_DEFAULT_PATH = os.fsencode(os.defpath)


class NotStarted(OSError):
    """The program could not be started: `errno` and a text that names what was at fault.

    `advice` says what to try; empty: whoever tells of it knows better.
    """

    advice = ""


def spawn(
    argv: list[bytes],
    env: Mapping[bytes, bytes],
    cwd: bytes,
    stdio: Sequence[int],
    groups: Sequence[int] = (),
    cpus: Collection[int] = (),
) -> int:
    """Starts `argv` in `cwd` with `stdio` as its descriptors 0, 1 and 2; returns its pid.

    A name without a slash is looked up along the PATH in `env`; a relative path starts at
    `cwd`. This process changes its own directory for the moment of the spawn and is back in
    `/` afterwards, so a job that deletes its folder doesn't take ours. It joins the control
    groups whose descriptors `groups` has, and is bound to `cpus` if there are any, before it is
    what it becomes.
    """
    try:
        os.chdir(cwd)
    except OSError as error:
        raise _not_started(error, b"working folder " + cwd) from None
    try:
        program = _find(argv[0], env)
        if groups or cpus:
            return spawn_forked(program, argv, env, stdio, groups, cpus)
        try:
            return _spawn_posix(program, argv, env, stdio)
        except NotImplementedError:  # a Python built for a C library before glibc 2.26
            return spawn_forked(program, argv, env, stdio)
    except OSError as error:
        raise _not_started(error, argv[0]) from None
    except ValueError as error:  # a variable's name is empty or holds "="
        raise NotStarted(errno.EINVAL, f"environment refused: {error}") from None
    finally:
        os.chdir("/")


def _not_started(error: OSError, what: bytes) -> NotStarted:
    name = what.decode("utf-8", "backslashreplace")
    text = f"{name}: {error.strerror}"
    if error.errno == errno.ENOENT and b"/" in what and os.path.lexists(what):
        text = f"{name} is there, but the interpreter its first line names is not"
    elif error.errno == errno.ENOEXEC:
        text = f"{name} is neither a binary of this machine nor has it a first line like #!/bin/sh"
    return NotStarted(error.errno or errno.EIO, text)


def _find(name: bytes, env: Mapping[bytes, bytes]) -> bytes:
    """The path of a program as execvp would choose it."""
    if b"/" in name:
        return name
    folders = [folder or b"." for folder in env.get(b"PATH", _DEFAULT_PATH).split(b":")]
    for folder in folders:
        # First of all `access`, which says of a missing file that it is missing without raising.
        if os.access(folder + b"/" + name, os.X_OK):
            path = os.path.join(folder, name)
            if os.path.isfile(path):
                return path
    if any(os.path.isfile(os.path.join(folder, name)) for folder in folders):
        raise OSError(errno.EACCES, os.strerror(errno.EACCES))
    raise OSError(errno.ENOENT, "not found along PATH")


def _spawn_posix(
    program: bytes, argv: list[bytes], env: Mapping[bytes, bytes], stdio: Sequence[int]
) -> int:
    return os.posix_spawn(
        program,
        argv,
        env,
        file_actions=[(os.POSIX_SPAWN_DUP2, fd, target) for target, fd in enumerate(stdio)],
        setsid=True,
        setsigmask=[],
        setsigdef=_ALL_SIGNALS,
    )


def spawn_forked(
    program: bytes,
    argv: list[bytes],
    env: Mapping[bytes, bytes],
    stdio: Sequence[int],
    groups: Sequence[int] = (),
    cpus: Collection[int] = (),
) -> int:
    """The same by fork and exec: where limits are to be kept, or posix_spawn makes no session."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(program, argv, env, stdio, groups, cpus, writer)
    os.close(writer)
    try:
        failure = os.read(reader, 16)
    finally:
        os.close(reader)
    if failure:
        os.waitpid(pid, 0)
        number = int(failure)
        raise OSError(number, os.strerror(number))
    return pid


def _become(
    program: bytes,
    argv: list[bytes],
    env: Mapping[bytes, bytes],
    stdio: Sequence[int],
    groups: Sequence[int],
    cpus: Collection[int],
    report_fd: int,
) -> None:
    try:
        signal.set_wakeup_fd(-1)
        os.setsid()
        for fd in groups:
            os.write(fd, b"0")
        if cpus:
            os.sched_setaffinity(0, cpus)
        for target, fd in enumerate(stdio):
            os.dup2(fd, target)
        for signum in _ALL_SIGNALS:
            signal.signal(signum, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execve(program, argv, env)  # noqa: S606  no shell is wanted
    except OSError as error:
        os.write(report_fd, b"%d" % (error.errno or errno.EIO))
    except ValueError:
        os.write(report_fd, b"%d" % errno.EINVAL)
    finally:
        os._exit(127)
