"""Options of commands: click's, without what click imports and looks up to make each one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


class Option(click.Option):
    """An option whose help is one line as it stands: click would import `inspect` to clean it."""

    def __init__(self, *args: Any, help: str = "", **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.help = help


def option(*names: str, **attributes: Any) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """Adds an option to a command, as click.option."""
    return click.option(*names, cls=Option, **attributes)


def help_option() -> Option:
    """`--help`. click's own looks for a translation of its line, in a dozen places."""
    return Option(
        ["--help"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_show_help,
        help="Show this message and exit.",
    )


def _show_help(ctx: click.Context, _param: click.Parameter, is_asked: bool) -> None:
    if is_asked and not ctx.resilient_parsing:
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
