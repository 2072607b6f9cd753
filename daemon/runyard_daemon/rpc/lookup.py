"""Runs by the name that a request gives."""

from __future__ import annotations

from runyard_contract.errors import NameInvalid
from runyard_contract.ids import check_experiment_name, check_workspace_name
from runyard_contract.paths import shown
from runyard_daemon.control import catalog
from runyard_daemon.control.live import Live
from runyard_daemon.store.runs import RunRecord

ANY = "-"
"""For the experiment: all of them."""


def split_run_name(name: str) -> tuple[str, str, str]:
    """Workspace, experiment (or `-`) and run of a full name. Raises NameInvalid for another form.

    What is in form no run's id is RunNotFound: to a caller it is a run that does not exist.
    """
    parts = name.split("/")
    if len(parts) != 6 or parts[0::2] != ["workspaces", "experiments", "runs"]:
        raise NameInvalid(
            f"{shown(name[:100])!r} is no run's name",
            hint="use workspaces/W/experiments/E/runs/R, with - for E where only the id is known",
            name=shown(name[:100]),
        )
    workspace, experiment, run_id = parts[1::2]
    check_workspace_name(workspace)
    if experiment != ANY:
        check_experiment_name(experiment)
    return workspace, experiment, run_id


def split_parent(parent: str) -> tuple[str, str]:
    """Workspace and experiment (`-`: all) of a listing's parent."""
    parts = parent.split("/")
    if len(parts) != 4 or parts[0::2] != ["workspaces", "experiments"]:
        raise NameInvalid(
            f"{shown(parent[:100])!r} is no experiment's name",
            hint="use workspaces/W/experiments/E, with - for all experiments",
            name=shown(parent[:100]),
        )
    check_workspace_name(parts[1])
    if parts[3] != ANY:
        check_experiment_name(parts[3])
    return parts[1], parts[3]


def find_run(live: Live, name: str) -> RunRecord:
    """The run of this name. Raises RunNotFound with the nearest, NameInvalid."""
    workspace, experiment, run_id = split_run_name(name)
    return live.store.peek(lambda conn: catalog.run(conn, workspace, experiment, run_id))
