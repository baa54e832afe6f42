"""Objects as bytes for another process: programs of the user's with their code, large arrays apart.

A tensor or array that lies in one piece is handed over by itself, so that what carries it can share its pages between
processes. Classes and functions of ``__main__``, and of modules that nobody else can import, travel by value
(cloudpickle).
"""

from __future__ import annotations

import io
import os
import pickle
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LARGE", "Parcel", "carry", "folders", "pack", "unpack"]

#: Bytes from which an array goes apart.
LARGE = 1 << 16
#: What :func:`carry` was told of.
_CARRIED: list[tuple[ModuleType, str]] = []


@dataclass(frozen=True)
class Parcel:
    """A packed object: its bytes, (length,), and the arrays that these refer to by number."""

    body: NDArray[np.uint8]
    arrays: tuple[NDArray[Any], ...] = ()


def carry(module: ModuleType, folder: str) -> None:
    """From now on send this module's functions and classes with their code; it was made of a file in ``folder``, and
    may import that file's neighbours."""
    _CARRIED.append((module, folder))


def folders() -> list[str]:
    """Where modules are imported from here, as absolute paths."""
    return [*(os.path.abspath(entry) for entry in sys.path), *(folder for _, folder in _CARRIED)]


def pack(value: Any) -> Parcel:
    """Pack anything that cloudpickle can.

    Raises:
        Exception: what the first part that cannot be sent makes of the attempt.
    """
    import cloudpickle

    for module, _ in _CARRIED:
        cloudpickle.register_pickle_by_value(module)
    arrays: list[NDArray[Any]] = []
    numbers: dict[int, tuple[str, int]] = {}

    class Packer(cloudpickle.CloudPickler):
        def persistent_id(self, part: Any) -> tuple[str, int] | None:
            if id(part) not in numbers:
                if not (_tensor_apart(part) or _array_apart(part)):
                    return None
                kind = "tensor" if isinstance(part, Tensor) else "array"
                numbers[id(part)] = kind, len(arrays)
                arrays.append(part.numpy() if kind == "tensor" else part)
            return numbers[id(part)]

    stream = io.BytesIO()
    Packer(stream).dump(value)
    return Parcel(np.frombuffer(stream.getvalue(), np.uint8), tuple(arrays))


def _tensor_apart(part: Any) -> bool:
    if type(part) is not Tensor or part.requires_grad or part.device.type != "cpu" or part.layout is not torch.strided:
        return False
    plain = part.is_contiguous() and not part.is_conj() and not part.is_neg() and part.dtype is not torch.bfloat16
    return plain and part.numel() * part.element_size() >= LARGE and not part.__dict__


def _array_apart(part: Any) -> bool:
    return type(part) is np.ndarray and part.nbytes >= LARGE and part.flags.c_contiguous and not part.dtype.hasobject


def unpack(parcel: Parcel) -> Any:
    """What was packed."""

    class Unpacker(pickle.Unpickler):
        def persistent_load(self, number: tuple[str, int]) -> Any:
            kind, place = number
            array = np.asarray(parcel.arrays[place])
            if not array.flags.writeable:
                array = array.copy()
            return torch.from_numpy(array) if kind == "tensor" else array

    return Unpacker(io.BytesIO(parcel.body.tobytes())).load()
