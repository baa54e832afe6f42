"""Data beyond memory: rows of files that come into memory when they are taken, and an order to take batches in."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from zoo.core.arrays import plain, to_tensor
from zoo.core.mapped import Mapped
from zoo.core.memory import rows_at_once
from zoo.core.passes import beginnings
from zoo.core.places import further

__all__ = ["SAMPLE", "BlockOrder", "Stream"]

#: Rows, at most, that starts, scales and first looks are taken from.
SAMPLE = 50_000
#: Rows that lie side by side in a file and stay together in an order, and how many such blocks are mixed.
BLOCK, MIXED = 1024, 64


@dataclass(frozen=True, eq=False)
class Stream:
    """Data in files, a row a datum, taken by index like any other.

    Attributes:
        files: an array a field, alone or in a tuple or dict.
        name: of the file or folder, for messages.
        columns: names of the columns, where they have some. target_columns: of the second field.
        aside: columns of the file that were left out, and what they are.
        steps: what is done, in this order, to rows that are taken: each gets data and gives data.
        left_out: numbers of rows that do not count, sorted; None where all do.
        span: of the rows that count, the numbers of the first and of the one after the last; None: all.
        digest: checksum of all rows, once they have been looked at.
    """

    files: Any
    name: str
    columns: tuple[str, ...] | None = None
    target_columns: tuple[str, ...] | None = None
    aside: dict[str, str] = field(default_factory=dict)
    steps: tuple[Callable[[Any], Any], ...] = ()
    left_out: Tensor | None = None
    span: tuple[int, int] | None = None
    digest: str | None = None

    @property
    def arrays(self) -> list[Mapped]:
        """The arrays of all fields."""
        if isinstance(self.files, Mapped):
            return [self.files]
        return list(self.files.values() if isinstance(self.files, dict) else self.files)

    def __len__(self) -> int:
        if self.span is not None:
            return self.span[1] - self.span[0]
        return len(self.arrays[0]) - (0 if self.left_out is None else len(self.left_out))

    @property
    def size(self) -> int:
        """Bytes in the files."""
        return sum(array.size for array in self.arrays)

    @property
    def row_numbers(self) -> int:
        """Numbers of a row, in all fields."""
        return sum(math.prod(array.shape[1:]) for array in self.arrays)

    def then(self, step: Callable[[Any], Any]) -> Stream:
        """The same rows with one more ``step`` done, after the others, once they are taken."""
        return replace(self, steps=(*self.steps, step))

    def without(self, index: Tensor) -> Stream:
        """The same without the rows of these numbers, ``index`` (M,), sorted."""
        assert self.left_out is None
        assert self.span is None
        return replace(self, left_out=index)

    def part(self, begin: int, end: int) -> Stream:
        """The same rows from number ``begin`` to ``end``, which is the first that is left out."""
        first = 0 if self.span is None else self.span[0]
        return replace(self, span=(first + begin, first + end))

    def take(self, index: Tensor | slice) -> Any:
        """The rows ``index``, a slice or numbers (M,), in memory: tensors (M, ...) in the fields' places."""
        if self.span is not None:
            first = self.span[0]
            if isinstance(index, slice):
                begin, end, step = index.indices(len(self))
                index = slice(first + begin, first + max(begin, end), step)
            else:
                index = index + first
            return replace(self, span=None).take(index)
        where: Any = index
        if self.left_out is not None:
            if isinstance(index, slice):
                index = torch.arange(*index.indices(len(self)))
            # The r-th row that counts stands behind as many left out as have no more than r that count before them.
            before = self.left_out - torch.arange(len(self.left_out))
            where = index + torch.searchsorted(before, index.contiguous(), right=True)
        if isinstance(where, Tensor):
            where = where.cpu().numpy()
        begin = (index.start or 0) if isinstance(index, slice) else 0
        return self.made([array.raw(where) for array in self.arrays], begin)

    def made(self, raw: Sequence[NDArray], begin: int = 0) -> Any:
        """What is made of ``raw`` rows, as they stand in the files, an array a field; ``begin`` rows come before."""
        values = [to_tensor(plain(array)) for array in raw]
        data: Any = values[0] if isinstance(self.files, Mapped) else tuple(values)
        if isinstance(self.files, dict):
            data = dict(zip(self.files, values, strict=True))
        with further(begin):
            for step in self.steps:
                data = step(data)
        return data

    @functools.cached_property
    def sample_rows(self) -> Tensor:
        """Numbers of the rows of :attr:`sample`, sorted: drawn without replacement, always the same."""
        return self.drawn(len(self), seed=0)

    def drawn(self, count: int, seed: int) -> Tensor:
        """Numbers of rows drawn without replacement by ``seed``, sorted, (M,): M is ``count``, or what a sample has at
        most."""
        count = min(count, SAMPLE, rows_at_once(self.row_numbers, 8))
        if count >= len(self):
            return torch.arange(len(self))
        rows = np.random.default_rng(seed).choice(len(self), count, replace=False, shuffle=False)
        return torch.from_numpy(np.sort(rows))

    @functools.cached_property
    def sample(self) -> Any:
        """Rows in memory that stand for all."""
        return self.take(self.sample_rows)

    def pieces(self, rows: int) -> Iterator[Any]:
        """All rows, at most ``rows`` at a time."""
        for begin in range(0, len(self), rows):
            yield self.take(slice(begin, begin + rows))

    def raw_pieces(self, rows: int) -> Iterator[tuple[int, list[NDArray]]]:
        """Rows as they stand in the files, left out or not, at most ``rows`` at a time: how many come before, and an
        array a field."""
        for begin in beginnings(len(self.arrays[0]), rows):
            yield begin, [array.raw(slice(begin, begin + rows)) for array in self.arrays]

    @property
    def told(self) -> str:
        """What a user should know of it, a line."""
        some = "" if len(self.sample_rows) == len(self) else f"; start and scales from {len(self.sample_rows)} of them"
        return f"{self.name}: {len(self)} rows, {self.size / 2**30:.3g} GiB, read in pieces{some}"


