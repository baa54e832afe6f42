"""A progress line in a notebook: one output, written anew as the run goes on; no widgets."""

from __future__ import annotations

import time
from typing import Any

from zoo.core.turns import kept_random

__all__ = ["NotebookLine"]

#: Seconds that a run takes before there is a line, unless it is asked for, and between two states of one.
PATIENCE, EVERY = 1.0, 0.25

#: Letters of the bar.
LENGTH = 30


class NotebookLine:
    """One task, updated as those of rich's ``Progress`` are; the last state stays below the cell.

    Args:
        layout: a format of what stands right of the bar, by the fields of the task.
        asked: whether the line shows at once; else after :data:`PATIENCE` seconds.
    """

    def __init__(self, layout: str, asked: bool) -> None:
        self.layout, self.fields = layout, dict[str, Any]()
        self._began = time.monotonic()
        self._due = self._began + (0.0 if asked else PATIENCE)
        self._handle: Any = None

    def __enter__(self) -> NotebookLine:
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._write()

    def add_task(self, description: str, **fields: Any) -> int:
        self.update(0, description=description, completed=0.0, **fields)
        return 0

    def update(self, task: int, **fields: Any) -> None:
        self.fields.update(fields)
        now = time.monotonic()
        if now >= self._due:
            self._due = now + EVERY
            self._write()

    def text(self) -> str:
        """The line: title, bar where it is known how far the run is, what it counts, time."""
        fields = self.fields
        full = round(LENGTH * min(1.0, fields["completed"] / fields["total"])) if fields.get("total") else 0
        seconds = int(time.monotonic() - self._began)
        clock = f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        right = self.layout.format(**fields)
        return f"{fields['description']:>12} {'━' * full}{'╌' * (LENGTH - full)} {right} {clock}".rstrip()

    def _write(self) -> None:
        with kept_random():  # IPython names outputs at random
            from IPython.display import display

            shown = {"text/plain": self.text()}
            if self._handle is None:
                self._handle = display(shown, raw=True, display_id=True)
            else:
                self._handle.update(shown, raw=True)
