"""Records as the daemon keeps them, and a submit as its control writes one."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from runyard_contract.states import RunState
from runyard_daemon.store import connection, experiments, migrations, requests, runs, workspaces
from runyard_daemon.store.runs import RunRecord, SpecRecord
from runyard_daemon.store.transitions import TransitionRecord

T = TypeVar("T")

NOW_US = 1_764_000_000_000_000
WORKSPACE = "default"


def fresh_database(path: Path) -> sqlite3.Connection:
    """A database with the newest schema and the workspace `default`, as the writer has it."""
    conn = connection.connect(path)
    connection.make_writer(conn)
    migrations.migrate(conn, path)
    workspaces.ensure(conn, WORKSPACE, NOW_US)
    return conn


def run_id(sequence: int, experiment: str = "iris") -> str:
    """The id of the run of this sequence."""
    return f"{experiment}_1764000000_{sequence:08x}"


def run_record(sequence: int, experiment: str = "iris", **fields: Any) -> RunRecord:
    """A waiting run, but for these fields."""
    values: dict[str, Any] = {
        "run_id": run_id(sequence, experiment),
        "workspace": WORKSPACE,
        "experiment": experiment,
        "number": 1,
        "sequence": sequence,
        "state": RunState.QUEUED,
        "compute": "local",
        "create_time_us": NOW_US + sequence,
    }
    return RunRecord(**(values | fields))


def add_run(
    conn: sqlite3.Connection,
    sequence: int,
    experiment: str = "iris",
    *,
    spec: bytes = b"spec",
    **fields: Any,
) -> RunRecord:
    """Adds a run and its experiment; a daemon serves it only with a specification that is one."""
    admitted = experiments.admit(conn, WORKSPACE, experiment, sequence, NOW_US + sequence)
    run = run_record(sequence, experiment, number=admitted.last_number, **fields)
    history = [TransitionRecord(run.state, run.create_time_us, "submitted", "user")]
    return runs.insert(conn, run, SpecRecord(spec), history)


def request_uuid(number: int) -> str:
    """A UUID that a number stands for."""
    return str(uuid.UUID(int=number))


def submit(request_id: str, body_hash: str, sequence: int) -> Callable[[sqlite3.Connection], str]:
    """A closure that submits once for each request id and gives the run's id."""

    def closure(conn: sqlite3.Connection) -> str:
        key = requests.request_key("user", "CreateRun", request_id)
        known = requests.find(conn, key, body_hash)
        if known is not None:
            return known.decode()
        run = add_run(conn, sequence)
        requests.keep(conn, key, body_hash, run.run_id.encode(), NOW_US)
        return run.run_id

    return closure