@dataclass(frozen=True)
class BlockOrder(Sequence[Tensor]):
    """Batches of all rows in a random order that needs little memory and reads side by side what lies side by side.

    Blocks of ``BLOCK`` rows come in random order; the rows of ``MIXED`` blocks are shuffled together.

    Attributes:
        rows: how many there are. batch_size: of every batch but the last.
        seed: two orders of one seed are equal. first: the batch to begin with.
    """

    rows: int
    batch_size: int
    seed: int
    first: int = 0

    def __len__(self) -> int:
        return max(0, -(-self.rows // self.batch_size) - self.first)

    @overload
    def __getitem__(self, place: int) -> Tensor: ...
    @overload
    def __getitem__(self, place: slice) -> BlockOrder: ...
    def __getitem__(self, place: Any) -> Any:
        begin = range(len(self))[place]
        if isinstance(begin, int):
            return next(iter(replace(self, first=self.first + begin)))
        assert (begin.step, begin.stop) == (1, len(self)), "batches from one on"
        return replace(self, first=self.first + begin.start)

    def __iter__(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        blocks = torch.randperm(-(-self.rows // BLOCK), generator=generator)
        seeds = torch.randint(2**62, (-(-len(blocks) // MIXED),), generator=generator)
        skip = self.first * self.batch_size
        waiting = torch.empty(0, dtype=torch.long)
        for group, chosen in enumerate(blocks.split(MIXED)):
            rows = (chosen.unsqueeze(-1) * BLOCK + torch.arange(BLOCK)).flatten()
            rows = rows[rows < self.rows]
            if skip >= len(rows):
                skip -= len(rows)
                continue
            rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(int(seeds[group])))]
            *batches, waiting = torch.cat([waiting, rows[skip:]]).split(self.batch_size)
            skip = 0
            yield from batches
            if len(waiting) == self.batch_size:
                yield waiting
                waiting = waiting[:0]
        if len(waiting):
            yield waiting
