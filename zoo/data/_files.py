"""Readers of a user's own file: ``.csv``, ``.npy``, ``.npz``, ``.parquet``."""

from __future__ import annotations

import csv
import difflib
import math
import os
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.data._table import Column, Loaded, Table, arrange, is_number, pick, rows_text
from zoo.errors import ZooError

__all__ = ["SUFFIXES", "read_csv_table", "read_file"]

SUFFIXES = (".csv", ".npy", ".npz", ".parquet")
_MISSING = {"", "na", "n/a", "nan", "null"}
_DELIMITERS = ("\t", ";", ",")  # in this order where several fit: a decimal comma makes ',' fit a ';' file as well


def read_file(
    path: Path,
    columns: Column | Sequence[Column] | None,
    labels: Column | bool | None,
    targets: Column | Sequence[Column] | None = None,
) -> Loaded:
    """Reads a user's file.

    Args:
        path: the file; its suffix says its kind.
        columns: columns by name or number, or None for all.
        labels: the column of labels (in ``.npz``: the name of the array), or None.
        targets: the columns of y (in ``.npz``: the name of the array), or None.

    Returns:
        x (N, D), with targets (N, D_y) where these are asked for, or sequences with their lengths.

    Raises:
        ZooError: the file is missing, of an unknown kind, or does not hold what its kind should.
    """
    _check_exists(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ZooError(f"Expected a file ending in {', '.join(SUFFIXES)}, got {path.name!r}. Save it as one of these.")
    if path.stat().st_size == 0:
        raise ZooError(f"{path.name} is empty (0 bytes), expected data. Check what wrote it.")
    if labels is True:
        how = "the array's name" if suffix == ".npz" else "the column's name or number"
        raise ZooError(f"labels=True is for the named data sets, got it with {path.name}. Pass {how}, labels=...")
    column = None if labels is False else labels
    try:
        if suffix in (".npy", ".npz"):
            return _read_arrays(path, columns, column, targets)
        table = read_csv_table(path, simple=column is None) if suffix == ".csv" else _read_parquet(path)
    except OSError as error:
        raise ZooError(
            f"{path} could not be read: {error.strerror or error}. Check the file and its permissions."
        ) from None
    return arrange(table, columns, column, targets)


def _check_exists(path: Path) -> None:
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


# --- text -------------------------------------------------------------------------------------------------------------


def read_csv_table(path: Path, simple: bool = True) -> Table:
    """Reads a text table: delimiter , ; or tab, header or none, quoted cells, NaN for empty cells and NA.

    Args:
        path: the file, in UTF-8.
        simple: whether all columns may well be numbers, so that numpy's fast reader is worth a try.

    Raises:
        ZooError: nothing but a header, or rows of different lengths.
    """
    delimiter = _sniff(path)
    names, header_lines, width = _header(path, delimiter)
    # A header cell with a line break makes lines and records differ, which numpy's skiprows does not know.
    if simple and not any("\n" in name or "\r" in name for name in names or ()):
        numbers = _fast(path, delimiter, header_lines, width)
        if numbers is not None:
            return Table(path.name, names, list(numbers.T))
    return _careful(path, delimiter, names, width)


def _records(path: Path, delimiter: str) -> Any:
    """The file's records with the line each ends on; blank lines are left out."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
            for record in reader:
                if record and (len(record) > 1 or record[0].strip()):
                    yield reader.line_num, record
    except UnicodeDecodeError as error:
        raise ZooError(
            f"{path.name} should be text in UTF-8, got byte 0x{error.object[error.start]:02x}. Save it as UTF-8."
        ) from None
    except csv.Error as error:
        raise ZooError(f"{path.name} is no readable CSV: {error}. Check its quotes.") from None


def _sniff(path: Path) -> str:
    """The delimiter that cuts the first lines into the same number of cells, more than one."""
    best, best_share = ",", 0.0
    for delimiter in _DELIMITERS:
        counts: Counter[int] = Counter()
        for _, record in _records(path, delimiter):
            counts[len(record)] += 1
            if counts.total() == 20:
                break
        if not counts:
            raise ZooError(f"{path.name} has only blank lines, expected rows of numbers. Check what wrote it.")
        cells, often = counts.most_common(1)[0]
        share = often / counts.total() if cells > 1 else 0.0
        if share > best_share:
            best, best_share = delimiter, share
    return best


def _header(path: Path, delimiter: str) -> tuple[tuple[str, ...] | None, int, int]:
    """The header or None, how many lines go before the data, and the number of cells in the first record.

    A first line with any number in it is data: taking it for a header would silently lose a row of a file whose
    rows are numbers and one label.
    """
    records = _records(path, delimiter)
    line, first = next(records)
    cells = [cell.strip() for cell in first]
    if any(is_number(cell) and not math.isnan(float(cell)) for cell in cells):
        return None, 0, len(cells)
    if all(cell.lower() in _MISSING for cell in cells):
        return None, 0, len(cells)
    if next(records, None) is None:
        raise ZooError(f"{path.name} has a header and no rows, expected at least one. Check what wrote it.")
    return tuple(cells), line, len(cells)


def _fast(path: Path, delimiter: str, skip: int, width: int) -> NDArray[np.float64] | None:
    """numpy's reader in C, or None if the file needs the careful one (text, empty cells, ragged rows)."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            numbers = np.loadtxt(
                path, delimiter=delimiter, skiprows=skip, comments=None, quotechar='"', ndmin=2, encoding="utf-8-sig"
            )
        except (ValueError, UserWarning):
            return None
    return numbers if numbers.shape[1] == width else None


