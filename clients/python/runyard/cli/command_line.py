"""The kinds of commands and groups that this command line is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any, TypeVar

import click

from runyard.cli.failure import UsageInvalid
from runyard.cli.options import Option, help_option, option
from runyard.cli.output import Output
from runyard_contract.errors import EXIT_USAGE
from runyard_contract.nearest import nearest
from runyard_contract.value import value_class

AnyCallable = TypeVar("AnyCallable", bound=Callable[..., Any])


class Command(click.Command):
    """A command whose help ends with examples.

    Args:
        examples: command lines as people type them, with a comment after two spaces if need be.
    """

    def __init__(self, *args: Any, examples: Iterable[str] = (), **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.examples = tuple(examples)
        self._help = help_option()

    def get_help_option(self, ctx: click.Context) -> Option:
        """`--help`, the same one each time: click compares it."""
        return self._help

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples."""
        write_examples(self.examples, formatter)


def write_examples(examples: Iterable[str], formatter: click.HelpFormatter) -> None:
    """Writes command lines as a section of a command's help."""
    lines = list(examples)
    if lines:
        with formatter.section("Examples"):
            for line in lines:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


@value_class
class Entry:
    """A command that is imported when it is used: `attribute` of `module`, and its one line."""

    module: str
    attribute: str
    summary: str

    def load(self) -> click.Command:
        """The command."""
        found = getattr(import_module(self.module), self.attribute)
        if not isinstance(found, click.Command):
            raise TypeError(f"{self.module}.{self.attribute} is no command")
        return found


class Group(click.Group):
    """A group of commands.

    Args:
        entries: commands that are imported at their first use, by name.
        examples: as for Command.
    """

    command_class = Command

    def __init__(
        self,
        *args: Any,
        entries: Mapping[str, Entry] | None = None,
        examples: Iterable[str] = (),
        **attributes: Any,
    ) -> None:
        super().__init__(*args, **attributes)
        self.entries = dict(entries or {})
        self.examples = tuple(examples)
        self._help = help_option()

    def get_help_option(self, ctx: click.Context) -> Option:
        """As for Command."""
        return self._help

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order in which they were given; what is imported later comes last."""
        return [*self.commands, *self.entries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, imported if need be."""
        entry = self.entries.get(cmd_name)
        return self.commands.get(cmd_name) if entry is None else entry.load()

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes names and summaries; imports nothing."""
        summaries = {name: one.get_short_help_str(100) for name, one in self.commands.items()}
        summaries |= {name: entry.summary for name, entry in self.entries.items()}
        with formatter.section("Commands"):
            formatter.write_dl(list(summaries.items()))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the examples."""
        write_examples(self.examples, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command the help goes to stderr, and the exit code is that of wrong usage."""
        if not args and not ctx.resilient_parsing:
            output_of(ctx).say(ctx.get_help())
            ctx.exit(EXIT_USAGE)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments begin with; an unknown one names the nearest."""
        name = args[0]
        is_known = self.get_command(ctx, name) is not None
        if not is_known and not name.startswith("-") and not ctx.resilient_parsing:
            raise self._unknown(ctx, name)
        return super().resolve_command(ctx, args)

    def _unknown(self, ctx: click.Context, name: str) -> UsageInvalid:
        known = self.list_commands(ctx)
        close = nearest(name, known)
        if close:
            hint = f"did you mean `{ctx.command_path} {close}`?"
        elif ctx.parent is None and name.endswith(".py"):
            hint = f"run a script with `runyard run {name}`"
        else:
            hint = f"one of {', '.join(known)}; see `{ctx.command_path} --help`"
        return UsageInvalid(
            f"{ctx.command_path} has no command {name}",
            hint=hint,
            command=name,
            nearest=close or "",
        )


def output_of(ctx: click.Context) -> Output:
    """Where the command of this context writes."""
    return ctx.ensure_object(Output)


def json_option(function: AnyCallable) -> AnyCallable:
    """Adds `--json`, which sets `Output.is_json` before anything can fail."""
    return option(
        "--json",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_json,
        help="Print JSON for programs; its form is stable.",
    )(function)


def _set_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        output_of(ctx).is_json = True
