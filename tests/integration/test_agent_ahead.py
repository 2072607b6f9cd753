"""Leases that come before the node has room: begun in order, given back in time, never twice."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import pytest

from runyardpb.agent.v1 import agent_pb2 as pb
from runyardpb.v1 import runs_pb2
from support.agent_process import becomes, house, in_loop, node
from support.fake_daemon import FakeDaemon, Held, script

END = pb.AttemptEnd
ENDED = pb.AttemptReport.PHASE_ENDED


def noting(daemon: FakeDaemon, word: str) -> runs_pb2.RunSpec:
    """A run that adds a word to the file `notes`, and prints it."""
    spec = script(daemon, "")
    line = f"echo {word} >> {daemon.root}/notes; echo {word}"
    spec.command.argv.extend([b"sh", b"-c", line.encode()])
    return spec


def waiting_for(daemon: FakeDaemon, name: str) -> runs_pb2.RunSpec:
    """A run that lasts until a file is there."""
    spec = script(daemon, "")
    line = f"until [ -e {daemon.root}/{name} ]; do sleep 0.02; done"
    spec.command.argv.extend([b"sh", b"-c", line.encode()])
    return spec


async def all_end(daemon: FakeDaemon, runs: list[Held], limit_s: float = 60.0) -> None:
    await daemon.until(lambda: all(r.report and r.report.phase == ENDED for r in runs), limit_s)


@in_loop
async def test_leases_ahead_run_in_order_and_each_is_one_report_with_its_log() -> None:
    async with node(slots=1) as (daemon, _agent):
        runs = await daemon.lease_ahead(*(noting(daemon, f"w{n}") for n in range(12)))
        # On a slow machine the last of them may not begin in time.
        await daemon.until(lambda: len(daemon.returned) + sum(map(_is_over, runs)) == 12)
        runs = [run for run in runs if _is_over(run)]

        words = [f"w{n}" for n in range(len(runs))]
        assert (daemon.root / "notes").read_text().split() == words
        assert [run.stdout.decode().strip() for run in runs] == words
        assert len(runs) >= 2
        assert all(run.end.reason == END.REASON_EXITED for run in runs)
        assert daemon.hellos[0].max_leases_ahead >= 16
        spans = {span.phase for span in runs[-1].report.phases} if runs[-1].report else set()
        assert {"snapshot", "environment", "start", "script", "outputs"} <= spans


@in_loop
async def test_lease_that_can_not_begin_is_given_back_and_never_begun() -> None:
    async with node(slots=1) as (daemon, agent):
        long = await daemon.lease(waiting_for(daemon, "gate"))
        await daemon.phase(long, pb.AttemptReport.PHASE_RUNNING)
        behind = await daemon.lease_ahead(*(noting(daemon, f"w{n}") for n in range(3)))
        await daemon.until(lambda: len(daemon.returned) == 3)

        (daemon.root / "gate").touch()
        await daemon.ended(long)
        after = await daemon.lease(noting(daemon, "after"))
        await daemon.ended(after)

        assert {ref.epoch for ref in daemon.returned} == {r.lease.ref.epoch for r in behind}
        assert (daemon.root / "notes").read_text() == "after\n"
        assert not any(agent.bundle(run).exists() for run in behind)


@in_loop
async def test_lease_that_waits_is_cancelled_without_being_begun() -> None:
    async with node(slots=1) as (daemon, _agent):
        long = await daemon.lease(waiting_for(daemon, "gate"))
        await daemon.phase(long, pb.AttemptReport.PHASE_RUNNING)
        await asyncio.sleep(0.3)  # from here on it is no short run: nothing is put behind it
        [run] = await daemon.lease_ahead(noting(daemon, "no"))
        await daemon.cancel(run)
        report = await daemon.ended(run)
        (daemon.root / "gate").touch()
        await daemon.ended(long)

        assert report.end.reason == END.REASON_NEVER_STARTED
        assert not (daemon.root / "notes").exists()


@in_loop
async def test_new_session_knows_nothing_of_leases_that_only_waited() -> None:
    async with node(slots=1) as (daemon, agent):
        long = await daemon.lease(waiting_for(daemon, "gate"))
        await daemon.phase(long, pb.AttemptReport.PHASE_RUNNING)
        waiting = await daemon.lease_ahead(*(noting(daemon, f"w{n}") for n in range(8)))
        await agent.kill()
        await agent.start()
        await daemon.until(lambda: len(daemon.hellos) == 2)
        named = {ref.ref.epoch for ref in daemon.hellos[1].attempts}
        (daemon.root / "gate").touch()
        await daemon.ended(long)
        await daemon.ended(await daemon.lease(noting(daemon, "after")))

        # A run may have been put behind the first one: it is on disk, named, and goes on.
        begun = [run for run in waiting if run.lease.ref.epoch in named]
        await all_end(daemon, begun)
        words = (daemon.root / "notes").read_text().split()
        assert len(begun) <= 1
        assert sorted(words) == sorted(["after", *(run.stdout.decode().strip() for run in begun)])


@pytest.mark.slow
@in_loop
async def test_flood_of_2000_runs_loses_no_end_and_no_byte() -> None:
    """Quick jobs are where exit codes get stolen and last bytes get lost."""
    async with node(slots=2) as (daemon, agent):
        quick = script(daemon, "")
        quick.command.argv.append(b"true")
        telling = script(daemon, "")
        telling.command.argv.extend([b"sh", b"-c", b"echo out; echo err >&2; exit 3"])
        runs: list[Held] = []
        todo = ([quick] * 4 + [telling]) * 400
        while todo or not all(map(_is_over, runs)):
            active = [run for run in runs if not _is_over(run)]
            given_back = {ref.epoch for ref in daemon.returned}
            daemon.returned.clear()
            for run in [run for run in active if run.lease.ref.epoch in given_back]:
                runs.remove(run)
                todo.append(run.lease.spec)
            room = max(0, 32 - len(active))
            runs += await daemon.lease_ahead(*todo[:room])
            del todo[:room]
            await _until_one_ends(daemon, [run for run in runs if not _is_over(run)])

        told = [run for run in runs if run.lease.spec.command.argv[0] == b"sh"]
        assert {(run.stdout, run.stderr, run.end.exit_code) for run in told} == {
            (b"out\n", b"err\n", 3)
        }
        rest = [run for run in runs if run.lease.spec.command.argv[0] == b"true"]
        assert {(run.stdout, run.stderr, run.end.exit_code) for run in rest} == {(b"", b"", 0)}
        assert len(runs) == 2000
        await becomes(lambda: not any(_names(agent.home / "runs")))


async def _until_one_ends(daemon: FakeDaemon, runs: list[Held]) -> None:
    """Waits for an end, or for a lease that comes back."""
    await daemon.until(lambda: not runs or daemon.returned or any(map(_is_over, runs)))


def _is_over(run: Held) -> bool:
    return run.report is not None and run.report.phase == ENDED


def _names(folder: os.PathLike[str]) -> list[str]:
    """Names of bundles; others are the agent's own."""
    return [name for name in os.listdir(folder) if not name.startswith(".")]


