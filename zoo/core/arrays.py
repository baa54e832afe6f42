"""What numpy, pandas and their kin hand over, as plain arrays: real numbers, or text; everything else is named.

Every array kind has one reading. Truth values, integers and floats stay what they are (unsigned and extended ones take
the nearest kind that torch computes with), missing entries of any make are NaN, text becomes an object array of ``str``
with None where it is missing. Complex numbers, dates and durations are no real numbers, and are refused with a fix.
"""

from __future__ import annotations

import datetime
import numbers
import re
from collections.abc import Collection
from decimal import Decimal
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import ZooError

__all__ = [
    "NotNumbers",
    "check_padding",
    "frame_array",
    "is_number",
    "numbers_of",
    "plain",
    "series_array",
    "shown",
    "strip_text",
    "to_tensor",
]

_LARGEST = np.iinfo(np.int64).max


class NotNumbers(ZooError):
    """Values that are no real numbers: what they are, and what to do about it."""

    def __init__(self, what: str, fix: str, where: str = "") -> None:
        real = "real numbers" if "complex" in what else "numbers"
        super().__init__(f"data expected {real}, got {what}{where}. {fix}.")
        self.what, self.fix = what, fix

    def within(self, where: str) -> NotNumbers:
        """The same, with its place named."""
        return NotNumbers(self.what, self.fix, f" in {where}")


_COMPLEX = NotNumbers("complex numbers", "Take the real part, or real and imaginary parts as columns of their own")
_DATES = NotNumbers("dates", "Leave them out, or count days: (t - t.min()) / numpy.timedelta64(1, 'D')")
_DURATIONS = NotNumbers("durations", "Divide by one unit: t / numpy.timedelta64(1, 's')")


def plain(values: Any) -> NDArray:
    """An array of any shape as numbers (kinds b, i, u1, f up to 64 bits), or as text: objects, None where missing.

    A masked entry is missing. A structured array (N,) of F plain fields is (N, F).

    Raises:
        NotNumbers: complex numbers, dates, durations, raw bytes, other objects.
    """
    mask: Any = None
    if isinstance(values, np.ma.MaskedArray):
        mask, values = np.ma.getmaskarray(values), np.ma.getdata(values)
    array = np.asarray(values)
    if mask is not None and mask.dtype.names:
        mask = np.stack([np.asarray(mask[name]) for name in mask.dtype.names], -1)
    kind = array.dtype.kind
    if kind == "c":
        raise _COMPLEX
    if kind == "M":
        raise _DATES
    if kind == "m":
        raise _DURATIONS
    if kind == "V":
        array = _fields(array)
    elif kind == "O":
        array = _objects(array)
    elif kind in "UST":
        array = _text(array.astype(object))
    elif kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.float64 if array.size and array.max() > _LARGEST else np.int64)
    elif kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):
            array = array.astype(np.float64)
    elif not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if mask is not None and mask.any():
        array = _with_holes(array, mask)
    return array


def _with_holes(array: NDArray, holes: NDArray) -> NDArray:
    filled = np.array(array, dtype=object if array.dtype == object else np.float64)
    filled[holes] = None if array.dtype == object else np.nan
    return filled


def _fields(array: NDArray) -> NDArray:
    names = array.dtype.names
    if not names:
        raise NotNumbers("raw bytes", "Read them with the dtype they were written in")
    columns = []
    for name in names:
        try:
            column = plain(array[name])
        except NotNumbers as error:
            raise error.within(f"field {name!r}") from None
        if column.shape != array.shape:
            raise NotNumbers("an array in each entry", "Take one field: x[name]", f" of field {name!r}")
        columns.append(column)
    text = [name for name, column in zip(names, columns, strict=True) if column.dtype == object]
    if text and len(text) < len(names):
        raise NotNumbers("text", "Leave it out: x[[names of numbers]]", f" in field {text[0]!r}")
    return np.stack(columns, -1)


def _text(cells: NDArray) -> NDArray:
    flat = [cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell for cell in cells.reshape(-1)]
    text = np.empty(len(flat), dtype=object)
    text[:] = [None if is_missing(cell) else str(cell) for cell in flat]
    return numbers_of(text).reshape(cells.shape)


