"""How far a pass through data that stay in their files has come, in rows, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

__all__ = ["Listener", "beginnings", "heard_by", "passing", "through"]


class Listener(Protocol):
    """Told how many rows of a pass are done, and of how many (None: not known); both None where it is over."""

    def __call__(self, done: int | None, rows: int | None) -> None: ...


B = TypeVar("B", bound=Any)

_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Passes in here are told to this listener, and to no other."""
    _tell(None, None)
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _tell(None, None)
        _LISTENER.reset(token)


@contextmanager
def passing(rows: int | None) -> Iterator[Callable[[int], None]]:
    """A pass through so many rows, or through an unknown number; what is given is to be told how many are done."""
    try:
        yield lambda done: _tell(done, rows)
    finally:
        _tell(None, None)


def beginnings(whole: int, rows: int) -> Iterator[int]:
    """Where each piece of so many rows begins, in a pass through all."""
    with passing(whole) as told:
        for begin in range(0, whole, rows):
            yield begin
            told(min(begin + rows, whole))


def through(batches: Iterable[B], rows: int, done: int = 0) -> Iterator[B]:
    """Batches of a pass as they come, where so many rows are done already."""
    with passing(rows) as told:
        for batch in batches:
            yield batch
            done += len(batch)
            told(done)


def _tell(done: int | None, rows: int | None) -> None:
    listener = _LISTENER.get()
    if listener is not None:
        listener(done, rows)
