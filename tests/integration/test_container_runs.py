"""Runs in containers, by a real supervisor and a real engine."""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runyard_agent.environments.protocol import EnvironmentFailed
from runyard_agent.supervisor import sweep
from runyardpb.v1 import runs_pb2
from runyardpb.v1.environments_pb2 import BindMount, DockerImage
from support import memory_group
from support.contained import Contained, python
from support.docker_engine import BARE_IMAGE, SHELL_IMAGE, DockerEngine
from support.supervised import Peer, supervised_node


@pytest.fixture
def contained(docker_engine: DockerEngine) -> Iterator[Contained]:
    with supervised_node() as node:
        yield Contained(docker_engine, node)


@pytest.fixture
def peer(contained: Contained) -> Peer:
    return contained.node.slot()


def test_both_outputs_and_the_exit_code_are_those_of_the_program(
    contained: Contained, peer: Peer
) -> None:
    source = "import sys,os; os.write(1,bytes(range(256))); os.write(2,b'err\\0'); sys.exit(7)"

    bundle, end = contained.run(peer, python(source))

    assert (end["reason"], end["exit_code"], end["oom"]) == ("exited", 7, None)
    assert bundle.read("stdout") == bytes(range(256))
    assert bundle.read("stderr") == b"err\0"
    assert contained.leftovers(bundle) == []


def test_fifty_megabytes_arrive_byte_for_byte(contained: Contained, peer: Peer) -> None:
    source = (
        "import os,random,sys\nr=random.Random(5)\n"
        "for _ in range(800): sys.stdout.buffer.write(r.randbytes(65536))\n"
    )
    import random

    wanted = hashlib.sha256()
    generator = random.Random(5)
    for _ in range(800):
        wanted.update(generator.randbytes(65536))

    bundle, end = contained.run(peer, python(source))

    assert end["exit_code"] == 0
    assert hashlib.sha256(bundle.read("stdout")).digest() == wanted.digest()


def test_merged_outputs_are_one(contained: Contained, peer: Peer) -> None:
    source = "import os; os.write(1,b'a'); os.write(2,b'b'); os.write(1,b'c')"

    bundle, _ = contained.run(peer, python(source), merge_stderr=True)

    assert bundle.read("stdout") == b"abc"


def test_a_job_finds_its_variables_and_its_folders(contained: Contained, peer: Peer) -> None:
    source = (
        "import os; e=os.environ; open('made','w').write(e['A']);"
        "open(e['RUNYARD_JOB_DIR']+'/metrics','w');"
        "print(os.getcwd(), e['RUNYARD_ATTEMPT'], e.get('VIRTUAL_ENV'), e['TZ'], e['PATH'])"
    )
    values = {
        "environment_variables": [{"name": b"A", "value": b"b=c"}],
        "caller_environment": [
            {"name": b"TZ", "value": b"UTC"},
            {"name": b"VIRTUAL_ENV", "value": b"/x"},
            {"name": b"PATH", "value": b"/home/me/bin"},
        ],
    }

    bundle, _ = contained.run(peer, python(source), **values)

    assert bundle.read("stdout") == b"/runyard/work 1 None UTC /usr/local/bin:/usr/bin:/bin\n"
    assert (bundle.path / "work" / "made").read_text() == "b=c"
    assert (bundle.path / "work" / "made").stat().st_uid == os.geteuid()
    assert (bundle.path / "job" / "metrics").exists()


def test_a_signal_that_ended_the_program_is_told_and_not_printed(
    contained: Contained, peer: Peer
) -> None:
    source = "import os,signal; os.kill(os.getpid(), signal.SIGSEGV)"

    bundle, end = contained.run(peer, python(source))

    assert (end["reason"], end["signal"]) == ("signaled", signal.SIGSEGV)
    assert bundle.read("stderr") == b""


def test_sigint_is_not_ignored_inside(contained: Contained, peer: Peer) -> None:
    source = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"

    bundle, _ = contained.run(peer, python(source))

    assert bundle.read("stdout") == b"True\n"


