"""The daemon as a command sees it: the connection, and runs by what people call them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from runyard_contract.errors import NameInvalid, RunNotFound
from runyard_contract.ids import ExperimentName, RunName, check_run_id, experiment_of
from runyard_contract.limits import PAGE_SIZE_MAX
from runyard_contract.nearest import nearest

from runyard.cli.failure import UsageInvalid
from runyard.workspace import DEFAULT_WORKSPACE, Workspace

if TYPE_CHECKING:
    from runyard_contract.states import RunState

    from runyard.channel import Connection
    from runyard.records import RunRecord

LAST = "last"
_ANY = "-"
_MOST_COMPARED = 10_000  # runs, newest first, among which a prefix is looked for
_MOST_NAMED = 5


def open_workspace() -> Workspace:
    """The workspace that commands work in. Nothing is sent yet."""
    return Workspace(DEFAULT_WORKSPACE)


def list_runs(
    connection: Connection,
    experiment: str | None,
    *,
    states: Sequence[RunState] = (),
    tags: Mapping[str, str] | None = None,
    limit: int,
) -> Iterator[RunRecord]:
    """Runs, newest first, at most `limit`; of one experiment, or of all.

    Raises ExperimentNotFound with the nearest name.
    """
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    from runyard._convert import run_record, state_number

    if experiment is not None:
        _check_experiment(connection, experiment)
    numbers = [number for state in states if (number := state_number(state)) is not None]
    request = runs_pb2.ListRunsRequest(
        parent=str(ExperimentName(DEFAULT_WORKSPACE, experiment)) if experiment else _all_runs(),
        page_size=min(limit, PAGE_SIZE_MAX),
        states=numbers,
        tags=tags or {},
    )
    left = limit
    while left > 0:
        answer = connection.unary(
            runs_pb2_grpc.RunServiceStub, lambda stub: stub.ListRuns, request
        )
        for run in answer.runs[:left]:
            yield run_record(run)
        left -= len(answer.runs)
        if not answer.next_page_token:
            return
        request.page_token = answer.next_page_token


def _all_runs() -> str:
    return f"workspaces/{DEFAULT_WORKSPACE}/experiments/{_ANY}"


def _check_experiment(connection: Connection, experiment: str) -> None:
    """Raises ExperimentNotFound where nothing was ever submitted to it."""
    from runyardpb.v1 import experiments_pb2, experiments_pb2_grpc

    connection.unary(
        experiments_pb2_grpc.ExperimentServiceStub,
        lambda stub: stub.GetExperiment,
        experiments_pb2.GetExperimentRequest(
            name=str(ExperimentName(DEFAULT_WORKSPACE, experiment))
        ),
    )


def get_run(connection: Connection, name: RunName) -> RunRecord:
    """A run as it is now. Raises RunNotFound with the nearest id."""
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    from runyard._convert import run_record

    answer = connection.unary(
        runs_pb2_grpc.RunServiceStub,
        lambda stub: stub.GetRun,
        runs_pb2.GetRunRequest(name=str(name)),
    )
    return run_record(answer.run)


def find_run(connection: Connection, reference: str) -> RunRecord:
    """The run of an id, of a beginning that only one id has, or the newest one for "last".

    Raises RunNotFound with the nearest id, UsageInvalid for a beginning that several ids have.
    """
    if reference == LAST:
        for record in list_runs(connection, None, limit=1):
            return get_run(connection, record.name)
        raise RunNotFound("there is no run yet", hint="submit one with `runyard run SCRIPT`")
    try:
        check_run_id(reference)
    except NameInvalid:
        return get_run(connection, _by_prefix(connection, reference))
    return get_run(connection, RunName(DEFAULT_WORKSPACE, experiment_of(reference), reference))


def _by_prefix(connection: Connection, prefix: str) -> RunName:
    """The name of the only run whose id, or its last part, begins so."""
    known = [record.name for record in list_runs(connection, None, limit=_MOST_COMPARED)]
    found = [
        name
        for name in known
        if prefix and (name.run.startswith(prefix) or _random_part(name).startswith(prefix))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(name.run for name in found[:_MOST_NAMED])
        raise UsageInvalid(
            f"{len(found)} runs begin with {prefix}: {shown}{', …' * (len(found) > _MOST_NAMED)}",
            hint="give more of the id",
            prefix=prefix,
        )
    raise RunNotFound.named(prefix, nearest(prefix, (name.run for name in known)))


def _random_part(name: RunName) -> str:
    """What tells runs of one experiment and second apart."""
    return name.run.rpartition("_")[2]


def complete_run(incomplete: str) -> list[str]:
    """Ids of the newest runs that begin so, for the shell; starts no daemon."""
    from runyard_contract.errors import RunyardError

    from runyard.channel import Connection
    from runyard.embedded import EmbeddedAddress
    from runyard.home import home

    if os.environ.get("RUNYARD_ADDRESS"):
        return []
    try:
        with Connection(EmbeddedAddress(home(), can_start=False)) as connection:
            names = [record.run_id for record in list_runs(connection, None, limit=50)]
    except RunyardError:
        return []
    return [name for name in (LAST, *names) if name.startswith(incomplete)]
