#!/usr/bin/env python3
"""Writes docs/cli.md from the commands' own help. `--check` only says whether it is current."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from runyard.cli.command_line import Group
from runyard.cli.root import root

REFERENCE = Path(__file__).parents[1] / "docs" / "cli.md"
WIDTH = 100

INTRODUCTION = """\
# The command line

Written by `scripts/write_cli_reference.py` from the commands' own help; change the help, not this
page.

## What holds for every command

- What was asked for goes to stdout; all that `runyard` says besides goes to stderr. So
  `runyard run train.py > out` gives what `python train.py > out` gives.
- `--json` prints JSON in a form that stays: indented by two, times in UTC (RFC 3339), one newline
  at the end. Tables are for people: local times, colours on a terminal only, `NO_COLOR` honoured.
- An error says what happened, `fix:` what to do next, and its reason in brackets. With `--json` it
  is also on stdout: `{"error": {"reason", "message", "hint", "metadata"}}`.
- To a terminal, of what a script prints, text, colours, erase-line and cursor-up pass; every other
  control sequence is dropped. `--raw` drops nothing. Into a pipe or file all bytes go unchanged.
- RUN is a run's id, a beginning of it or of its last part that no other run has, or `last`.

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | failed |
| 2 | wrong usage |
| 3 | not found; for `daemon status`: none runs |
| 4 | not allowed |
| 5 | no daemon can be reached |
| 130 | interrupted |
| 141 | whoever read the output went away; a run goes on |

Once a run exists, `run`, `runs wait` and `environment build` give the script's own exit code when
it ended by itself, 128+n when a signal that runyard did not send ended it, 130 after Ctrl-C here,
and 125 for all else: cancelled elsewhere, timed out, environment failed, node or supervisor lost.
The last line on stderr and `outcome` in `--json` say which.

| variable | meaning |
| --- | --- |
| `RUNYARD_HOME` | data directory of daemon and client |
| `RUNYARD_ADDRESS` | daemon to talk to, such as `unix:/path/daemon.sock`; none is started then |
| `NO_COLOR` | no colours |

The shell completes commands, options and ids of runs after one of

```sh
eval "$(_RUNYARD_COMPLETE=bash_source runyard)"     # in ~/.bashrc
eval "$(_RUNYARD_COMPLETE=zsh_source runyard)"      # in ~/.zshrc
_RUNYARD_COMPLETE=fish_source runyard | source      # in ~/.config/fish/config.fish
```
"""


def reference() -> str:
    """The whole page."""
    return INTRODUCTION + "".join(_sections("runyard", root, None))


def _sections(path: str, command: click.Command, parent: click.Context | None) -> Iterator[str]:
    """The help of a command and of all below it, as sections."""
    name = path.rpartition(" ")[2]
    context = click.Context(
        command, info_name=name, parent=parent, max_content_width=WIDTH, terminal_width=WIDTH
    )
    yield f"\n## {path}\n\n```text\n{command.get_help(context).rstrip()}\n```\n"
    if isinstance(command, Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None:
                yield from _sections(f"{path} {below}", found, context)


def main() -> int:
    """Writes the page; with --check compares it, and gives 1 for one that is not current."""
    text = reference()
    if "--check" in sys.argv[1:]:
        is_current = REFERENCE.exists() and REFERENCE.read_text() == text
        if not is_current:
            print(f"{REFERENCE} is not current: run {Path(__file__).name}", file=sys.stderr)
        return 0 if is_current else 1
    REFERENCE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
