"""What the daemon says of a run, as plain values. Times are UTC, durations seconds."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from runyard_contract.ids import RunName
from runyard_contract.states import EndClass, RunState
from runyard_contract.value import value_class


@value_class
class RunEnd:
    """How a run ended.

    exit_code: the program's own, when it ended by itself; signal: the number, if one ended it.
    message, advice: what happened and what to try. outcome: what a command that waited for the run
    exits with. last_lines: the end of stderr, for a program that failed.
    """

    end_class: EndClass
    message: str
    advice: str
    outcome: int
    exit_code: int | None
    signal: int | None
    metadata: Mapping[str, str]
    last_lines: bytes


@value_class
class Phase:
    """A stretch of a run's time: waiting, snapshot, environment, start, first_output, …"""

    phase: str
    start_time: datetime | None
    duration_s: float


@value_class
class Transition:
    """A change of state: when, why and by whom ("user", "daemon", "agent")."""

    state: RunState
    time: datetime | None
    cause: str
    actor: str


@value_class
class RunFile:
    """A file of a run. `digest` (hexadecimal) is None for logs, which grow.

    With `is_chunked` the digest is of the file's chunk list, not of its bytes.
    """

    path: str
    size_bytes: int
    update_time: datetime | None = None
    digest: str | None = None
    is_chunked: bool = False
    is_executable: bool = False


@value_class
class Workdir:
    """What the script wrote outside outputs/ and logs/: the first files, how many, until when."""

    files: tuple[RunFile, ...]
    file_count: int
    expire_time: datetime | None


@value_class
class Usage:
    """What a run used, over all its attempts that have ended.

    cpu_time_s: user and system time of all its processes. peak_memory_bytes: the largest resident
    set that any one process had; of a container the most it had as a whole, files that it read
    among it. Both are 0 where they are not known. wall_time_s: how long the program ran.
    log_bytes: its logs. output_bytes: its files; None in listings. workdir_bytes: what it left in
    its working folder.
    """

    cpu_time_s: float
    peak_memory_bytes: int
    wall_time_s: float
    log_bytes: int
    output_bytes: int | None
    workdir_bytes: int


@value_class
class RunRecord:
    """A run as the daemon has it. `definition` is the run configuration as it was submitted."""

    name: RunName
    state: RunState
    attempt: int
    number: int
    display_name: str
    compute_target: str
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    end: RunEnd | None
    phases: tuple[Phase, ...]
    transitions: tuple[Transition, ...]
    tags: Mapping[str, str]
    properties: Mapping[str, str]
    node: str
    status_message: str
    warnings: tuple[str, ...]
    workdir: Workdir | None
    snapshot: str
    definition: Mapping[str, Any]
    etag: str
    usage: Usage | None = None
    """What it used; None before its first attempt has ended."""

    # Most who wait for many runs look at none of these.
    _later = ("end", "phases", "transitions", "definition", "usage")

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.name.run

    @property
    def is_final(self) -> bool:
        """Whether the run has ended for good."""
        return self.state.is_final


@value_class
class StartChange:
    """A change that would let a waiting run start, at once or once others have ended.

    cpus, memory_bytes, gpus: what to ask for instead, None for no change there. cancel: runs of
    which any one would have to go.
    """

    text: str
    is_at_once: bool
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: int | None = None
    priority: int | None = None
    cancel: tuple[str, ...] = ()


@value_class
class Estimate:
    """When a run may start or end, from how long earlier ones took; None: not known.

    durations_s: short, middle and long ones of `sample_count` earlier runs.
    """

    text: str
    sample_count: int = 0
    durations_s: tuple[float, float, float] | None = None
    earliest_start_time: datetime | None = None
    latest_start_time: datetime | None = None
    earliest_end_time: datetime | None = None
    latest_end_time: datetime | None = None


@value_class
class Explanation:
    """Why a run waits, what it does, or why it ended.

    `verdicts` are (node, reasons why it can't take the run); `queue_position` counts from 1, 0 when
    the run does not wait; `ahead` the first runs before it; `changes` what would let it start;
    `estimate` what earlier runs let expect (None: it has ended).
    """

    summary: str
    verdicts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    queue_position: int = 0
    ahead: tuple[str, ...] = ()
    details: tuple[str, ...] = ()
    changes: tuple[StartChange, ...] = ()
    estimate: Estimate | None = None

    def __str__(self) -> str:
        lines = [self.summary, *self.details]
        lines += [f"{node}: {'; '.join(reasons) or 'fits'}" for node, reasons in self.verdicts]
        return "\n".join(lines)
