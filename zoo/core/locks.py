"""Folders that a process holds, and others see that it does: by the system's locks, which end with the process."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["close", "locked", "new_held", "sweep"]


def locked(folder: Path) -> int | None:
    """A handle of a folder that is locked as long as the handle is open; None where another has locked it, -1 where the
    system has no such locks."""
    if fcntl is None:
        return -1
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return -1
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError:  # a network disk
        os.close(handle)
        return -1
    return handle


def close(handle: int | None) -> None:
    """Let go of what :func:`locked` gave."""
    if handle is not None and handle >= 0:
        os.close(handle)


def new_held(parent: Path, begins: str) -> tuple[Path, int]:
    """A new folder whose name begins so, and the handle that holds it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=begins, dir=parent))
        handle = locked(folder)
        if handle is not None and folder.is_dir():  # or somebody swept it before it was locked
            return folder, handle
        close(handle)


def sweep(parent: Path, begins: str) -> None:
    """Remove the folders whose names begin so and that no process holds, where that can be told."""
    for folder in parent.glob(f"{glob.escape(begins)}*"):
        handle = locked(folder)
        if handle is not None and handle >= 0:
            shutil.rmtree(folder, ignore_errors=True)
        close(handle)
