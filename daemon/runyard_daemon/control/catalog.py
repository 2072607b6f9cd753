"""Looks things up by name; what is not there is an error that suggests the nearest."""

from __future__ import annotations

from runyard_contract.errors import (
    ComputeNotFound,
    EnvironmentNotFound,
    ExperimentNotFound,
    RunNotFound,
    SnapshotNotFound,
    WorkspaceNotFound,
)
from runyard_contract.nearest import nearest
from runyard_daemon.store import (
    Connection,
    computes,
    environments,
    experiments,
    listing,
    runs,
    snapshots,
    workspaces,
)
from runyard_daemon.store.computes import ComputeRecord
from runyard_daemon.store.environments import EnvironmentRecord
from runyard_daemon.store.experiments import ExperimentRecord
from runyard_daemon.store.runs import RunRecord
from runyard_daemon.store.snapshots import SnapshotRecord
from runyard_daemon.store.workspaces import WorkspaceRecord


def workspace(conn: Connection, name: str) -> WorkspaceRecord:
    """Gives a workspace. Raises WorkspaceNotFound."""
    found = workspaces.get(conn, name)
    if found is None:
        raise WorkspaceNotFound.named(name, nearest(name, workspaces.names(conn)))
    return found


def experiment(conn: Connection, workspace_name: str, name: str) -> ExperimentRecord:
    """Gives an experiment, in whatever case it is asked for. Raises ExperimentNotFound."""
    found = experiments.get(conn, workspace_name, name)
    if found is None:
        raise ExperimentNotFound.named(name, nearest(name, experiments.names(conn, workspace_name)))
    return found


def compute(conn: Connection, workspace_name: str, name: str) -> ComputeRecord:
    """Gives a target, in whatever case it is asked for. Raises ComputeNotFound."""
    found = computes.get(conn, workspace_name, name)
    if found is None:
        raise ComputeNotFound.named(name, nearest(name, computes.names(conn, workspace_name)))
    return found


def environment(
    conn: Connection, workspace_name: str, name: str, version: int | None
) -> EnvironmentRecord:
    """Gives a version of an environment, without a number the newest. Raises
    EnvironmentNotFound."""
    found = environments.get(conn, workspace_name, name, version)
    if found is None:
        if version is not None and environments.get(conn, workspace_name, name) is not None:
            raise EnvironmentNotFound.named(f"{name}, version {version}")
        known = environments.names(conn, workspace_name)
        raise EnvironmentNotFound.named(name, nearest(name, known))
    return found


def snapshot(conn: Connection, workspace_name: str, digest: str) -> SnapshotRecord:
    """Gives a declared snapshot. Raises SnapshotNotFound."""
    found = snapshots.get(conn, workspace_name, digest)
    if found is None:
        raise SnapshotNotFound.named(digest)
    return found


def run(conn: Connection, workspace_name: str, experiment_name: str, run_id: str) -> RunRecord:
    """Gives a run; `-` for the experiment finds it by its id. Raises RunNotFound."""
    found = runs.get(conn, run_id)
    is_there = (
        found is not None
        and _same(found.workspace, workspace_name)
        and (experiment_name == "-" or _same(found.experiment, experiment_name))
    )
    if found is None or not is_there:
        raise RunNotFound.named(run_id, _nearest_run(conn, workspace_name, run_id))
    return found


def _same(known: str, asked: str) -> bool:
    return known.casefold() == asked.casefold()


def _nearest_run(conn: Connection, workspace_name: str, run_id: str) -> str | None:
    return nearest(run_id, listing.recent_ids(conn, workspace_name))
