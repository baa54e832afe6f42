"""Arrays that come in pieces, written once into files that can be mapped."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from zoo.core.locks import close, new_held, sweep
from zoo.core.mapped import Mapped
from zoo.errors import ZooError

__all__ = ["Spool"]

#: Bytes between two looks at the free disk, and those to be left free.
LOOK, LEFT = 2**28, 2**28
#: Bytes of a field that stay in memory.
SMALL = 2**26
#: Where a system shows the open files of its processes (Linux): one can be opened again there that has no name.
PROCESSES = Path("/proc")
#: How the names of folders begin where files need names, and those of files in memory.
PREFIX = "zoo-rows-"


class Spool:
    """Files for arrays by field, a row a datum; they go away with the last array of them, or with the process.

    Where the system can open a file again by its process (Linux), they have no names, and little data lie in memory;
    elsewhere they lie in a folder, and what a process left that was killed goes when the next one begins. Large ones
    lie where temporary files do (``TMPDIR``).

    Args:
        source: what is read, for messages.
        needed: bytes, where they are known beforehand.

    Raises:
        ZooError: too little free disk.
    """

    def __init__(self, source: str, needed: int = 0) -> None:
        self.source, self.written, self.looked = source, 0, 0
        self.fields: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self.files: dict[str, IO[bytes]] = {}
        self.small: set[str] = set()  # those that lie in memory
        self.rows = 0
        self.folder: Path | None = None
        handle: int | None = None
        if not (PROCESSES / str(os.getpid()) / "fd").is_dir():
            parent = Path(tempfile.gettempdir())
            sweep(parent, PREFIX)
            self.folder, handle = new_held(parent, PREFIX)
        weakref.finalize(self, _ended, self.files, self.folder, handle)
        if needed > SMALL or self.folder is not None:
            self._check(needed)

    def __reduce__(self) -> tuple[Any, ...]:
        return _nothing, ()  # another process reads the files, and leaves them

    def add(self, values: Mapping[str, NDArray]) -> None:
        """Write more rows of all fields.

        Raises:
            ZooError: other fields than before, or of another shape; too little free disk.
        """
        values = {name: np.ascontiguousarray(array) for name, array in values.items()}
        sizes = {len(array) for array in values.values()}
        if not self.fields:
            self.fields = {name: (array.dtype, array.shape[1:]) for name, array in values.items()}
        got = {name: array.shape[1:] for name, array in values.items()}
        if got != {name: shape for name, (_, shape) in self.fields.items()} or len(sizes) > 1:
            raise ZooError(
                f"{self.source}: expected data of one shape, {self._shapes()}, got {got} after {self.rows} of them. "
                "Give all as many entries."
            )
        for name, array in values.items():
            dtype = self.fields[name][0]
            if not np.can_cast(array.dtype, dtype, "same_kind"):
                raise ZooError(
                    f"{self.source}: expected {dtype} after {self.rows} data, got {array.dtype}. Convert it."
                )
            size = array.size * dtype.itemsize
            self._file(name, size).write(array.astype(dtype, copy=False).tobytes())
            self.written += size
        self.rows += sizes.pop()
        if self.written - self.looked > LOOK:
            self.looked = self.written
            self._check(0)

    def arrays(self) -> dict[str, Mapped]:
        """What was written, by field."""
        if not self.rows:
            raise ZooError(f"{self.source} has no rows, expected data. Check what wrote it.")
        for file in self.files.values():
            if self.folder is None:
                file.flush()
            else:
                file.close()
        return {
            name: Mapped.at(self._path(name), dtype, (self.rows, *shape), keeps=self)
            for name, (dtype, shape) in self.fields.items()
        }

    def _file(self, name: str, more: int) -> IO[bytes]:
        """The file of a field, to which so many bytes will be added."""
        file, large = self.files.get(name), name not in self.small
        if file is not None and (large or file.tell() + more <= SMALL):
            return file
        if self.folder is not None:
            made: Any = (self.folder / name).open("wb")
        elif file is None and more <= SMALL and hasattr(os, "memfd_create"):
            made = os.fdopen(os.memfd_create(f"{PREFIX}{name}"), "w+b")
            self.small.add(name)
        else:
            self._check(more)
            made = tempfile.TemporaryFile(prefix=PREFIX)  # noqa: SIM115  # closed with the last array of it
        if file is not None:  # it has outgrown memory
            file.seek(0)
            shutil.copyfileobj(file, made)
            file.close()
            self.small.discard(name)
        self.files[name] = made
        return made

    def _path(self, name: str) -> Path:
        if self.folder is not None:
            return self.folder / name
        return PROCESSES / str(os.getpid()) / "fd" / str(self.files[name].fileno())

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, (_, shape) in self.fields.items()}

    def _check(self, needed: int) -> None:
        place = tempfile.gettempdir()
        free = shutil.disk_usage(place).free
        if free < needed + LEFT:
            raise ZooError(
                f"{self.source}: expected {max(needed, LEFT) / 2**30:.3g} GiB of free disk in {place} to lay out its "
                f"rows, got {free / 2**30:.3g}. Set TMPDIR to a larger disk."
            )


def _ended(files: Mapping[str, IO[bytes]], folder: Path | None, handle: int | None) -> None:
    for file in files.values():
        file.close()
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
    close(handle)


def _nothing() -> None:
    return None
