"""What runs of `support.witness_job` must have left behind, whatever was killed around them."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from runyard import Run
from runyard.follow import MERGED, STDERR, STDOUT, LogBytes, read_log
from runyard_contract.states import EndClass, RunState
from support import witness_job
from support.house import command_line, processes_naming
from support.witness_job import LEDGER
from support.witness_start import EXECUTIONS


class Violation(AssertionError):
    """A promise was not kept."""


def demand(is_kept: object, what: str) -> None:
    """Raises Violation where a promise is not kept; an `assert` that no option switches off."""
    if not is_kept:
        raise Violation(what)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a job does. Times in seconds.

    It prints `lines` lines of eight bytes, `block` of them a write, `pause_s` between two writes,
    logs a metric at every `metric_every`-th write, leaves `children` detached processes, writes
    `output_bytes`, and ends with `code` or by `signal`.
    habits: "ignores_term", "closes_streams" (and lingers), "flood" (prints no newline).
    cancel_after_s: it is cancelled then; max_duration_s: its time limit.
    """

    seed: int
    lines: int
    block: int = 1
    pause_s: float = 0.0
    metric_every: int = 0
    children: int = 0
    output_bytes: int = 0
    code: int = 0
    signal: int = 0
    habits: tuple[str, ...] = ()
    linger_s: float = 0.0
    cancel_after_s: float | None = None
    max_duration_s: float | None = None

    def pieces(self, stream: str) -> Iterator[bytes]:
        """All that it prints to a stream."""
        of_stream = witness_job.pieces if stream == STDOUT else witness_job.stderr_pieces
        return of_stream(self.lines, self.block, is_flood="flood" in self.habits)

    def metric_count(self) -> int:
        """How many metric points it logs."""
        if not self.metric_every:
            return 0
        writes = -(-self.lines // self.block)
        return -(-writes // self.metric_every)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def mixed_plan(rng: random.Random) -> Plan:
    """Short and long jobs, with metrics, outputs and children, cancelled and timed out."""
    seed = rng.randrange(1 << 30)
    kind = rng.choices(("short", "long", "signal", "cancel", "timeout"), (4, 5, 1, 2, 2))[0]
    code = rng.choice((0, 0, 1, 3, 9, 77, 255))
    if kind == "short":
        return Plan(seed, lines=rng.randrange(0, 50), code=code)
    if kind == "long":
        return Plan(
            seed,
            lines=rng.randrange(200, 2000),
            pause_s=0.002,
            metric_every=rng.choice((0, 7)),
            children=rng.choice((0, 0, 2)),
            output_bytes=rng.choice((0, 1, 70_000)),
            code=code,
        )
    if kind == "signal":
        return Plan(seed, lines=100, pause_s=0.003, signal=rng.choice((6, 9, 15)), children=1)
    habits = rng.choice(((), ("ignores_term",)))
    endless = Plan(seed, 1 << 20, pause_s=0.003, metric_every=5, children=1, habits=habits)
    if kind == "cancel":
        return replace(endless, cancel_after_s=rng.uniform(0.0, 2.0))
    return replace(endless, max_duration_s=rng.uniform(0.3, 1.5))


@dataclass(slots=True)
class Flight:
    """A run under way. `may_be_lost`: the supervisor of its slot may have been killed."""

    run: Run
    plan: Plan
    submitted_s: float
    is_cancelled: bool = False
    may_be_lost: bool = False
    may_lose_pipe: bool = False
    """Both of its supervisors were killed: what was in the pipe at its own end may be gone."""


class Witness:
    """The folder that jobs write to, and what it says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.checked = 0
        self.bytes_checked = 0
        self.lost = 0

    def executions(self) -> collections.Counter[tuple[str, int]]:
        """How often each attempt was executed."""
        path = self.folder / EXECUTIONS
        lines = path.read_text().splitlines() if path.exists() else []
        return collections.Counter(
            (run, int(attempt)) for run, attempt, _ in (line.split() for line in lines)
        )

    def check_executions(self) -> None:
        """No attempt was executed twice."""
        twice = [key for key, count in self.executions().items() if count > 1]
        demand(not twice, f"executed more than once: {twice}")

    def check(self, flight: Flight) -> None:
        """All promises for a run in its final state."""
        record = flight.run.refresh()
        name = record.run_id
        demand(record.is_final, f"{name} is {record.state}")
        demand(record.attempt <= 1, f"{name} had {record.attempt} attempts")
        left = processes_naming(f"RUNYARD_RUN_ID={name}")
        demand(not left, f"{name} has left {[command_line(pid) for pid in left]}")
        demand(record.end is not None, f"{name} has no end")
        assert record.end is not None
        is_lost = record.end.end_class is EndClass.SUPERVISOR_LOST
        if is_lost:
            demand(flight.may_be_lost, f"{name}: supervisor lost, but none was killed")
            self.lost += 1
        is_whole = not is_lost and self._check_end(flight)
        self._check_logs(flight, is_whole=is_whole, is_lost=is_lost)
        if is_whole:
            self._check_files(flight)
        self.checked += 1

    def _check_end(self, flight: Flight) -> bool:
        """The end is the true one; gives whether the job came to its own end."""
        record, plan = flight.run.record, flight.plan
        end = record.end
        assert end is not None
        told = f"{record.run_id}: {record.state} {end.end_class} {end.message!r}"
        if flight.is_cancelled and record.state is RunState.CANCELED:
            return False
        if plan.max_duration_s is not None:
            demand(end.end_class is EndClass.TIMEOUT, f"{told}, not a timeout")
            return False
        demand(plan.cancel_after_s is None, f"{told}, not cancelled")
        if plan.signal:
            demand(end.signal == plan.signal, f"{told}, signal {end.signal} of {plan.signal}")
        else:
            demand(end.exit_code == plan.code, f"{told}, code {end.exit_code} of {plan.code}")
        wanted = RunState.FAILED if plan.signal or plan.code else RunState.COMPLETED
        demand(record.state is wanted, f"{told}, not {wanted}")
        return True

    def _check_logs(self, flight: Flight, *, is_whole: bool, is_lost: bool) -> None:
        """Stored is what the job wrote: all of it, or, where it was ended, up to its last write."""
        run, plan = flight.run, flight.plan
        lengths = []
        for stream, written in zip((STDOUT, STDERR), self._written(run.id), strict=True):
            stored = _compare(run, stream, plan)
            lengths.append(stored)
            told = f"{run.id}: {stored} bytes of {stream} stored, {written} written"
            if is_whole:
                demand(stored == sum(map(len, plan.pieces(stream))), f"{told}, not whole")
            elif not (is_lost and flight.may_lose_pipe):
                demand(stored >= written, told)
            self.bytes_checked += stored
        merged = sum(len(p.data) for p in _read(run, MERGED))
        demand(merged == sum(lengths), f"{run.id}: merged log has {merged} of {sum(lengths)} bytes")

    def _written(self, run_id: str) -> tuple[int, int]:
        """What the job is known to have written, bytes of stdout and stderr."""
        try:
            data = (self.folder / f"{run_id}.1").read_bytes()
        except FileNotFoundError:
            return 0, 0
        out, err = LEDGER.unpack(data) if data else (0, 0)
        return out, err

    def _check_files(self, flight: Flight) -> None:
        """Metrics and outputs of a job that came to its own end."""
        run, plan = flight.run, flight.plan
        points = run.get_metrics().get("step", []) if plan.metric_every else []
        count = len(points) if isinstance(points, list) else 1
        demand(count == plan.metric_count(), f"{run.id}: {count} of {plan.metric_count()} points")
        if plan.output_bytes:
            path = self.folder / f"{run.id}.result"
            run.download_file("outputs/result.bin", path)
            content = path.read_bytes()
            path.unlink()
            wanted = witness_job.output_bytes(plan.seed, plan.output_bytes)
            demand(content == wanted, f"{run.id}: outputs/result.bin differs")


def _read(run: Run, stream: str) -> Iterable[LogBytes]:
    return read_log(run.experiment.workspace.connection, run.record.name, stream)


def _compare(run: Run, stream: str, plan: Plan) -> int:
    """The length of a stored stream, which is a beginning of what the plan prints."""
    stored, wanted = hashlib.sha256(), hashlib.sha256()
    length = 0
    source = plan.pieces(stream)
    rest = b""
    for piece in _read(run, stream):
        data = piece.data
        stored.update(data)
        length += len(data)
        while len(rest) < len(data):
            more = b"".join(itertools.islice(source, 1024))
            demand(more, f"{run.id}: more in {stream} than the job prints")
            rest += more
        wanted.update(rest[: len(data)])
        rest = rest[len(data) :]
    demand(stored.digest() == wanted.digest(), f"{run.id}: {stream} differs in {length} bytes")
    return length
