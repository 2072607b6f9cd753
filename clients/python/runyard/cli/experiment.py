"""`runyard experiment`: the named groups that runs belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runyard.cli.command_line import Group, json_option, output_of
from runyard.cli.render.amounts import local_time, message_time, utc_time
from runyard.cli.render.table import print_table
from runyard.cli.session import open_workspace
from runyard_contract.ids import ExperimentName
from runyard_contract.limits import PAGE_SIZE_MAX

if TYPE_CHECKING:
    from runyard.workspace import Workspace
    from runyardpb.v1 import experiments_pb2


@click.group(cls=Group, examples=["runyard experiment list"])
def experiment() -> None:
    """List experiments. One comes into being with its first run."""


@experiment.command("list", examples=["runyard experiment list", "runyard experiment list --json"])
@json_option
@click.pass_context
def list_command(ctx: click.Context) -> None:
    """List experiments, the last used first."""
    output = output_of(ctx)
    found = [
        (
            ExperimentName.parse(one.name).experiment,
            one.run_count,
            message_time(one, "last_run_time"),
            message_time(one, "create_time"),
        )
        for one in _experiments(open_workspace())
    ]
    if output.is_json:
        output.print_json(
            [
                {
                    "name": name,
                    "run_count": runs,
                    "last_run_time": utc_time(last),
                    "create_time": utc_time(created),
                }
                for name, runs, last, created in found
            ]
        )
        return
    print_table(
        output,
        ("NAME", "RUNS", "LAST RUN"),
        [(name, f"{runs:,}", local_time(last)) for name, runs, last, _ in found],
        empty="runyard: no experiments; the first run of a folder makes one",
    )


def _experiments(workspace: Workspace) -> list[experiments_pb2.Experiment]:
    """All experiments with their counts."""
    from runyardpb.v1 import experiments_pb2, experiments_pb2_grpc

    request = experiments_pb2.ListExperimentsRequest(
        parent=f"workspaces/{workspace.name}", page_size=PAGE_SIZE_MAX
    )
    found: list[experiments_pb2.Experiment] = []
    while True:
        answer = workspace.connection.unary(
            experiments_pb2_grpc.ExperimentServiceStub,
            lambda stub: stub.ListExperiments,
            request,
        )
        found += answer.experiments
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token
