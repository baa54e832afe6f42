"""Checks at the door, shared by models: one line that says what was expected, what came, and one fix."""

from __future__ import annotations

import inspect
import math
import numbers
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from zoo.core.data import Data, plain, tensors
from zoo.core.places import row_names
from zoo.errors import ZooError

__all__ = [
    "angles",
    "assigned",
    "counts",
    "failed_on_data",
    "fits_program",
    "in_brief",
    "magnitudes",
    "matrix",
    "number_from",
    "positive",
    "rows",
]


#: Folders whose frames are not the user's.
_LIBRARIES = tuple(str(Path(package).parent) for package in (__file__, str(pyro.__file__), str(torch.__file__)))


def failed_on_data(name: str, error: Exception) -> ZooError:
    """What to raise where a user's program fails in its first run: what failed and where, in one line."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    first = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    if isinstance(error, ZooError):  # raised inside of a trace, where Pyro adds lines of shapes
        return error if "\n" not in str(error) else ZooError(first)
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not f.filename.startswith(_LIBRARIES) and "contextlib" not in f.filename]
    place = f" in {outside[-1].filename}, line {outside[-1].lineno}" if outside else ""
    fix = "Run it by itself first."
    if "dtype" in first:
        fix = "Make its constants in the dtype of the data, or give the data in theirs: x.float()."
    return ZooError(f"the program {name!r} failed on its data{place} ({type(error).__name__}: {first}). {fix}")


def fits_program(name: str, program: Any, x: Data) -> Data:
    """The data, unless a user's program has no argument for some of them, or some for which there are none.

    Raises:
        ZooError: by which names the program takes its data.
    """
    data = plain(x)
    args, kwargs = ((), data) if isinstance(data, dict) else (data if isinstance(data, tuple) else (data,), {})
    try:
        signature = inspect.signature(program)
    except (TypeError, ValueError):  # what is built in has none
        return x
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        names = list(signature.parameters)
        got = ", ".join(kwargs) if kwargs else f"{len(args)} of them" if len(args) > 1 else "one array"
        several = f"({', '.join(names)}), or a dict by these names; of a file, targets name the columns of the last"
        raise ZooError(
            f"{name}: data expected for its arguments {', '.join(names) or '(none)'}, got {got} ({error}). "
            f"Pass {several if len(names) > 1 else 'one array'}."
        ) from None
    return x


def rows(bad: Tensor) -> str:
    """Name the rows in which ``bad`` (N, ...) holds a true entry: "rows 3, 17"."""
    return row_names(bad.reshape(bad.shape[0], -1).any(-1).nonzero().flatten().tolist() if bad.dim() else [0])


def matrix(x: Data, num_features: int, who: str) -> Tensor:
    """``x`` as a finite (N, num_features) tensor; (N,) is taken as one column.

    Raises:
        ZooError: another shape, no rows, NaN or infinite entries (which rows).
    """
    if isinstance(x, dict) and set(x) == {"x", "lengths"}:
        lengths = x["lengths"].long().tolist()
        first, other = lengths[0], next((length for length in lengths if length != lengths[0]), None)
        raise ZooError(
            f"{who}: x expected rows of {num_features} entries, got sequences"
            f"{f' of unequal length ({first}, {other})' if other is not None else ''}. Give every row as many."
        )
    if not isinstance(x, Tensor):
        raise ZooError(f"{who}: x expected one array (N, {num_features}), got a {type(x).__name__}. Pass x alone.")
    if x.dim() == 1 and num_features == 1:
        x = x.unsqueeze(-1)
    if x.dim() != 2 or x.shape[-1] != num_features:
        fix = "Pass num_features to match, or choose columns." if x.dim() == 2 else "Reshape it to rows of features."
        raise ZooError(f"{who}: x expected shape (N, {num_features}), got {tuple(x.shape)}. {fix}")
    if x.shape[0] == 0:
        raise ZooError(f"{who}: x expected at least one row, got none. Check the file or the selection.")
    if not math.isfinite(x.sum()):  # one pass; the careful look only when it fails
        nan = x.isnan()
        if nan.any():
            raise ZooError(
                f"{who}: x expected no missing values, got NaN in {rows(nan)}. Drop or fill those rows; "
                "zoo.load_data(..., drop_missing=True) or a frame's x.dropna() does."
            )
        if x.isinf().any():
            raise ZooError(f"{who}: x expected finite values, got infinite entries in {rows(x.isinf())}. Remove them.")
    return x


def counts(x: Tensor, who: str) -> Tensor:
    """Raise ZooError unless all entries are non-negative whole numbers."""
    bad = (x < 0) | (x != x.round())
    if bad.any():
        raise ZooError(
            f"{who}: x expected counts 0, 1, 2, ..., got {x[bad][0]:g} in {rows(bad)}. Round or choose columns."
        )
    return x


def angles(x: Tensor, who: str) -> Tensor:
    """Raise ZooError unless all entries are within 2π of zero, as radians are and degrees are not."""
    bad = x.abs() > 6.2832
    if bad.any():
        raise ZooError(f"{who}: x expected radians, up to 2π, got {x[bad][0]:g} in {rows(bad)}. Convert or wrap them.")
    return x


def magnitudes(x: Data, who: str) -> Data:
    """Raise ZooError where a value is so large that a product of three would overflow, as sums of squares then may."""
    for value in tensors(x):
        if not value.is_floating_point() or not value.numel():
            continue
        limit = torch.finfo(value.dtype).max ** (1 / 3)
        low, high = map(float, value.aminmax())
        if -limit < low and high < limit:  # neither holds where there is a NaN
            continue
        bad = value.abs() > limit
        if bad.any():
            raise ZooError(
                f"{who}: data expected numbers up to {limit:.0e}, got {float(value[bad][0]):g} in {rows(bad)}. "
                "Measure in larger units, or mark it missing."
            )
    return x


def positive(value: int, name: str, who: str) -> int:
    """A whole number of at least one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ZooError(f"{who}: {name} expected a whole number of at least 1, got {value!r}.")
    return value


def in_brief(value: Tensor) -> str:
    """The first few entries of a tensor, for a message."""
    flat = value.detach().flatten()[:6].tolist()
    return "[" + ", ".join(f"{v:.4g}" for v in flat) + (", ...]" if value.numel() > 6 else "]")


def assigned(value: Any, like: Tensor, who: str, shape: Sequence[int] | None = None) -> Tensor:
    """A value that a user assigns to ``who`` ("Model.name") as a tensor like another, of its shape or of this one."""
    try:
        new = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        raise ZooError(f"{who} expected a tensor or an array, got {type(value).__name__}.") from None
    wanted = tuple(like.shape if shape is None else shape)
    if new.shape != wanted:
        raise ZooError(f"{who} expected shape {wanted}, got {tuple(new.shape)}. Reshape it first.")
    # Another model's parameter: torch would take the place of this one's with it.
    return new.detach().clone() if isinstance(new, nn.Parameter) else new


def number_from(least: float, value: float, name: str, who: str) -> float:
    """A finite number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not least <= value < math.inf:
        raise ZooError(f"{who}: {name} expected a number of at least {least:g}, got {value!r}.")
    return value
