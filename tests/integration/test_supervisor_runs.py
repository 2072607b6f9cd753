"""What a job meets and what is recorded of it: exit, arguments, environment, folder."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from support import memory_group
from support.supervised import Node, Peer, python, supervised_node


@pytest.fixture
def node() -> Iterator[Node]:
    with supervised_node() as node:
        yield node


@pytest.fixture
def slot(node: Node) -> Peer:
    peer = node.slot()
    peer.wait_for("hello", phase="idle", bundle=None)
    return peer


@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_supervisor_records_the_exit_code(node: Node, slot: Peer, code: int) -> None:
    bundle, record = node.run(slot, ["sh", "-c", f"exit {code}"])

    assert (record["reason"], record["exit_code"], record["signal"]) == ("exited", code, None)
    assert bundle.record("exit.json") == record
    assert (record["attempt"], record["epoch"], record["survivors"]) == (1, 7, 0)
    assert 0 < record["duration_ns"] < 20e9
    assert abs(record["ended_at_unix_ns"] - time.time_ns()) < 60e9


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE])
def test_supervisor_records_the_signal(node: Node, slot: Peer, signum: signal.Signals) -> None:
    _, record = node.run(slot, ["sh", "-c", f"kill -{signum.value} $$"])

    assert (record["reason"], record["exit_code"], record["signal"]) == ("signaled", None, signum)
    assert record["stopped_by"] is None


def test_supervisor_says_where_the_run_is_while_it_is_there(node: Node, slot: Peer) -> None:
    bundle = node.bundle(python("import os; os.read(0, 1); print(os.getppid(), flush=True)"))

    slot.send(op="spawn", bundle=str(bundle.path))

    started = slot.wait_for("started", bundle=str(bundle.path))
    slot.finish(bundle)
    state = bundle.record("state.json")
    assert (state["phase"], state["pid"]) == ("running", started["pid"])
    assert state["supervisor_pid"] == int(bundle.read("stdout")) == node.slot_pid()
    assert state["start_ticks"] > 0
    assert len(state["boot_id"]) == 36


def test_supervisor_counts_cpu_time_and_memory_of_all_processes(node: Node, slot: Peer) -> None:
    burn = "import time\nwhile time.process_time() < 0.3: b'x' * (64 << 20)"
    spawn = f"import os\nos.spawnv(os.P_WAIT, {sys.executable!r}, {python(burn)!r})"

    _, record = node.run(slot, python(spawn))

    assert record["user_cpu_s"] + record["system_cpu_s"] >= 0.3
    assert record["max_rss_bytes"] >= 64 << 20


def test_supervisor_says_that_the_kernel_ended_a_run_for_want_of_memory(
    node: Node, slot: Peer
) -> None:
    if why := memory_group.lacking():
        pytest.skip(why)
    # Both in one test: another kill by the kernel at the same time would count for the first.
    _, killed_by_itself = node.run(slot, python("import os\nos.kill(os.getpid(), 9)"))
    with memory_group.memory_group(f"runyard-test-{os.getpid()}", 64 << 20) as procs:
        hog = (
            f"import os\nopen({str(procs)!r}, 'w').write(str(os.getpid()))\n"
            "held = b'x' * (512 << 20)"
        )

        _, record = node.run(slot, python(hog))

    assert (killed_by_itself["signal"], killed_by_itself["oom"]) == (9, None)
    assert (record["reason"], record["signal"], record["oom"]) == ("signaled", 9, "host")


def test_supervisor_counts_cpu_time_of_processes_that_outlived_their_parent(
    node: Node, slot: Peer
) -> None:
    # The grandchild leaves its session and its parent; it ends before the main process does.
    burn = "import time\nwhile time.process_time() < 0.3: pass\nimport os; os.write(1, b'done')"
    orphan = (
        "import os\n"
        "reader, writer = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        os.dup2(writer, 1)\n"
        f"        os.execv({sys.executable!r}, {python(burn)!r})\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "assert os.read(reader, 4) == b'done'"
    )

    _, record = node.run(slot, python(orphan))

    assert record["exit_code"] == 0
    assert record["user_cpu_s"] + record["system_cpu_s"] >= 0.3


def test_supervisor_counts_cpu_time_of_processes_that_it_had_to_kill(
    node: Node, slot: Peer
) -> None:
    burn = (
        "import os, time\n"
        "while time.process_time() < 0.3: pass\n"
        "os.write(1, b'done')\n"
        "while True: time.sleep(60)"
    )
    leave = (
        "import os, subprocess\n"
        "left = subprocess.Popen("
        f"{python(burn)!r}, stdout=subprocess.PIPE, start_new_session=True)\n"
        "assert os.read(left.stdout.fileno(), 4) == b'done'\n"
        "os._exit(0)"
    )

    _, record = node.run(slot, python(leave))

    assert record["exit_code"] == 0
    assert record["user_cpu_s"] + record["system_cpu_s"] >= 0.3


AWKWARD = [
    "with space",
    "",
    "quo\"te's",
    "new\nline",
    "tab\t",
    "-x",
    "ä€",
    "\udcff\udc80",
    "$HOME;*",
]


def test_supervisor_passes_arguments_and_environment_byte_for_byte(node: Node, slot: Peer) -> None:
    show = "import os,sys; sys.stdout.buffer.write(b'\\0'.join(map(os.fsencode, sys.argv[1:])))"
    show += "; sys.stderr.buffer.write(os.environb[b'ODD\\xff'])"
    env = {"PATH": os.environ["PATH"], "ODD\udcff": "a=b\n\udcfe 'x'"}

    bundle, record = node.run(slot, [*python(show), *AWKWARD], env=env)

    assert record["exit_code"] == 0, bundle.read("stderr")
    assert bundle.read("stdout").split(b"\0") == [
        a.encode("utf-8", "surrogateescape") for a in AWKWARD
    ]
    assert bundle.read("stderr") == b"a=b\n\xfe 'x'"


def test_supervisor_gives_a_job_only_the_environment_of_its_spec(node: Node, slot: Peer) -> None:
    bundle, _ = node.run(slot, ["/usr/bin/env"], env={"ONLY": "this"})

    assert bundle.read("stdout") == b"ONLY=this\n"


def test_supervisor_gives_a_job_a_clean_start(node: Node, slot: Peer) -> None:
    probe = """