def _careful(path: Path, delimiter: str, names: tuple[str, ...] | None, width: int) -> Table:
    records = _records(path, delimiter)
    if names is not None:
        next(records)
    lines: list[int] = []
    rows: list[list[str]] = []
    for line, record in records:
        if len(record) != width:
            first = "the header" if names is not None else "the first row"
            raise ZooError(
                f"{path.name}: expected {width} cells in every row, as in {first}, got {len(record)} in row "
                f"{len(rows) + 1} (line {line}). Correct that line, or quote cells that hold {delimiter!r}."
            )
        lines.append(line)
        rows.append(record)
    columns = [_column([row[i] for row in rows]) for i in range(width)]
    return Table(path.name, names, columns, lines=lines)


def _column(cells: list[str]) -> NDArray:
    """Cells as float64, or as an object array of strings with None where missing if one cell is text."""
    numbers = np.empty(len(cells))
    for row, cell in enumerate(cells):
        try:
            numbers[row] = float(cell)
        except ValueError:
            if cell.strip().lower() not in _MISSING:
                break
            numbers[row] = np.nan
        else:
            if "_" in cell:
                break
    else:
        return numbers
    stripped = [cell.strip() for cell in cells]
    return np.array([None if cell.lower() in _MISSING else cell for cell in stripped], dtype=object)


# --- parquet ----------------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Table:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ZooError(
            f"Reading {path.name} needs pyarrow, which is not installed. Run: pip install 'latent-zoo[parquet]'."
        ) from None
    try:
        read = pq.read_table(path)
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise ZooError(f"{path.name} is no readable parquet file: {reason}. Save it again.") from None
    if read.num_rows == 0 or read.num_columns == 0:
        raise ZooError(f"{path.name} has {read.num_rows} rows and {read.num_columns} columns, expected data. Check it.")
    columns: list[NDArray] = []
    numeric = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    for column in read.columns:
        if any(test(column.type) for test in numeric):
            columns.append(column.cast(pa.float64()).to_numpy())
        else:
            # Dates, lists and the like are text to us, to be left out by columns=.
            columns.append(np.array([None if cell is None else str(cell) for cell in column.to_pylist()], dtype=object))
    return Table(path.name, tuple(read.column_names), columns)


# --- arrays -----------------------------------------------------------------------------------------------------------


def _read_arrays(
    path: Path,
    columns: Column | Sequence[Column] | None,
    labels: Column | None,
    targets: Column | Sequence[Column] | None,
) -> Loaded:
    try:
        with path.open("rb") as stream:  # our own, as numpy leaves its own open when the content is broken
            content = np.load(stream, allow_pickle=False)
            if isinstance(content, np.ndarray):
                arrays = {"x": content}
            else:
                with content:
                    arrays = {name: content[name] for name in content.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        # numpy calls whatever it does not know a pickle; only "Object arrays" and the opcode 0x80 show a real one.
        if "Object arrays" in str(error) or _starts_with(path, b"\x80"):
            raise ZooError(
                f"{path.name} holds pickled objects, which can run code when read; expected plain numbers. "
                "Save it again as a plain array: np.save(path, x.astype(float))."
            ) from None
        kind = path.suffix.lower()
        raise ZooError(
            f"{path.name} should be a whole {kind} file of numpy's, got one that numpy cannot read. Save it again."
        ) from None
    array_label = None
    if labels is not None and path.suffix.lower() == ".npz":
        array_label, labels = _taken(path, arrays, labels, "labels"), None
    aim = None
    if targets is not None and path.suffix.lower() == ".npz":
        aim, targets = _taken(path, arrays, targets, "targets"), None
    x = _main_array(path, arrays)
    _check_numeric(path, "x", x)
    lengths = arrays.get("lengths")
    if aim is not None and lengths is not None:
        raise ZooError(f"{path.name}: targets= expected one row a datum, got sequences. Leave one of them out.")
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
    return loaded


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
        return Loaded(x.astype(np.float64))
    table = Table(path.name, None, list(x.astype(np.float64).T))
    return arrange(table, columns, labels, targets)


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
    x = x.astype(np.float64)
    x[np.arange(steps) >= whole[:, None]] = 0.0  # whatever was in the padding must not reach a sum as 0 * nan
    return Loaded(x, lengths=lengths.astype(np.int64))


def _array_codes(path: Path, labels: NDArray, loaded: Loaded) -> NDArray[np.int64]:
    shapes = [loaded.x.shape[:1]] + ([loaded.x.shape[:2]] if loaded.lengths is not None else [])
    if labels.shape not in shapes:
        expected = " or ".join(map(str, shapes))
        raise ZooError(f"{path.name}: expected labels of shape {expected}, got {labels.shape}. Save one label a row.")
    if labels.dtype.kind in "biu":
        return labels.astype(np.int64)
    if labels.dtype.kind in "US":
        return np.unique(labels, return_inverse=True)[1].astype(np.int64).reshape(labels.shape)
    if labels.dtype.kind == "f" and bool(np.all(labels == np.round(labels))):
        return labels.astype(np.int64)
    raise ZooError(
        f"{path.name}: expected whole numbers or strings as labels, got dtype {labels.dtype} with other values. "
        "Convert them first."
    )
