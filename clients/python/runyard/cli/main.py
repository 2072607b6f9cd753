"""The entry point of `runyard`: the root of all commands, and the one place where errors end."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, NoReturn

import click

from runyard.cli.command_line import Entry, Group
from runyard.cli.failure import (
    EXIT_BROKEN_PIPE,
    EXIT_INTERRUPTED,
    Left,
    defect,
    exit_code_of,
    of_click,
    show_error,
)
from runyard.cli.options import option
from runyard.cli.output import Output
from runyard_contract.errors import RunyardError

_PROGRAM = "runyard"
_COMMANDS = {
    "run": Entry("runyard.cli.run", "run", "Run a script, or with -- any program, and follow it."),
    "runs": Entry(
        "runyard.cli.runs", "runs", "List, show, follow and end runs; fetch their files."
    ),
    "compute": Entry("runyard.cli.compute", "compute", "Show compute targets."),
    "environment": Entry(
        "runyard.cli.environment", "environment", "List, show and build environments."
    ),
    "experiment": Entry("runyard.cli.experiment", "experiment", "List experiments."),
    "daemon": Entry("runyard.cli.daemon", "daemon", "Serve, look at or stop the daemon."),
    "doctor": Entry("runyard.cli.doctor", "doctor", "Check that runyard can work here."),
}


def _print_version(ctx: click.Context, _param: click.Parameter, is_asked: bool) -> None:
    if is_asked and not ctx.resilient_parsing:
        from runyard_contract.version import build_id

        ctx.ensure_object(Output).print(f"{_PROGRAM} {build_id()}")
        ctx.exit()


@click.command(
    cls=Group,
    entries=_COMMANDS,
    examples=[
        "runyard run train.py --alpha 0.1",
        "runyard runs list",
        "runyard runs logs -f last",
    ],
)
@option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version.",
)
def root() -> None:
    """Run one training script, unchanged, on any machine you own.

    The first command that needs it starts a daemon in the background.
    """


def run_command_line(arguments: list[str], output: Output) -> int:
    """Runs one command and returns its exit code. Errors are shown, none is raised."""
    try:
        return _dispatch(arguments, output)
    except Left as left:
        return left.exit_code
    except click.ClickException as error:
        output.is_json = output.is_json or "--json" in arguments
        return _fail(output, of_click(error))
    except RunyardError as error:
        return _fail(output, error)
    except (click.Abort, KeyboardInterrupt):
        with contextlib.suppress(OSError):
            output.say("runyard: interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _fail(output, defect(error))


def _dispatch(arguments: list[str], output: Output) -> int:
    """The command's exit code; None of a command is success."""
    result: Any = root.main(arguments, prog_name=_PROGRAM, standalone_mode=False, obj=output)
    return result if isinstance(result, int) else 0


def _fail(output: Output, error: RunyardError) -> int:
    with contextlib.suppress(OSError):
        show_error(output, error)
    return exit_code_of(error)


def entry() -> NoReturn:
    """Runs the command line of this process and ends it.

    The process ends at once after its streams are flushed: taking grpc and its threads down in
    order costs 30 ms and gives nothing.
    """
    exit_code = run_command_line(sys.argv[1:], Output(os.environ))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(exit_code)