def test_an_image_without_python_runs_any_command(contained: Contained, peer: Peer) -> None:
    bundle, end = contained.run(peer, ["echo", "a b", "$HOME"], image=SHELL_IMAGE)

    assert (end["exit_code"], bundle.read("stdout")) == (0, b"a b $HOME\n")


def test_an_image_without_a_shell_prints_through_the_engines_log(
    contained: Contained, peer: Peer
) -> None:
    bundle, end = contained.run(peer, ["/hello", "you", "x"], image=BARE_IMAGE, shell="")

    assert end["exit_code"] == 7, end["error"]
    assert (bundle.read("stdout"), bundle.read("stderr")) == (b"hello you\n", b"to stderr\n")
    assert contained.leftovers(bundle) == []


NOBODY = 65534
HANDLES = (
    "import signal,sys,time\n"
    "signal.signal(signal.SIGTERM, lambda *_: (print('bye', flush=True), sys.exit(3)))\n"
    "print('ready', flush=True)\n"
    "while True: time.sleep(60)\n"
)
IGNORES = (
    "import signal,time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('ready', flush=True)\nwhile True: time.sleep(60)\n"
)


def stop(peer: Peer, bundle: Any, grace_s: float) -> dict[str, Any]:
    peer.wait_for_bytes(bundle, b"ready")
    peer.send(op="stop", bundle=str(bundle.path), by="cancel", grace_s=grace_s)
    return peer.finish(bundle)


@pytest.mark.parametrize("shell", ["/bin/sh", ""], ids=["with shell", "without"])
def test_a_cancel_gives_the_program_time_to_leave(
    contained: Contained, peer: Peer, shell: str
) -> None:
    bundle = contained.spawn(peer, python(HANDLES), shell=shell)

    end = stop(peer, bundle, 60.0)

    assert (end["exit_code"], end["stopped_by"]) == (3, "cancel")
    assert bundle.read("stdout") == b"ready\nbye\n"
    assert contained.leftovers(bundle) == []


def test_a_cancel_ends_a_program_without_a_handler_by_sigterm(
    contained: Contained, peer: Peer
) -> None:
    bundle = contained.spawn(
        peer, python("print('ready', flush=True)\nimport time\ntime.sleep(99)")
    )

    end = stop(peer, bundle, 60.0)

    assert (end["reason"], end["signal"], end["stopped_by"]) == ("signaled", 15, "cancel")


def test_after_the_grace_period_the_container_is_killed(contained: Contained, peer: Peer) -> None:
    bundle = contained.spawn(peer, python(IGNORES))

    end = stop(peer, bundle, 0.3)

    assert (end["reason"], end["signal"], end["stopped_by"]) == ("signaled", 9, "cancel")
    assert contained.leftovers(bundle) == []


def test_the_time_limit_ends_it(contained: Contained, peer: Peer) -> None:
    limits: dict[str, Any] = {
        "max_duration": {"seconds": 1},
        "cancel_grace": {"nanos": 100_000_000},
    }

    bundle, end = contained.run(peer, python(IGNORES), **limits)

    assert end["stopped_by"] == "timeout"
    assert contained.leftovers(bundle) == []


def test_children_that_outlive_the_program_end_with_it(contained: Contained, peer: Peer) -> None:
    source = "import subprocess; subprocess.Popen(['sleep','99'], start_new_session=True)"

    bundle, end = contained.run(peer, python(source))

    assert end["exit_code"] == 0
    assert contained.leftovers(bundle) == []


def test_too_much_memory_is_told_as_such(contained: Contained, peer: Peer) -> None:
    limits = runs_pb2.Limits(memory_bytes=64 << 20)

    _, end = contained.run(peer, python("x = bytearray(500 << 20); print(len(x))"), limits=limits)

    assert (end["reason"], end["signal"], end["oom"]) == ("signaled", 9, "limit")


