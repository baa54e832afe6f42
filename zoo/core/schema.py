"""What data look like, beside their numbers: names of columns, symbols by code. Arrays of any kind become tensors here.

A fit remembers the schema of its data. Other data are then read by it: a frame's columns are put into the order of the
fit by their names, and symbols get the codes that they had.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.core.arrays import check_padding, frame_array, plain, series_array, to_tensor
from zoo.errors import ZooError

__all__ = ["END", "UNKNOWN", "Schema", "read_leaf"]

_PATH = re.compile(r"/|\\|\.\w{2,7}$")
#: Symbols that stand for something else than themselves: a word outside the vocabulary, the end of a sentence.
UNKNOWN, END = "<unk>", "<eos>"
Leaf = Any  # Tensor | NDArray of objects (text) | list of either (sequences of unequal length)


@dataclass
class Schema:
    """Names and symbols.

    Attributes:
        columns: names of columns by place: "" for data in one array (or ``x`` of a dict, the first of a tuple), else
            the key or number.
        symbols: what the codes 0, 1, ... stand for; None where data are numbers.
    """

    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    symbols: tuple[str, ...] | None = None

    def __bool__(self) -> bool:
        return bool(self.columns) or self.symbols is not None

    def decode(self, codes: Any) -> NDArray:
        """Symbols for codes, an object array of the same shape; None for NaN, and for codes beyond the symbols."""
        assert self.symbols is not None
        values = np.asarray(codes, dtype=np.float64)
        inside = (values >= 0) & (values < len(self.symbols))
        index = np.where(inside, values, len(self.symbols)).astype(np.int64)
        return np.array([*self.symbols, None], dtype=object)[index]

    def arrange(self, names: Sequence[str], place: str) -> list[int] | None:
        """Where the columns of this schema are among ``names``; None where the order is theirs. New names are noted.

        Raises:
            ZooError: a column that is missing, or one too much, by name.
        """
        known = self.columns.setdefault(place, tuple(names))
        if known == tuple(names):
            return None
        missing = [name for name in known if name not in names]
        extra = [name for name in names if name not in known]
        if missing or extra or len(set(names)) < len(names):
            problem = f"no column {missing[0]!r}" if missing else f"column {extra[0]!r} too" if extra else "names twice"
            raise ZooError(
                f"data expected the columns of the fit, {_listed(known)}, got {problem}. Pass x[list(fit.columns)]."
            )
        return [list(names).index(name) for name in known]

    def encode(self, text: list[NDArray]) -> list[Tensor]:
        """Codes of text: whole numbers, NaN where it is missing. The symbols are noted, in sorted order, if new."""
        cells = [cell for array in text for cell in array.reshape(-1) if cell is not None]
        if self.symbols is None:
            symbols = sorted(set(cells))
            if len(symbols) == len(cells) > 1 and max(map(len, symbols)) > 1:
                raise ZooError(
                    f"data expected symbols that recur, got {len(cells)} different ones, {_listed(symbols)}. "
                    "Strings that are sequences themselves go in as [list(s) for s in x]."
                )
            self.symbols = tuple(symbols)
        code: dict[Any, float] = {symbol: float(i) for i, symbol in enumerate(self.symbols)}
        if UNKNOWN in code:
            code = {**dict.fromkeys(cells, code[UNKNOWN]), **code}
        strange = next((cell for cell in cells if cell not in code), None)
        if strange is not None:
            raise ZooError(
                f"data expected the symbols of the fit, {_listed(self.symbols)}, got {strange!r}. "
                "Recode it, or leave it out."
            )
        code[None] = np.nan
        return [
            torch.from_numpy(np.array([code[cell] for cell in array.reshape(-1)], np.float64).reshape(array.shape))
            for array in text
        ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def read_leaf(x: Any, schema: Schema, place: str, symbols: bool) -> Tensor | dict[str, Tensor]:
    """An array of any kind as a tensor; sequences of unequal length padded, ``{"x": ..., "lengths": ...}``.

    Args:
        x: array, frame, series, (nested) list, string.
        schema: names and symbols known so far; new ones are noted in it.
        place: where in the data x is.
        symbols: whether text is coded; it is refused otherwise.

    Raises:
        ZooError: what is no numbers, by its kind, with a fix.
    """
    if isinstance(x, os.PathLike) or (isinstance(x, str) and (not symbols or _PATH.search(x))):
        raise ZooError(f"data expected an array, got the text {str(x)!r}. Read a file or a named set by zoo.load_data.")
    leaf = _parsed(x, schema, place)
    arrays = leaf if isinstance(leaf, list) else [leaf]
    if any(isinstance(array, list) for array in arrays):
        raise ZooError("data expected rows of one length in each sequence, got unequal ones. Give every row as many.")
    text = [array for array in arrays if _is_text(array)]
    if text and symbols:
        if len(text) < len(arrays) and any(array.numel() for array in arrays if isinstance(array, Tensor)):
            raise ZooError("data expected symbols or numbers, got sequences of both. Write all of them as text.")
        codes = iter(schema.encode(text))
        arrays = [next(codes) if _is_text(array) else array for array in arrays]
    arrays = [array if isinstance(array, Tensor) else to_tensor(array) for array in arrays]
    return _padded(arrays) if isinstance(leaf, list) else arrays[0]


def _is_text(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype == object


def _parsed(x: Any, schema: Schema, place: str) -> Leaf:
    if isinstance(x, Tensor):
        return _dense(x)
    if x is None:
        raise ZooError("data expected an array, got None. Pass the data.")
    if isinstance(x, (str, bytes)):
        return np.array(list(x.decode() if isinstance(x, bytes) else x), dtype=object)
    if hasattr(x, "columns") and hasattr(x, "to_pandas"):  # polars, pyarrow
        x = x.to_pandas()
    if hasattr(x, "columns") and hasattr(x, "iloc"):
        return _frame(x, schema, place)
    if hasattr(x, "toarray") and hasattr(x, "nnz"):  # scipy.sparse
        x = x.toarray()
    if type(x).__module__.partition(".")[0] == "pandas":
        return _categories(x, schema) if type(x).__name__ == "Categorical" else _series(x, schema)
    if isinstance(x, np.ndarray):
        if x.dtype.names:
            order = schema.arrange(x.dtype.names, place)
            x = x if order is None else x[list(schema.columns[place])]
        if x.dtype != object or not any(isinstance(cell, (list, tuple, np.ndarray, Tensor)) for cell in x.reshape(-1)):
            return plain(x)
        x = list(x)
    if isinstance(x, list):
        return _list(x, schema, place)
    try:
        return plain(np.asarray(x))
    except (TypeError, ValueError) as error:
        raise ZooError(
            f"data expected an array, got {type(x).__name__}, which is none ({str(error).split('.')[0]}). Convert it."
        ) from None


def _dense(x: Tensor) -> Tensor:
    x = x.detach()
    if x.is_complex():
        plain(np.zeros(1, complex))  # says so
    if x.layout != torch.strided:
        x = x.to_dense()
    return x.dequantize() if x.is_quantized else x


def _frame(frame: Any, schema: Schema, place: str) -> NDArray:
    if any(isinstance(name, str) for name in frame.columns):
        order = schema.arrange(
            ["_".join(map(str, n)) if isinstance(n, tuple) else str(n) for n in frame.columns], place
        )
        frame = frame if order is None else frame.iloc[:, order]
    if frame.shape[1] == 1 and str(frame.dtypes.iloc[0]) == "category":
        _series(frame.iloc[:, 0], schema)  # the order of its categories is that of the symbols
    return frame_array(frame)


def _series(series: Any, schema: Schema) -> NDArray:
    import pandas as pd

    series = pd.Series(series)
    values = series_array(series)
    if isinstance(series.dtype, pd.CategoricalDtype) and values.dtype == object and schema.symbols is None:
        schema.symbols = tuple(map(str, series.cat.categories))
    return values


def _categories(x: Any, schema: Schema) -> NDArray:
    import pandas as pd

    return _series(pd.Series(x), schema)


def _list(x: list[Any], schema: Schema, place: str) -> Leaf:
    """A list of numbers, of rows, or of sequences; the last may be of unequal length, and are then a list of arrays."""
    whole = (str, bytes)
    if not any(_is_array(value) for value in x):
        if any(isinstance(value, (list, tuple)) for value in x) and len({_length(value) for value in x}) > 1:
            return [_parsed(list(value) if isinstance(value, tuple) else value, schema, place) for value in x]
        try:
            array = np.asarray(x)
        except ValueError:  # rows of unequal length, deeper down
            return _joined([_parsed(list(v) if isinstance(v, tuple) else v, schema, place) for v in x])
        if array.dtype.kind in "US" and not all(isinstance(v, whole) for v in x):
            array = _objects(x, array.shape)
        return plain(array)
    return _joined([_parsed(value, schema, place) for value in x])


def _objects(x: Any, shape: tuple[int, ...]) -> NDArray:
    """Without numpy's turning what stands beside text (numbers, None) into text."""
    array = np.empty(shape, dtype=object)
    for index in np.ndindex(*shape):
        cell = x
        for i in index:
            cell = cell[i]
        array[index] = cell
    return array


