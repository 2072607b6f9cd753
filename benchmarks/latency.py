"""Submit to first line over the SDK, interleaved with the same script by hand; hop by hop.

Prints the table rows of docs/benchmarks.md, then where the time of one run goes. All stamps are
of the one wall clock of this machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from machine import beside, peer, percentile, row, spread, temporary_home
from peers.probe import until_marker

if TYPE_CHECKING:
    from runyard import Experiment

ROUNDS = 40
PAUSE_S = 0.03
FIRST_LINE_BUDGET_MS = (5.0, 10.0)
"""Over by hand, at the median and at the 95th percentile."""
STARTS_OF = {
    "waiting": "run made",
    "snapshot": "agent lays out the snapshot",
    "environment": "agent looks at the environment",
    "start": "agent asks for the start",
    "script": "spawned",
    "first_output": "first output waited for",
    "outputs": "exit seen",
}
SCRIPT = "import time; s = time.time_ns()\nprint(s)\n"


def by_hand(folder: Path) -> float:
    """Milliseconds until the first line of `python script.py` is read from its pipe."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    begin = time.time_ns()
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=folder, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return (time.time_ns() - begin) / 1e6


def as_run(experiment: Experiment, folder: Path) -> dict[str, float]:
    """Milliseconds from submit to each hop of a run."""
    from runyard import ScriptRunConfig
    from runyard.follow import LogBytes

    config = ScriptRunConfig(source_directory=str(folder), script="train.py")
    begin = time.time_ns()
    run = experiment.submit(config)
    stamps = {"acknowledged": time.time_ns()}
    text = b""
    for event in run.follow():
        if isinstance(event, LogBytes) and event.data:
            stamps.setdefault("first line at client", time.time_ns())
            text += event.data
    stamps["final state at client"] = time.time_ns()
    stamps["first statement"] = int(text)
    record = run.refresh()
    for phase in record.phases:
        began = int(phase.start_time.timestamp() * 1e6) * 1000
        stamps[STARTS_OF[phase.phase]] = began
    assert record.end_time is not None
    stamps["final state durable"] = int(record.end_time.timestamp() * 1e6) * 1000
    return {hop: (stamp - begin) / 1e6 for hop, stamp in stamps.items()}


def submit_touch(experiment: Experiment, folder: Path, marker: str) -> None:
    """Submits a run that makes a file."""
    from runyard import ScriptRunConfig

    config = ScriptRunConfig(source_directory=str(folder), command=["touch", marker])
    experiment.submit(config)


def main() -> None:
    with temporary_home() as root:
        from runyard import Experiment, Workspace

        # One client, as the peers have: its connection is a part of being warm.
        experiment = Experiment(Workspace(), "latency")
        folder = root / "project"
        folder.mkdir()
        (folder / "train.py").write_text(SCRIPT)
        for _ in range(3):
            by_hand(folder)
            as_run(experiment, folder)

        bare, runs = [], []
        for _ in range(ROUNDS):
            bare.append(by_hand(folder))
            time.sleep(PAUSE_S)
            runs.append(as_run(experiment, folder))
            time.sleep(PAUSE_S)
        first_line = [hops["first line at client"] for hops in runs]
        more_p50 = statistics.median(first_line) - statistics.median(bare)
        more_p95 = percentile(first_line, 0.95) - percentile(bare, 0.95)
        row(
            "submit to first line, warm, SDK",
            spread(first_line, "ms"),
            f"`python script.py` by hand: {spread(bare, 'ms')}; "
            + beside(
                HyperQueue_true=(peer("hyperqueue", "latency_ms"), "ms"),
                Dask_true=(peer("dask", "latency_ms"), "ms"),
                srun_true=(peer("slurm", "latency_ms"), "ms"),
                Ray_SDK_true=(peer("ray", "latency_ms"), "ms"),
            ),
            statistics.median(first_line) / statistics.median(bare),
            f"p50 within 5 ms, p95 within 10 ms of by hand: {more_p50:+.1f}, {more_p95:+.1f} ms",
            more_p50 < FIRST_LINE_BUDGET_MS[0] and more_p95 < FIRST_LINE_BUDGET_MS[1],
        )

        # As the peers are measured: until the program has run, seen from outside.
        touched = [
            until_marker(root, lambda marker: submit_touch(experiment, folder, marker))
            for _ in range(ROUNDS)
        ]
        others = [peer(name, "latency_ms") for name in ("hyperqueue", "dask", "slurm")]
        row(
            "submit of `touch FILE` until the file is there, SDK",
            spread(touched, "ms"),
            beside(HyperQueue=(others[0], "ms"), Dask=(others[1], "ms"), srun=(others[2], "ms")),
            statistics.median(touched) / others[0] if others[0] else None,
            "",
        )

    print(
        "\nWhere the time of one run goes (median, from submit):\n\n"
        "| reached | ms | hop |\n| --- | --- | --- |"
    )
    before = 0.0
    for hop in sorted(runs[0], key=lambda name: statistics.median(h[name] for h in runs)):
        at = statistics.median(hops[hop] for hops in runs)
        print(f"| {hop} | {at:.2f} | {at - before:+.2f} |")
        before = at


if __name__ == "__main__":
    main()
