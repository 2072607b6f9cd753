"""`runyard run`: submits a script or a command and follows it to its end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from runyard.cli import parameters
from runyard.cli.command_line import Command, json_option, output_of
from runyard.cli.failure import Left, show_error
from runyard.cli.options import option
from runyard.cli.output import Output
from runyard.cli.render.text import clean, clean_line
from runyard.cli.request import RunOptions, RunRequest, prepare
from runyard_contract.errors import RunyardError
from runyard_contract.ids import ExperimentName
from runyard_contract.limits import PRIORITY_MAX, PRIORITY_MIN
from runyard_contract.states import EndClass

if TYPE_CHECKING:
    from runyard.channel import Connection
    from runyard.cli.following import Follower
    from runyard.records import RunRecord
    from runyard.submission import Submitted

_MARK = "runyard.is_command"


class RunCommand(Command):
    """A command line that ends at the script: what follows belongs to the script, untouched."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remembers whether a `--` stands before the program, which the parser drops."""
        ctx.meta[_MARK] = self._names_command(ctx, list(args))
        return super().parse_args(ctx, args)

    def _names_command(self, ctx: click.Context, args: list[str]) -> bool:
        """Whether the options end with `--` rather than with a script.

        The parser takes options up to the first other word or `--`. Where the word before the rest
        is `--`, it ended the options unless it was an option's value; then the words before it
        can't be parsed without it.
        """
        try:
            opts, _, _ = self.make_parser(ctx).parse_args(list(args))
        except click.UsageError:
            return False  # parse_args raises it again, for the user
        words = opts.get("words")
        before = args[: len(args) - (len(words) if isinstance(words, tuple) else 0)]
        if not before or before[-1] != "--":
            return False
        try:
            self.make_parser(ctx).parse_args(before[:-1])
        except click.UsageError:
            return False
        return True


@click.command(
    cls=RunCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
    examples=[
        "runyard run train.py --alpha 0.1          # --alpha belongs to train.py",
        "runyard run -e iris --env requirements.txt train.py",
        "runyard run --gpus 1 --max-duration 2h --tag model=small train.py",
        "runyard run --config train.runconfig --source .",
        "runyard run -- make all                   # any program",
        'runyard run --no-wait --json train.py     # prints {"run_id": …} at once',
    ],
)
@option("-t", "--target", type=parameters.COMPUTE, help="Compute target. [local]")
@option(
    "-e",
    "--experiment",
    type=parameters.EXPERIMENT,
    help="Experiment of the run. [named after the source directory]",
)
@option(
    "--source",
    metavar="DIR",
    type=parameters.FOLDER,
    help="Folder that is sent and that the script starts in. [the current folder if the script "
    "lies in it, else the script's folder]",
)
@option(
    "--config",
    metavar="FILE",
    type=parameters.FILE,
    help="Run configuration (.runconfig), or its name in .azureml/; options come before it.",
)
@option(
    "--env",
    metavar="NAME|FILE",
    help="Environment: a stored one's name, a requirements.txt or a conda YAML file. [your Python]",
)
@option(
    "--env-var",
    "env_vars",
    metavar="NAME[=VALUE]",
    type=parameters.ENVIRONMENT_VARIABLE,
    multiple=True,
    help="Set a variable for the script, or pass one of yours on. Repeatable.",
)
@option(
    "--tag",
    "tags",
    metavar="KEY=VALUE",
    type=parameters.TAG,
    multiple=True,
    help="Tag of the run. Repeatable.",
)
@option(
    "--priority",
    type=parameters.PRIORITY,
    default=0,
    help=f"{PRIORITY_MIN:,} to {PRIORITY_MAX:,}; higher goes first. [0]",
)
@option("--max-duration", type=parameters.DURATION, help="Stop the script after 90s, 15m, 2h, 1d …")
@option(
    "--cancel-grace",
    type=parameters.GRACE,
    help="Time between SIGTERM and SIGKILL when it is stopped, at most 1h. [30s]",
)
@option("--cpus", type=parameters.CPUS, help="Processors that it needs, such as 2 or 0.5.")
@option("--memory", type=parameters.MEMORY, help="Memory that it needs: 512M, 24GiB …")
@option("--gpus", type=parameters.GPUS, help="Whole GPUs that it needs.")
@option("--merge-stderr", is_flag=True, help="Send stderr where stdout goes, in exact order.")
@option("--no-wait", is_flag=True, help="Return when the run is submitted.")
@option("--verbose", is_flag=True, help="Also say what was sent and where the time went.")
@option("--raw", is_flag=True, help="Let the script's escape sequences through to the terminal.")
@json_option
@click.argument("words", metavar="SCRIPT [ARGS]…", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, /, *, no_wait: bool, verbose: bool, raw: bool, **given: Any) -> int:
    """Run a script, or with -- any program, and follow it.

    The script's output is this command's output, and its exit code is this command's exit code:
    128+n when signal n ended it, 130 after Ctrl-C, 125 when it was cancelled elsewhere, timed out,
    or could not be run. What follows SCRIPT belongs to the script.
    """
    output = output_of(ctx)
    options = RunOptions(
        words=given.pop("words"),
        is_command=ctx.meta[_MARK],
        max_duration_s=given.pop("max_duration"),
        cancel_grace_s=given.pop("cancel_grace"),
        memory_bytes=given.pop("memory"),
        **given,
    )
    return submit_and_follow(output, options, waits=not no_wait, is_verbose=verbose, is_raw=raw)