def test_limits_of_the_run_and_options_of_the_environment_hold(
    contained: Contained, peer: Peer
) -> None:
    options = DockerImage(network="none", shm_bytes=32 << 20, arguments=["--ulimit=nofile=77"])
    source = (
        "import os,resource; s=os.statvfs('/dev/shm'); print(s.f_blocks*s.f_frsize,"
        "resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    limits = runs_pb2.Limits(cpu_millicores=500, memory_bytes=256 << 20)

    bundle, _ = contained.run(peer, python(source), options=options, limits=limits)

    host = bundle.record("spec.json")["container"]["request"]["HostConfig"]
    assert bundle.read("stdout") == b"33554432 77\n"
    assert (host["NanoCpus"], host["Memory"], host["MemorySwap"]) == (500_000_000, 1 << 28, 1 << 28)


def test_mounts_are_seen_and_kept_read_only(
    contained: Contained, peer: Peer, tmp_path: Path
) -> None:
    (tmp_path / "data").write_text("x")
    options = DockerImage(
        network="none",
        mounts=[
            BindMount(source=os.fsencode(tmp_path), target="/ro", is_read_only=True),
            BindMount(source=os.fsencode(tmp_path), target="/rw"),
        ],
    )
    source = "open('/rw/made','w').write(open('/ro/data').read()); open('/ro/no','w')"

    bundle, end = contained.run(peer, python(source), options=options)

    assert end["exit_code"] == 1
    assert b"Read-only file system" in bundle.read("stderr")
    assert (tmp_path / "made").read_text() == "x"


def test_a_mount_of_a_missing_path_is_refused_before_anything_starts(contained: Contained) -> None:
    options = DockerImage(mounts=[BindMount(source=b"/no/such", target="/data")])

    with pytest.raises(EnvironmentFailed, match='"/no/such", which is to be mounted at /data'):
        contained.bundle(["true"], options=options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DockerImage(network="nowhere"), "the engine has no such network"),
        (DockerImage(network="none", arguments=["--gpus=all"]), "the engine has no GPU runtime"),
        (DockerImage(network="none", arguments=["--ulimit=nofile=9999999"]), "a ulimit is above"),
    ],
)
def test_what_the_engine_refuses_is_explained(
    contained: Contained, peer: Peer, options: DockerImage, words: str
) -> None:
    bundle, end = contained.run(peer, ["true"], options=options)

    assert end["reason"] == "spawn_failed"
    assert words in end["error"]["message"]
    assert end["error"]["advice"]
    assert contained.leftovers(bundle) == []


def test_an_engine_that_is_not_there_is_told(contained: Contained, peer: Peer) -> None:
    _, end = contained.run(peer, ["true"], engine="/no/docker.sock")

    assert end["reason"] == "spawn_failed"
    assert "the container engine does not answer (/no/docker.sock" in end["error"]["message"]


def test_a_second_container_of_an_attempt_is_not_started(contained: Contained, peer: Peer) -> None:
    bundle = contained.bundle(["touch", "ran"])
    name = contained.name(bundle)
    contained.engine.docker(
        "run", "-d", "--name", name, "--network=none", SHELL_IMAGE, "sleep", "9"
    )
    peer.send(op="spawn", bundle=str(bundle.path))

    end = peer.finish(bundle)

    assert end["reason"] == "spawn_failed"
    assert "a container of this attempt is there already" in end["error"]["message"]
    assert not (bundle.path / "work" / "ran").exists()
    contained.engine.docker("rm", "-f", name)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which takes root")