def is_missing(cell: Any) -> bool:
    """None, NaN, pandas' NA and NaT, a masked entry."""
    if cell is None or cell is np.ma.masked or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float) and cell != cell


def _objects(array: NDArray) -> NDArray:
    flat = array.reshape(-1)
    kinds = {type(cell) for cell in flat if not is_missing(cell)}
    for refusal, types in (
        (_DATES, (datetime.date, np.datetime64)),
        (_DURATIONS, (datetime.timedelta, np.timedelta64)),
        (_COMPLEX, (complex, np.complexfloating)),
    ):
        if any(issubclass(kind, types) for kind in kinds):
            raise refusal
    if any(issubclass(kind, (str, bytes)) for kind in kinds):
        if all(issubclass(kind, (str, bytes, numbers.Number, Decimal, np.bool_)) for kind in kinds):
            return _text(array)
    elif all(issubclass(kind, (numbers.Number, Decimal, np.bool_)) or _is_scalar(kind) for kind in kinds):
        return _numbers(flat, kinds).reshape(array.shape)
    strange = sorted(kind.__name__ for kind in kinds if not issubclass(kind, (str, bytes, numbers.Number, Decimal)))
    hint = "pandas.DataFrame(x) reads them" if strange == ["dict"] else "Convert them to a float array"
    raise NotNumbers(f"objects of type {strange[0]}", hint)


def _is_scalar(kind: type) -> bool:
    return issubclass(kind, Tensor) or (kind.__module__ == "numpy" and issubclass(kind, np.generic))


def _numbers(flat: NDArray, kinds: set[type]) -> NDArray:
    whole = all(issubclass(kind, (numbers.Integral, np.bool_)) for kind in kinds)
    if kinds and whole and not any(is_missing(cell) for cell in flat):
        if all(issubclass(kind, (bool, np.bool_)) for kind in kinds):
            return flat.astype(np.bool_)
        try:
            return flat.astype(np.int64)
        except OverflowError:
            pass
    try:
        return np.array([np.nan if is_missing(cell) else float(cell) for cell in flat], dtype=np.float64)
    except OverflowError:
        raise NotNumbers("whole numbers beyond 1e308", "Divide them by a unit") from None
    except (TypeError, ValueError, RuntimeError) as error:
        raise NotNumbers(f"objects that are no numbers ({error})", "Convert them to a float array") from None


# --- text -------------------------------------------------------------------------------------------------------------


def is_number(cell: str) -> bool:
    """Whether ``cell`` is a number the way files write one (Python alone would also take ``1_000``)."""
    if "_" in cell:
        return False
    try:
        float(cell)
    except ValueError:
        return False
    return True


def strip_text(cells: NDArray, missing: Collection[str]) -> NDArray:
    """Text without the blanks around it; None for every word, in whatever case, that says there is no value."""
    stripped = np.empty(len(cells), dtype=object)
    stripped[:] = [None if cell is None else cell.strip() for cell in cells]
    stripped[[cell is not None and cell.lower() in missing for cell in stripped]] = None
    return stripped


def numbers_of(text: NDArray, decimal: str = ".") -> NDArray:
    """float64 where every cell that is there is a number, else the text as it is."""
    values = np.full(len(text), np.nan)
    for row, cell in enumerate(text):
        if cell is None:
            continue
        if decimal != ".":
            if "." in cell:
                return text
            cell = cell.replace(decimal, ".")
        if not is_number(cell):
            return text
        values[row] = float(cell)
    return values


# --- pandas -----------------------------------------------------------------------------------------------------------


def series_array(series: Any) -> NDArray:
    """A pandas Series (or a one-dimensional array) as :func:`plain` has it: every dtype of pandas, its NA as NaN.

    Raises:
        NotNumbers: as :func:`plain`.
    """
    dtype = getattr(series, "dtype", None)
    if isinstance(dtype, np.dtype) or dtype is None:
        return plain(series if isinstance(series, (np.ndarray, list)) else series.to_numpy())
    import pandas as pd

    if isinstance(dtype, pd.SparseDtype):
        return plain(np.asarray(series))
    if isinstance(dtype, pd.CategoricalDtype):
        return _categories(series)
    if pd.api.types.is_complex_dtype(dtype):
        raise _COMPLEX
    if pd.api.types.is_bool_dtype(dtype) or pd.api.types.is_integer_dtype(dtype) or pd.api.types.is_float_dtype(dtype):
        if series.isna().any():
            return plain(series.to_numpy(dtype=np.float64, na_value=np.nan))
        return plain(series.to_numpy(dtype=getattr(dtype, "numpy_dtype", None)))
    if pd.api.types.is_timedelta64_dtype(dtype):
        raise _DURATIONS
    if pd.api.types.is_datetime64_any_dtype(dtype) or isinstance(dtype, pd.PeriodDtype):
        raise _DATES
    return plain(series.astype(object).to_numpy())


