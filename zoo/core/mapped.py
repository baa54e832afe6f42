"""An array in a file, of which only the rows that are taken come into memory."""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.errors import ZooError

__all__ = ["Mapped"]

#: Rows here and there that are taken while a file is mapped: with each of them the system maps some pages around it.
SCATTERED = 1024
#: What the system is told of rows side by side, and of rows here and there: large pages spare it, and us, most of what
#: bringing a file into memory costs, but each comes in as a whole, 2 MiB.
LARGE_PAGES: int | None = getattr(mmap, "MADV_HUGEPAGE", None)
SMALL_PAGES: int | None = getattr(mmap, "MADV_NOHUGEPAGE", None)


@dataclass(frozen=True)
class Mapped:
    """An array in a file, as ``numpy.memmap`` describes one.

    No more of the file is mapped than the rows that are in use, so that no other page stays in the process's memory.

    Attributes:
        path: the file. dtype, shape, offset, order: of the array in it.
        stamp: the file's size and time of change when it was opened.
        keeps: what has to live as long: a folder that goes away with its last array.
    """

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int = 0
    order: str = "C"
    stamp: tuple[int, int] = (0, 0)
    keeps: Any = field(default=None, repr=False, compare=False)

    @classmethod
    def at(
        cls, path: Path, dtype: Any, shape: tuple[int, ...], offset: int = 0, order: str = "C", keeps: Any = None
    ) -> Mapped:
        """The array at a place in a file, which is there now."""
        return cls(str(path), np.dtype(dtype), tuple(shape), offset, order, _stamp(path), keeps)

    @classmethod
    def of_memmap(cls, array: NDArray) -> Mapped | None:
        """What ``numpy.memmap``, or rows in one piece of it, has in its file; None where that cannot be said."""
        root: Any = array
        while isinstance(root, np.ndarray) and not isinstance(root.base, mmap.mmap):
            root = root.base
        if not isinstance(root, np.memmap) or root.filename is None or root.mode not in ("r", "r+"):
            return None
        flags = array.flags
        if not (flags.c_contiguous or flags.f_contiguous):
            return None
        order = "C" if flags.c_contiguous else "F"
        begin, there = root.__array_interface__["data"][0], array.__array_interface__["data"][0]
        return cls.at(Path(root.filename), array.dtype, array.shape, root.offset + there - begin, order)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def raw(self, index: Any) -> NDArray:
        """Rows as they stand in the file: of a slice only its part of the file is mapped, as long as the array lives,
        and what is written into the array stays out of the file; others are copied.

        Raises:
            ZooError: the file is gone, or is no longer what it was when it was opened.
        """
        if _stamp(self.path) != self.stamp:
            raise ZooError(f"{Path(self.path).name} expected as it was opened, got changed since. Begin anew with it.")
        if isinstance(index, slice):
            begin, end, step = index.indices(len(self))
            row = self.size // len(self)
            if self.order == "C" and step == 1 and end > begin and row:
                return self._at(self.offset + begin * row, (end - begin, *self.shape[1:]), LARGE_PAGES)
            return self._copied(index)
        if len(index) <= SCATTERED:
            return self._copied(index)
        return np.concatenate([self._copied(index[i : i + SCATTERED]) for i in range(0, len(index), SCATTERED)])

    def _copied(self, index: Any) -> NDArray:
        return np.array(self._at(self.offset, self.shape, SMALL_PAGES)[index])

    def _at(self, offset: int, shape: tuple[int, ...], pages: int | None) -> NDArray:
        """An array at a place in the file."""
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        before = offset % mmap.ALLOCATIONGRANULARITY
        with open(self.path, "rb") as file:
            there = mmap.mmap(file.fileno(), before + size, access=mmap.ACCESS_COPY, offset=offset - before)
        if pages is not None:
            with suppress(OSError):  # a kernel without such pages
                there.madvise(pages)
        order: Any = self.order if shape == self.shape else "C"
        return np.ndarray(shape, self.dtype, there, before, order=order)


def _stamp(path: str | Path) -> tuple[int, int]:
    try:
        found = os.stat(path)
    except OSError as error:
        raise ZooError(f"{path} could not be read: {error.strerror}. Check the file and its permissions.") from None
    return found.st_size, found.st_mtime_ns
