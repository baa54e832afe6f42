"""Folders that appear whole or not at all: written beside their place, flushed to disk, and moved there in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zoo.core import locks
from zoo.errors import ZooError

__all__ = [
    "check_free", "flush", "held", "new_folder", "published", "staged", "sweep", "unwritten", "written", "written_into"
]  # fmt: skip

#: How the names of folders begin that are being written.
NEW = ".new-"


@contextmanager
def staged(parent: Path, name: str = "", asked: Path | None = None) -> Iterator[Path]:
    """A new folder inside of ``parent``, which is made; what is left of it at the end is removed, and what processes
    that were killed left of others.

    Raises:
        ZooError: it cannot be made, and ``asked`` is the folder that a user asked for; else an OSError.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        sweep(parent, f"{name}-")
        folder, handle = _begun(parent, name)
    except OSError as error:
        if asked is None:
            raise
        raise ZooError(f"output folder {str(asked)!r} cannot be made ({error.strerror}). Choose another.") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        locks.close(handle)


def _begun(parent: Path, name: str) -> tuple[Path, int]:
    """A folder of our own, and the handle that says so."""
    folder, handle = locks.new_held(parent, f"{NEW}{name}-")
    folder.chmod(0o755)
    return folder, handle


def sweep(parent: Path, begins: str = "") -> None:
    """Remove what processes that are no more left of :func:`staged` folders, where that can be told."""
    locks.sweep(parent, f"{NEW}{begins}")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes from a folder, which is made, as long as they ask in this way too; one that is empty in the
    end is removed, with what was made for it.

    The lock is the system's, on the folder itself: it ends with the process, however that ends. Systems and network
    disks without such locks keep nobody out.

    Raises:
        ZooError: another run holds it, or it cannot be made.
    """
    made = [path for path in (folder, *folder.absolute().parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ZooError(f"output folder {str(folder)!r} cannot be made ({error.strerror}). Choose another.") from None
    handle = locks.locked(folder)
    if handle is None:
        raise ZooError(f"output folder {str(folder)!r} is another run's, which is at work. Wait, or choose another.")
    try:
        yield
    finally:
        locks.close(handle)
        with suppress(OSError):
            for path in made:
                path.rmdir()


@contextmanager
def written(file: Path) -> Iterator[Path]:
    """What is written to the path that this gives, of the same suffix, appears at ``file`` whole, in place of what was
    there, or not at all."""
    with staged(file.absolute().parent, file.name) as folder:
        staging = folder / file.name
        yield staging
        flush(staging)
        staging.replace(file)
        flush(file.absolute().parent)


@contextmanager
def written_into(target: Path, asked: Path | None = None) -> Iterator[Path]:
    """Files and folders that are written to the folder that this gives appear in ``target``, in place of what was
    there: one after the other, each whole; ``asked``: see :func:`staged`."""
    with staged(target, asked=asked) as folder:
        yield folder
        for path in folder.rglob("*"):
            flush(path)
        for path in sorted(folder.iterdir()):
            place = target / path.name
            if path.is_dir() and place.is_dir():
                place.rename(folder / f".{path.name}")
            path.replace(place)
        flush(target)


@contextmanager
def published(target: Path, asked: Path | None = None) -> Iterator[Path]:
    """What is written to the folder that this gives appears at ``target``, where there is nothing yet, whole or not at
    all; ``asked``: see :func:`staged`."""
    with staged(target.parent, target.name, asked) as folder:
        try:
            yield folder
            for path in (*folder.rglob("*"), folder):
                flush(path)
            if target.is_dir():
                target.rmdir()  # empty, or it stays and this fails
            folder.rename(target)
        except OSError as error:
            if asked is None:
                raise
            raise unwritten(asked, error) from error
        flush(target.parent)


def unwritten(folder: Path, error: OSError, more: str = "") -> ZooError:
    """The mistake that keeps a result from a folder: a full disk, one that is read only."""
    why, where = error.strerror or str(error), f"output folder {str(folder)!r}"
    return ZooError(f"{where} cannot take the result ({why}). Make room, or choose another.{more}")


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
    sweep(folder)
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
