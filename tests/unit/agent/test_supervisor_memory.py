from __future__ import annotations

import mmap
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runyard_agent.supervisor import sweep
from runyard_agent.supervisor.memory import host_kills, sum_of, used_bytes


@pytest.mark.parametrize(
    ("text", "kills"),
    [
        ("pgfault 7\noom_kill 3\nnuma_pte_updates 0\n", 3),
        ("pgfault 7\n", None),
        ("pgfault 7\noom_kill many\n", None),
        ("", None),
    ],
)
def test_host_kills_are_read_or_not_known(tmp_path: Path, text: str, kills: int | None) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text(text)

    assert host_kills(str(vmstat)) == kills


def test_host_kills_are_not_known_without_the_file(tmp_path: Path) -> None:
    assert host_kills(str(tmp_path / "vmstat")) is None


def test_memory_of_processes_is_summed_up_and_measured() -> None:
    held = mmap.mmap(-1, 32 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    before = used_bytes([os.getpid()])
    for at in range(0, len(held), mmap.PAGESIZE):
        held[at] = 1

    own, twice = sum_of([os.getpid()]), sum_of([os.getpid(), os.getpid()])

    assert used_bytes([os.getpid()]) - before >= 31 << 20
    assert own.pids == {os.getpid()}
    assert own.resident_bytes >= own.anonymous_bytes >= 30 << 20
    assert twice.resident_bytes >= 2 * own.resident_bytes - (4 << 20)


def test_process_that_is_gone_has_no_memory() -> None:
    child = subprocess.Popen(["true"])
    child.wait()

    found = sum_of([child.pid])

    assert (found.pids, found.resident_bytes, used_bytes([child.pid])) == (frozenset(), 0, 0)


def test_processes_below_are_found_whichever_thread_has_started_them() -> None:
    script = "sleep 600 & echo $!; wait"
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(
            subprocess.Popen, ["sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True
        )
        shell = started.result()
        assert shell.stdout is not None
        below = int(shell.stdout.readline())

        found = sweep.pids_below(os.getpid())

        os.killpg(shell.pid, signal.SIGKILL)
        shell.communicate()
    assert {shell.pid, below} <= set(found)
