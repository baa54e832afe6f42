"""What every reader returns, and the choice of columns, labels and sequences, common to all kinds of file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.core.arrays import check_padding, is_number, numbers_of
from zoo.errors import ZooError

__all__ = ["Column", "Loaded", "NoNames", "Table", "arrange", "pick", "rows_text", "shown"]

Column = int | str

# What R, pandas and spreadsheets call the column of row names they write in front of the data.
_ROW_NAME_HEADERS = {"", "rownames", "unnamed: 0", "__index_level_0__"}


class NoNames(ZooError):
    """A column was asked for by its name where none have names."""


@dataclass
class Loaded:
    """Data in arrays, ready to become tensors.

    Attributes:
        x: (N, D), or (N, T) or (N, T, D) with ``lengths``.
        names: D column names, or None.
        lengths: (N,) int64, or None for plain vectors.
        labels: (N,), or (N, T) for sequences with -1 as padding, int64; or None.
        targets: (N, D_y), what x is to predict; of sequences (N, U) symbols padded with 0; or None.
        target_lengths: (N,) int64, numbers of these symbols, or None.
        dropped: columns that were taken for row names.
        symbols: what text is coded by; None for its own symbols in sorted order.
        classes: what the labels 0, 1, ... stand for, where that is known.
    """

    x: NDArray
    names: tuple[str, ...] | None = None
    lengths: NDArray[np.int64] | None = None
    labels: NDArray[np.int64] | None = None
    targets: NDArray[np.floating] | NDArray[np.int64] | None = None
    target_lengths: NDArray[np.int64] | None = None
    dropped: tuple[str, ...] = ()
    symbols: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None

    @property
    def data(self) -> Any:
        """As tensors: x, a pair with the targets; of sequences a dict, ``y`` the targets. Text stays as it is."""
        if self.lengths is None:
            x = _as_tensor(self.x)
            return x if self.targets is None else (x, _as_tensor(self.targets))
        named = {"x": self.x, "lengths": self.lengths, "y": self.targets, "target_lengths": self.target_lengths}
        return {name: _as_tensor(array) for name, array in named.items() if array is not None}

    @property
    def codes(self) -> Tensor:
        """The labels that were asked for."""
        assert self.labels is not None  # every reader gives them when asked, or raises
        return _as_tensor(self.labels)


def _as_tensor(array: NDArray) -> Any:
    return array if array.dtype == object else torch.from_numpy(np.ascontiguousarray(array))


@dataclass
class Table:
    """Columns of a file before any choice among them.

    Attributes:
        source: the file's name, for error texts.
        names: the header, or None.
        columns: one array a column, (N,): numbers, or object (strings, None where missing) if any cell is text.
        line: the line of the file that a row ends on, where the file has lines.
        decimal: what stands before decimals in the file.
    """

    source: str
    names: tuple[str, ...] | None
    columns: list[NDArray]
    line: Callable[[int], int] | None = None
    decimal: str = "."
    dropped: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.names and _is_row_names(self.names[0], self.columns[0]) and len(self.columns) > 1:
            self.dropped = (self.names[0] or "row names",)
            self.names, self.columns = self.names[1:], self.columns[1:]

    def title(self, index: int) -> str:
        """How error texts call a column: by its name, else by its number."""
        return f"column {self.names[index]!r}" if self.names and self.names[index] else f"column number {index}"

    def place(self, row: int) -> str:
        """How error texts call a row, counted from 1, with its line where the file has lines."""
        return f"row {row + 1}" + (f" (line {self.line(row)})" if self.line else "")


def _is_row_names(header: str, column: NDArray) -> bool:
    header = header.strip().lower()
    if header in _ROW_NAME_HEADERS:
        return True
    if header != "index":
        return False
    # A column called "index" may as well be a price index: only text or 0..N-1 or 1..N is a row name.
    if column.dtype == object:
        return True
    count = np.arange(len(column))
    return bool(np.array_equal(column, count) or np.array_equal(column, count + 1))


def rows_text(rows: Sequence[int] | NDArray[np.intp]) -> str:
    """``"row 4"`` or ``"rows 1, 4, 9 and 12 more"``, counted from 1."""
    shown = ", ".join(str(int(row) + 1) for row in rows[:5])
    more = f" and {len(rows) - 5} more" if len(rows) > 5 else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def pick(source: str, names: Sequence[str] | None, number: int, wanted: Column) -> int:
    """The index of the column called or numbered ``wanted``.

    Raises:
        ZooError: there is no such column, or the name stands over several.
    """
    if isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool):
        if not -number <= wanted < number:
            raise ZooError(
                f"{source} has {number} columns, got number {wanted}. Columns are counted from 0 to {number - 1}."
            )
        return int(wanted) % number
    if not isinstance(wanted, str):
        raise ZooError(
            f"A column is picked by name or number, got {wanted!r} ({type(wanted).__name__}). Pass a str or an int."
        )
    if not names:
        raise NoNames(f"{source} has no column names, got {wanted!r}. Pick columns by number, 0 to {number - 1}.")
    places = [index for index, name in enumerate(names) if name == wanted]
    if len(places) == 1:
        return places[0]
    if places:
        raise ZooError(f"{source} has {len(places)} columns called {wanted!r}. Pick by number: {places}.")
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    raise ZooError(
        f"{source} has no column {wanted!r}. "
        + (f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(map(repr, names))}.")
    )


def _numeric(table: Table, index: int) -> NDArray[np.float64]:
    column = table.columns[index]
    if column.dtype == object:  # numbers stored as text in a typed file, or text
        column = numbers_of(column)
    if column.dtype != object:
        return column.astype(np.float64, copy=False)
    # A word alone in a column of numbers is the mistake to point at, and so is the first one in a column of words.
    row = next(i for i, cell in enumerate(column) if cell is not None and not _reads_as_number(cell, table.decimal))
    value = column[row]
    raise ZooError(
        f"{table.source}: expected a number in {table.title(index)}, {table.place(row)}, got {shown(value)}. "
        f"{_way_out(table, index, value)}."
    )


def _is_text(column: NDArray) -> bool:
    return column.dtype == object and numbers_of(column).dtype == object


def _reads_as_number(cell: str, decimal: str) -> bool:
    return is_number(cell) if decimal == "." else "." not in cell and is_number(cell.replace(decimal, "."))


def _way_out(table: Table, index: int, value: str) -> str:
    if table.decimal != "." and is_number(value):
        return f"Write decimals with {table.decimal!r}, or leave decimal= out"
    if _is_decimal_comma(value):
        return 'Write decimals with a point, or pass decimal="," for a comma'
    if _GROUPED.fullmatch(value):
        return "Write numbers without marks between thousands"
    if value.endswith("%") or value[:1] in "$€£":
        return "Write numbers without units"
    name = table.names[index] if table.names and table.names[index] else index
    return f"Leave it out with columns=, or read it as labels={name!r}"


_GROUPED = re.compile(r"[+-]?\d{1,3}([,. '’]\d{3})+([.,]\d*)?")


def shown(value: str) -> str:
    """A cell as error texts quote it."""
    return repr(value if len(value) <= 40 else value[:37] + "...")


def _is_decimal_comma(cell: str) -> bool:
    return cell.count(",") == 1 and cell.replace(",", "").lstrip("+-").isdigit()


def _holds_numbers(column: NDArray) -> bool:
    """Whether one cell at least is meant as a number; the text beside it is then the mistake to point at."""
    if column.dtype != object:
        return True
    return any(cell is not None and (is_number(cell) or _is_decimal_comma(cell)) for cell in column)


def _codes(table: Table, index: int) -> NDArray[np.int64]:
    """Labels as integers: whole numbers stay what they are, strings are coded in sorted order."""
    column = table.columns[index]
    if column.dtype == object:
        missing = [row for row, cell in enumerate(column) if cell is None]
    else:
        missing = np.flatnonzero(np.isnan(column)).tolist()
    if missing:
        raise ZooError(
            f"{table.source}: expected a label in every row of {table.title(index)}, got none in {rows_text(missing)}. "
            "Fill them in or leave those rows out."
        )
    if column.dtype == object:
        return np.unique(column.astype(str), return_inverse=True)[1].astype(np.int64).reshape(-1)
    # Beyond 2**53 a float64 is whole for want of digits.
    unsure = (column != np.round(column)) | (np.abs(column) > 2.0**53) if column.dtype.kind == "f" else column != column
    fraction = np.flatnonzero(unsure)
    if len(fraction):
        row = int(fraction[0])
        raise ZooError(
            f"{table.source}: expected whole numbers or strings as labels in {table.title(index)}, got {column[row]} "
            f"in {table.place(row)}. Read it as data with columns= instead."
        )
    return column.astype(np.int64)


def arrange(
    table: Table,
    columns: Column | Sequence[Column] | None,
    labels: Column | None,
    targets: Column | Sequence[Column] | None = None,
    sequence: Column | None = None,
    symbols: bool = False,
) -> Loaded:
    """Turns a table into data: the chosen columns side by side, the labels, and sequences where there is one.

    Args:
        table: N rows.
        columns: the columns of x, in this order; None for all that are neither label, target nor sequence number.
        labels: the column of labels, or None.
        targets: the columns of y, in this order, or None.
        sequence: the column that says which sequence a row belongs to; None for the one called so, if any.
        symbols: whether text may be read, where all columns of x are text.

    Returns:
        x (N, D); or, with a column of sequences, x (S, T, D) padded with zeros (text with None) and lengths (S,).

    Raises:
        ZooError: an unknown column, text where numbers are wanted, nothing left to read, or targets of sequences.
    """
    number = len(table.columns)
    label = None if labels is None else pick(table.source, table.names, number, labels)
    aims = [] if targets is None else _picked(table, targets, "targets")
    steps = None if sequence is None else pick(table.source, table.names, number, sequence)
    if sequence is None:
        steps = next((i for i, name in enumerate(table.names or ()) if name == "sequence"), None)
    if columns is None:
        chosen = [i for i in range(number) if i not in (label, steps, *aims)]
        if not (symbols and chosen) and not any(_holds_numbers(table.columns[i]) for i in chosen):
            raise ZooError(
                f"{table.source} has no numeric columns: expected one at least, got only text or labels in {number}. "
                "Pass a file with numbers."
            )
    else:
        chosen = _picked(table, columns, "columns")
        if steps in chosen and sequence is None:
            steps = None  # asked for as data
    both = sorted({*chosen} & {*aims})
    if both:
        raise ZooError(
            f"{table.source}: expected other targets than columns, got {table.title(both[0])} in both. Choose one."
        )
    if aims and steps is not None:
        raise ZooError(f"{table.source}: targets= expected one row a datum, got sequences. Leave one of them out.")
    if symbols and all(
        numbers_of(c).dtype == object if c.dtype == object else False for c in map(table.columns.__getitem__, chosen)
    ):
        x = np.column_stack([table.columns[i] for i in chosen])
    else:
        if symbols and columns is None and any(_is_text(table.columns[i]) for i in chosen):
            words = ", ".join([table.title(i) for i in chosen if _is_text(table.columns[i])][:5])
            raise ZooError(
                f"{table.source}: expected numbers alone or symbols alone, got both, symbols in {words}. "
                "Choose with columns=."
            )
        x = np.column_stack([_numeric(table, i) for i in chosen])
    codes = None if label is None else _codes(table, label)
    names = tuple(table.names[i] for i in chosen) if table.names else None
    if steps is None:
        y = np.column_stack([_numeric(table, i) for i in aims]) if aims else None
        loaded = Loaded(x, names, labels=codes, targets=y)
    else:
        loaded = _group(table, steps, x, names, codes)
    loaded.dropped = table.dropped
    if label is not None and table.columns[label].dtype == object:
        loaded.classes = tuple(np.unique(table.columns[label].astype(str)).tolist())
    return loaded


def _picked(table: Table, columns: Column | Sequence[Column], option: str) -> list[int]:
    wanted = [columns] if isinstance(columns, (int, str)) else list(columns)
    if not wanted:
        raise ZooError(f"{option}= should name at least one column, got an empty list. Leave it out.")
    return [pick(table.source, table.names, len(table.columns), column) for column in wanted]


def _group(
    table: Table,
    sequence: int,
    x: NDArray,
    names: tuple[str, ...] | None,
    codes: NDArray[np.int64] | None,
) -> Loaded:
    """Gathers rows into padded sequences, in order of first appearance, rows in file order."""
    column = table.columns[sequence]
    if column.dtype == object:
        missing = [row for row, cell in enumerate(column) if cell is None]
        column = np.array(["" if cell is None else str(cell) for cell in column])
    else:
        missing = np.flatnonzero(np.isnan(column)).tolist() if column.dtype.kind == "f" else []
    if missing:
        raise ZooError(
            f"{table.source}: expected every row to say its sequence, got none in {rows_text(missing)}. "
            f"Fill in {table.title(sequence)}."
        )
    _, first, inverse, counts = np.unique(column, return_index=True, return_inverse=True, return_counts=True)
    order = np.argsort(first)  # np.unique sorts by value; put sequences back in order of appearance
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    which = rank[inverse.reshape(-1)]
    lengths = counts[order].astype(np.int64)
    by_sequence = np.argsort(which, kind="stable")
    step = np.empty(len(which), dtype=np.int64)
    step[by_sequence] = np.concatenate([np.arange(length) for length in lengths])
    check_padding(table.source, len(lengths), int(lengths.max()), x.shape[1], x.size)
    padded = np.zeros((len(lengths), int(lengths.max()), x.shape[1]), dtype=x.dtype)
    if padded.dtype == object:
        padded[:] = None
    padded[which, step] = x
    padded_codes = None
    if codes is not None:
        padded_codes = np.full(padded.shape[:2], -1, dtype=np.int64)
        padded_codes[which, step] = codes
    return Loaded(padded, names, lengths, padded_codes)