def _categories(series: Any) -> NDArray:
    codes = np.asarray(series.cat.codes)
    kinds = series_array(series.cat.categories.to_series())
    if len(kinds) == 0:
        return np.full(len(codes), np.nan)
    values = kinds[np.maximum(codes, 0)]
    missing = codes < 0
    return _with_holes(values, missing) if missing.any() else values


def frame_array(frame: Any) -> NDArray:
    """A data frame as one array (N, D): the numbers of all its columns, or the text of all.

    Raises:
        NotNumbers: a column that is no numbers, by its name; text beside numbers.
    """
    columns = []
    for i, name in enumerate(frame.columns):
        try:
            columns.append(series_array(frame.iloc[:, i]))
        except NotNumbers as error:
            raise error.within(f"column {name!r}") from None
    text = [i for i, column in enumerate(columns) if column.dtype == object]
    if text and len(text) < len(columns):
        cells = [next((cell for cell in columns[i] if cell is not None), "nothing") for i in text]
        if (
            comma := next((i for i, cell in zip(text, cells, strict=True) if _COMMA.fullmatch(cell)), None)
        ) is not None:
            fix = "Read it with decimals as they are written: pandas.read_csv(..., decimal=',')"
            raise NotNumbers(f"text ({cells[text.index(comma)]!r})", fix, f" in column {frame.columns[comma]!r}")
        names = [frame.columns[i] for i in text]
        if len(names) == 1:
            fix = f"Leave it out: x.drop(columns={names[0]!r})"
            raise NotNumbers(f"text ({shown(cells[0])})", fix, f" in column {names[0]!r}")
        told = ", ".join(f"{name!r} ({shown(cell)})" for name, cell in zip(names[:6], cells, strict=False))
        more = f" and {len(names) - 6} more" * (len(names) > 6)
        raise NotNumbers(f"text in columns {told}{more}", "Leave them out: x.select_dtypes('number')")
    return np.column_stack(columns) if columns else np.empty((len(frame), 0))


#: A number of which only the comma before its decimals is unusual.
_COMMA = re.compile(r"[+-]?\d+,\d+")


def shown(cell: str) -> str:
    """A cell as error texts quote it."""
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")


# --- torch ------------------------------------------------------------------------------------------------------------


def to_tensor(array: NDArray) -> Tensor:
    """Numbers as a tensor, over the same memory where torch can take it as it lies.

    Raises:
        NotNumbers: text.
    """
    if array.dtype == object:
        cell = str(next((cell for cell in array.reshape(-1) if cell is not None), "nothing"))
        comma = "pandas.read_csv(..., decimal=',') reads a comma before decimals" if _COMMA.fullmatch(cell) else None
        raise NotNumbers(f"text ({shown(cell)})", comma or "Convert it to numbers, or leave it out")
    size = array.dtype.itemsize
    if not array.flags.writeable or any(stride < 0 or stride % size for stride in array.strides):
        array = array.copy()
    return torch.from_numpy(array) if array.ndim else torch.tensor(array.item(), dtype=_torch_dtype(array))


def _torch_dtype(array: NDArray) -> torch.dtype:
    return torch.from_numpy(np.zeros(1, array.dtype)).dtype


def check_padding(source: str, number: int, steps: int, width: int, entries: int) -> None:
    """Raise ZooError where sequences would take many times their own memory once padded to one length."""
    cells = number * steps * width
    if cells > 1 << 28 and cells > 20 * entries:
        raise ZooError(
            f"{source}: expected sequences of like lengths, got {number} of up to {steps} steps, "
            f"{cells * 8 / 2**30:.0f} GiB once padded. Cut the long ones into pieces."
        )
