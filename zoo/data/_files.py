"""Readers of a user's own file: tables in text, ``.parquet`` and Excel, arrays in ``.npy`` and ``.npz``."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from zoo.core.arrays import plain
from zoo.data._frames import from_frame
from zoo.data._loaded import Loaded
from zoo.data._reading import pyarrow_parquet, unreadable
from zoo.data._table import Column, Table, arrange, pick, rows_text
from zoo.data._text import COMPRESSIONS, TEXT_SUFFIXES, read_lines, read_text_table
from zoo.data._treebank import read_mrg
from zoo.data._treebank import sentences as padded_rows
from zoo.data._words import in_vocabulary
from zoo.data.tsplib import read_tsp
from zoo.errors import ZooError

__all__ = ["SUFFIXES", "check_exists", "read_file"]

SUFFIXES = (*TEXT_SUFFIXES, ".mrg", ".npy", ".npz", ".parquet", ".tsp", ".xlsx")


def read_file(
    path: Path,
    columns: Column | Sequence[Column] | None,
    labels: Column | bool | None,
    targets: Column | Sequence[Column] | None = None,
    sequence: Column | None = None,
    decimal: str = ".",
    symbols: bool = False,
    sentences: bool = False,
    vocabulary: int | Sequence[str] | None = None,
    time: Column | None = None,
    measured: bool = False,
) -> Loaded:
    """Reads a user's file.

    Args:
        path: the file; its suffix says its kind.
        columns: columns by name or number, or None for all.
        labels: the column of labels (in ``.npz``: the name of the array), or None.
        targets: the columns of y (in ``.npz``: the name of the array), or None.
        sequence: the column of a table that tells sequences apart, or None.
        decimal: what stands before decimals in text.
        symbols: whether text may be data.
        sentences: whether text is one sentence a line, and no table.
        vocabulary: of sentences: how many words to tell apart, or which.
        time, measured: of a table: the column to sort by; whether to leave out columns that measure nothing.

    Returns:
        x (N, D), with targets (N, D_y) where these are asked for, or sequences with their lengths.

    Raises:
        ZooError: the file is missing, of an unknown kind, or does not hold what its kind should.
    """
    check_exists(path)
    suffix = path.suffix.lower()
    packed = suffix in COMPRESSIONS
    kind = Path(path.stem).suffix.lower() if packed else suffix
    text = kind in TEXT_SUFFIXES or (packed and not kind)
    if not text and (packed or (kind not in SUFFIXES and kind not in _EXCEL)):
        raise ZooError(
            f"Expected a file ending in {', '.join(SUFFIXES)}, text compressed or not, got {path.name!r}. "
            "Save it as one of these."
        )
    if path.stat().st_size == 0:
        raise ZooError(f"{path.name} is empty (0 bytes), expected data. Check what wrote it.")
    if labels is True:
        how = "the array's name" if kind == ".npz" else "the column's name or number"
        raise ZooError(f"labels=True is for the named data sets, got it with {path.name}. Pass {how}: labels=NAME.")
    if decimal not in (".", ","):
        raise ZooError(f"decimal= expected '.' or ',', got {decimal!r}. Leave it out for a point.")
    column = None if labels is False else labels
    if vocabulary is not None and not sentences:
        raise ZooError(f"vocabulary= is for sentences, got it with {path.name}. Pass sentences=True too.")
    if sentences and not text and kind != ".mrg":
        raise ZooError(f"sentences=True is for text, got {path.name}. Leave it out.")
    try:
        if kind == ".mrg" or sentences:
            asked = {"columns": columns, "labels": column, "targets": targets, "sequence": sequence, "time": time}
            odd = next((f"{name}={value!r}" for name, value in asked.items() if value is not None), None)
            if odd is not None:
                raise ZooError(
                    f"{path.name}: expected none of {', '.join(asked)} with sentences, got {odd}. Leave it out."
                )
            if kind == ".mrg":
                return padded_rows([tree.tags() for tree in read_mrg(path)], path.name)
            return read_sentences(path, vocabulary)
        if kind == ".tsp":
            return Loaded(read_tsp(path).distances)
        if kind in (".npy", ".npz"):
            if sequence is not None or time is not None:
                option = "time" if sequence is None else "sequence"
                raise ZooError(f"{option}= is for tables, got {path.name}. Save lengths beside x in .npz instead.")
            return _read_arrays(path, columns, column, targets, symbols)
        if text:
            table = read_text_table(path, decimal)
        else:
            table = _read_parquet(path) if kind == ".parquet" else _read_excel(path)
    except OSError as error:
        raise ZooError(
            f"{path} could not be read: {error.strerror or error}. Check the file and its permissions."
        ) from None
    except MemoryError:
        raise ZooError(f"{path.name} does not fit into memory. Read fewer columns, or a part of it.") from None
    return arrange(table, columns, column, targets, sequence, symbols, time, measured)


def check_exists(path: Path) -> None:
    """Raise ZooError where there is no such file, with one that is called nearly so."""
    if path.is_dir():
        raise ZooError(f"Expected a file, got the folder {str(path)!r}. Name a file in it.")
    if path.exists():
        return
    folder = path.parent
    if not folder.is_dir():
        raise ZooError(f"There is no folder {str(folder)!r} to look for {path.name!r} in. Correct the path.")
    near = difflib.get_close_matches(path.name, os.listdir(folder), n=1, cutoff=0.5)
    where = "the current folder" if folder == Path() else f"folder {str(folder)!r}"
    hint = f"Did you mean {near[0]!r}?" if near else "Check the path; a data set's name has no suffix."
    raise ZooError(f"There is no file {path.name!r} in {where}. {hint}")


def read_sentences(path: Path, vocabulary: int | Sequence[str] | None = None) -> Loaded:
    """One sentence a line, its words between blanks; empty lines are passed over."""
    rows = [line.split() for line in read_lines(path)]
    rows = [row for row in rows if row]
    if not rows:
        raise ZooError(f"{path.name} has only blank lines, expected one sentence a line. Check what wrote it.")
    return padded_rows(rows, path.name) if vocabulary is None else in_vocabulary(rows, vocabulary, path.name)


# --- typed tables -----------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Table:
    pq = pyarrow_parquet(path)
    try:
        frame = pq.read_table(path).to_pandas()
    except OSError as error:
        if error.filename is not None:  # it could not be opened
            raise
        raise unreadable(path, "parquet", error) from None
    except Exception as error:  # what pyarrow makes of damaged files differs from version to version
        raise unreadable(path, "parquet", error) from None
    return from_frame(path.name, frame)


#: The package that reads a kind, and its name for pandas.
_EXCEL = {
    ".xlsx": ("openpyxl", "openpyxl"),
    ".xlsm": ("openpyxl", "openpyxl"),
    ".xls": ("xlrd", "xlrd"),
    ".xlsb": ("pyxlsb", "pyxlsb"),
    ".ods": ("odfpy", "odf"),
}


def _read_excel(path: Path) -> Table:
    """The first sheet; a first row without a number is a header."""
    import pandas as pd

    package, engine = _EXCEL[path.suffix.lower()]
    try:
        frame = pd.read_excel(path, header=None, engine=cast(Any, engine))
    except ImportError:
        raise ZooError(
            f"Reading {path.name} needs {package}, which is not installed. Run: pip install {package}."
        ) from None
    except Exception as error:  # every package has its own errors for a damaged file
        raise unreadable(path, "Excel", error) from None
    if len(frame) and all(cell is None or isinstance(cell, str) or cell != cell for cell in frame.iloc[0]):
        header = ["" if not isinstance(cell, str) else cell.strip() for cell in frame.iloc[0]]
        if any(header):
            frame = frame.iloc[1:].set_axis(header, axis=1).infer_objects()
    return from_frame(path.name, frame)


# --- arrays -----------------------------------------------------------------------------------------------------------


def _read_arrays(
    path: Path,
    columns: Column | Sequence[Column] | None,
    labels: Column | None,
    targets: Column | Sequence[Column] | None,
    symbols: bool = False,
) -> Loaded:
    try:
        with path.open("rb") as stream:  # our own, as numpy leaves its own open when the content is broken
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                arrays = {"x": content}
            else:
                with content:
                    arrays = {name: content[name] for name in content.files}
    except OSError as error:
        if error.filename is not None:  # it could not be opened
            raise
        raise _damaged(path) from None
    except Exception as error:  # numpy's header is Python, parsed: a damaged one fails in more ways than can be listed
        # numpy calls whatever it does not know a pickle; only "Object arrays" and the opcode 0x80 show a real one.
        if "Object arrays" in str(error) or _starts_with(path, b"\x80"):
            raise ZooError(
                f"{path.name} holds pickled objects, which can run code when read; expected plain numbers. "
                "Save it again as a plain array: np.save(path, x.astype(float))."
            ) from None
        raise _damaged(path) from None
    array_label = None
    if labels is not None and path.suffix.lower() == ".npz":
        array_label, labels = _taken(path, arrays, labels, "labels"), None
    aim = None
    if targets is not None and path.suffix.lower() == ".npz":
        aim, targets = _taken(path, arrays, targets, "targets"), None
    x = _main_array(path, arrays)
    if symbols and x.dtype.kind in "US":
        x = plain(x)
    else:
        _check_numeric(path, "x", x)
    lengths = arrays.get("lengths")
    sizes = arrays.get("target_lengths") if lengths is not None else None
    if lengths is None:
        loaded = _vectors(path, x, columns, labels, targets)
    else:
        if labels is not None:
            raise ZooError(f"{path.name} holds sequences, whose labels are an array, got {labels!r}. Save it as .npz.")
        loaded = _sequences(path, x, lengths, columns)
    if array_label is not None:
        loaded.labels = _array_codes(path, array_label, loaded)
    if aim is not None:
        _check_numeric(path, "the targets", aim)
        if aim.ndim not in (1, 2) or len(aim) != len(loaded.x) or aim.size == 0:
            raise ZooError(
                f"{path.name}: expected targets of shape ({len(loaded.x)}, D_y), one row for each of x, got shape "
                f"{aim.shape}. Save them so."
            )
        loaded.targets = aim.reshape(len(aim), -1).astype(np.float64)
        if sizes is not None:
            _check_numeric(path, "target_lengths", sizes)
            if sizes.shape != (len(aim),):
                raise ZooError(
                    f"{path.name}: expected target_lengths of shape ({len(aim)},), one a sequence, got {sizes.shape}. "
                    "Save them so."
                )
            loaded.target_lengths = sizes
    return loaded


def _damaged(path: Path) -> ZooError:
    return ZooError(
        f"{path.name} should be a whole {path.suffix.lower()} file of numpy's, got one that numpy cannot read. "
        "Save it again."
    )


def _taken(path: Path, arrays: dict[str, NDArray], name: Any, purpose: str) -> NDArray:
    """Take an array out by its name."""
    if not isinstance(name, str) or name not in arrays:
        raise ZooError(
            f"{path.name} has no array {name!r} for {purpose}. Its arrays are: {', '.join(map(repr, arrays))}."
        )
    return arrays.pop(name)


def _starts_with(path: Path, head: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(head)) == head


def _main_array(path: Path, arrays: dict[str, NDArray]) -> NDArray:
    if "x" in arrays:
        return arrays["x"]
    others = [name for name in arrays if name != "lengths"]
    if len(others) == 1:
        return arrays[others[0]]
    listed = ", ".join(map(repr, arrays)) or "none"
    raise ZooError(f"{path.name} should hold an array 'x', its arrays are: {listed}. Name the data 'x' in np.savez.")


def _check_numeric(path: Path, name: str, array: NDArray) -> None:
    if array.dtype.kind in "biuf":
        return
    kinds = {
        "c": "complex numbers",
        "U": "text",
        "S": "text",
        "V": "a structured array",
        "M": "dates",
        "m": "durations",
    }
    got = kinds.get(array.dtype.kind, "no numbers")
    raise ZooError(f"{path.name}: expected real numbers in {name}, got {got} (dtype {array.dtype}). Convert it first.")


def _vectors(
    path: Path,
    x: NDArray,
    columns: Column | Sequence[Column] | None,
    labels: Column | None,
    targets: Column | Sequence[Column] | None,
) -> Loaded:
    if x.ndim not in (1, 2):
        fix = (
            "Save images as x.reshape(len(x), -1), sequences as .npz with arrays x and lengths"
            if x.ndim == 3
            else "Reshape it"
        )
        raise ZooError(f"{path.name}: expected x of shape (N, D), got {x.ndim} dimensions, shape {x.shape}. {fix}.")
    x = x[:, None] if x.ndim == 1 else x
    if x.size == 0:
        raise ZooError(f"{path.name}: expected a row and a column at least, got shape {x.shape}. Check what wrote it.")
    if columns is None and labels is None and targets is None:
        return Loaded(_values(x))
    table = Table(path.name, None, list(_values(x).T))
    return arrange(table, columns, labels, targets, symbols=x.dtype == object)


def _values(x: NDArray) -> NDArray:
    return x if x.dtype == object else plain(x).astype(np.float64)


def _sequences(path: Path, x: NDArray, lengths: NDArray, columns: Column | Sequence[Column] | None) -> Loaded:
    if x.ndim not in (2, 3) or x.size == 0:
        raise ZooError(
            f"{path.name}: expected sequences x of shape (N, T, D) or (N, T) beside lengths, got shape {x.shape}. "
            "Pad them to one length."
        )
    number, steps = x.shape[:2]
    if lengths.shape != (number,) or lengths.dtype.kind not in "iuf":
        raise ZooError(
            f"{path.name}: expected lengths of shape ({number},), one whole number a sequence, got shape "
            f"{lengths.shape}, dtype {lengths.dtype}. Save one length for each row of x."
        )
    whole = lengths.astype(np.float64)
    wrong = np.flatnonzero(~((whole == np.round(whole)) & (whole >= 1) & (whole <= steps)))
    if len(wrong):
        raise ZooError(
            f"{path.name}: expected lengths from 1 to {steps}, got {lengths[wrong[0]]} in {rows_text(wrong)}. "
            "Leave empty sequences out and cut none short."
        )
    if columns is not None:
        if x.ndim == 2:
            raise ZooError(f"{path.name}: columns= picks features of x (N, T, D), got shape {x.shape}. Leave it out.")
        wanted = [columns] if isinstance(columns, (int, str)) else list(columns)
        x = x[:, :, [pick(path.name, None, x.shape[2], column) for column in wanted]]
    x = np.array(_values(x))
    x[np.arange(steps) >= whole[:, None]] = (
        None if x.dtype == object else 0.0
    )  # whatever was in the padding must not reach a sum as 0 * nan
    return Loaded(x, lengths=lengths.astype(np.int64))


def _array_codes(path: Path, labels: NDArray, loaded: Loaded) -> NDArray[np.int64]:
    shapes = [loaded.x.shape[:1]] + ([loaded.x.shape[:2]] if loaded.lengths is not None else [])
    if labels.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ZooError(f"{path.name}: expected labels of shape {expected}, got {labels.shape}. Save one label a row.")
    if labels.dtype.kind in "biu" and not (labels.dtype == np.uint64 and labels.max() > np.iinfo(np.int64).max):
        return labels.astype(np.int64)
    if labels.dtype.kind in "US":
        return np.unique(labels, return_inverse=True)[1].astype(np.int64).reshape(labels.shape)
    if labels.dtype.kind == "f" and bool(np.all((labels == np.round(labels)) & (np.abs(labels) <= 2.0**53))):
        return labels.astype(np.int64)
    raise ZooError(
        f"{path.name}: expected whole numbers or strings as labels, got dtype {labels.dtype} with other values. "
        "Convert them first."
    )
