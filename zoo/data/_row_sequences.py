"""Sequences of a table that comes in pieces, the rows of each side by side: padded, and laid out in files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zoo.core.arrays import check_padding
from zoo.core.mapped import Mapped
from zoo.core.memory import rows_at_once
from zoo.core.passes import passing
from zoo.data._files import from_frame
from zoo.data._spool import Spool
from zoo.data._table import arrange
from zoo.errors import ZooError

__all__ = ["spooled_sequences"]


def spooled_sequences(
    source: str,
    frames: Callable[[Sequence[str]], Iterator[Any]],
    names: Sequence[str],
    sequence: str,
    time: str | None,
    dtype: np.dtype[Any],
) -> dict[str, Mapped]:
    """Sequences ``x`` (S, T, D), padded with zeros, and their ``lengths`` (S,), in the order of the table.

    Args:
        source: what is read, for messages.
        frames: gives the columns of some names, as data frames one after the other.
        names: of the columns of x. sequence: of the one that says which sequence a row belongs to. time: of the one by
            which the rows of each are sorted; None leaves their order.

    Raises:
        ZooError: a sequence whose rows are not side by side; a row without one; lengths too different to be padded.
    """
    lengths = _lengths(source, sequence, (frame[sequence].to_numpy() for frame in frames([sequence])))
    ends, longest, width = lengths.cumsum(), int(lengths.max()), len(names)
    check_padding(source, len(lengths), longest, width, int(ends[-1]) * width)
    spool = Spool(source, len(lengths) * (longest * width * dtype.itemsize + 8))
    most, waiting, done = rows_at_once(longest * width), None, 0
    with passing(int(ends[-1])) as told:
        for frame in frames(list(dict.fromkeys([sequence, *([] if time is None else [time]), *names]))):
            waiting = frame if waiting is None else _together(waiting, frame)
            first = int(ends[done] - lengths[done])  # the row of the table that waits first
            whole = int(np.searchsorted(ends, first + len(waiting), side="right"))
            for begin in range(done, whole, most):
                end = min(begin + most, whole)
                rows = waiting.iloc[ends[begin] - lengths[begin] - first : ends[end - 1] - first]
                made = arrange(from_frame(source, rows), list(names), None, sequence=sequence, time=time)
                assert made.lengths is not None
                x = np.zeros((end - begin, longest, width), dtype)
                x[:, : made.x.shape[1]] = made.x
                spool.add({"x": x, "lengths": made.lengths})
                told(int(ends[end - 1]))
            if whole == len(lengths):
                break
            waiting, done = waiting.iloc[int(ends[whole] - lengths[whole]) - first :], whole
    return spool.arrays()


def _together(before: Any, after: Any) -> Any:
    import pandas

    return pandas.concat([before, after], ignore_index=True)


def _lengths(source: str, name: str, columns: Iterable[NDArray]) -> NDArray[np.int64]:
    """How many rows side by side are of each sequence."""
    import pandas

    found, seen, last = list[int](), set[Any](), None
    for ids in columns:
        if pandas.isna(ids).any():
            raise ZooError(f"{source}: expected every row to say its sequence, got none in some. Fill in {name!r}.")
        for id_, length in zip(*_runs(ids), strict=True):
            if id_ == last and found:
                found[-1] += length
                continue
            if id_ in seen:
                raise ZooError(
                    f"{source}: expected the rows of each sequence side by side, as it is read in pieces, got those of "
                    f"{id_!r} apart. Sort the table by {name!r}."
                )
            seen.add(id_)
            found.append(length)
            last = id_
    return np.array(found, dtype=np.int64)


def _runs(ids: NDArray) -> tuple[list[Any], list[int]]:
    """Equal values side by side: the value, and how many."""
    if not len(ids):
        return [], []
    begins = np.concatenate([[0], np.flatnonzero(ids[1:] != ids[:-1]) + 1])
    return ids[begins].tolist(), np.diff(np.append(begins, len(ids))).tolist()
