"""Submit to first line over the SDK, interleaved with the same script by hand; hop by hop.

Prints the table rows of docs/benchmarks.md, then where the time of one run goes, with the floor of
each hop beside it. All stamps are of the one wall clock of this machine.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from floors import Floors, measure
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


@dataclass(frozen=True, slots=True)
class ByHand:
    """What `python script.py` takes, in milliseconds from its start."""

    statement: float
    """To the script's first statement."""
    line: float
    """To its first line, read from a pipe."""
    exit: float
    """From that to its end."""


def by_hand(folder: Path) -> ByHand:
    """Starts the script and reads its line."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    begin = time.time_ns()
    with subprocess.Popen(
        [sys.executable, "train.py"], cwd=folder, stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        statement = int(process.stdout.readline())
        line = time.time_ns()
        process.wait()
        end = time.time_ns()
    return ByHand((statement - begin) / 1e6, (line - begin) / 1e6, (end - line) / 1e6)


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


def floors_of(floors: Floors, bare: list[ByHand]) -> dict[str, tuple[float, str]]:
    """The floor of each hop, and what it is made of."""
    way, told, wake = floors.call_way, floors.message_way, floors.wake
    statement = statistics.median(one.statement for one in bare)
    ended = statistics.median(one.exit for one in bare)
    return {
        "run made": (way, "a call's way there"),
        "acknowledged": (floors.commit + way, "a durable commit, a call's way back"),
        "agent lays out the snapshot": (floors.commit + told, "a durable commit, a message"),
        "spawned": (wake, "a wake-up of the slot"),
        "first statement": (statement, "the interpreter, by hand"),
        "first line at client": (2 * wake + 2 * told, "two wake-ups, two messages"),
        "exit seen": (ended, "the interpreter's end, by hand"),
        "final state durable": (wake + told + floors.commit, "a wake-up, a message, a commit"),
        "final state at client": (told, "a message"),
    }


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

        bare: list[ByHand] = []
        runs = []
        for _ in range(ROUNDS):
            bare.append(by_hand(folder))
            time.sleep(PAUSE_S)
            runs.append(as_run(experiment, folder))
            time.sleep(PAUSE_S)
        first_line = [hops["first line at client"] for hops in runs]
        lines = [one.line for one in bare]
        more_p50 = statistics.median(first_line) - statistics.median(lines)
        more_p95 = percentile(first_line, 0.95) - percentile(lines, 0.95)
        row(
            "submit to first line, warm, SDK",
            spread(first_line, "ms"),
            f"`python script.py` by hand: {spread(lines, 'ms')}; "
            + beside(
                HyperQueue_true=(peer("hyperqueue", "latency_ms"), "ms"),
                Dask_true=(peer("dask", "latency_ms"), "ms"),
                srun_true=(peer("slurm", "latency_ms"), "ms"),
                Ray_SDK_true=(peer("ray", "latency_ms"), "ms"),
            ),
            statistics.median(first_line) / statistics.median(lines),
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

        floors = floors_of(measure(root), bare)
    show_hops(runs, floors)


def show_hops(runs: list[dict[str, float]], floors: dict[str, tuple[float, str]]) -> None:
    """Prints where the time of one run goes."""
    print(
        "\nWhere the time of one run goes (median, milliseconds from submit):\n\n"
        "| reached | at | hop | floor | of what |\n| --- | --- | --- | --- | --- |"
    )
    before = 0.0
    for hop in sorted(runs[0], key=lambda name: statistics.median(h[name] for h in runs)):
        at = statistics.median(hops[hop] for hops in runs)
        floor, what = floors.get(hop, (None, ""))
        shown = "" if floor is None else f"{floor:.2f}"
        print(f"| {hop} | {at:.2f} | {at - before:+.2f} | {shown} | {what} |")
        before = at


if __name__ == "__main__":
    main()
