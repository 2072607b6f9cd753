"""The root of all commands, for command lines that have anything to parse."""

from __future__ import annotations

from typing import Any

import click

from runyard.cli.command_line import Entry, Group
from runyard.cli.failure import UsageInvalid
from runyard.cli.options import option
from runyard.cli.output import Output

_PROGRAM = "runyard"
_COMMANDS = {
    "run": Entry("runyard.cli.run", "run", "Run a script, or with -- any program, and follow it."),
    "runs": Entry(
        "runyard.cli.runs", "runs", "List, show, follow and end runs; fetch their files."
    ),
    "compute": Entry("runyard.cli.compute", "compute", "Show compute targets."),
    "environment": Entry(
        "runyard.cli.environment",
        "environment",
        "Store, build, show, prune and carry environments.",
    ),
    "experiment": Entry("runyard.cli.experiment", "experiment", "List experiments."),
    "daemon": Entry("runyard.cli.daemon", "daemon", "Serve, look at or stop the daemon."),
    "agent": Entry("runyard.cli.agent", "agent", "Let this machine run what others submit."),
    "login": Entry("runyard.cli.login", "login", "Use a daemon on the network."),
    "logout": Entry("runyard.cli.login", "logout", "Use the daemon on this machine again."),
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


def run_root(arguments: list[str], output: Output) -> int:
    """Parses a command line, runs its command and returns the exit code. None of it is success.

    Raises UsageInvalid for what can't be parsed, and what the command raises.
    """
    try:
        result: Any = root.main(arguments, prog_name=_PROGRAM, standalone_mode=False, obj=output)
    except click.ClickException as error:
        output.is_json = output.is_json or "--json" in arguments
        raise _of_click(error) from None
    except click.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else 0


def _of_click(error: click.ClickException) -> UsageInvalid:
    """A usage error of the parser in our form, with what was probably meant."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "runyard"
    help_line = f"see `{command} --help`"
    possibilities = getattr(error, "possibilities", None)
    hint = f"did you mean {possibilities[0]}? {help_line}" if possibilities else help_line
    param = getattr(error, "param", None)
    if param is None:
        message = getattr(error, "message", "") or error.format_message()
        if isinstance(error, click.NoSuchOption):  # quoted or not, as click's version has it
            message = f"no such option {error.option_name}"
        return UsageInvalid(
            message[:1].lower() + message[1:].rstrip("."), hint=hint, command=command
        )
    is_option = param.param_type_name == "option"
    option = " / ".join(param.opts) if is_option else param.human_readable_name
    said = getattr(error, "message", "")
    message = f"{option}: {said}" if said else f"{option} is lacking"
    return UsageInvalid(message, hint=hint, command=command, option=option)
