"""The workspace that commands work in, and runs by what people call them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from runyard.address import resolve
from runyard.cli.failure import UsageInvalid
from runyard.workspace import DEFAULT_WORKSPACE, Workspace
from runyard_contract.errors import NameInvalid, RunNotFound, RunyardError
from runyard_contract.ids import ExperimentName, RunName, check_run_id
from runyard_contract.nearest import nearest

if TYPE_CHECKING:
    from runyard.channel import Connection
    from runyard.run import Run

LAST = "last"
_MOST_COMPARED = 10_000  # runs, newest first, among which a beginning is looked for
_MOST_NAMED = 5
_MOST_COMPLETED = 50


_kept_until_exit: list[Workspace] = []
"""Channels of this process. One that is freed while Ctrl-C unwinds the command, with a call of
another thread on it, can wait for that thread for ever; `entry` ends the process without that."""


def open_workspace() -> Workspace:
    """The workspace that commands work in. Nothing is sent yet."""
    workspace = Workspace(DEFAULT_WORKSPACE)
    _kept_until_exit.append(workspace)
    return workspace


def check_experiment(workspace: Workspace, experiment: str) -> None:
    """Raises ExperimentNotFound, with the nearest name, where nothing was ever submitted to it."""
    from runyardpb.v1 import experiments_pb2, experiments_pb2_grpc

    name = ExperimentName(workspace.name, experiment)
    workspace.connection.unary(
        experiments_pb2_grpc.ExperimentServiceStub,
        lambda stub: stub.GetExperiment,
        experiments_pb2.GetExperimentRequest(name=str(name)),
    )


def find_run(workspace: Workspace, reference: str) -> Run:
    """The run of an id, of a beginning that only one id has, or the newest one for "last".

    Raises RunNotFound with the nearest id, UsageInvalid for a beginning that several ids have.
    """
    from runyard.run import Run
    from runyard.run_listing import list_runs

    if reference == LAST:
        for record in list_runs(workspace.connection, workspace.name, limit=1):
            return Run.get(workspace, record.run_id)
        raise RunNotFound("there is no run yet", hint="submit one with `runyard run SCRIPT`")
    try:
        return Run.get(workspace, check_run_id(reference))
    except NameInvalid:
        return Run.get(workspace, _by_beginning(workspace, reference))


def _by_beginning(workspace: Workspace, beginning: str) -> str:
    """The only run id that begins so, or whose last part does."""
    from runyard.run_listing import list_runs

    listed = list_runs(workspace.connection, workspace.name, limit=_MOST_COMPARED)
    known = [record.name for record in listed]
    found = [
        name.run
        for name in known
        if name.run.startswith(beginning) or _random_part(name).startswith(beginning)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        more = ", …" if len(found) > _MOST_NAMED else ""
        raise UsageInvalid(
            f"{len(found)} runs begin with {beginning}: {', '.join(found[:_MOST_NAMED])}{more}",
            hint="give more of the id",
            run=beginning,
        )
    raise RunNotFound.named(beginning, nearest(beginning, (name.run for name in known)))


def _random_part(name: RunName) -> str:
    """What tells runs of one experiment and second apart."""
    return name.run.rpartition("_")[2]


def connect(*, can_start: bool, any_version: bool = False) -> Connection:
    """A connection that starts no daemon unless it may.

    With `any_version` also to a daemon of another version, which then serves AdminService only.
    """
    from runyard.channel import Connection
    from runyard.embedded import EmbeddedAddress
    from runyard.home import home

    address = resolve(None, os.environ)
    if isinstance(address, EmbeddedAddress):
        address = EmbeddedAddress(home(), can_start=can_start, any_version=any_version)
    return Connection(address)


def complete_run(incomplete: str) -> list[str]:
    """Ids of the newest runs that begin so, for the shell. Starts no daemon."""
    from runyard.run_listing import list_runs

    try:
        with connect(can_start=False) as connection:
            records = list_runs(connection, DEFAULT_WORKSPACE, limit=_MOST_COMPLETED)
            names = [LAST, *(record.run_id for record in records)]
    except RunyardError:
        return []
    return [name for name in names if name.startswith(incomplete)]