def rewriting(daemon: FakeDaemon, command: str) -> runs_pb2.RunSpec:
    """A run of a fixed snapshot that shows its one file, then does something to it."""
    spec = script(daemon, "original")
    spec.command.argv.extend([b"sh", b"-c", b"cat train.py; " + command.encode()])
    return spec


@pytest.mark.parametrize(
    "command",
    ["printf changed_ > train.py; touch -d 2001-01-01 train.py", "chmod 0 train.py", "rm train.py"],
)
@in_loop
async def test_run_never_sees_what_an_earlier_one_did_to_its_folder(command: str) -> None:
    async with node(slots=1) as (daemon, _agent):
        for _ in range(3):
            held = await daemon.lease(rewriting(daemon, command))
            await daemon.ended(held)
            assert held.stdout == b"original"


@in_loop
async def test_runs_in_one_folder_after_another_keep_their_logs_apart() -> None:
    async with node(slots=1) as (daemon, agent):
        inodes = set()
        for number in range(6):
            word = "x" * number
            held = await daemon.lease(rewriting(daemon, f"printf '{word}'; ls -id . >&2"))
            await daemon.ended(held)
            assert held.stdout == b"original" + word.encode()
            inodes.add(held.stderr.split()[0])
            await becomes(lambda h=held: not agent.bundle(h).exists())
        assert len(inodes) == 1


@in_loop
async def test_supervisor_killed_in_a_folder_that_was_used_before_ends_the_right_run() -> None:
    async with node(slots=1) as (daemon, agent):
        for _ in range(2):
            first = await daemon.lease(rewriting(daemon, "true"))
            await daemon.ended(first)
            await becomes(lambda h=first: not agent.bundle(h).exists())
        held = await daemon.lease(rewriting(daemon, "echo up; sleep 60"))
        await daemon.until(lambda: b"up" in held.stdout)
        state = json.loads((agent.bundle(held) / "state.json").read_bytes())

        os.kill(state["supervisor_pid"], signal.SIGKILL)
        report = await daemon.ended(held)

        assert report.end.reason == END.REASON_SUPERVISOR_LOST
        assert held.stdout == b"originalup\n"


@in_loop
async def test_agent_killed_over_and_over_in_a_burst_ends_each_run_once() -> None:
    async with node(slots=2) as (daemon, agent):
        runs: list[Held] = []
        for round_ in range(4):
            runs += await daemon.lease_ahead(*(noting(daemon, f"w{round_}.{n}") for n in range(12)))
            await _until_one_ends(daemon, runs[-12:])
            await agent.kill()
            await agent.start()
            await daemon.until(lambda n=round_: len(daemon.hellos) == n + 2)
            # What no Hello names was never begun: a daemon takes it back.
            named = {report.ref.epoch for report in daemon.hellos[-1].attempts}
            given_back = {ref.epoch for ref in daemon.returned}
            runs = [
                run
                for run in runs
                if _is_over(run)
                or (run.lease.ref.epoch in named and run.lease.ref.epoch not in given_back)
            ]
        given_back = {ref.epoch for ref in daemon.returned}
        await all_end(daemon, [r for r in runs if r.lease.ref.epoch not in given_back])

        words = (daemon.root / "notes").read_text().split()
        assert len(words) == len(set(words)), "a run was executed twice"
        done = [run.stdout.decode().strip() for run in runs if _is_over(run)]
        assert set(done) == set(words)
        assert all(run.end.reason == END.REASON_EXITED for run in runs if _is_over(run))


@in_loop
async def test_end_that_was_lost_with_its_session_is_told_again_with_its_log() -> None:
    async with house(slots=1) as (daemon, agent):
        daemon.forgets = False
        await agent.start()
        async with daemon.serving():
            [held] = await daemon.lease_ahead(rewriting(daemon, "echo err >&2"))
            first = await daemon.ended(held)
        # As a daemon that was killed before it committed the report; other bytes it had for good.
        if first.pieces:
            held.files.clear()
        held.report = None
        held.phases.clear()
        async with daemon.serving():
            await daemon.ended(held)

        assert (held.stdout, held.stderr) == (b"original", b"err\n")
        assert held.phases == ([pb.AttemptReport.PHASE_EXITED, ENDED] if first.pieces else [ENDED])
