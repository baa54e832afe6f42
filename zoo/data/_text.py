"""Tables in text, compressed or not: pandas parses; here is decided how a file is cut into a header and rows."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.core.arrays import is_number, numbers_of, series_array, strip_text
from zoo.data._small import numbers
from zoo.data._table import Table
from zoo.errors import ZooError

__all__ = ["COMPRESSIONS", "TEXT_SUFFIXES", "read_lines", "read_text_table", "unpacked_text"]

TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".data")
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst", ".zip")

_MISSING = {"", "na", "n/a", "nan", "-nan", "null", "none", "#n/a", "#na", "#n/a n/a", "<na>"}
#: As pandas wants them, which minds the case.
_MISSING_CELLS = sorted(
    {f(word) for word in _MISSING for f in (str, str.upper, str.title, str.capitalize)} | {"NaN", "-NaN"}
)
_DELIMITERS = ("\t", ";", "|", ",")  # in this order where several fit: a decimal comma makes ',' fit a ';' file as well
_BLANKS = " "
_SAMPLE = 20
_WIDE = 2000  # columns from which one cell a line is parsed, as pandas spends its time on columns
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)


def read_text_table(path: Path, decimal: str = ".") -> Table:
    """Reads a table: delimiter tab, ``;``, ``|``, comma or blanks, header or none, lines of ``#`` passed over.

    Args:
        path: the file, in UTF-8, or in UTF-16 with its mark; compressed where its last suffix says so.
        decimal: what stands before decimals, a point or a comma.

    Raises:
        ZooError: nothing but a header, rows of different lengths, no text at all.
    """
    text = _content(path)
    layout = _layout(path.name, text, decimal)
    names = layout.names
    columns = _fast(text, layout, decimal)
    if columns is None:
        columns = _careful(path.name, text, layout, decimal)
    while len(columns) > 1 and layout.phantoms and _empty(columns[-1]):
        columns.pop()
        names = names[:-1] if names is not None else None
        layout.phantoms -= 1
    return Table(path.name, names, columns, line=lambda row: _line(path.name, text, layout, row), decimal=decimal)


def read_lines(path: Path) -> list[str]:
    """The lines of a text, in any coding and compression that a table may have; ``#`` makes one empty."""
    return _content(path).decode("utf-8").split("\n")


def unpacked_text(path: Path) -> str:
    """A text in UTF-8 as it stands, compressed or not."""
    return _unpacked(path).decode("utf-8")


# --- bytes ------------------------------------------------------------------------------------------------------------


def _content(path: Path) -> bytes:
    """The file as UTF-8 with ``\\n`` at line ends; commented lines are blank, so that numbers of lines stay."""
    raw = _unpacked(path)
    coding = next((name for mark, name in _MARKS if raw.startswith(mark)), None)
    try:
        if coding is not None:
            raw = raw.decode(coding).encode()
        raw = raw.removeprefix(b"\xef\xbb\xbf")
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ZooError(
            f"{path.name} should be text in UTF-8, got byte 0x{error.object[error.start]:02x}. Save it as UTF-8."
        ) from None
    if b"\0" in raw:
        raise ZooError(f"{path.name} should be text, got NUL bytes, as no text has them. Save it as UTF-8 text.")
    if b"\r" in raw:
        raw = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"#" in raw:
        raw = _without_comments(raw)
    if b" " in raw or b"\f" in raw or b"\v" in raw:
        raw = re.sub(rb"(?m)^[ \f\v]+$", b"", raw)
    return raw


def _unpacked(path: Path) -> bytes:
    if path.suffix.lower() not in COMPRESSIONS:
        return path.read_bytes()
    from pandas.io.common import get_handle

    try:
        with get_handle(path, "rb", compression="infer", is_text=False) as handles:
            content: Any = handles.handle.read()
    except ImportError:
        raise ZooError(f"Unpacking {path.name} needs zstandard, which is not installed. Unpack it first.") from None
    except FileNotFoundError:
        raise
    except Exception as error:  # every kind of archive has its own errors for a damaged one
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ZooError(f"{path.name} cannot be unpacked: {reason.rstrip('.')}. Save it again.") from None
    if not content:
        raise ZooError(f"{path.name} is empty (0 bytes unpacked), expected data. Check what wrote it.")
    return bytes(content)


_COMMENT = re.compile(rb"(?m)^[ \t]*#(?!N/A|NA\b|n/a|na\b)[^\n]*$")


def _without_comments(raw: bytes) -> bytes:
    """Lines that begin with ``#`` made blank, but for a header so marked (``# a,b`` as numpy writes, ``#,a,b``)."""
    lead = re.match(rb"(?:[ \t]*(?:#[^\n]*)?\n)*", raw)
    kept = None
    if lead is not None and lead.group().rstrip():
        last = lead.group().rstrip().rsplit(b"\n", 1)[-1]
        first = raw[lead.end() :].split(b"\n", 1)[0]
        cells = [cell.strip() for cell in re.split(rb"[\t;|,]", last)]
        numbers = [cell.strip().strip(b'"') for cell in re.split(rb"[\t;|,]", first)]
        if len(cells) == len(numbers) > 1 and any(is_number(n.decode()) for n in numbers):
            kept = lead.group().rstrip().rfind(b"#")
    if kept is not None:
        raw = raw[:kept] + b" " + raw[kept + 1 :]
    return _COMMENT.sub(b"", raw)


