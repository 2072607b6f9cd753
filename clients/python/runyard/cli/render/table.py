"""Tables: aligned columns in a pipe, the same with colours and cut to its width on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from runyard.cli.output import STDOUT_FD, Output
from runyard.cli.render.text import clean_line

if TYPE_CHECKING:
    from rich.table import Table

_GAP = "  "


def print_table(
    output: Output,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    colours: Sequence[str] = (),
    coloured: str = "",
    empty: str,
) -> None:
    """Prints rows under their columns' names.

    Args:
        output: where to.
        columns: the names.
        rows: the cells, of any origin: they are made safe here.
        colours: one for each row, used for its cell in the column named `coloured`.
        coloured: the name of that column.
        empty: what is said (on stderr) when there is no row.
    """
    if not rows:
        output.say(empty)
        return
    cells = [[clean_line(cell) for cell in row] for row in rows]
    if output.is_terminal(STDOUT_FD):
        _print_rich(output, columns, cells, colours, coloured)
        return
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    for row in (columns, *cells):
        output.print(_GAP.join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip())


def _print_rich(
    output: Output,
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    colours: Sequence[str],
    coloured: str,
) -> None:
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, no_color=not output.has_colours(STDOUT_FD))
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    # Ids and states stay whole; the last column, free text, is what gives way.
    fixed_width = sum(widths[:-1]) + len(_GAP) * (len(widths) - 1)
    free_width = max(min(widths[-1], console.width - fixed_width), len(columns[-1]))
    console.width = max(console.width, fixed_width + free_width)
    table: Table = Table(
        *columns, box=None, pad_edge=False, padding=(0, len(_GAP), 0, 0), header_style="bold"
    )
    for number, row in enumerate(cells):
        styles = [colours[number] if colours and column == coloured else "" for column in columns]
        texts = [Text(cell, style=style) for cell, style in zip(row, styles, strict=True)]
        texts[-1].truncate(free_width, overflow="ellipsis")
        table.add_row(*texts)
    console.print(table, no_wrap=True, crop=False)
