"""Whose turn it is: one lock for what belongs to the process.

Pyro's handlers and parameter store, torch's generator and its default dtype are the process's own. Whatever works on
them takes this lock, so that fits in several threads come one after the other, each to what it would give alone. Work
side by side needs processes.
"""

from __future__ import annotations

import functools
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

__all__ = ["exclusive", "kept_random", "turn", "waiting_for_others"]

#: Re-entrant: a fit may run in another fit's callback.
_LOCK = threading.RLock()
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def turn() -> Iterator[bool]:
    """This thread's turn; gives whether it had to wait for the work of another one."""
    waited = not _LOCK.acquire(blocking=False)
    if waited:
        _LOCK.acquire()
    try:
        yield waited
    finally:
        _LOCK.release()


def waiting_for_others() -> bool:
    """Whether another thread has its turn now."""
    free = _LOCK.acquire(blocking=False)
    if free:
        _LOCK.release()
    return not free


def exclusive(function: Callable[P, R]) -> Callable[P, R]:
    """A function that waits for its turn; what it calls in the same thread does not wait again."""

    @functools.wraps(function)
    def waiting(*args: P.args, **kwargs: P.kwargs) -> R:
        with _LOCK:
            return function(*args, **kwargs)

    return waiting


@contextmanager
def kept_random() -> Iterator[None]:
    """Python's own generator is after it as it was before: rich draws from it when it is imported."""
    if "rich.style" in sys.modules:
        yield
        return
    with _LOCK:
        state = random.getstate()
        try:
            yield
        finally:
            random.setstate(state)
