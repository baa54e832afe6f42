"""Where the arrays of numpy's files lie in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zoo.core.mapped import Mapped
from zoo.data._files import check_exists
from zoo.errors import ZooError

__all__ = ["mapped_npy"]


def mapped_npy(path: Path) -> Mapped:
    """The array of a ``.npy`` file, where it lies.

    Raises:
        ZooError: no such file, or another content than numbers in rows.
    """
    check_exists(path)
    try:
        array = np.load(path, mmap_mode="r")
        mapped = Mapped.of_memmap(array)
    except OSError as error:
        if error.filename is not None:
            raise ZooError(f"{path} could not be read: {error.strerror}. Check its permissions.") from None
        raise _damaged(path) from None
    except Exception:  # numpy's header is Python, parsed: a damaged one fails in more ways than can be listed
        raise _damaged(path) from None
    if mapped is None or array.dtype.kind not in "biuf" or array.ndim < 1 or not len(array):
        raise ZooError(
            f"{path.name}: expected numbers in rows, got dtype {array.dtype}, shape {array.shape}. Save it as such."
        )
    return mapped


def _damaged(path: Path) -> ZooError:
    return ZooError(f"{path.name} should be a whole .npy file of numbers, got one that cannot be mapped. Save it anew.")