# --- layout -----------------------------------------------------------------------------------------------------------


@dataclass
class _Layout:
    """How a text is cut into cells.

    Attributes:
        delimiter: one character; a blank stands for any number of blanks and tabs.
        names: the header, of ``width`` names, or None.
        skip: lines up to the end of the header.
        width: cells in every record of data.
        phantoms: how many columns at the end have no name and no entry in the sample.
    """

    delimiter: str
    names: tuple[str, ...] | None
    skip: int
    width: int
    phantoms: int


def _records(source: str, text: bytes, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The records, by Python's own reader, with the line each ends on; blank lines are left out."""
    lines: Any = io.TextIOWrapper(io.BytesIO(text), encoding="utf-8", newline="")
    if delimiter == _BLANKS:
        lines = (line.replace("\t", " ").strip() + "\n" for line in lines)
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    try:
        for record in reader:
            if record and (len(record) > 1 or record[0].strip()):
                yield reader.line_num, record
    except csv.Error as error:
        raise ZooError(f"{source} is no readable CSV: {error}. Check its quotes.") from None


def _sample(source: str, text: bytes, delimiter: str) -> list[tuple[int, list[str]]]:
    """The first records: enough of them to see what the rule is."""
    sample, cells = [], 0
    for line, record in _records(source, text, delimiter):
        sample.append((line, record))
        cells += len(record)
        if len(sample) == _SAMPLE or (len(sample) > 1 and cells > _SAMPLE * _WIDE):
            break
    return sample


def _fit(records: list[tuple[int, list[str]]]) -> tuple[float, bool]:
    """The share of records, the first aside, that are cut into the usual number of cells; 0 where that is one.

    And whether the first one is too.
    """
    counts = Counter(len(cells) for _, cells in records[1:] or records)
    cells, often = counts.most_common(1)[0]
    return often / counts.total() if cells > 1 else 0.0, len(records[0][1]) == cells > 1


def _layout(source: str, text: bytes, decimal: str) -> _Layout:
    best, best_share, sample = ",", (-1.0, False), list[tuple[int, list[str]]]()
    failure: ZooError | None = None
    for delimiter in (*_DELIMITERS, _BLANKS):
        if delimiter == decimal and b'"' not in text:
            continue
        try:
            records = _sample(source, text, delimiter)
        except ZooError as error:  # under a wrong delimiter a line may be one cell, too long for the reader
            failure = error
            continue
        if not records:
            raise ZooError(f"{source} has only blank lines, expected rows of numbers. Check what wrote it.")
        share = _fit(records)
        if delimiter == _BLANKS and not _any_number([cells for _, cells in records[1:] or records], decimal):
            continue  # words
        if share > best_share:
            best, best_share, sample = delimiter, share, records
    if not sample:
        assert failure is not None
        raise failure
    if not any(best_share):  # one column, or rows of all lengths
        best = "\t" if decimal == "," else ","
        sample = _sample(source, text, best)
    line, first = sample[0]
    first = [cell.strip() for cell in first]
    rows = [[cell.strip() for cell in cells] for _, cells in sample]
    data = any(is_value(cell, decimal) for cell in first) or all(cell.lower() in _MISSING for cell in first)
    if data or _recurs(first, rows[1:], text):
        return _Layout(best, None, 0, len(first), _phantoms(None, rows))
    if len(rows) == 1:
        raise ZooError(f"{source} has a header and no rows, expected at least one. Check what wrote it.")
    names = _header(first, rows[1:], text, line)
    return _Layout(best, names, line, len(names), _phantoms(names, rows[1:]))


def _recurs(first: list[str], rows: list[list[str]], text: bytes) -> bool:
    """Whether the words of the first line come again below it, each in its column: they are data then, no header."""
    if len(first) == 1:
        cell = re.escape(first[0].encode())
        return len(re.findall(rb"(?m)^[ \t]*\"?" + cell + rb"\"?[ \t]*$", text)) > 1
    return bool(rows) and all(any(len(r) > i and r[i] == cell for r in rows) for i, cell in enumerate(first) if cell)


def _header(first: list[str], rows: list[list[str]], text: bytes, line: int) -> tuple[str, ...]:
    """Names for every column: R leaves out that of the row names, others write a delimiter too much or too few."""
    widths = {len(cells) for cells in rows}
    if widths == {len(first) + 1}:
        if all(not cells[-1] for cells in rows):
            return (*first, "")
        heads = [cells[0] for cells in rows]
        quoted = all(ln.lstrip().startswith(b'"') for ln in text.split(b"\n", line + len(rows))[line:-1] if ln.strip())
        counted = [str(i) for i in range(len(heads))], [str(i + 1) for i in range(len(heads))]
        if quoted or heads in counted or not any(is_number(head) for head in heads):
            return ("", *first)
    if len(first) > 1 and not first[-1] and widths == {len(first) - 1}:
        return tuple(first[:-1])
    return tuple(first)


def _phantoms(names: tuple[str, ...] | None, rows: list[list[str]]) -> int:
    width = len(names) if names is not None else len(rows[0])
    count = 0
    while (
        count < width
        and (names is None or not names[width - 1 - count])
        and all(len(cells) == width and not cells[width - 1 - count] for cells in rows)
    ):
        count += 1
    return count


def is_value(cell: str, decimal: str) -> bool:
    """Whether a cell of the first line shows that the line is data: a number, or a truth value."""
    cell = cell.replace(decimal, ".") if decimal != "." else cell
    if cell.lower() in ("true", "false"):
        return True
    return is_number(cell) and not math.isnan(float(cell))


def _any_number(rows: list[list[str]], decimal: str) -> bool:
    return any(is_value(cell.strip(), decimal) for cells in rows for cell in cells)


# --- cells ------------------------------------------------------------------------------------------------------------


def _fast(text: bytes, layout: _Layout, decimal: str) -> list[NDArray] | None:
    """pandas' reader in C where there is more than a few numbers; None where it does not see ``width`` cells in every
    record.

    It refuses a record that is too long and fills one that is too short: that none was is told by the number of
    delimiters in all.
    """
    separator = layout.delimiter.encode()
    body = text
    if layout.delimiter == _BLANKS:
        body = re.sub(rb"(?m)^ | $", b"", re.sub(rb"[ \t]+", b" ", text))
    if layout.skip:
        body = body.split(b"\n", layout.skip)[-1]
    if decimal == "." and (columns := numbers(body, separator, layout.width)) is not None:
        return columns
    import pandas as pd

    quoted = b'"' in body
    expected = re.sub(rb'"[^"]*"', b"", body).count(separator) if quoted else body.count(separator)
    wide = layout.width > _WIDE and not quoted
    if wide:
        rows = sum(1 for line in body.split(b"\n") if line)
        if expected != rows * (layout.width - 1):
            return None
        body = re.sub(rb"\n+", b"\n", body).strip(b"\n").replace(separator, b"\n")
    options: dict[str, Any] = {
        "sep": layout.delimiter,
        "names": range(1 if wide else layout.width),
        "skip_blank_lines": not wide,
        "decimal": decimal,
        "na_values": _MISSING_CELLS,
    }
    if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1):
        options["float_precision"] = "round_trip"  # later ones always round correctly
    try:
        frame = pd.read_csv(
            io.BytesIO(body), header=None, keep_default_na=False, skipinitialspace=True, low_memory=False, **options
        )
    except (ValueError, OverflowError, MemoryError):  # pandas' parser errors are ValueErrors
        return None
    if not isinstance(frame.index, pd.RangeIndex):
        return None
    if wide:
        if len(frame) != rows * layout.width:
            return None
        return [_cells(column, decimal) for column in frame[0].to_numpy().reshape(rows, layout.width).T]
    if len(frame) * (layout.width - 1) != expected or not len(frame):
        return None
    return [_cells(frame[i], decimal) for i in range(layout.width)]


