"""The choice of columns, labels and sequences, common to all kinds of file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from zoo.core.arrays import check_padding, numbers_of, shown
from zoo.data._aside import mixed_up, moments, odd_moment, set_aside
from zoo.data._cells import Column, as_part, holds_numbers, is_text, reads_as_number, way_out
from zoo.data._loaded import Loaded
from zoo.errors import ZooError

__all__ = ["Column", "NoNames", "Table", "arrange", "pick", "rows_text", "shown"]

# What R, pandas and spreadsheets call the column of row names they write in front of the data.
_ROW_NAME_HEADERS = {"", "rownames", "unnamed: 0", "__index_level_0__"}


class NoNames(ZooError):
    """A column was asked for by its name where none have names."""


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
                f"{source} has {number} column{'s' * (number > 1)}, got number {wanted}. "
                f"Columns are counted from 0{f' to {number - 1}' * (number > 1)}."
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
    near = [name for name in names if wanted and name.lower().startswith(wanted.lower())][:1]
    near = near or difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
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
    row = next(i for i, cell in enumerate(column) if cell is not None and not reads_as_number(cell, table.decimal))
    value = column[row]
    raise ZooError(
        f"{table.source}: expected a number in {table.title(index)}, {table.place(row)}, got {shown(value)}. "
        f"{way_out(column, _called(table, index), value, table.decimal)}."
    )


def _called(table: Table, index: int) -> Column:
    return table.names[index] if table.names and table.names[index] else index


def _refuse_words(table: Table, chosen: Sequence[int]) -> None:
    """Refuse several columns of words at once, as one that is left out would only bring up the next."""
    words = [i for i in chosen if not holds_numbers(table.columns[i])]
    if len(words) < 2 or len(words) == len(chosen):
        return
    cells = [next((cell for cell in table.columns[i] if cell is not None), "") for i in words[:6]]
    told = ", ".join(f"{_called(table, i)!r} ({shown(cell)})" for i, cell in zip(words, cells, strict=False))
    rest = [_called(table, i) for i in chosen if i not in words]
    fix = f"Choose with columns={rest}" if len(rest) <= 12 else "Leave them out with columns="
    raise ZooError(
        f"{table.source}: expected numbers, got text in {len(words)} columns: {told}{', ...' * (len(words) > 6)}. "
        f"{fix}, or {as_part(_called(table, words[0]))}."
    )


def _codes(table: Table, index: int) -> NDArray[np.int64]:
    """Labels as integers: whole numbers stay what they are, strings are coded in sorted order, gaps are -1."""
    column = table.columns[index]
    if column.dtype == object:
        there = np.array([cell is not None for cell in column], dtype=bool)
    else:
        there = ~np.isnan(column)
    if not there.any():
        raise ZooError(f"{table.source}: expected labels in {table.title(index)}, got none. Name another column.")
    codes = np.full(len(column), -1, dtype=np.int64)
    rows, column = np.flatnonzero(there), column[there]
    if column.dtype == object:
        codes[rows] = np.unique(column.astype(str), return_inverse=True)[1].reshape(-1)
        return codes
    # Beyond 2**53 a float64 is whole for want of digits.
    unsure = (column != np.round(column)) | (np.abs(column) > 2.0**53) if column.dtype.kind == "f" else column != column
    fraction = np.flatnonzero(unsure)
    if len(fraction):
        row = int(fraction[0])
        raise ZooError(
            f"{table.source}: expected whole numbers or strings as labels in {table.title(index)}, got {column[row]} "
            f"in {table.place(int(rows[row]))}. Read it as data with columns= instead."
        )
    codes[rows] = column.astype(np.int64)
    return codes


def arrange(
    table: Table,
    columns: Column | Sequence[Column] | None,
    labels: Column | None,
    targets: Column | Sequence[Column] | None = None,
    sequence: Column | None = None,
    symbols: bool = False,
    time: Column | None = None,
    measured: bool = False,
) -> Loaded:
    """Turns a table into data: the chosen columns side by side, the labels, and sequences where there is one.

    Args:
        table: N rows.
        columns: the columns of x, in this order; None for all that have none of the parts below.
        labels: the column of labels, or None.
        targets: the columns of y, in this order, or None.
        sequence: the column that says which sequence a row belongs to; None for the one called so, if any.
        symbols: whether text may be read, where all columns of x are text.
        time: the column by which rows are sorted, those of each sequence where there are any; None leaves their order.
        measured: without ``columns``, whether to leave out those that tell rows apart or say when they were taken.

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
    when = None if time is None else pick(table.source, table.names, number, time)
    if steps is not None and sequence is None and columns is not None and steps in _picked(table, columns, "columns"):
        steps = None  # asked for as data
    which = None if steps is None else _sequences(table, steps)
    aside: dict[int, str] = {}
    if columns is None:
        chosen = [i for i in range(number) if i not in (label, steps, when, *aims)]
        if measured and table.names:
            aside = set_aside(table.names, table.columns, chosen, which)
            if which is not None and when is None:
                _refuse_mixed_up(table, [i for i in chosen if i not in aside], which)
            chosen = [i for i in chosen if i not in aside]
        if not (symbols and chosen) and not any(holds_numbers(table.columns[i]) for i in chosen):
            raise ZooError(
                f"{table.source} has no numeric columns: expected one at least, got only text or labels in {number}. "
                "Pass a file with numbers."
            )
    else:
        chosen = _picked(table, columns, "columns")
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
        if symbols and columns is None and any(is_text(table.columns[i]) for i in chosen):
            words = ", ".join([table.title(i) for i in chosen if is_text(table.columns[i])][:5])
            raise ZooError(
                f"{table.source}: expected numbers alone or symbols alone, got both, symbols in {words}. "
                "Choose with columns=."
            )
        if columns is None:
            _refuse_words(table, chosen)
        x = np.column_stack([_numeric(table, i) for i in chosen])
    codes = None if label is None else _codes(table, label)
    names = tuple(table.names[i] for i in chosen) if table.names else None
    order = _order(table, when, which)
    if which is None:
        y = np.column_stack([_numeric(table, i) for i in aims]) if aims else None
        rows = np.arange(len(x)) if order is None else order
        loaded = Loaded(x[rows], names, labels=None if codes is None else codes[rows], origin=rows)
        if y is not None:
            loaded.targets = y[rows]
            loaded.target_names = tuple(table.names[i] for i in aims) if table.names else None
    else:
        loaded = _group(table.source, which, order, x, names, codes)
    loaded.line = table.line
    if when is not None:
        loaded.sorted_by = table.names[when] if table.names else table.title(when)
    loaded.dropped = table.dropped
    loaded.aside = {table.names[i]: what for i, what in aside.items()} if table.names else {}
    if label is not None and table.columns[label].dtype == object:
        there = [str(cell) for cell in table.columns[label] if cell is not None]
        loaded.classes = tuple(sorted(set(there)))
    return loaded


