"""Arrays that come in pieces, written once into files that can be mapped."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.core.mapped import Mapped
from zoo.errors import ZooError

__all__ = ["Spool"]

#: Bytes between two looks at the free disk, and those to be left free.
LOOK, LEFT = 2**28, 2**28


class Spool:
    """A folder for arrays by field, a row a datum; it goes away with the last array of it.

    It lies where temporary files do (``TMPDIR``).

    Args:
        source: what is read, for messages.
        needed: bytes, where they are known beforehand.

    Raises:
        ZooError: too little free disk.
    """

    def __init__(self, source: str, needed: int = 0) -> None:
        self.source, self.written, self.looked = source, 0, 0
        made = tempfile.TemporaryDirectory(prefix="zoo-rows-", ignore_cleanup_errors=True)
        self.folder = Path(made.name)
        self.fields: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
        self.rows = 0
        self._ended = weakref.finalize(self, made.cleanup)
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
            with (self.folder / name).open("ab") as file:
                file.write(array.astype(dtype, copy=False).tobytes())
            self.written += array.size * dtype.itemsize
        self.rows += sizes.pop()
        if self.written - self.looked > LOOK:
            self.looked = self.written
            self._check(0)

    def arrays(self) -> dict[str, Mapped]:
        """What was written, by field."""
        if not self.rows:
            raise ZooError(f"{self.source} has no rows, expected data. Check what wrote it.")
        return {
            name: Mapped.at(self.folder / name, dtype, (self.rows, *shape), keeps=self)
            for name, (dtype, shape) in self.fields.items()
        }

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: shape for name, (_, shape) in self.fields.items()}

    def _check(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed + LEFT:
            self._ended()
            raise ZooError(
                f"{self.source}: expected {max(needed, LEFT) / 2**30:.3g} GiB of free disk in {self.folder.parent} to "
                f"lay out its rows, got {free / 2**30:.3g}. Set TMPDIR to a larger disk."
            )


def _nothing() -> None:
    return None
