"""Ray Jobs: a head node on loopback; jobs through its command and its SDK."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

sys.path.append(os.path.dirname(__file__))
from probe import descendants, end_all, pss_mib, report, scratch

DASHBOARD = "http://127.0.0.1:28265"
RAY = str(Path(sys.executable).with_name("ray"))


def head_pids(mark: bytes) -> set[int]:
    """Processes of the head that was started with this folder, and what they started."""
    found: set[int] = set()
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and mark in Path(f"/proc/{entry}/cmdline").read_bytes():
                found.update(descendants(int(entry)))
        except OSError:
            continue
    return found


def main() -> None:
    # The folder of this file would shadow the package that it measures.
    sys.path[:] = [entry for entry in sys.path if entry != os.path.dirname(__file__)]
    quiet = {"stdout": sys.stderr, "stderr": sys.stderr, "check": True}
    with scratch() as folder:
        begin = time.perf_counter()
        subprocess.run(
            [
                RAY,
                "start",
                "--head",
                "--node-ip-address=127.0.0.1",
                "--port=26379",
                "--dashboard-host=127.0.0.1",
                "--dashboard-port=28265",
                "--num-cpus=2",
                "--object-store-memory=200000000",
                f"--temp-dir={folder}",
                "--disable-usage-stats",
            ],
            **quiet,
        )
        figures = {"start_s": time.perf_counter() - begin}
        try:
            commands = []
            for _ in range(2):
                begin = time.perf_counter()
                submit = [RAY, "job", "submit", f"--address={DASHBOARD}", "--"]
                subprocess.run([*submit, os.environ["BENCH_PYTHON"], "-c", "pass"], **quiet)
                commands.append(time.perf_counter() - begin)
            figures["command_ms"] = min(commands) * 1e3
            figures["idle_mib"] = pss_mib(head_pids(str(folder).encode()))
            figures["latency_ms"] = by_sdk()
        finally:
            # Not `ray stop`, which ends every Ray of this machine.
            end_all(head_pids(str(folder).encode()))
    report(figures)


def by_sdk() -> float:
    """Milliseconds from submit to SUCCEEDED, the best of three."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    client = JobSubmissionClient(DASHBOARD)
    took = []
    for _ in range(3):
        begin = time.perf_counter()
        job = client.submit_job(entrypoint="true")
        while client.get_job_status(job) not in {JobStatus.SUCCEEDED, JobStatus.FAILED}:
            time.sleep(0.01)
        took.append(time.perf_counter() - begin)
    return min(took) * 1e3


if __name__ == "__main__":
    main()
