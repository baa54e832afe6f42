"""Tables in ``.parquet``, row group by row group, and what a PyTorch dataset gives, item by item."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.core.arrays import plain, series_array
from zoo.core.mapped import Mapped
from zoo.core.passes import passing
from zoo.data._files import check_exists
from zoo.data._frames import from_frame
from zoo.data._loaded import Loaded
from zoo.data._reading import pyarrow_parquet, unreadable
from zoo.data._row_sequences import spooled_sequences
from zoo.data._spool import Spool
from zoo.data._table import Column, arrange
from zoo.errors import ZooError

__all__ = ["parquet_size", "spooled_items", "spooled_parquet"]

#: Rows that say which columns there are to read; rows, or items, that are written at a time.
HEAD, PART = 10_000, 65_536


def parquet_size(path: Path) -> int:
    """Bytes of the table of a ``.parquet`` file, in double precision."""
    about = _opened(path).metadata
    return about.num_rows * about.num_columns * 8


def spooled_parquet(
    paths: Sequence[Path],
    columns: Column | Sequence[Column] | None = None,
    targets: Column | Sequence[Column] | None = None,
    sequence: Column | None = None,
    time: Column | None = None,
    measured: bool = False,
) -> tuple[dict[str, Mapped], Loaded]:
    """The rows of tables of the same columns, or their sequences, and of their first rows how they were read.

    Args:
        columns, targets, sequence, time, measured: as for :func:`zoo.data.read`.

    Raises:
        ZooError: as :func:`zoo.data.read`; a time of rows that are no sequences; too little free disk.
    """
    files = [_opened(path) for path in paths]
    head = next(files[0].iter_batches(batch_size=HEAD)).to_pandas()
    loaded = arrange(from_frame(paths[0].name, head), columns, None, targets, sequence, time=time, measured=measured)
    if loaded.lengths is None and time is not None:
        raise ZooError(
            f"{paths[0].name}: time= expected sequences, or a table that is read whole, got rows to read in pieces. "
            "Sort the table, and leave it out."
        )
    if loaded.x.dtype == object or loaded.names is None:
        raise ZooError(f"{paths[0].name}: expected columns of numbers with names, got others. Choose by columns=.")
    fields = {"x": list(loaded.names)} | ({"y": list(loaded.target_names)} if loaded.target_names else {})
    kinds = {str(file.schema_arrow.field(name).type) for file in files for names in fields.values() for name in names}
    dtype = np.dtype(np.float32 if kinds == {"float"} else np.float64)
    rows = sum(file.metadata.num_rows for file in files)
    if loaded.lengths is not None:
        names = [str(name) for name in head.columns]
        which, when = (names[one] if isinstance(one, int) else one for one in (sequence, time))
        frames = functools.partial(_frames, files)
        return spooled_sequences(paths[0].name, frames, fields["x"], which or "sequence", when, dtype), loaded
    spool = Spool(paths[0].name, rows * sum(map(len, fields.values())) * dtype.itemsize)
    with passing(rows) as told:
        for path, file in zip(paths, files, strict=True):
            for frame in _frames([file], [name for names in fields.values() for name in names]):
                spool.add({field: _columns(path, frame, names, dtype) for field, names in fields.items()})
                told(spool.rows)
    return spool.arrays(), loaded


def _frames(files: Sequence[Any], names: Sequence[str]) -> Iterator[Any]:
    for file in files:
        for group in range(file.metadata.num_row_groups):  # asked for all, the reader holds more than it gives
            for batch in file.iter_batches(PART, columns=list(names), row_groups=[group]):
                yield batch.to_pandas()


def _opened(path: Path) -> Any:
    check_exists(path)
    pq = pyarrow_parquet(path)
    try:
        return pq.ParquetFile(path, memory_map=False)
    except Exception as error:  # what pyarrow makes of damaged files differs from version to version
        raise unreadable(path, "parquet", error) from None


def _columns(path: Path, frame: Any, names: list[str], dtype: np.dtype[Any]) -> NDArray:
    made = np.empty((len(frame), len(names)), dtype)
    for i, name in enumerate(names):
        column = series_array(frame[name])
        if column.dtype == object:
            raise ZooError(f"{path.name}: expected numbers in column {name!r}, got text. Leave it out by columns=.")
        made[:, i] = column
    return made


def spooled_items(items: Iterable[Any], name: str, pair: bool, count: int | None = None) -> dict[str, Mapped]:
    """What a dataset gives: tensors, arrays or numbers, or dicts of these; of tuples the first, or two for x and y.

    Images (C, H, W) become rows of pixels.

    Args:
        pair: whether a tuple's first two are a datum: of a model of y given x.
        count: how many items there are, where that is known.

    Raises:
        ZooError: items of several shapes, or that are no numbers; none; too little free disk.
    """
    spool, rest = Spool(name), iter(items)
    with passing(count) as told:
        while some := list(itertools.islice(rest, 1024)):
            named = [_named(item, pair) for item in some]
            if any(each.keys() != named[0].keys() for each in named):
                raise ZooError(f"{name}: expected the same fields in each item, got {list(named[0])} and others.")
            spool.add({field: _stacked([each[field] for each in named], name) for field in named[0]})
            told(spool.rows)
    return spool.arrays()


def _named(item: Any, pair: bool) -> dict[str, Any]:
    if isinstance(item, Mapping):
        return dict(item)
    if isinstance(item, (tuple, list)):
        return dict(zip(("x", "y"), item, strict=False)) if pair else {"x": item[0]}
    return {"x": item}


def _stacked(values: list[Any], name: str) -> NDArray:
    arrays: Iterator[NDArray] = (np.asarray(value) for value in values)
    try:
        made = plain(np.stack([a.reshape(-1) if a.ndim == 3 else a for a in arrays]))
    except ValueError:
        shapes = sorted({np.asarray(value).shape for value in values})[:3]
        raise ZooError(
            f"{name}: expected items of one shape, got {', '.join(map(str, shapes))}. Pad them, or cut them."
        ) from None
    if made.dtype == object:
        raise ZooError(f"{name}: expected items of numbers, got text. Code it first.")
    return made
