"""Progress: a live bar on a terminal or in a notebook, elsewhere a line on stderr now and then."""

from __future__ import annotations

import functools
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from time import sleep
from typing import Any

from zoo.core.passes import heard_by
from zoo.core.turns import kept_random
from zoo.estimators.base import Callback
from zoo.runs.notebook_line import PATIENCE, NotebookLine

__all__ = ["fraction_shown", "shown", "waited_for"]

#: Without a terminal a line is written when there has been none for so long, in seconds.
SILENCE = 4.0
#: Seconds between two states of a bar.
EVERY = 0.1


@contextmanager
def shown(progress: bool | Callback | None, title: str, unit: str = "iterations") -> Iterator[Callback | None]:
    """The callback for ``progress``: a function as it is, True a bar, None a bar on a terminal or, where the run takes
    more than a second, in a notebook, and else lines.

    Args:
        unit: what a row of the history is.
    """
    if callable(progress):
        yield progress
        return
    if progress is False:
        yield None
        return
    console = _console(progress)
    if console is None:
        lines = Lines(title, unit)
        with _clock.at_work(lines):
            yield Bar(lines, None, title)
        return
    with kept_random():
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    if console.is_jupyter:
        with NotebookLine(f"{{rows:>6}} {unit}  {{values}} {{left}} {{passed}}", progress is True) as line:
            bar = Bar(line, line.add_task(title, rows=0, values="", left="", passed=""), title)
            with heard_by(bar.passed):
                yield bar
            bar.end()
        return
    columns = (
        TextColumn("{task.description:>12}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[rows]:>6} " + unit + "  {task.fields[values]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[passed]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=8) as bars:
        bar = Bar(bars, bars.add_task(title, total=None, rows=0, values="", left="", passed=""), title)
        with heard_by(bar.passed):
            yield bar
        bar.end()


@contextmanager
def waited_for(progress: bool | Callback | None, title: str) -> Iterator[None]:
    """Around all of a run, what comes before its bar (starts) and after it (scores) too: where lines are written, they
    say that it is at work; a bar shows a pass through data that are read in pieces, while it lasts."""
    if progress is False or callable(progress):
        yield
    elif (console := _console(progress)) is None:
        with _clock.at_work(Lines(title)):
            yield
    else:
        with heard_by(PassBar(title, console, progress is True)):
            yield


@contextmanager
def fraction_shown(title: str, progress: bool | None = None) -> Iterator[Callable[[float], None] | None]:
    """What is to be told which fraction is done: a bar (True; None: on a terminal, in a notebook, else lines), or None
    (False)."""
    if progress is False:
        yield None
        return
    console = _console(progress)
    if console is None:
        lines = Lines(title)
        with _clock.at_work(lines):
            yield lambda fraction: lines.update(None, completed=fraction)
        return
    with _fraction_bar(title, console, progress is True) as bar:

        def heard(done: int | None, rows: int | None) -> None:
            bar(**pass_fields(done, rows))

        with heard_by(heard):
            yield lambda fraction: bar(completed=fraction)


@contextmanager
def _fraction_bar(title: str, console: Any, asked: bool) -> Iterator[Callable[..., None]]:
    """What updates the fields of a bar that goes with the work."""
    with kept_random():
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    if console.is_jupyter:
        with NotebookLine("{passed}", asked) as line:
            yield functools.partial(line.update, line.add_task(title, total=1.0, passed=""))
        return
    words = [TextColumn("{task.description:>12}"), TextColumn("{task.fields[passed]}")]
    with Progress(
        words[0], BarColumn(bar_width=30), TimeRemainingColumn(), words[1], console=console, transient=True
    ) as bars:
        yield functools.partial(bars.update, bars.add_task(title, total=1.0, passed=""))


class PassBar:
    """Shows a pass through data that stay in their files, while it lasts; not one that is done in :data:`PATIENCE`."""

    def __init__(self, title: str, console: Any, asked: bool) -> None:
        self.title, self.console, self.asked = title, console, asked
        self._began: float | None = None
        self._shown = ExitStack()
        self._bar: Callable[..., None] | None = None

    def __call__(self, done: int | None, rows: int | None) -> None:
        now = time.monotonic()
        if done is None:
            self._shown.close()
            self._began = self._bar = None
        elif self._began is None:
            self._began = now
        elif self._bar is None and now - self._began > PATIENCE:
            self._bar = self._shown.enter_context(_fraction_bar(self.title, self.console, self.asked))
        if self._bar is not None:
            self._bar(**pass_fields(done, rows))


def pass_fields(done: int | None, rows: int | None) -> dict[str, Any]:
    """The fields of a bar that say how far a pass has come; none of its words where it is over."""
    if done is None:
        return {"passed": ""}
    of = "" if rows is None else f" of {_spaced(rows)}"
    return {"passed": f"rows {_spaced(done)}{of}"} | ({"completed": done / rows} if rows else {})


def _spaced(number: int) -> str:
    return f"{number:,}".replace(",", " ")


def _console(progress: bool | None) -> Any:
    """rich's console on stderr; None where lines are to be written. rich is imported where there may be more than
    these: it takes as long as a small fit."""
    told = any(os.environ.get(name) for name in ("TTY_COMPATIBLE", "FORCE_COLOR"))
    if progress is None and not told and not sys.stderr.isatty() and "IPython" not in sys.modules:
        return None
    with kept_random():
        from rich.console import Console

    console = Console(stderr=True)
    return console if progress or console.is_jupyter or console.is_terminal else None


class _Clock:
    """Since when nothing was said, across the fits of a process: many short ones are as silent as a long one.

    Who is at work says how far he is; a thread says it for him where he does not come to it (a kernel is compiled, one
    pass takes a minute).
    """

    def __init__(self) -> None:
        self.spoke, self.worked = time.monotonic(), -math.inf
        self._speaking = threading.Lock()
        self._busy = threading.Event()
        self._workers: list[Lines] = []
        self._thread: threading.Thread | None = None

    @contextmanager
    def at_work(self, lines: Lines) -> Iterator[None]:
        if time.monotonic() - self.worked > SILENCE:  # what went on between is not ours to tell
            self.spoke = time.monotonic()
        self._workers.append(lines)
        self._busy.set()
        if self._thread is None or not self._thread.is_alive():  # the child of a fork has none
            self._thread = threading.Thread(target=self._watch, name="zoo-progress", daemon=True)
            self._thread.start()
        try:
            with heard_by(lines.passed):
                yield
        finally:
            self._workers.remove(lines)
            if not self._workers:
                self._busy.clear()
            self.worked = time.monotonic()

    def silent(self, seconds: float) -> bool:
        return time.monotonic() - self.spoke > seconds

    def say(self, line: str) -> None:
        with self._speaking:
            self.spoke = time.monotonic()
            with suppress(OSError, ValueError):  # nobody listens any more: the run goes on
                sys.stderr.write(f"{line}\n")
                sys.stderr.flush()

    def _watch(self) -> None:
        while self._busy.wait():
            sleep(0.5)
            for lines in self._workers[-1:]:
                if self.silent(SILENCE + 1):  # news come first
                    self.say(lines.line(waited=True))


_clock = _Clock()


class Lines:
    """In a bar's place: what it would show, as a line where there has been none for long.

    Args:
        unit: what a row is; none where only a fraction is known.
    """

    def __init__(self, title: str, unit: str = "") -> None:
        self.unit, self.began = unit, time.monotonic()
        texts = dict.fromkeys(("values", "left", "passed"), "")
        self.fields: dict[str, Any] = {"description": title, "rows": 0, "completed": 0.0, **texts}

    def passed(self, done: int | None, rows: int | None) -> None:
        """How far a pass through data that stay in their files has come."""
        words = {"passed": pass_fields(done, rows)["passed"]}
        if done is None:
            self.fields |= words
        else:
            self.update(None, **words)

    def update(self, task: Any, **fields: Any) -> None:
        self.fields |= fields
        if _clock.silent(SILENCE):
            _clock.say(self.line())

    def line(self, waited: bool = False) -> str:
        """How far it is, and where that may be no news since when it is at work."""
        description, rows, shown, completed, left, passed = (
            self.fields[name] for name in ("description", "rows", "values", "completed", "left", "passed")
        )
        parts = [f"{rows} {self.unit}" if rows else "", f"{completed:.0%}" if completed else ""]
        parts += [*shown.split("  "), passed, left]
        if waited:
            parts.append(f"at work for {time.monotonic() - self.began:.0f} s")
        return f"{description}: {', '.join(part for part in parts if part)}"


class Bar:
    """One bar: called with every row of the history, told by ``tick`` how far a long epoch has come."""

    def __init__(self, bars: Any, task: Any, title: str = "") -> None:
        self.bars, self.task, self.title, self.count = bars, task, title, 0
        self._stage: str | None = None
        self._began, self._drawn, self._told = time.monotonic(), 0.0, 0.0
        self._first: float | None = None
        self._last: dict[str, Any] = {}

    def __call__(self, row: dict[str, Any], fraction: float | None) -> None:
        self.count += 1
        self._last = row
        now, fields = time.monotonic(), {} if fraction is None else self._at(fraction)
        if self.count == 1 or now - self._drawn > EVERY or fraction == 1.0:
            self._drawn = now
            fields |= {"rows": self.count, "values": values(row)}
        if fields:
            self.bars.update(self.task, **fields)

    def end(self) -> None:
        """The bar is full, and shows the last row."""
        last = {"values": values(self._last)} if self._last else {}
        self.bars.update(self.task, total=1.0, completed=1.0, rows=self.count, left="", passed="", **last)

    def stage(self, name: str, fraction: float) -> None:
        """How far a stage before the climb has come."""
        if self._stage is None:
            self._stage = name
            self.bars.update(self.task, description=f"{self.title}, {name}")
        self.bars.update(self.task, total=1.0, completed=fraction)

    def tick(self, fraction: float) -> None:
        self.bars.update(self.task, **self._at(fraction))

    def passed(self, done: int | None, rows: int | None) -> None:
        """How far a pass through data that stay in their files has come."""
        now = time.monotonic()
        if done is None or now - self._told > EVERY:
            self._told = now
            self.bars.update(self.task, passed=pass_fields(done, rows)["passed"])

    def _at(self, fraction: float) -> dict[str, Any]:
        if self._stage is not None:
            self._stage = None
            self.bars.update(self.task, description=self.title)
        if self._first is None:  # a resumed run does not begin at nought
            self._began, self._first = time.monotonic(), fraction
        return {"total": 1.0, "completed": fraction, "left": self.left(fraction)}

    def left(self, fraction: float) -> str:
        """The time left, if the rest goes as fast as what has been seen."""
        done = fraction - (self._first or 0.0)
        if done <= 0:
            return ""
        seconds = round((time.monotonic() - self._began) * (1 - fraction) / done)
        return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d} left"


def values(row: dict[str, Any]) -> str:
    """What a line shows of a row: the objective, and the columns that not every run has."""
    usual = ("objective", "log_likelihood", "elbo", "bound", "seconds")
    more = [f"{name} {value:.2f}" for name, value in row.items() if name not in usual and value is not None]
    objective = row["objective"]  # none where what is followed is the gradient of no known value
    return "  ".join([*([] if objective is None else [f"objective {objective:.4f}"]), *more])
