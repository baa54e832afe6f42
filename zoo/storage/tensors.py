"""Tensors in files of safetensors, which hold numbers and nothing that could be run; errors are Python's own here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

__all__ = ["read_tensors", "write_tensors"]


def write_tensors(values: Mapping[str, Tensor], file: Path) -> None:
    """Write tensors that share no memory.

    Raises:
        OSError: the disk is full, or whatever else keeps a file from being written.
    """
    try:
        save_file(dict(values), str(file))
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from None


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
        OSError: it cannot be read. ValueError: it is none of these files, or cut short.
    """
    try:
        return load_file(str(file))
    except SafetensorError as error:
        raise ValueError(f"it holds no tensors ({error})") from None
