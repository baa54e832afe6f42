"""Data that stay in their files, to be read in pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.mapped import Mapped
from zoo.core.streams import Stream
from zoo.data._mapping import mapped_npy
from zoo.errors import ZooError

__all__ = ["STREAMED", "open_data", "opened"]

#: Bytes from which on data that lie in a file stay there.
STREAMED = 2**30


def open_data(source: Any) -> Stream:
    """Data that stay in their files: rows come into memory when they are worked on.

    What ``zoo.fit`` does by itself with large files is done with any here.

    Args:
        source: the path of a ``.npy`` file, or an array that ``numpy.load(path, mmap_mode="r")`` gave.

    Returns:
        Data for ``fit``, ``evaluate`` and what a fit answers; ``take(slice(0, 100))`` gives rows in memory.

    Raises:
        ZooError: a file that cannot be read, or is of another kind.
    """
    if isinstance(source, Stream):
        return source
    if isinstance(source, np.memmap):
        mapped = Mapped.of_memmap(source)
        if mapped is not None:
            return Stream(mapped, Path(mapped.path).name)
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.suffix.lower() == ".npy":
            return Stream(mapped_npy(path), path.name)
    raise ZooError(f"open_data expected the path of a .npy file, or an array mapped from one, got {source!r}.")


def opened(x: Any) -> Any:
    """Data as a stream where they are too many for memory and lie in a file; others as they are."""
    if isinstance(x, np.memmap) and x.nbytes >= STREAMED and Mapped.of_memmap(x) is not None:
        return open_data(x)
    return x
