"""Parts of a benchmark as they are measured: what is stopped half-way has kept them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

__all__ = ["keeping", "kept"]

Numbers = TypeVar("Numbers")
_KEEP: ContextVar[Callable[[str, Any], None] | None] = ContextVar("keep", default=None)


def kept(part: str, numbers: Numbers) -> Numbers:
    """The numbers of a part, told to whoever keeps them."""
    if (keep := _KEEP.get()) is not None:
        keep(part, numbers)
    return numbers


@contextmanager
def keeping(keep: Callable[[str, Any], None]) -> Iterator[None]:
    """Inside, ``keep(part, numbers)`` is called as soon as a part is measured."""
    token = _KEEP.set(keep)
    try:
        yield
    finally:
        _KEEP.reset(token)
