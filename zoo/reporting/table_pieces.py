"""What a fit says of data that stay in a file, as a table that is written piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from zoo.core.memory import rows_at_once
from zoo.core.passes import beginnings
from zoo.core.places import further
from zoo.core.streams import Stream
from zoo.errors import ZooError
from zoo.reporting.latent_tables import Columns, latent_table
from zoo.reporting.subjects import Fitted

__all__ = ["table_pieces", "write_pieces"]

#: Kinds of files that a table can be added to.
KINDS = (".csv", ".tsv", ".parquet")


def table_pieces(fit: Fitted, x: Stream, *, proba: bool, scores: bool) -> Iterator[Columns]:
    """:func:`latent_table` of all rows, in pieces; sequences are numbered through."""
    rows = rows_at_once(max(x.row_numbers, 32))
    for begin in beginnings(len(x), rows):
        with further(begin):
            made = latent_table(fit, x.take(slice(begin, begin + rows)), proba=proba, scores=scores)
        if "step" in made:  # numbers of sequences are left out where there is one
            first = made.pop("sequence", np.zeros(len(made["step"]), int))
            made = {"sequence": begin + first, **made}
        yield made


def write_pieces(pieces: Iterable[Columns], target: Path | IO[str]) -> tuple[int, list[str]]:
    """A table into a file that the suffix tells, .csv, .tsv or .parquet, or as text to a stream that is open.

    Returns:
        How many rows there were, and the names of the columns.

    Raises:
        ZooError: another suffix; the package for .parquet is missing.
    """
    if not isinstance(target, Path):
        return _text(pieces, target, ",")
    kind = target.suffix.lower()
    if kind not in KINDS:
        raise ZooError(
            f"output of data that are read in pieces expected a name ending in {', '.join(KINDS)}, got "
            f"{target.name!r}. Rename it."
        )
    if kind == ".parquet":
        return _parquet(pieces, target)
    with target.open("w", encoding="utf-8", newline="") as file:
        return _text(pieces, file, "\t" if kind == ".tsv" else ",")


def _text(pieces: Iterable[Columns], file: IO[str], separator: str) -> tuple[int, list[str]]:
    import pandas as pd

    count, names = 0, list[str]()
    for made in pieces:
        frame = pd.DataFrame(made)
        frame.to_csv(file, index=False, sep=separator, header=not count)
        count, names = count + len(frame), list(made)
    return count, names


def _parquet(pieces: Iterable[Columns], path: Path) -> tuple[int, list[str]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ZooError(f"{path.name} expected the package pyarrow. Install it, or name a .csv.") from None
    count, names, writer = 0, list[str](), None
    try:
        for made in pieces:
            table: Any = pa.table(made)
            writer = writer or pq.ParquetWriter(path, table.schema)
            writer.write_table(table)
            count, names = count + len(table), list(made)
    finally:
        if writer is not None:
            writer.close()
    return count, names
