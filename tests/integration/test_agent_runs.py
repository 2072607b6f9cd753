"""A real agent process with its supervisor, against a fake daemon: what a run becomes."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from runyard_contract.orderindex import STDOUT, decode_records
from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2
from support.agent_process import in_loop, node
from support.fake_daemon import Held, script
from support.house import command_line, processes_naming

END = pb.AttemptEnd
ORDER = pb.AppendFilesRequest.FILE_ORDER


def merged(held: Held) -> bytes:
    """The log as a follower sees it."""
    streams = {1: held.stdout, 2: held.stderr}
    return b"".join(
        streams[piece.stream][piece.offset_bytes : piece.offset_bytes + piece.length_bytes]
        for piece in decode_records(bytes(held.files.get(ORDER, b"")))
    )


@in_loop
async def test_agent_runs_a_script_and_ships_all_of_it() -> None:
    async with node() as (daemon, _agent):
        spec = script(
            daemon,
            "import sys, helper\n"
            "print('out', sys.argv[1:])\n"
            "print('err', file=sys.stderr)\n"
            "open('outputs/model.bin', 'wb').write(bytes(1000))\n"
            "open('scratch.txt', 'w').write('s')\n",
            b"--alpha",
            b"a b\n",
            b"\xff",
            files={"helper.py": b""},
        )
        held = await daemon.lease(spec)

        report = await daemon.ended(held)

        assert report.end.reason == END.REASON_EXITED
        assert report.end.exit_code == 0
        assert held.stdout == b"out ['--alpha', 'a b\\n', '\\udcff']\n"
        assert held.stderr == b"err\n"
        assert daemon.content(held.registered["outputs/model.bin"]) == bytes(1000)
        assert [file.path for file in report.workdir.files] == ["scratch.txt"]
        assert {span.phase for span in report.phases} == {
            "snapshot", "environment", "start", "first_output", "script", "outputs",
        }  # fmt: skip
        assert {(one.file, one.length_bytes) for one in report.lengths if one.length_bytes} == {
            (pb.AppendFilesRequest.FILE_STDOUT, len(held.stdout)),
            (pb.AppendFilesRequest.FILE_STDERR, 4),
            (ORDER, len(held.files[ORDER])),
        }
        assert report.end.duration.ToNanoseconds() > 0
        assert report.end.peak_memory_bytes > 1 << 20


@pytest.mark.parametrize(
    ("source", "reason", "code", "number"),
    [
        ("raise SystemExit(7)", END.REASON_EXITED, 7, 0),
        ("raise ValueError('no')", END.REASON_EXITED, 1, 0),
        ("import os; os.kill(os.getpid(), 9)", END.REASON_SIGNALED, 0, 9),
    ],
)
@in_loop
async def test_agent_reports_how_a_script_ended(
    source: str, reason: int, code: int, number: int
) -> None:
    async with node() as (daemon, _agent):
        report = await daemon.ended(await daemon.lease(script(daemon, source)))

        assert (report.end.reason, report.end.exit_code, report.end.signal) == (
            reason, code, number,
        )  # fmt: skip
        assert report.end.stopped_by == END.STOPPED_BY_UNSPECIFIED


@in_loop
async def test_agent_ships_the_first_line_while_the_job_goes_on() -> None:
    async with node() as (daemon, _agent):
        held = await daemon.lease(script(daemon, "import time\nprint('first')\ntime.sleep(60)\n"))

        await daemon.until(lambda: merged(held) == b"first\n")

        assert held.report is not None
        assert held.report.phase < pb.AttemptReport.PHASE_EXITED
        await daemon.cancel(held, 1)
        await daemon.ended(held)


@in_loop
async def test_agent_ships_metrics_and_logs_while_the_job_goes_on() -> None:
    async with node() as (daemon, _agent):
        held = await daemon.lease(
            script(
                daemon,
                "import os, time\n"
                "job = os.environ['RUNYARD_JOB_DIR']\n"
                "open(job + '/metrics.jsonl', 'a').write('{}\\n')\n"
                "open('logs/train.log', 'w').write('epoch 1')\n"
                "os.utime('logs/train.log', (1, 1))\n"
                "time.sleep(60)\n",
            )
        )

        await daemon.until(lambda: "logs/train.log" in held.registered)
        await daemon.until(lambda: held.files.get(pb.AppendFilesRequest.FILE_METRICS))

        assert daemon.content(held.registered["logs/train.log"]) == b"epoch 1"
        await daemon.cancel(held, 1)
        await daemon.ended(held)


@in_loop
async def test_agent_keeps_a_large_log_whole_and_in_order() -> None:
    async with node() as (daemon, _agent):
        daemon.window_bytes = 1 << 20
        held = await daemon.lease(
            script(
                daemon,
                "import os, random\n"
                "r = random.Random(1)\n"
                "for n in range(400):\n"
                "    os.write(1 if n % 3 else 2, r.randbytes(30_000))\n"
                "os.write(1, b'x' * 10_000_000)\n",
            )
        )

        await daemon.ended(held)

        import random

        r = random.Random(1)
        out, err = hashlib.blake2b(), hashlib.blake2b()
        for number in range(400):
            (out if number % 3 else err).update(r.randbytes(30_000))
        out.update(b"x" * 10_000_000)
        assert hashlib.blake2b(held.stdout).digest() == out.digest()
        assert hashlib.blake2b(held.stderr).digest() == err.digest()
        assert len(merged(held)) == len(held.stdout) + len(held.stderr)


@in_loop
async def test_agent_merges_stderr_in_exact_order() -> None:
    async with node() as (daemon, _agent):
        held = await daemon.lease(
            script(
                daemon,
                "import sys\n"
                "for n in range(50):\n"
                "    print(n, file=sys.stderr if n % 2 else sys.stdout)\n",
                merge_stderr=True,
            )
        )

        await daemon.ended(held)

        assert held.stdout == b"".join(b"%d\n" % n for n in range(50))
        assert held.stderr == b""
        assert {p.stream for p in decode_records(bytes(held.files[ORDER]))} == {STDOUT}


@in_loop
async def test_agent_stops_a_run_that_is_cancelled() -> None:
    async with node() as (daemon, _agent):
        held = await daemon.lease(script(daemon, "import time\nprint('up')\ntime.sleep(60)\n"))
        await daemon.until(lambda: held.stdout)

        await daemon.cancel(held)
        report = await daemon.ended(held)

        assert report.end.reason == END.REASON_SIGNALED
        assert report.end.signal == signal.SIGTERM
        assert report.end.stopped_by == END.STOPPED_BY_CANCEL


@in_loop
async def test_agent_kills_a_run_that_ignores_sigterm() -> None:
    async with node() as (daemon, _agent):
        held = await daemon.lease(
            script(
                daemon,
                "import signal, time\n"
                "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
                "print('up')\n"
                "time.sleep(60)\n",
            )
        )
        await daemon.until(lambda: held.stdout)

        await daemon.cancel(held, 0.3)
        report = await daemon.ended(held)

        assert report.end.signal == signal.SIGKILL
        assert report.end.stopped_by == END.STOPPED_BY_CANCEL


@in_loop
async def test_agent_stops_a_run_at_its_time_limit() -> None:
    async with node() as (daemon, _agent):
        held = await daemon.lease(
            script(daemon, "import time; time.sleep(60)", max_duration_s=0.4, cancel_grace_s=1)
        )

        report = await daemon.ended(held)

        assert report.end.stopped_by == END.STOPPED_BY_TIMEOUT


@in_loop
async def test_agent_never_starts_what_waits_for_room_when_it_is_cancelled() -> None:
    async with node(slots=1) as (daemon, _agent):
        first = await daemon.lease(script(daemon, "import time; print(1); time.sleep(60)"))
        await daemon.until(lambda: first.stdout)
        second = await daemon.lease(script(daemon, "print('never')"))
        await daemon.phase(second, pb.AttemptReport.PHASE_PREPARING)

        await daemon.cancel(second)
        report = await daemon.ended(second)

        assert report.end.reason == END.REASON_NEVER_STARTED
        assert report.end.stopped_by == END.STOPPED_BY_CANCEL
        assert second.stdout == b""
        await daemon.cancel(first, 0)
        await daemon.ended(first)


@in_loop
async def test_agent_denies_a_run_that_it_never_had() -> None:
    async with node() as (daemon, _agent):
        await daemon.session()
        ref = pb.AttemptRef(
            run="workspaces/default/experiments/t/runs/t_1764000000_00000009", attempt=1, epoch=1
        )
        held = daemon.held["t_1764000000_00000009", 1] = Held(pb.Lease(ref=ref))

        await daemon.cancel(held)
        report = await daemon.ended(held)

        assert report.end.reason == END.REASON_NEVER_STARTED


@in_loop
async def test_agent_runs_as_many_as_it_has_slots() -> None:
    async with node(slots=2) as (daemon, _agent):
        meet = "open(a := __import__('sys').argv[1], 'w').close()\nimport os, time\n"
        meet += "while not os.path.exists(__import__('sys').argv[2]): time.sleep(0.01)\n"
        here = str(daemon.root).encode()
        runs = [
            await daemon.lease(script(daemon, meet, here + b"/" + mine, here + b"/" + other))
            for mine, other in [(b"a", b"b"), (b"b", b"a")]
        ]

        for held in runs:
            assert (await daemon.ended(held)).end.exit_code == 0


@in_loop
async def test_agent_ends_what_a_job_has_left_behind() -> None:
    async with node() as (daemon, _agent):
        held = await daemon.lease(
            script(
                daemon,
                "import os, subprocess, sys\n"
                "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)', 'orphan'],"
                " start_new_session=True)\n",
            )
        )

        report = await daemon.ended(held)

        assert report.end.exit_code == 0
        assert not [
            pid for pid in processes_naming(str(daemon.root)) if "orphan" in command_line(pid)
        ]


@in_loop
async def test_agent_goes_on_after_a_job_that_removes_its_folder() -> None:
    async with node() as (daemon, _agent):
        held = await daemon.lease(
            script(daemon, "import os, shutil\nshutil.rmtree(os.getcwd())\nprint('gone')\n")
        )

        report = await daemon.ended(held)

        assert report.end.exit_code == 0
        assert held.stdout == b"gone\n"
        after = await daemon.lease(script(daemon, "print(2)"))
        assert (await daemon.ended(after)).end.exit_code == 0


@in_loop
async def test_agent_says_what_is_wrong_with_an_interpreter() -> None:
    async with node() as (daemon, _agent):
        spec = script(daemon, "", caller_interpreter=os.fsencode(sys.executable) + b"-nope")

        report = await daemon.ended(await daemon.lease(spec))

        assert report.end.reason == END.REASON_ENVIRONMENT_FAILED
        assert [span.phase for span in report.phases] == ["snapshot", "environment", "outputs"]
        assert f"{sys.executable}-nope does not exist" in report.end.message
        assert sys.executable in report.end.advice
        assert report.end.metadata["interpreter"] == f"{sys.executable}-nope"


@in_loop
async def test_agent_says_that_a_program_can_not_be_started() -> None:
    async with node() as (daemon, _agent):
        spec = script(daemon, "")
        spec.command.argv.append(b"./no-such-program")

        report = await daemon.ended(await daemon.lease(spec))

        assert report.end.reason == END.REASON_SPAWN_FAILED
        assert "could not be started" in report.end.message
        assert report.end.metadata["errno"] == "2"


@in_loop
async def test_agent_finds_a_command_along_the_jobs_path(tmp_path: Path) -> None:
    tool = tmp_path / "my-tool"
    tool.write_text("#!/bin/sh\necho from my tool $1\n")
    tool.chmod(0o755)
    async with node() as (daemon, _agent):
        spec = script(daemon, "")
        spec.command.argv.extend([b"my-tool", b"$HOME"])
        spec.environment_variables.add(name=b"PATH", value=os.fsencode(tmp_path) + b":/bin")

        held = await daemon.lease(spec)
        await daemon.ended(held)

        assert held.stdout == b"from my tool $HOME\n"


@in_loop
async def test_agent_builds_an_environment_and_nothing_else() -> None:
    async with node() as (daemon, _agent):
        spec = script(daemon, "print('never')")
        spec.kind = runs_pb2.RunSpec.KIND_ENVIRONMENT_BUILD

        held = await daemon.lease(spec)
        report = await daemon.ended(held)

        assert report.end.reason == END.REASON_BUILT
        assert held.stdout == b""


@in_loop
async def test_agent_ends_when_the_daemon_is_stopped_by_a_person() -> None:
    async with node() as (daemon, agent):
        await daemon.say(goodbye=pb.Goodbye(is_stop=True))

        assert agent.process is not None
        assert await agent.process.wait() == 0


@in_loop
async def test_agent_leaves_nothing_behind_when_it_is_stopped_idle() -> None:
    async with node() as (daemon, agent):
        held = await daemon.lease(script(daemon, "print(1)"))
        await daemon.ended(held)

        assert await agent.stop() == 0

        deadline = time.monotonic() + 10
        while left := processes_naming(str(agent.home)):
            assert time.monotonic() < deadline, left
        assert left == []


@in_loop
async def test_agent_ends_as_second_in_one_home() -> None:
    async with node() as (daemon, agent):
        await daemon.session()
        second = type(agent)(daemon)
        await second.start()

        assert second.process is not None
        assert await second.process.wait() == 75
        assert (agent.home / "agent.lock").read_text().strip() == str(agent.process.pid)  # type: ignore[union-attr]
