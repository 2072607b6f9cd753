"""`runyard runs`: list, show, follow and end runs; their metrics and files.

Removing runs is in `runs_removal`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from runyard.cli import parameters
from runyard.cli.command_line import AnyCallable, Entry, Group, json_option, output_of
from runyard.cli.options import option
from runyard.cli.session import complete_run, find_run, open_workspace

if TYPE_CHECKING:
    from runyard_contract.states import RunState


_DEFAULT_LISTED = 20


def _complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    return complete_run(incomplete)


def run_argument(function: AnyCallable) -> AnyCallable:
    """Adds the argument RUN."""
    return click.argument("reference", metavar="RUN", shell_complete=_complete)(function)


@click.group(
    cls=Group,
    entries={
        "delete": Entry("runyard.cli.runs_removal", "delete", "Remove ended runs for good."),
        "prune": Entry(
            "runyard.cli.runs_removal", "prune", "Remove ended runs by age, number or total size."
        ),
    },
    examples=["runyard runs list -e iris", "runyard runs show last", "runyard runs cancel 3f2a"],
)
def runs() -> None:
    """List, show, follow and end runs; fetch their files.

    RUN is a run's id, a beginning of it or of its last part that no other run has, or "last" for
    the newest run.
    """


@runs.command(
    "list",
    examples=[
        "runyard runs list",
        "runyard runs list -e iris --status Failed --tag model=small -n 100",
        "runyard runs list --filter 'created >= 2026-01-31 AND name = \"base*\"'",
        "runyard runs list --json | jq '.[0].run_id'",
    ],
)
@option("-e", "--experiment", type=parameters.EXPERIMENT, help="Only this experiment's runs.")
@option(
    "--status",
    "states",
    type=parameters.STATUS,
    multiple=True,
    help="Only runs in this status: Queued, Running, Completed, Failed, Canceled … Repeatable.",
)
@option(
    "--tag",
    "tags",
    metavar="KEY[=VALUE]",
    type=parameters.TAG_FILTER,
    multiple=True,
    help="Only runs with this tag. Repeatable.",
)
@option(
    "--filter",
    "where",
    metavar="TEXT",
    default="",
    help="Comparisons joined by AND, of status, experiment, target, name, created, tag.KEY and "
    "property.KEY.",
)
@option(
    "-n",
    "--limit",
    type=parameters.COUNT,
    default=_DEFAULT_LISTED,
    help=f"At most so many runs. [{_DEFAULT_LISTED}]",
)
@json_option
@click.pass_context
def list_command(
    ctx: click.Context,
    experiment: str | None,
    states: tuple[RunState, ...],
    tags: tuple[tuple[str, str], ...],
    where: str,
    limit: int,
) -> None:
    """List runs, newest first."""
    from runyard.cli.render.run import RUN_COLUMNS, run_json, run_row, state_colour
    from runyard.cli.render.table import print_table
    from runyard.cli.session import check_experiment
    from runyard.run_listing import ANY_EXPERIMENT, list_runs

    output = output_of(ctx)
    workspace = open_workspace()
    if experiment is not None:
        check_experiment(workspace, experiment)
    records = list(
        list_runs(
            workspace.connection,
            workspace.name,
            experiment or ANY_EXPERIMENT,
            states=states,
            tags=dict(tags),
            where=where,
            limit=limit,
        )
    )
    if output.is_json:
        output.print_json([run_json(record) for record in records])
        return
    print_table(
        output,
        RUN_COLUMNS,
        [run_row(record) for record in records],
        colours=[state_colour(record.state) for record in records],
        coloured="STATUS",
        empty="runyard: no runs; submit one with `runyard run SCRIPT`",
    )
    if len(records) == limit:
        output.say(f"runyard: the newest {limit:,}; more with -n")


@runs.command(
    examples=["runyard runs show last", "runyard runs show --json iris_1764000000_0a1b2c3d"]
)
@run_argument
@json_option
@click.pass_context
def show(ctx: click.Context, reference: str) -> None:
    """Show one run: status, cause, times, tags, properties."""
    from runyard.cli.render.run import run_json
    from runyard.cli.render.run_details import print_run

    output = output_of(ctx)
    record = find_run(open_workspace(), reference).record
    if output.is_json:
        output.print_json(run_json(record))
    else:
        print_run(output, record)


@runs.command(
    examples=[
        "runyard runs logs last",
        "runyard runs logs -f last",
        "runyard runs logs last 2>/dev/null",
    ]
)
@run_argument
@option("-f", "--follow", is_flag=True, help="Go on until the log is complete.")
@option("--environment", is_flag=True, help="The log of building the environment instead.")
@option("--raw", is_flag=True, help="Let the script's escape sequences through to the terminal.")
@click.pass_context
def logs(ctx: click.Context, reference: str, follow: bool, environment: bool, raw: bool) -> int:
    """Print what a run printed: its stdout to stdout, its stderr to stderr."""
    from runyard.cli.following import pass_log_on

    run = find_run(open_workspace(), reference)
    return pass_log_on(run, output_of(ctx), is_live=follow, of_environment=environment, is_raw=raw)


@runs.command(
    examples=["runyard runs wait last", "runyard runs wait iris_1764000000_0a1b2c3d && echo ok"]
)
@run_argument
@json_option
@click.pass_context
def wait(ctx: click.Context, reference: str) -> int:
    """Wait until a run has ended; the exit code is the script's, as for `runyard run`.

    Ctrl-C leaves the run alone.
    """
    from runyard.cli.following import wait_for
    from runyard.cli.render.ending import say_end
    from runyard.cli.render.run import run_json

    output = output_of(ctx)
    final = wait_for(find_run(open_workspace(), reference), output)
    exit_code = say_end(output, final)
    if output.is_json:
        output.print_json(run_json(final))
    return exit_code


@runs.command(examples=["runyard runs cancel last", "runyard runs cancel 3f2a 77b0"])
@click.argument("references", metavar="RUN…", nargs=-1, required=True, shell_complete=_complete)
@json_option
@click.pass_context
def cancel(ctx: click.Context, references: tuple[str, ...]) -> None:
    """Ask runs to end: SIGTERM, their grace period, SIGKILL.

    Runs that have ended stay as they are.
    """
    from runyard.cli.render.run import run_json
    from runyard_contract.states import v1_word

    output = output_of(ctx)
    workspace = open_workspace()
    canceled = []
    for run in [find_run(workspace, reference) for reference in references]:
        had_ended = run.record.is_final
        run.cancel("runyard runs cancel")
        canceled.append(run_json(run.record))
        verb = "had ended" if had_ended else "is"
        output.say(f"runyard: {run.id} {verb}: {v1_word(run.record.state)}")
    if output.is_json:
        output.print_json(canceled)


@runs.command(examples=["runyard runs explain last"])
@run_argument
@json_option
@click.pass_context
def explain(ctx: click.Context, reference: str) -> None:
    """Say why a run waits, what it does, or why it ended."""
    from runyard.cli.render.run import explanation_json
    from runyard.cli.render.run_details import print_explanation

    output = output_of(ctx)
    explanation = find_run(open_workspace(), reference).explain()
    if output.is_json:
        output.print_json(explanation_json(explanation))
    else:
        print_explanation(output, explanation)


@runs.command(examples=["runyard runs metrics last", "runyard runs metrics --json last loss"])
@run_argument
@click.argument("names", metavar="[NAME]…", nargs=-1)
@json_option
@click.pass_context
def metrics(ctx: click.Context, reference: str, names: tuple[str, ...]) -> None:
    """Show the metrics that a run logged, all or those of some names."""
    from runyard.cli.render.metrics import METRIC_COLUMNS, metric_rows, metrics_json
    from runyard.cli.render.table import print_table

    output = output_of(ctx)
    run = find_run(open_workspace(), reference)
    found = run.get_metrics(names[0] if len(names) == 1 else None)
    chosen = {name: found[name] for name in found if not names or name in names}
    if output.is_json:
        output.print_json(metrics_json(chosen))
        return
    print_table(
        output, METRIC_COLUMNS, metric_rows(chosen), empty=f"runyard: {run.id} has no such metrics"
    )


@runs.command(examples=["runyard runs files last"])
@run_argument
@json_option
@click.pass_context
def files(ctx: click.Context, reference: str) -> None:
    """List the files of a run: outputs, logs, and what it uploaded."""
    from runyard.cli.render.amounts import local_time
    from runyard.cli.render.run import file_json
    from runyard.cli.render.table import print_table
    from runyard.run_files import list_files
    from runyard.snapshot.limits import size_text

    output = output_of(ctx)
    workspace = open_workspace()
    run = find_run(workspace, reference)
    found = list(list_files(workspace.connection, str(run.record.name)))
    if output.is_json:
        output.print_json([file_json(file) for file in found])
        return
    rows = [(size_text(f.size_bytes), local_time(f.update_time), f.path) for f in found]
    print_table(output, ("SIZE", "CHANGED", "PATH"), rows, empty=f"runyard: {run.id} has no files")


@runs.command(
    examples=[
        "runyard runs download last                        # all of outputs/",
        "runyard runs download last outputs/model.pkl -o .",
        "runyard runs download last --workdir              # what it wrote elsewhere",
    ]
)
@run_argument
@click.argument("paths", metavar="[PATH]…", nargs=-1)
@option(
    "-o",
    "--output",
    "folder",
    metavar="DIR",
    type=parameters.FOLDER,
    help="Folder to write to. [named after the run]",
)
@option(
    "--workdir",
    is_flag=True,
    help="Fetch what the script wrote outside outputs/, kept for 24 hours.",
)
@json_option
@click.pass_context
def download(
    ctx: click.Context, reference: str, paths: tuple[str, ...], folder: str | None, workdir: bool
) -> None:
    """Fetch files of a run, checked byte for byte.

    PATH is a file or a folder of the run; default: all of outputs/.
    """
    from runyard.cli.downloads import OUTPUTS, WORKDIR, collect_workdir, download_files

    run = find_run(open_workspace(), reference)
    wanted = list(paths)
    if workdir:
        collect_workdir(run)
        wanted.append(WORKDIR)
    download_files(run, wanted or [OUTPUTS], folder or run.id, output_of(ctx))
