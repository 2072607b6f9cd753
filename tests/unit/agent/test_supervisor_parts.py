"""Parts of the supervisor that a whole one seldom needs, and what it may import."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import runyard_agent
from runyard_agent.supervisor import spawn, sweep, wire
from runyard_agent.supervisor.clock import boot_ns
from runyard_agent.supervisor.stash import Stash

SOURCE = Path(runyard_agent.__file__).parent.parent
DEVNULL = os.open("/dev/null", os.O_RDWR)


def _fresh_interpreter(code: str) -> str:
    command = [sys.executable, "-I", "-S", "-X", "utf8", "-c", code, str(SOURCE)]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()


def test_supervisor_imports_the_standard_library_only_and_little_of_it() -> None:
    code = "import sys; sys.path.append(sys.argv[1]); before = set(sys.modules)\n"
    code += "import runyard_agent.supervisor.start; print(*set(sys.modules) - before)"

    loaded = set(_fresh_interpreter(code).split())

    ours = {name for name in loaded if name.startswith("runyard")}
    foreign = {name.partition(".")[0] for name in loaded - ours} - sys.stdlib_module_names
    assert all(name.startswith("runyard_agent.supervisor") for name in ours - {"runyard_agent"})
    assert foreign == set()
    assert not loaded & {"asyncio", "logging", "typing", "dataclasses", "subprocess", "threading"}


def test_signal_reaches_only_the_process_that_was_seen() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        seen = sweep.look_up(child.pid)
        assert seen is not None

        seen.start_ticks -= 1  # as if the pid had been given to another process since
        sweep.send(seen, signal.SIGKILL)
        is_alive = child.poll() is None
        seen.start_ticks += 1
        sweep.send(seen, signal.SIGKILL)

        assert is_alive
        assert child.wait(20) == -signal.SIGKILL


def test_signal_never_reaches_ourselves_or_init() -> None:
    for pid in (os.getpid(), 1):
        process = sweep.look_up(pid)
        assert process is not None
        sweep.send(process, signal.SIGKILL)

    assert sweep.look_up(1) is not None


def test_process_is_read_whatever_its_name_holds() -> None:
    fields = " ".join(str(n) for n in range(5, 53))
    process = sweep.Process(7, f"7 (a) R 1 (b) S 42 {fields}".encode())

    assert (process.pid, process.ppid, process.pgid, process.sid) == (7, 42, 5, 6)
    assert (process.start_ticks, process.is_zombie) == (22, False)


def test_descendants_leave_out_what_is_spared() -> None:
    script = "sleep 1000 & setsid sleep 1000 & echo; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE) as shell:
        assert shell.stdout is not None
        shell.stdout.readline()

        table = sweep.scan()
        below = sweep.descendants([shell.pid], table)
        mine = sweep.descendants([os.getpid()], table, without=frozenset([shell.pid]))
        for process in below:
            sweep.send(process, signal.SIGKILL)
        shell.kill()

    assert len(below) == 2
    assert not {process.pid for process in below} & {process.pid for process in mine}


def test_spawn_by_fork_gives_the_same_start_as_posix_spawn() -> None:
    """For interpreters whose posix_spawn can't make a session."""
    reader, writer = os.pipe()
    script = b"ps -o sid= -p $$ | tr -d ' '; echo $$; echo $A; kill -PIPE $$"
    program, env = b"/bin/sh", {b"A": b"\xff", b"PATH": os.environb[b"PATH"]}

    pid = spawn.spawn_forked(program, [b"sh", b"-c", script], env, (DEVNULL, writer, DEVNULL))
    os.close(writer)
    with open(reader, "rb") as output:
        sid, own_pid, value = output.read().split()
    _, status = os.waitpid(pid, 0)

    assert int(sid) == int(own_pid) == pid
    assert value == b"\xff"
    assert os.waitstatus_to_exitcode(status) == -signal.SIGPIPE


def test_spawn_by_fork_reports_why_it_failed() -> None:
    stdio = (DEVNULL, DEVNULL, DEVNULL)

    with pytest.raises(OSError, match="No such file") as caught:
        spawn.spawn_forked(b"/no/such", [b"x"], {}, stdio)

    assert caught.value.errno == 2


def test_spawn_looks_along_the_path_of_the_job(tmp_path: Path) -> None:
    denied = tmp_path / "denied"
    denied.mkdir()
    (denied / "tool").write_text("x")
    stdio = (DEVNULL, DEVNULL, DEVNULL)
    here = os.getcwd()

    try:
        for path, errno in ((b"/nowhere", 2), (os.fsencode(denied), 13)):
            with pytest.raises(spawn.NotStarted, match="tool") as caught:
                spawn.spawn([b"tool"], {b"PATH": path}, os.fsencode(tmp_path), stdio)
            assert caught.value.errno == errno
    finally:
        os.chdir(here)


def test_stash_gives_back_what_it_was_given() -> None:
    stash = Stash.create()
    pipes = [os.pipe() for _ in range(2)]
    for (reader, writer), name in zip(pipes, ("/first\udcff", "/second"), strict=True):
        os.write(writer, name.encode("utf-8", "surrogateescape"))
        stash.put(name, [reader])
        os.close(reader)
        os.close(writer)

    stash.remove("/second")
    stash.put("/third", [])
    entries = stash.take_all()
    stash.close()

    assert [name for name, _ in entries] == ["/first\udcff", "/third"]
    (reader,) = entries[0][1]
    assert os.read(reader, 100) == b"/first\xff"
    os.close(reader)


def test_connection_drops_a_peer_that_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    connection = wire.Connection(ours)

    sent = 0
    while connection.is_open and sent < 10_000:
        connection.send({"event": "output", "text": "x" * 1000})
        sent += 1

    theirs.close()
    assert not connection.is_open
    assert sent * 1000 < wire.BACKLOG_BYTES + (4 << 20)


def test_connection_reads_lines_in_pieces_and_nonsense_as_nothing() -> None:
    ours, theirs = socket.socketpair()
    connection = wire.Connection(ours)

    theirs.sendall(b'{"op":"ping"}\nnot json\n\n{"op":')
    first = connection.receive()
    theirs.sendall(b'"pong"}\n')
    second = connection.receive()
    theirs.close()
    third = connection.receive()

    assert (first, second, third) == ([{"op": "ping"}, {}], [{"op": "pong"}], [])
    assert not connection.is_open


def test_start_of_a_child_is_that_of_proc(tmp_path: Path) -> None:
    starts = sweep.StartTimes()
    told, listed = [], []
    for _ in range(20):
        before_ns = boot_ns()
        pid = os.posix_spawn("/bin/true", ["true"], {})
        told.append(starts.of(pid, before_ns, boot_ns()))
        found = sweep.look_up(pid)
        listed.append(found.start_ticks if found else None)
        os.waitpid(pid, 0)

    assert told == listed


def test_start_of_a_child_is_asked_for_where_the_clock_does_not_tell() -> None:
    starts = sweep.StartTimes()
    own = sweep.look_up(os.getpid())
    assert own is not None

    assert starts.of(own.pid, 0, 0) == own.start_ticks  # which shows that /proc counts otherwise
    assert starts.of(own.pid, 0, 0) == own.start_ticks
    assert starts.of(2**22 + 1, 0, 0) is None