def _is_array(value: Any) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) or (
        hasattr(value, "__array__") and not isinstance(value, np.generic)
    )


def _length(value: Any) -> int:
    return len(value) if isinstance(value, (list, tuple)) else -1


def _joined(leaves: list[Leaf]) -> Leaf:
    """One array where all are of one shape, else the list of them."""
    if len({tuple(leaf.shape) for leaf in leaves if not isinstance(leaf, list)}) == 1 and not any(
        isinstance(leaf, list) for leaf in leaves
    ):
        if any(_is_text(leaf) for leaf in leaves):
            return np.stack([np.asarray(leaf) for leaf in leaves]) if all(map(_is_text, leaves)) else leaves
        return torch.stack(_of_one_kind([leaf if isinstance(leaf, Tensor) else to_tensor(leaf) for leaf in leaves]))
    return leaves


def _of_one_kind(parts: list[Tensor]) -> list[Tensor]:
    dtype = parts[0].dtype
    for part in parts[1:]:
        dtype = torch.promote_types(dtype, part.dtype)
    return [part.to(dtype) for part in parts]


def _padded(parts: list[Tensor]) -> dict[str, Tensor]:
    shapes = [tuple(part.shape) for part in parts]
    shape = max(shapes, key=lambda s: (len(s), s))
    # An empty list says nothing of its width; the model says what it wants of a sequence without steps.
    if not shape or any(s != (0,) and (len(s) != len(shape) or s[1:] != shape[1:]) for s in shapes):
        raise ZooError(
            "data expected rows of one length, or sequences of rows, got shapes "
            f"{', '.join(map(str, shapes[:3]))}{', ...' if len(shapes) > 3 else ''}. Give every row as many entries."
        )
    lengths = [s[0] for s in shapes]
    width = int(np.prod(shape[1:], dtype=np.int64))
    check_padding("data", len(parts), max(lengths), width, sum(lengths) * width)
    filled = _of_one_kind([part if part.numel() else part.new_zeros(0, *shape[1:]) for part in parts])
    return {"x": torch.nn.utils.rnn.pad_sequence(filled, batch_first=True), "lengths": torch.tensor(lengths)}