def _picked(table: Table, columns: Column | Sequence[Column], option: str) -> list[int]:
    wanted = [columns] if isinstance(columns, (int, str)) else list(columns)
    if not wanted:
        raise ZooError(f"{option}= should name at least one column, got an empty list. Leave it out.")
    places = [pick(table.source, table.names, len(table.columns), column) for column in wanted]
    twice = next((place for place in places if places.count(place) > 1), None)
    if twice is not None:
        raise ZooError(
            f"{table.source}: {option}= expected each column once, got {table.title(twice)} again. Keep one."
        )
    return places


def _sequences(table: Table, sequence: int) -> NDArray[np.int64]:
    """The sequence that each row is of, (N,): 0, 1, ... in order of first appearance."""
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
    _, first, inverse = np.unique(column, return_index=True, return_inverse=True)
    rank = np.empty_like(first)
    rank[np.argsort(first)] = np.arange(len(first))  # np.unique sorts by value
    return rank[inverse.reshape(-1)].astype(np.int64)


def _refuse_mixed_up(table: Table, chosen: Sequence[int], which: NDArray[np.int64]) -> None:
    """Refuse steps in another order than that of their times: as a feature, a time would lead a fit astray unseen."""
    assert table.names is not None
    for i in chosen:
        if mixed_up(table.names[i], table.columns[i], which):
            name = table.names[i]
            raise ZooError(
                f"{table.source}: expected the rows of each sequence in the order of their time, got column {name!r} "
                f"up and down. Sort by it with time={name!r}, or choose with columns=."
            )


def _order(table: Table, time: int | None, which: NDArray[np.int64] | None) -> NDArray[np.intp] | None:
    """The rows sequence by sequence, those of each by their time, else as in the file; None for the file's order."""
    if time is None:
        return None if which is None else np.argsort(which, kind="stable")
    values = moments(table.columns[time])
    if values is None:
        raise ZooError(
            f"{table.source}: expected numbers or dates such as 2024-05-31 in {table.title(time)}, "
            f"got {shown(str(odd_moment(table.columns[time])))}. Write the times so, or leave time= out."
        )
    missing = np.flatnonzero(np.isnan(values))
    if len(missing):
        raise ZooError(
            f"{table.source}: expected a time in every row of {table.title(time)}, got none in {rows_text(missing)}. "
            "Fill them in or leave those rows out."
        )
    return np.lexsort((values,) if which is None else (values, which))


def _group(
    source: str,
    which: NDArray[np.int64],
    order: NDArray[np.intp] | None,
    x: NDArray,
    names: tuple[str, ...] | None,
    codes: NDArray[np.int64] | None,
) -> Loaded:
    """Gathers rows into padded sequences, in order of first appearance, rows in this order."""
    lengths = np.bincount(which).astype(np.int64)
    step = np.empty(len(which), dtype=np.int64)
    step[order] = np.concatenate([np.arange(length) for length in lengths])
    check_padding(source, len(lengths), int(lengths.max()), x.shape[1], x.size)
    padded = np.zeros((len(lengths), int(lengths.max()), x.shape[1]), dtype=x.dtype)
    if padded.dtype == object:
        padded[:] = None
    padded[which, step] = x
    padded_codes = None
    if codes is not None:
        padded_codes = np.full(padded.shape[:2], -1, dtype=np.int64)
        padded_codes[which, step] = codes
    origin = np.full(padded.shape[:2], -1, dtype=np.intp)
    origin[which, step] = np.arange(len(which))
    return Loaded(padded, names, lengths, padded_codes, origin=origin)
