"""`runyard doctor`: checks what runyard stands on here, and says what to mend."""

from __future__ import annotations

import click

from runyard.cli.command_line import Command, json_option, output_of
from runyard.cli.output import STDOUT_FD
from runyard.cli.render.text import clean
from runyard_contract.errors import EXIT_FAILED

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(cls=Command, examples=["runyard doctor", "runyard doctor --json"])
@json_option
@click.pass_context
def doctor(ctx: click.Context) -> int:
    """Check platform, data directory, daemon, agent, uv and Python; exit code 1 if one fails.

    It names the versions of this client, daemon, agent, SQLite and the interpreter that was last
    started as the daemon.

    A daemon is started if none runs.
    """
    from runyard.cli.checks import FAIL, all_checks

    output = output_of(ctx)
    found = []
    for check in all_checks():
        found.append(check)
        if not output.is_json:
            word = output.paint(f"{check.verdict:<4}", _COLOURS[check.verdict], STDOUT_FD)
            output.print(f"{word} {check.name:<12} {clean(check.message)}")
            if check.fix:
                output.print(f"     {'fix:':<12} {clean(check.fix)}")
    if output.is_json:
        output.print_json(
            [
                {"name": c.name, "verdict": c.verdict, "message": c.message, "fix": c.fix}
                for c in found
            ]
        )
    return EXIT_FAILED if any(check.verdict == FAIL for check in found) else 0
