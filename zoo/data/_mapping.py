"""Where the arrays of numpy's files lie in them."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np

from zoo.core.mapped import Mapped
from zoo.core.passes import passing
from zoo.data._files import check_exists
from zoo.data._spool import Spool
from zoo.errors import ZooError

__all__ = ["mapped_npy", "mapped_npz"]

#: Bytes that are unpacked at a time.
UNPACKED = 2**24


def mapped_npy(path: Path) -> Mapped:
    """The array of a ``.npy`` file, where it lies.

    Raises:
        ZooError: no such file, or another content than numbers in rows.
    """
    check_exists(path)
    try:
        with path.open("rb") as file:
            dtype, shape, order = _header(file)
            return _of_rows(Mapped.at(path, dtype, shape, file.tell(), order), path.name, path.stat().st_size)
    except OSError as error:
        if error.filename is not None:
            raise ZooError(f"{path} could not be read: {error.strerror}. Check its permissions.") from None
        raise _damaged(path) from None
    except ZooError:
        raise
    except Exception:  # numpy's header is Python, parsed: a damaged one fails in more ways than can be listed
        raise _damaged(path) from None


def mapped_npz(path: Path) -> dict[str, Mapped]:
    """The arrays of a ``.npz`` file by name: where they lie, or unpacked into a temporary folder if compressed.

    Raises:
        ZooError: no such file, too little free disk, or another content than numbers in rows.
    """
    check_exists(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return {Path(info.filename).stem: _member(path, archive, info) for info in archive.infolist()}
    except ZooError:
        raise
    except OSError as error:
        raise ZooError(f"{path} could not be read: {error.strerror or error}. Check its permissions.") from None
    except Exception:
        raise _damaged(path) from None


def _member(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Mapped:
    name = f"{path.name}: {Path(info.filename).stem}"
    if info.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            file.seek(info.header_offset)
            lengths = struct.unpack("<26x2H", file.read(30))  # of the name and of what else stands before the content
            file.seek(sum(lengths), 1)
            dtype, shape, order = _header(file)
            return _of_rows(Mapped.at(path, dtype, shape, file.tell(), order), name, path.stat().st_size)
    with archive.open(info) as packed:
        dtype, shape, order = _header(packed)
        if order == "F" and len(shape) > 1:
            raise ZooError(
                f"{name} expected its rows one after the other, got columns. Save numpy.ascontiguousarray(x)."
            )
        row = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        spool = Spool(name, row * shape[0])
        with passing(shape[0]) as told:
            while content := packed.read(max(1, UNPACKED // row) * row):
                spool.add({"x": np.frombuffer(content, dtype).reshape(-1, *shape[1:])})
                told(spool.rows)
    return _of_rows(spool.arrays()["x"], name, row * shape[0])


def _header(file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...], str]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns, dtype = read(file)
    return dtype, shape, "F" if columns else "C"


def _of_rows(array: Mapped, name: str, size: int) -> Mapped:
    if array.dtype.kind not in "biuf" or not array.shape or not array.shape[0]:
        raise ZooError(
            f"{name}: expected numbers in rows, got dtype {array.dtype}, shape {array.shape}. Save it as such."
        )
    if array.offset + array.size > size:
        raise ZooError(f"{name}: expected {array.size} bytes of rows, got a file of {size}. Save it anew.")
    return array


def _damaged(path: Path) -> ZooError:
    return ZooError(
        f"{path.name} should be a whole {path.suffix} file of numbers, got one that cannot be mapped. Save it anew."
    )