def test_outputs_belong_to_the_agents_user_whom_the_image_does_not_know(
    contained: Contained, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import os,time; open('made','w').close(); home=os.environ['HOME'];"
        "os.write(1, f'ready {os.getuid()} {os.getgid()} {os.access(home, os.W_OK)}'.encode());"
        "time.sleep(99)"
    )
    with monkeypatch.context() as patched:
        for name in ("geteuid", "getegid"):
            patched.setattr(os, name, lambda: NOBODY)
        patched.setattr(os, "getgroups", list)
        bundle = contained.bundle(python(source))
    for name in ("stdout.fifo", "stderr.fifo", "signals.fifo"):
        os.mkfifo(bundle.path / name, 0o600)
    for path in (bundle.path, *bundle.path.iterdir()):
        os.chown(path, NOBODY, NOBODY)

    peer.send(op="spawn", bundle=str(bundle.path))
    end = stop(peer, bundle, 60.0)

    assert bundle.read("stdout") == b"ready 65534 65534 True"
    assert bundle.read("stderr") == b""
    assert (bundle.path / "work" / "made").stat().st_uid == NOBODY
    assert (end["signal"], end["stopped_by"]) == (15, "cancel")


def test_garbage_in_the_files_of_the_container_does_no_harm(
    contained: Contained, peer: Peer
) -> None:
    bundle = contained.bundle(["true"])
    (bundle.path / "container.json").write_bytes(b"\xff{not json")
    (bundle.path / "container.held").write_bytes(b"")
    peer.send(op="spawn", bundle=str(bundle.path))

    end = peer.finish(bundle)

    assert (end["reason"], end["exit_code"]) == ("exited", 0)


def test_a_program_that_the_image_lacks_is_told_as_on_the_node(
    contained: Contained, peer: Peer
) -> None:
    _, end = contained.run(peer, ["no-such-program", "x"])

    assert end["reason"] == "spawn_failed"
    assert end["error"]["errno"] == 2
    assert "no-such-program: No such file or directory, in the image" in end["error"]["message"]


def test_cpu_time_and_peak_memory_are_those_of_the_container(
    contained: Contained, peer: Peer
) -> None:
    source = (
        "import os, time\n"
        "if os.fork() == 0:\n    x = bytearray(b'x') * (64 << 20)\n    os._exit(0)\n"
        "os.wait()\nwhile time.process_time() < 0.3: pass"
    )

    _, end = contained.run(peer, python(source))
    _, failed = contained.run(peer, python("x = bytearray(b'x') * (64 << 20); raise SystemExit(3)"))

    assert end["user_cpu_s"] + end["system_cpu_s"] >= 0.25
    assert 64 << 20 <= end["max_rss_bytes"] < 512 << 20
    assert failed["exit_code"] == 3
    assert failed["max_rss_bytes"] >= 64 << 20


@pytest.mark.parametrize("shell", ["/bin/sh", ""])
def test_container_ends_whole_though_its_program_waits_for_a_killed_one(
    contained: Contained, peer: Peer, shell: str
) -> None:
    source = (
        "import signal, subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-c', 'held = bytearray(500 << 20)'])\n"
        "while True: signal.pause()"
    )
    limits = runs_pb2.Limits(memory_bytes=64 << 20)

    bundle, end = contained.run(peer, python(source), limits=limits, shell=shell)

    assert (end["reason"], end["signal"], end["oom"]) == ("signaled", 9, "limit")
    assert end["stopped_by"] is None
    assert contained.leftovers(bundle) == []


def test_container_that_the_kernel_ends_for_want_of_memory_says_whose(
    contained: Contained, peer: Peer
) -> None:
    """Its program is moved to a group that is not the engine's, which stands for the machine."""
    if why := memory_group.lacking():
        pytest.skip(why)
    source = (
        "import os, time\nprint('ready', flush=True)\n"
        "while not os.path.exists('go'): time.sleep(0.005)\n"
        "held = b'x' * (512 << 20)"
    )
    with memory_group.memory_group(f"runyard-host-{os.getpid()}", 64 << 20) as procs:
        bundle = contained.spawn(peer, python(source))
        peer.wait_for_bytes(bundle, b"ready")
        first = contained.engine.docker(
            "inspect", "-f", "{{.State.Pid}}", contained.name(bundle)
        ).stdout
        for pid in sweep.pids_below(int(first)):
            procs.write_text(str(pid))

        (bundle.path / "work" / "go").touch()
        end = peer.finish(bundle)

    assert (end["reason"], end["signal"], end["oom"]) == ("signaled", 9, "host")
