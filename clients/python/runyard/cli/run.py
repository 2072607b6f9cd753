"""`runyard run`: its options. What it does is in `runyard.cli.submit`."""

from __future__ import annotations

from typing import Any

import click

from runyard.cli import parameters
from runyard.cli.command_line import Command, json_option, output_of
from runyard.cli.options import option
from runyard.cli.request import RunOptions
from runyard.cli.submit import submit_and_follow
from runyard_contract.limits import PRIORITY_MAX, PRIORITY_MIN

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
    metavar="NAME[:VERSION]|FILE",
    help="Environment: a stored one's name, a requirements.txt, a conda YAML file, a Dockerfile or "
    "a downloaded folder. [your Python]",
)
@option(
    "--docker-image",
    metavar="IMAGE",
    help="Run in a container of this image; the packages of --env are put on top of it.",
)
@option(
    "--docker-arg",
    "docker_arguments",
    metavar="OPTION",
    multiple=True,
    help="Option of docker run, such as --docker-arg=--ipc=host. Repeatable.",
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
@option("--cpu-limit", type=parameters.CPUS, help="Processors that it may use at most.")
@option("--memory-limit", type=parameters.MEMORY, help="Memory that it may use at most.")
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
