"""`runyard runs delete` and `runyard runs prune`: remove ended runs for good."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runyard.cli import parameters
from runyard.cli.command_line import Command, json_option, output_of
from runyard.cli.confirm import confirm
from runyard.cli.failure import UsageInvalid
from runyard.cli.options import option
from runyard.cli.render.amounts import count_text
from runyard.cli.session import complete_run, find_run, open_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runyard.workspace import Workspace
    from runyard_contract.states import RunState
    from runyardpb.v1 import runs_pb2

_SHOWN = 10


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return complete_run(incomplete)


@click.command(
    cls=Command, examples=["runyard runs delete last", "runyard runs delete --yes 3f2a 77b0"]
)
@click.argument("references", metavar="RUN…", nargs=-1, required=True, shell_complete=_complete)
@option("--yes", is_flag=True, help="Don't ask.")
@json_option
@click.pass_context
def delete(ctx: click.Context, references: tuple[str, ...], yes: bool) -> None:
    """Remove runs that have ended, for good: records, logs, metrics.

    Their snapshots and outputs go when no other run needs them. An active run is refused.
    """
    from runyardpb.v1 import runs_pb2, runs_pb2_grpc

    output = output_of(ctx)
    workspace = open_workspace()
    found = list(dict.fromkeys(find_run(workspace, reference).id for reference in references))
    what = f"remove {', '.join(found[:_SHOWN])}{' …' * (len(found) > _SHOWN)}"
    confirm(output, f"{what}, for good", yes)
    removed = []
    try:
        for run_id in found:
            workspace.connection.unary(
                runs_pb2_grpc.RunServiceStub,
                lambda stub: stub.DeleteRun,
                runs_pb2.DeleteRunRequest(
                    name=f"workspaces/{workspace.name}/experiments/-/runs/{run_id}"
                ),
            )
            removed.append(run_id)
            output.say(f"runyard: {run_id} is removed")
    finally:  # what is gone is said also where another could not be removed
        if output.is_json:
            output.print_json({"removed": removed})


@click.command(
    cls=Command,
    examples=[
        "runyard runs prune --older-than 30d --dry-run",
        "runyard runs prune -e sweep --keep-last 20 --yes",
        "runyard runs prune --max-size 200GiB --status Failed --status Canceled",
    ],
)
@option("--older-than", type=parameters.DURATION, help="Runs that ended longer ago go.")
@option("-e", "--experiment", type=parameters.EXPERIMENT, help="Only this experiment's runs.")
@option(
    "--keep-last",
    type=parameters.COUNT,
    help="The newest so many ended runs of each experiment stay; alone: all others go.",
)
@option(
    "--max-size",
    type=parameters.MEMORY,
    help="The newest runs stay up to this total size; older ones go.",
)
@option(
    "--status",
    "states",
    type=parameters.STATUS,
    multiple=True,
    help="Only runs that ended so go: Completed, Failed, Canceled. Repeatable.",
)
@option("--dry-run", is_flag=True, help="Only say what would go.")
@option("--yes", is_flag=True, help="Don't ask.")
@json_option
@click.pass_context
def prune(
    ctx: click.Context,
    older_than: float | None,
    experiment: str | None,
    keep_last: int | None,
    max_size: int | None,
    states: tuple[RunState, ...],
    dry_run: bool,
    yes: bool,
) -> None:
    """Remove ended runs by age, number or total size, for good.

    Active runs are never removed. A run goes when it is older than --older-than, or does not fit
    in --max-size, or, with neither of them, is beyond --keep-last.
    """
    from runyard.snapshot.limits import size_text

    output = output_of(ctx)
    if older_than is None and keep_last is None and max_size is None:
        raise UsageInvalid(
            "nothing says which runs are to go",
            hint="give --older-than, --keep-last or --max-size; --dry-run shows what would go",
        )
    workspace = open_workspace()
    request = _request(workspace, experiment, older_than, keep_last, max_size, states)
    request.dry_run = True
    (look,) = _prune(workspace, request)
    what = f"{count_text(look.chosen_runs, 'run')} ({size_text(look.chosen_bytes)})"
    removed = 0
    if look.chosen_runs and not dry_run:
        confirm(output, f"remove {what}, for good", yes)
        request.dry_run = False
        for progress in _prune(workspace, request):
            removed = progress.removed_runs
    if output.is_json:
        output.print_json(
            {
                "is_dry_run": dry_run,
                "chosen_runs": look.chosen_runs,
                "chosen_bytes": look.chosen_bytes,
                "removed_runs": removed,
                "first_run_ids": list(look.run_ids),
            }
        )
    if dry_run:
        for run_id in look.run_ids[:_SHOWN]:
            output.say(f"runyard: would remove {run_id}")
        output.say(f"runyard: {what} would go")
    else:
        output.say(f"runyard: {count_text(removed, 'run')} removed")


def _request(
    workspace: Workspace,
    experiment: str | None,
    older_than_s: float | None,
    keep_last: int | None,
    max_size_bytes: int | None,
    states: tuple[RunState, ...],
) -> runs_pb2.PruneRunsRequest:
    from runyard._convert import state_number
    from runyardpb.v1 import runs_pb2

    request = runs_pb2.PruneRunsRequest(
        parent=f"workspaces/{workspace.name}/experiments/{experiment or '-'}",
        keep_last=keep_last or 0,
        max_size_bytes=max_size_bytes or 0,
        states=[number for state in states if (number := state_number(state)) is not None],
    )
    if older_than_s is not None:
        request.older_than.FromMilliseconds(round(older_than_s * 1000))
    return request


def _prune(
    workspace: Workspace, request: runs_pb2.PruneRunsRequest
) -> Iterator[runs_pb2.PruneRunsResponse]:
    from runyardpb.v1 import runs_pb2_grpc

    with workspace.connection.stream(
        runs_pb2_grpc.RunServiceStub, lambda stub: stub.PruneRuns, request
    ) as answers:
        yield from answers
