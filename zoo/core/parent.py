"""Processes that end with the one that started them, however that ends: nobody works for one that was killed."""

from __future__ import annotations

import os
import threading
import time

__all__ = ["leave_with"]

#: Whom this process will leave with.
_WATCHED: set[int] = set()


def leave_with(parent: int) -> None:
    """From now on end this process, by exit code 1, within a second of its parent's end."""
    if parent not in _WATCHED:
        _WATCHED.add(parent)
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
