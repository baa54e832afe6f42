"""What the parts of a table have in common while it runs: processes, a device, and where they keep what is done.

Rows, or seeds, that do not know of each other go through :func:`each_by_itself`, one after the other or spread over
processes; fits go through :func:`fit`. Where the table has a folder, each call of either takes the next number in it:
the same table in the same order finds what was kept by a run that did not come to its end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from zoo.core.spread import spread
from zoo.runs import fit as fitting
from zoo.runs.result import Fit
from zoo.storage.folders import written
from zoo.storage.json import from_exact, is_plain, to_exact

__all__ = ["Running", "each_by_itself", "fit", "here", "running", "taken"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Say = Callable[[str], None]
#: The file that has the result of a row, in its folder.
RESULT = "result.json"


@dataclass
class Running:
    """A table that runs, or a row of it.

    Attributes:
        jobs: how many processes it may take. device: where its fits compute (None: where their models are).
        folder: where its parts keep what is done, or None. parts: how many of them have begun.
        cpu_seconds: of processors, that others than this process took.
    """

    jobs: int = 1
    device: str | None = None
    folder: Path | None = None
    parts: int = 0
    cpu_seconds: float = 0.0

    def place(self) -> Path | None:
        """The folder of the next part."""
        self.parts += 1
        return None if self.folder is None else self.folder / str(self.parts)


_NOW: ContextVar[Running | None] = ContextVar("running", default=None)


@contextmanager
def running(now: Running) -> Iterator[Running]:
    """Inside, this is what runs."""
    token = _NOW.set(now)
    try:
        yield now
    finally:
        _NOW.reset(token)


def here() -> Running:
    """What runs now."""
    return _NOW.get() or Running()


def fit(model: Any, x: Any, **options: Any) -> Fit:
    """``zoo.fit`` where the table computes; with a folder it goes on from what was kept of it there.

    Raises:
        KeyboardInterrupt: it was interrupted; no row is made of half a fit.
    """
    now = here()
    place = now.place()
    found = fitting.fit(model, x, device=now.device, out=place, resume=place is not None, **options)
    if found.status == "interrupted":
        raise KeyboardInterrupt
    return found


def each_by_itself(
    work: Callable[[Item, Say], Result], items: Sequence[Item], say: Say
) -> Iterator[tuple[Item, Result]]:
    """Each item with ``work(item, say)`` of it, in order. What a worker process says comes when its item is done.

    With a folder, a result of plain values is kept there when it is there: tuples come back as lists.
    """
    now = here()
    place, several = now.place(), now.jobs != 1
    parts = [(item, None if place is None else place / str(number)) for number, item in enumerate(items)]
    with spread(_Part(work, now.device, None if several else say), parts, now.jobs) as results:
        for item, (result, lines, seconds, process) in zip(items, results, strict=True):
            now.cpu_seconds += seconds * (process != os.getpid())
            for line in lines:
                say(line)
            yield item, result


def taken(fitted: Fit, began: float, cpu: float) -> dict[str, Any]:
    """What a row says of its one fit and of its time.

    Args:
        began, cpu: ``time.perf_counter()`` and ``time.process_time()`` where the row began.
    """
    return {
        "epochs": fitted.iterations,
        "status": fitted.status,
        "train_seconds": fitted.seconds,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
    }


class _Part:
    """Work on an item, with its processor time and process; where nobody hears its lines now, they are kept."""

    def __init__(self, work: Callable[[Any, Say], Any], device: str | None, say: Say | None) -> None:
        self.work, self.device, self.say = work, device, say

    def __call__(self, part: tuple[Any, Path | None]) -> tuple[Any, list[str], float, int]:
        item, folder = part
        lines, began = list[str](), time.process_time()
        with running(Running(1, self.device, folder)):
            result = _kept(partial(self.work, item, self.say or lines.append), folder)
        return result, lines, time.process_time() - began, os.getpid()


def _kept(work: Callable[[], Any], folder: Path | None) -> Any:
    """What work gives: read, where an earlier run has left it in the folder, or made and left there."""
    if folder is None:
        return work()
    with suppress(FileNotFoundError):
        return from_exact((folder / RESULT).read_text(encoding="utf-8"))
    result = work()
    if is_plain(result):
        with suppress(OSError), written(folder / RESULT) as file:  # a full disk: it is made again
            file.write_text(to_exact(result), encoding="utf-8")
    return result