def submit_and_follow(
    output: Output, options: RunOptions, *, waits: bool, is_verbose: bool, is_raw: bool
) -> int:
    """Submits a run and, with `waits`, follows it; returns the command's exit code."""
    from runyard.caller_environment import current_environment
    from runyard.cli.session import open_workspace
    from runyard.home import client_folder

    workspace = open_workspace()
    home = workspace.connection.address.home
    environ = current_environment()
    request = prepare(options, environ, client_folder(home) if home is not None else None)
    for name in request.missing_variables:
        output.say(f"runyard: warning: --env-var {name}: there is no such variable here")
    submitted = _submit(output, workspace.connection, request, options, environ)
    for notice in submitted.notices:
        output.say(f"runyard: {clean(notice)}")
    _say_header(output, request, submitted, is_verbose=is_verbose)
    if not waits:
        _say_submitted(output, submitted.record)
        return 0
    return _follow(output, workspace.connection, submitted, is_verbose=is_verbose, is_raw=is_raw)


def _submit(
    output: Output,
    connection: Connection,
    request: RunRequest,
    options: RunOptions,
    environ: dict[bytes, bytes],
) -> Submitted:
    from runyard.git import GitLook

    # Before what follows is imported, which takes as long as git does.
    git = GitLook(request.source.directory)
    from runyard.cli.render.status_line import StatusLine
    from runyard.run_spec import Caller
    from runyard.submission import Submission
    from runyard.workspace import DEFAULT_WORKSPACE

    interpreter = os.fsencode(request.interpreter.path)
    caller = Caller(interpreter, environ, request.passed_on)
    submission = Submission(request.config, source=request.source, caller=caller, git=git)
    with StatusLine(output) as status:
        status.show(f"sending {request.source.directory}")
        return submission.send(
            connection,
            ExperimentName(DEFAULT_WORKSPACE, request.experiment),
            tags=dict(options.tags),
        )


def _say_header(
    output: Output,
    request: RunRequest,
    submitted: Submitted,
    *,
    is_verbose: bool,
) -> None:
    """One line: which run, where, with what. More with --verbose."""
    run = submitted.record
    parts = [f"runyard: {output.paint(run.run_id, 'bold')} on {run.compute_target or 'local'}"]
    if request.environment:
        parts.append(f"in the environment {clean_line(request.environment)}")
    elif request.source.script:
        parts.append(f"with {clean_line(str(request.interpreter))}")
    output.say(" ".join(parts))
    if is_verbose:
        from runyard.cli.render.ending import say_snapshot

        output.say(f"runyard: source directory: {clean_line(submitted.source)}")
        say_snapshot(output, submitted.statistics)


def _say_submitted(output: Output, run: RunRecord) -> None:
    if output.is_json:
        output.print_json({"run_id": run.run_id})
    else:
        output.say(f"runyard: submitted; follow it with `runyard runs logs -f {run.run_id}`")


def _follow(
    output: Output,
    connection: Connection,
    submitted: Submitted,
    *,
    is_verbose: bool,
    is_raw: bool,
) -> int:
    from runyard.cli.following import Follower, say_how_to_follow
    from runyard.cli.render.ending import OTHER_EXIT
    from runyard.follow import STDERR

    name = submitted.record.name
    stream = STDERR if is_verbose else ""
    follower = Follower(connection, name, output, is_raw=is_raw, environment_stream=stream)
    try:
        final = follower.follow(cancels=True)
        exit_code = _finish(output, connection, final, follower, is_verbose=is_verbose)
    except Left as left:
        return left.exit_code
    except RunyardError as error:
        show_error(output, error)
        say_how_to_follow(output, name.run)
        return OTHER_EXIT
    if output.is_json:
        from runyard.cli.render.run import run_json

        output.print_json({**run_json(final, submitted.statistics), "outcome": exit_code})
    return exit_code


def _finish(
    output: Output,
    connection: Connection,
    final: RunRecord,
    follower: Follower,
    *,
    is_verbose: bool,
) -> int:
    """Says what came of a run; returns the command's exit code."""
    from runyard.cli.render import ending

    if final.end is not None and final.end.end_class is EndClass.ENVIRONMENT:
        for line in follower.environment_tail.splitlines():
            output.say(f"    {clean(line)}")
    ending.say_warnings(output, final)
    ending.say_workdir(output, final)
    if not output.is_json:
        from runyard.cli.results import say_results

        say_results(output, connection, final.name)
    if is_verbose:
        for line in ending.waterfall(final):
            output.say(f"  {line}")
    return ending.say_end(output, final, was_interrupted=follower.was_interrupted)