import json, os, signal
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())
print(json.dumps({
    'fds': sorted(int(fd) for fd in os.listdir('/proc/self/fd'))[:-1],
    'ignored': int(status['SigIgn'], 16) & 0x7fffffff, 'blocked': int(status['SigBlk'], 16),
    'leads': os.getsid(0) == os.getpid(), 'stdin': os.read(0, 1).decode(),
    'cwd': os.getcwd()}))
"""
    bundle, _ = node.run(slot, python(probe))

    found = json.loads(bundle.read("stdout"))
    python_ignores = (1 << (signal.SIGPIPE - 1)) | (1 << (signal.SIGXFSZ - 1))
    assert found == {
        "fds": [0, 1, 2],
        "ignored": python_ignores,
        "blocked": 0,
        "leads": True,
        "stdin": "",
        "cwd": str(bundle.path / "work"),
    }


def test_supervisor_finds_programs_as_a_shell_does(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["./here.sh"])
    script = bundle.path / "work" / "here.sh"
    script.write_text("#!/bin/sh\necho from $PWD\n")
    script.chmod(0o755)

    slot.send(op="spawn", bundle=str(bundle.path))

    assert slot.finish(bundle)["exit_code"] == 0
    assert bundle.read("stdout") == f"from {bundle.path}/work\n".encode()


@pytest.mark.parametrize(
    ("spec", "errno", "text"),
    [
        ({"argv": ["no-such-program"]}, 2, "no-such-program"),
        ({"argv": ["./gone"]}, 2, "./gone"),
        ({"argv": ["./script"]}, 2, "first line"),
        ({"argv": ["./plain"]}, 13, "./plain"),
        ({"argv": ["true"], "cwd": "/nowhere/at/all"}, 2, "/nowhere/at/all"),
        ({"argv": ["true"], "env": {"": "x", "PATH": "/bin"}}, 22, "environment"),
        ({"argv": ["/bin/true", "x" * (4 << 20)]}, 7, "/bin/true"),
    ],
)
def test_supervisor_names_what_could_not_be_started(
    node: Node, slot: Peer, spec: dict[str, Any], errno: int, text: str
) -> None:
    bundle = node.bundle(**spec)
    (bundle.path / "work" / "plain").write_text("x")
    script = bundle.path / "work" / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)

    slot.send(op="spawn", bundle=str(bundle.path))
    record = slot.finish(bundle)

    assert (record["reason"], record["exit_code"]) == ("spawn_failed", None)
    assert record["error"]["errno"] == errno
    assert text in record["error"]["message"]
    assert node.run(slot, ["true"])[1]["exit_code"] == 0


def test_supervisor_outlives_a_job_that_deletes_its_folder(node: Node, slot: Peer) -> None:
    bundle, record = node.run(slot, ["sh", "-c", "rm -rf ../work; echo gone; exit 3"])

    assert (record["exit_code"], bundle.read("stdout")) == (3, b"gone\n")
    assert node.run(slot, ["true"])[1]["exit_code"] == 0


def test_supervisor_outlives_a_job_that_deletes_its_whole_bundle(node: Node, slot: Peer) -> None:
    _, record = node.run(slot, ["sh", "-c", "rm -rf ../../run_1.1; exit 4"])

    assert record["exit_code"] == 4
    assert node.run(slot, ["true"])[1]["exit_code"] == 0


def test_supervisor_executes_an_attempt_once(node: Node, slot: Peer) -> None:
    bundle, record = node.run(slot, ["sh", "-c", "echo once"])

    for peer in (slot, node.slot(1)):
        peer.send(op="spawn", bundle=str(bundle.path))
        refusal = peer.wait_for("refused", bundle=str(bundle.path), op="spawn")
        assert "before" in refusal["why"]

    assert bundle.read("stdout") == b"once\n"
    assert bundle.record("exit.json") == record


def test_supervisor_refuses_an_attempt_that_another_slot_has(node: Node, slot: Peer) -> None:
    bundle = node.bundle(["sleep", "1000"])
    slot.send(op="spawn", bundle=str(bundle.path))
    slot.wait_for("started")

    other = node.slot(1)
    other.send(op="spawn", bundle=str(bundle.path))

    assert other.wait_for("refused")["bundle"] == str(bundle.path)


def test_supervisor_runs_a_flood_of_short_jobs_without_losing_one(node: Node, slot: Peer) -> None:
    codes = {}
    bundles = [node.bundle(["sh", "-c", f"exit {i % 3}"]) for i in range(100)]
    bundles += [node.bundle(["true"]) for _ in range(400)]
    waiting = iter(bundles)
    begin = time.perf_counter()

    for _ in range(3):
        slot.send(op="spawn", bundle=str(next(waiting).path))
    for _ in bundles:
        done = slot.wait_for("exited")
        codes[done["bundle"]] = done["exit"]["exit_code"]
        following = next(waiting, None)
        if following is not None:
            slot.send(op="spawn", bundle=str(following.path))

    print(f"{len(bundles) / (time.perf_counter() - begin):.0f} runs/s on one slot")
    expected = [i % 3 for i in range(100)] + [0] * 400
    assert [codes[str(bundle.path)] for bundle in bundles] == expected


def test_supervisor_starts_the_next_run_only_after_the_last_one_is_gone(
    node: Node, slot: Peer
) -> None:
    leave_child = "setsid sleep 1000 & echo $!"
    first = node.bundle(["sh", "-c", leave_child])
    second = node.bundle(["sh", "-c", f"ls -d /proc/$(cat {first.path}/stdout)/exe; true"])

    slot.send(op="spawn", bundle=str(first.path))
    slot.send(op="spawn", bundle=str(second.path))
    slot.finish(second)

    assert first.read("stdout").strip().isdigit()
    assert second.read("stdout") == b""


def test_supervisor_refuses_more_than_two_waiting_runs(node: Node, slot: Peer) -> None:
    bundles = [node.bundle(["sleep", "1000"]) for _ in range(4)]

    for bundle in bundles:
        slot.send(op="spawn", bundle=str(bundle.path))

    refused = slot.wait_for("refused")
    assert refused["bundle"] == str(bundles[3].path)
    assert "2 runs are waiting" in refused["why"]
