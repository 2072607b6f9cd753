"""What a run was executed in, as files among its others: made of its record when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from runyard_daemon.store import Connection, environments, runs
from runyard_daemon.store.runs import RunRecord, SpecRecord

SPECIFICATION_PATH = "environment/conda_specification.yml"
LOCK_PATH = "environment/lock.txt"
ENVIRONMENT_PATHS = frozenset({SPECIFICATION_PATH, LOCK_PATH})
LOCK_PROPERTY = "runyard.lock"
"""Names the lock of a run's environment, by its hash."""

Describe = Callable[[SpecRecord, str], str]
"""From a run's specification and the platform of its lock ("": it has none yet) to the conda YAML
of its packages; empty where none are installed for it."""


def environment_files(conn: Connection, run: RunRecord, describe: Describe) -> Mapping[str, bytes]:
    """The files by path; empty for a run in an environment that is its user's own."""
    spec = runs.get_spec(conn, run.run_id)
    lock_hash = run.properties.get(LOCK_PROPERTY, "")
    lock = environments.lock_of_hash(conn, lock_hash) if lock_hash else None
    specification = describe(spec, lock.platform if lock is not None else "")
    found = {}
    if specification:
        found[SPECIFICATION_PATH] = specification.encode("utf-8", "surrogateescape")
    if lock is not None:
        found[LOCK_PATH] = lock.text.encode("utf-8", "surrogateescape")
    return found
