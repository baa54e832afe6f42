"""The rows of a table, or its seeds, that do not know of each other: one after the other, or spread over processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from zoo.core.spread import spread
from zoo.runs.result import Fit

__all__ = ["Spreading", "device", "each_by_itself", "spreading", "taken"]

Item = TypeVar("Item")
Result = TypeVar("Result")
Say = Callable[[str], None]


@dataclass
class Spreading:
    """How many processes a table may take, where its fits compute (None: where their models are), and the seconds of
    processor time that others than this one took."""

    jobs: int = 1
    device: str | None = None
    cpu_seconds: float = 0.0


_NOW: ContextVar[Spreading | None] = ContextVar("spreading", default=None)


@contextmanager
def spreading(jobs: int, device: str | None = None) -> Iterator[Spreading]:
    """Inside, :func:`each_by_itself` takes so many processes, and :func:`device` is this one."""
    now = Spreading(jobs, device)
    token = _NOW.set(now)
    try:
        yield now
    finally:
        _NOW.reset(token)


def device() -> str | None:
    """Where fits of a table are to compute, for their ``device``."""
    now = _NOW.get()
    return None if now is None else now.device


def each_by_itself(
    work: Callable[[Item, Say], Result], items: Sequence[Item], say: Say
) -> Iterator[tuple[Item, Result]]:
    """Each item with ``work(item, say)`` of it, in order. What a worker process says comes when its item is done."""
    now = _NOW.get()
    if now is None or now.jobs == 1:
        for item in items:
            yield item, work(item, say)
        return
    with spread(_Told(work, now.device), items, now.jobs) as results:
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


class _Told:
    """Work on a device whose lines of progress are kept, with its processor time and process."""

    def __init__(self, work: Callable[[Any, Say], Any], device: str | None) -> None:
        self.work, self.device = work, device

    def __call__(self, item: Any) -> tuple[Any, list[str], float, int]:
        lines, began = list[str](), time.process_time()
        with spreading(1, self.device):
            result = self.work(item, lines.append)
        return result, lines, time.process_time() - began, os.getpid()
