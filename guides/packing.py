"""Sequences of unequal length, frame by frame without padding: what is there alone is computed with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Packing", "Padding"]


class Packing:
    """The frames that are there, step after step, and in each step longer sequences before shorter ones.

    Those of one step are neighbours, and those that go on come first, as in torch's ``PackedSequence``: a loop over
    time takes slices, and everything else one product of matrices.

    Args:
        lengths: (N,) integers, at least 1.

    Shapes:
        x: padded data (N, T', ...). frames, values: of all sequences, one below the other, (F, ...).

    Attributes:
        sizes: number of sequences that have a t-th step, T numbers. edges: where each step begins, T + 1 numbers.
        sequence: of each frame, (F,), F the sum of the lengths. time: the same.

    Example:
        >>> Packing(torch.tensor([3, 2, 2])).sizes
        [3, 3, 1]
    """

    def __init__(self, lengths: Tensor) -> None:
        kept = lengths.detach().cpu()
        order = kept.argsort(descending=True, stable=True)
        steps = torch.arange(int(kept.max()))
        there = steps.unsqueeze(-1) < kept[order]  # (T, N)
        self.sizes: list[int] = there.sum(-1).tolist()
        self.edges: list[int] = [0, *itertools.accumulate(self.sizes)]
        time, place = there.nonzero(as_tuple=True)
        device = lengths.device
        self.num_sequences, self.order = len(lengths), order.to(device)
        self.sequence, self.time = order[place].to(device), time.to(device)
        edges = torch.tensor(self.edges)
        self._mirror = (edges[kept[order][place] - 1 - time] + place).to(device)
        self._earlier = (edges[(time - 1).clamp_min(0)] + place)[self.sizes[0] :].to(device)

    def pack(self, x: Tensor) -> Tensor:
        """The frames of x (N, T', ...) that are there, (F, ...)."""
        return x[self.sequence, self.time]

    def pack_draws(self, draws: Sequence[Tensor]) -> Tensor:
        """Of draws (S, N, ...) for each step those that are needed, (F, S, ...)."""
        return torch.cat(
            [draw[:, self.order[:size]].movedim(0, 1) for draw, size in zip(draws, self.sizes, strict=True)]
        )

    def unpack(self, frames: Tensor, num_steps: int | None = None) -> Tensor:
        """Frames (F, ...) as (N, T', ...), zero beyond the lengths; T' is ``num_steps``, or else the longest."""
        room = frames.new_zeros(self.num_sequences, num_steps or len(self.sizes), *frames.shape[1:])
        return room.index_put((self.sequence, self.time), frames)

    def sums(self, values: Tensor) -> Tensor:
        """Sums of (F, ...) over the frames of each sequence, (N, ...)."""
        return self.unpack(values).sum(1)

    def mirrored(self, frames: Tensor) -> Tensor:
        """Frames (F, ...) with each sequence from its last to its first."""
        return frames[self._mirror]

    def before(self, frames: Tensor, start: Tensor) -> Tensor:
        """What stands one step earlier, (F, ...), of frames (F, ...); ``start`` (...) before the first."""
        first = start.expand(self.sizes[0], *frames.shape[1:])
        return torch.cat([first, frames[self._earlier]])


class Padding(Packing):
    """A packing in which every sequence goes on to the last step, whatever its length; the sums leave out the rest.

    Its slices are the same for all lengths, and it asks a GPU for none of them: steps can be started, and recorded,
    while the GPU is at work. What stands beyond a sequence's end is computed with in vain, and no frame before it
    depends on it, that of :meth:`mirrored` neither.

    Args:
        num_steps: T', of the data.

    Example:
        >>> Padding(torch.tensor([3, 2, 2]), 4).sizes
        [3, 3, 3, 3]
    """

    def __init__(self, lengths: Tensor, num_steps: int) -> None:
        self.num_sequences = n = len(lengths)
        self.sizes = [n] * num_steps
        self.edges = list(range(0, n * num_steps + 1, n))
        frame = torch.arange(n * num_steps, device=lengths.device)
        self.order, self.sequence, self.time = frame[:n], frame % n, frame // n
        last = lengths[self.sequence] - 1
        self._there = self.time <= last
        self._mirror = torch.where(self._there, last - self.time, self.time) * n + self.sequence
        self._earlier = frame[:-n]

    def _blank(self, frames: Tensor) -> Tensor:
        return frames.where(self._there.reshape(-1, *[1] * (frames.dim() - 1)), 0.0)

    def pack(self, x: Tensor) -> Tensor:
        return self._blank(super().pack(x))

    def unpack(self, frames: Tensor, num_steps: int | None = None) -> Tensor:
        return super().unpack(self._blank(frames), num_steps)
