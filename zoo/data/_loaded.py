"""What every reader returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import ZooError

__all__ = ["Loaded"]


@dataclass
class Loaded:
    """Data in arrays, ready to become tensors.

    Attributes:
        x: (N, D), or (N, T) or (N, T, D) with ``lengths``.
        names: D column names, or None.
        lengths: (N,) int64, or None for plain vectors.
        labels: (N,), or (N, T) for sequences, int64, -1 where there is none or padding; or None.
        targets: (N, D_y), what x is to predict; of sequences (N, U) symbols padded with 0; or None.
        target_lengths: (N,) int64, numbers of these symbols, or None.
        dropped: columns that were taken for row names.
        symbols: what text is coded by; None for its own symbols in sorted order.
        classes: what the labels 0, 1, ... stand for, where that is known.
        aside: columns that were left out because they measure nothing, and what they are.
        target_names: D_y column names, or None.
        origin: of rows of a table, (N,), or (N, T) with -1 as padding: the row of the file that each is, from 0.
        sorted_by: the column that rows, or those of each sequence, are sorted by.
        kept: with ``drop_missing``, which rows these are of those that there were, (N,), from 0; None if all.
        line: the line of the file that one of its rows ends on, where it has lines.
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
    aside: dict[str, str] = field(default_factory=dict)
    target_names: tuple[str, ...] | None = None
    origin: NDArray[np.intp] | None = None
    sorted_by: str | None = None
    kept: NDArray[np.intp] | None = None
    num_gaps: int = 0
    line: Callable[[int], int] | None = None

    def drop_missing(self, source: str) -> None:
        """Leave out the rows with a gap in what is read.

        Raises:
            ZooError: sequences, whose steps belong together; no row without one.
        """
        if self.lengths is not None:
            raise ZooError(f"{source}: drop_missing= is for rows, got sequences. Leave it out: their models take gaps.")
        gaps = np.zeros(len(self.x), dtype=bool)
        for array in (self.x, self.targets):
            if array is not None:
                text = array.dtype == object
                holes = np.array([cell is None for cell in array.flat]) if text else np.isnan(array)
                gaps |= holes.reshape(len(holes), -1).any(1)
        if gaps.all():
            raise ZooError(f"{source}: expected a row without a gap, got none of {len(gaps)}. Read fewer columns.")
        if not gaps.any():
            return
        rows = np.flatnonzero(~gaps)
        places = np.arange(len(gaps)) if self.origin is None else self.origin
        self.x, self.num_gaps, self.kept = self.x[rows], int(gaps.sum()), places[rows]
        self.labels = None if self.labels is None else self.labels[rows]
        self.targets = None if self.targets is None else self.targets[rows]
        self.origin = None if self.origin is None else self.origin[rows]

    @property
    def told(self) -> str:
        """A line: how much was read, what it is called, and what was left out."""
        names = self.names or ()
        gaps = [f"{self.num_gaps} row{'s' * (self.num_gaps > 1)} with gaps"] if self.num_gaps else []
        out = [*self.dropped, *(f"{name} ({what})" for name, what in self.aside.items()), *gaps]
        size = f"{len(self.x)} {'rows' if self.lengths is None else 'sequences'}"
        shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
        aims = f"; targets: {', '.join(self.target_names)}" if self.target_names else ""
        by = f", sorted by {self.sorted_by}" if self.sorted_by else ""
        same = f"; constant: {', '.join(self.constant[:8])}" if self.constant else ""
        left_out = f"; left out: {', '.join(out)}" if out else ""
        return f"read {size} x {len(names)} column{'s' * (len(names) > 1)}: {shown}{aims}{by}{same}{left_out}"

    def places(self, chosen: Any = None) -> NDArray[np.intp] | None:
        """The rows of the file that the data are, or the steps of sequences one after the other, (M,), from 0.

        Args:
            chosen: of which of the data; None for all.

        Returns:
            None where they stand as in the file, none left out, so that nobody has to look them up.
        """
        of = self.kept if self.origin is None else self.origin
        if of is None:
            return None
        there = of[of >= 0]
        if self.kept is None and np.array_equal(there, np.arange(len(there))):
            return None
        of = of if chosen is None else of[chosen]
        return of[of >= 0]

    @property
    def constant(self) -> list[str]:
        """Columns of x that have one value alone, where there are other columns beside them."""
        x, names = self.x, self.names or ()
        if x.dtype == object or x.ndim != 2 + (self.lengths is not None) or x.shape[-1] != len(names):
            return []
        if self.lengths is not None:
            x = x[np.arange(x.shape[1]) < self.lengths[:, None]]
        found = [name for name, same in zip(names, (x == x[:1]).all(0).tolist(), strict=True) if same]
        return found if len(x) > 1 and len(found) < len(names) else []

    def line_of(self, row: int, sequence: int | None = None) -> int | None:
        """The line of the file that a datum, or a step of a sequence, is on, all numbered from 0; None if unknown."""
        if self.origin is None or self.line is None:
            return None
        places = self.origin
        if places.ndim == 2:
            if sequence is None and len(places) > 1:
                return None
            places = places[sequence or 0]
        return self.line(int(places[row])) if row < len(places) and places[row] >= 0 else None

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
