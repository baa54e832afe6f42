"""Folders that appear whole or not at all: written beside their place, flushed to disk, and moved there in one step."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import ZooError

__all__ = ["NEW", "check_free", "flush", "new_folder", "published", "staged", "written"]

#: How the names of folders begin that are being written.
NEW = ".new-"


@contextmanager
def staged(parent: Path, name: str = "", asked: Path | None = None) -> Iterator[Path]:
    """A new folder inside of ``parent``, which is made; what is left of it at the end is removed.

    Raises:
        ZooError: it cannot be made, and ``asked`` is the folder that a user asked for; else an OSError.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{NEW}{name}-", dir=parent))
    except OSError as error:
        if asked is None:
            raise
        raise ZooError(f"output folder {str(asked)!r} cannot be made ({error.strerror}). Choose another.") from None
    try:
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def written(file: Path) -> Iterator[Path]:
    """What is written to the path that this gives, of the same suffix, appears at ``file`` whole, in place of what was
    there, or not at all."""
    staging = file.with_name(f".{file.stem}-{os.getpid()}{file.suffix}")
    try:
        yield staging
        staging.replace(file)
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def published(target: Path, asked: Path | None = None) -> Iterator[Path]:
    """What is written to the folder that this gives appears at ``target``, where there is nothing yet, whole or not at
    all; ``asked``: see :func:`staged`."""
    with staged(target.parent, target.name, asked) as folder:
        yield folder
        for path in (*folder.rglob("*"), folder):
            flush(path)
        if target.is_dir():
            target.rmdir()  # empty, or it stays and this fails
        folder.rename(target)
        flush(target.parent)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """As :func:`published`, for a folder that a user names.

    Raises:
        ZooError: the folder holds something, or cannot be made.
    """
    check_free(Path(path))
    with published(Path(path), Path(path)) as folder:
        yield folder


def check_free(folder: Path, fix: str = "Choose another name.") -> None:
    """Raise ZooError unless a run may be written to ``folder``: it does not exist, or is an empty folder."""
    if folder.is_file():
        raise ZooError(f"output folder expected a folder, got the file {str(folder)!r}. Choose another name.")
    if folder.is_dir() and any(folder.iterdir()):
        raise ZooError(f"output folder {str(folder)!r} expected to be new or empty, but it holds files. {fix}")


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # a system that does not open folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
