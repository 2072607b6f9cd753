"""`runyard agent`: this machine as a node of a daemon on the network."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from runyard.cli.command_line import Group, json_option, output_of
from runyard.cli.options import option
from runyard.cli.output import Output
from runyard.cli.program_answer import answer_of
from runyard.cli.render.amounts import local_time
from runyard_contract.addresses import PORT, HostPort
from runyard_contract.errors import DaemonStartFailed
from runyard_contract.home import data_home

_FOLDER = "joined"
_home = option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="The agent's folder. Default: `joined` in the data directory.",
)
_slots = option(
    "--slots", type=click.IntRange(1, 4096), help="Runs at one time. Default: one for each CPU."
)


@click.group(
    cls=Group,
    examples=["runyard agent status", "runyard agent stop", "runyard agent leave"],
)
def agent() -> None:
    """Let this machine run what others submit to a daemon on the network."""


@agent.command(examples=["runyard agent join lab.example:7443 --fingerprint 3f9a... < token"])
@click.argument("address")
@option("--fingerprint", required=True, metavar="SHA256", help="The daemon to trust.")
@_home
@_slots
@json_option
@click.pass_context
def join(
    ctx: click.Context,
    address: str,
    fingerprint: str,
    home: Path | None,
    slots: int | None,
) -> None:
    """Join the daemon at ADDRESS and start the agent, which goes on after this session.

    The token is read from standard input.

    `runyard daemon token create --role agent --compute NAME` prints the whole line, with a token.
    Jobs run as your account on this machine, whoever submits them.
    """
    HostPort.parse(address, port=PORT)
    extra = ["--slots", str(slots)] if slots else []
    told = _ask("join", home, "--fingerprint", fingerprint, *extra, "--", address)
    _show(output_of(ctx), told, "joined", home)


@agent.command(examples=["runyard agent start"])
@_home
@_slots
@json_option
@click.pass_context
def start(ctx: click.Context, home: Path | None, slots: int | None) -> None:
    """Start the agent of a machine that joined, as after a restart of the machine."""
    _show(
        output_of(ctx), _ask("start", home, *(["--slots", str(slots)] if slots else [])), "of", home
    )


@agent.command(examples=["runyard agent status"])
@_home
@json_option
@click.pass_context
def status(ctx: click.Context, home: Path | None) -> None:
    """Say which daemon this machine has joined, and how its agent is."""
    _show(output_of(ctx), _ask("status", home), "of", home)


@agent.command(examples=["runyard agent stop"])
@_home
@json_option
@click.pass_context
def stop(ctx: click.Context, home: Path | None) -> None:
    """End the agent. Its runs go on, and are taken up by `runyard agent start`."""
    _show(output_of(ctx), _ask("stop", home), "of", home)


@agent.command(examples=["runyard agent leave"])
@_home
@json_option
@click.pass_context
def leave(ctx: click.Context, home: Path | None) -> None:
    """Leave the daemon and end the agent. Refused while runs are on this machine."""
    output = output_of(ctx)
    told = _ask("leave", home)
    if output.is_json:
        output.print_json(told)
    else:
        output.say(f"runyard: left {told['compute']} at {told['daemon']}")
        output.say(f"  what it had cached is still in {told['home']}; remove it if you like")


def _ask(command: str, home: Path | None, *arguments: str) -> dict[str, Any]:
    """What the agent's own program answers. Raises the error that it tells."""
    folder = home.absolute() if home else data_home(os.environ) / _FOLDER
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "runyard_agent", command, "--home", str(folder), *arguments],
        stdout=subprocess.PIPE,
        check=False,
    )
    return answer_of(
        ended,
        DaemonStartFailed(
            f"the agent's program ended with {ended.returncode}",
            hint="see what it printed above",
        ),
    )


def _show(output: Output, told: dict[str, Any], relation: str, home: Path | None) -> None:
    if output.is_json:
        output.print_json(told)
        return
    since = told["since_s"]
    when = f" since {local_time(datetime.fromtimestamp(since, UTC))}" if since else ""
    process = f", process {told['pid']}" if told["pid"] else ""
    output.say(
        f"runyard: {relation} {told['compute']} at {told['daemon']}: {told['state']}{when}{process}"
    )
    if told["why"]:
        output.say(f"  why: {told['why']}")
    if told["state"] == "stopped":
        where = f" --home {shlex.quote(str(home))}" if home else ""
        output.say(f"  fix: start it with `runyard agent start{where}`")