def _careful(source: str, text: bytes, layout: _Layout, decimal: str) -> list[NDArray]:
    """Record by record, where pandas would not: to say what is wrong, or for quotes that mean themselves."""
    records = _records(source, text, layout.delimiter)
    if layout.names is not None:
        next(records)
    rows: list[list[str]] = []
    for line, record in records:
        if len(record) != layout.width:
            first = "the header" if layout.names is not None else "the first row"
            hint = "Correct that line, or quote cells that hold " + (
                "blanks" if layout.delimiter == _BLANKS else repr(layout.delimiter)
            )
            raise ZooError(
                f"{source}: expected {layout.width} cells in every row, as in {first}, got {len(record)} in row "
                f"{len(rows) + 1} (line {line}). {hint}."
            )
        rows.append(record)
    return [_cells(np.array([row[i] for row in rows], dtype=object), decimal) for i in range(layout.width)]


def _line(source: str, text: bytes, layout: _Layout, row: int) -> int:
    """The line on which a row of data ends."""
    skip = row + (layout.names is not None)
    return next(line for i, (line, _) in enumerate(_records(source, text, layout.delimiter)) if i == skip)


def _cells(column: Any, decimal: str) -> NDArray:
    """A column as numbers, or as text with None where it is missing."""
    values = series_array(column)
    if values.dtype != object:
        return values
    return numbers_of(strip_text(values, _MISSING), decimal)


def _empty(column: NDArray) -> bool:
    if column.dtype == object:
        return all(cell is None for cell in column)
    return column.dtype.kind == "f" and bool(np.isnan(column).all())
