"""Tables as text: ruled and fitted to a width, or in plain columns."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from zoo.core.turns import kept_random

__all__ = ["Table", "columns", "ruled"]


@dataclass(frozen=True)
class Table:
    """Columns that text and page share: a heading, and whether it is a number."""

    title: str
    columns: Sequence[tuple[str, bool]]
    rows: Sequence[Sequence[str]]


def ruled(table: Table, width: int, fold: bool = False) -> str:
    """A table under a rule, at most so many characters wide.

    Args:
        fold: whether words may be cut where a line is full, but for those of the first column; numbers never are.
    """
    with kept_random():
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table as Ruled
        from rich.text import Text

    title = Text(table.title) if table.title else None
    made = Ruled(title=title, title_justify="left", title_style="", box=SIMPLE_HEAD, pad_edge=False)
    if not fold:
        made.padding = (0, 1, 0, 0)
    for i, (heading, number) in enumerate(table.columns):
        words = [word for row in table.rows for word in row[i].split()]
        made.add_column(
            Text(heading),
            justify="right" if number else "left",
            no_wrap=number or (fold and i == 0),
            overflow="fold" if fold else "ellipsis",
            min_width=None if number or fold else max(map(len, words), default=1),
        )
    for row in table.rows:
        made.add_row(*(Text(cell) for cell in row))
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, force_terminal=False, highlight=False, markup=False)
    console.print(made)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())


def columns(table: Table, rule: bool = True, apart: int = 2) -> str:
    """A table in columns as wide as what stands in them."""
    headings = [heading for heading, _ in table.columns]
    widths = [max(len(row[i]) for row in [headings, *table.rows]) for i in range(len(headings))]
    ruler = [["-" * width for width in widths]] if rule else []
    lines = [
        (" " * apart).join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, (_, number) in zip(row, widths, table.columns, strict=True)
        )
        for row in [headings, *ruler, *table.rows]
    ]
    return "\n".join(line.rstrip() for line in lines)
