"""A live progress line on stderr, when it is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from zoo.estimators.base import Callback

__all__ = ["shown"]


@contextmanager
def shown(progress: bool | Callback | None, title: str) -> Iterator[Callback | None]:
    """The callback for ``progress``: a function as it is, True a bar, None a bar if stderr is a terminal."""
    if callable(progress):
        yield progress
        return
    if progress is False:
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if progress is None and not console.is_terminal:
        yield None
        return
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[rows]:>6} rows  objective {task.fields[objective]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, refresh_per_second=8) as bars:
        task = bars.add_task(title, total=None, rows=0, objective="")
        count = 0

        def update(row: dict[str, Any], fraction: float | None) -> None:
            nonlocal count
            count += 1
            if fraction is not None:
                bars.update(task, total=1.0, completed=fraction)
            if count % 25 == 1 or fraction == 1.0:
                bars.update(task, rows=count, objective=f"{row['objective']:.4f}")

        yield update
        bars.update(task, total=1.0, completed=1.0, rows=count)
