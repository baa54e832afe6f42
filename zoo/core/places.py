"""How messages count rows: those of arrays from 0, as Python does; those of a file from 1, with its lines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

__all__ = [
    "counted",
    "counting",
    "counting_as",
    "data_names",
    "from_one",
    "further",
    "read_from",
    "row_names",
    "sequence_name",
    "within",
]

P = ParamSpec("P")
R = TypeVar("R")

Line = Callable[[int, int | None], int | None]
"""The line of a file that a row is on, by its number and that of the sequence it is in, both from 0."""


@dataclass
class _Count:
    first: int
    line: Line | None = None
    sequence: int | None = None


_COUNT: ContextVar[_Count | None] = ContextVar("count", default=None)


@contextmanager
def from_one() -> Iterator[None]:
    """Count from 1 in here: for data that a person has in a file."""
    token = _COUNT.set(_Count(1))
    try:
        yield
    finally:
        _COUNT.reset(token)


def counted(function: Callable[P, R]) -> Callable[P, R]:
    """A function in which rows count as those of the file that it reads, if it does."""

    @functools.wraps(function)
    def counting(*args: P.args, **kwargs: P.kwargs) -> R:
        token = _COUNT.set(_COUNT.get() or _Count(0))
        try:
            return function(*args, **kwargs)
        finally:
            _COUNT.reset(token)

    return counting


def counting() -> _Count | None:
    """How messages count rows here, to be handed to :func:`counting_as` in another process."""
    return _COUNT.get()


@contextmanager
def counting_as(count: _Count | None) -> Iterator[None]:
    """Count in here as it was counted where ``count`` comes from."""
    token = _COUNT.set(count)
    try:
        yield
    finally:
        _COUNT.reset(token)


def read_from(line: Line | None) -> None:
    """A file was read: its rows count from 1 from now on, in what :func:`counted` or :func:`from_one` runs."""
    count = _COUNT.get()
    if count is not None:
        count.first, count.line = 1, line


@contextmanager
def further(rows: int) -> Iterator[None]:
    """Rows that are named in here come after so many others."""
    count = _COUNT.get() or _Count(0)
    token = _COUNT.set(replace(count, first=count.first + rows, line=None))
    try:
        yield
    finally:
        _COUNT.reset(token)


@contextmanager
def within(sequence: int) -> Iterator[None]:
    """Rows that are named in here are of this sequence, numbered from 0."""
    count = _COUNT.get()
    token = _COUNT.set(None if count is None else replace(count, sequence=sequence))
    try:
        yield
    finally:
        _COUNT.reset(token)


def row_names(where: Sequence[int]) -> str:
    """Rows numbered from 0 as ``"rows 3, 17"``; of a file ``"rows 4, 18 (lines 5, 19)"``."""
    count = _COUNT.get() or _Count(0)
    more, several = ", ..." if len(where) > 5 else "", "s" if len(where) > 1 else ""
    named = f"row{several} {', '.join(str(row + count.first) for row in where[:5])}{more}"
    lines = [None if count.line is None else count.line(row, count.sequence) for row in where[:5]]
    if not lines or None in lines:
        return named
    return f"{named} (line{several} {', '.join(map(str, lines))}{more})"


def data_names(where: Sequence[int]) -> str:
    """Data numbered from 0, rows or sequences, as ``"index 3, 17"``; of a file ``"numbers 4, 18"``."""
    count = _COUNT.get() or _Count(0)
    named = ", ".join(str(i + count.first) for i in where[:5]) + (", ..." if len(where) > 5 else "")
    return f"number{'s' if len(where) > 1 else ''} {named}" if count.first else f"index {named}"


def sequence_name(which: int) -> str:
    """A sequence numbered from 0 as ``"sequence 3"``; of a file ``"sequence 4"``."""
    count = _COUNT.get()
    return f"sequence {which + (0 if count is None else count.first)}"
