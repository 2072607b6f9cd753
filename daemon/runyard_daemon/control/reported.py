"""What agents say, as values: checked in form at the edge, not yet judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

from runyard_contract.record import record
from runyard_daemon.control.orders import RunRef
from runyard_daemon.core.attempts import AttemptPhase, Report
from runyard_daemon.core.types import AttemptRef, Resources
from runyard_daemon.logs.layout import LogFile
from runyard_daemon.store.details import AttemptEndRecord, PhaseRecord, WorkdirRecord


@record
class ReportedPiece:
    """Some bytes of a growing file within a report."""

    file: LogFile
    offset_bytes: int
    data: bytes


@record
class AttemptReport:
    """What an agent knows of an attempt."""

    target: RunRef
    phase: AttemptPhase
    status_message: str = ""
    end: AttemptEndRecord | None = None
    """From EXITED on."""
    phases: tuple[PhaseRecord, ...] = ()
    start_time_us: int | None = None
    warnings: tuple[str, ...] = ()
    execution: Mapping[str, str] = field(default_factory=dict)
    """How it is executed, in a few words by name."""
    workdir: WorkdirRecord | None = None
    """From ENDED on."""
    lengths: Mapping[str, int] = field(default_factory=dict)
    """Final lengths in bytes of the files that grow, by name; from EXITED on."""
    pieces: tuple[ReportedPiece, ...] = ()
    """The last bytes of files that grow."""

    @property
    def ref(self) -> AttemptRef:
        """The fencing token."""
        return self.target.ref

    @property
    def summary(self) -> Report:
        """What the judgement needs of it."""
        return Report(self.ref, self.phase, was_started=self.start_time_us is not None)


@record
class EnvironmentBuild:
    """An environment as it is built on a node. `hits` are runs that got it without building it.

    `key` names it there: there may be several of one lock.
    """

    lock_hash: str
    key: str
    size_bytes: int
    create_time_us: int
    last_use_time_us: int
    hits: int


@record
class Hello:
    """Who an agent is and what it holds."""

    node_id: str
    hostname: str
    agent_version: str
    boot_id: str
    machine_id: str
    compute: str
    slots: int
    capacity: Resources
    platform: str
    job_account: str
    gpu_names: tuple[str, ...]
    attempts: tuple[AttemptReport, ...]
    pid: int
    max_ahead: int = 0
    """Leases that it takes beyond what it has room for."""
