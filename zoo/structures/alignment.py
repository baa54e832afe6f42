"""Exact sums over the alignments of a sequence of symbols with a longer sequence of frames (Graves et al. 2006, CTC).

A path has one symbol a frame, of V symbols and a blank. It spells the target if that is what is left when repetitions
are merged and then blanks removed; its weight is the sum over frames of the symbol's ``log_probs``, in nats. Equal
neighbours in a target therefore need a blank between them. The gradient of the log-partition with respect to
``log_probs`` is how often each symbol is expected in each frame, whether these are normalised or not.

On the CPU: numba kernels, scaled step by step; items in which scaling might lose something are done again by logarithms
(``alignment_scaled.py``, ``alignment_logs.py``). Elsewhere torch does all items at once, by logarithms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.core.isolation import available_threads
from zoo.core.parallel import has_numba, in_parallel
from zoo.core.parallel import pieces as ranges
from zoo.errors import ZooError
from zoo.structures import alignment_logs, alignment_scaled
from zoo.structures.base import Structure

__all__ = ["Alignment"]


@dataclass(frozen=True, eq=False)
class Alignment(Structure[Tensor]):
    """The alignments of N targets with their frames; see the module. Parts are symbols (..., N, T), -1 beyond a length.

    A target that needs more frames than there are, one each and one more between equal neighbours, is impossible: -inf.

    Args:
        log_probs: (N, T, V + 1), log-weights of the symbols and the blank in each frame.
        targets: (N, U), integers: symbols other than the blank. What lies beyond a target's length is never read.
        lengths: (N,), numbers of frames, 1 to T; by default all T. What lies beyond is never read.
        target_lengths: (N,), 0 to U; by default all U.
        blank: which of the V + 1 symbols stands for none.

    Raises:
        ZooError: shapes, lengths or symbols that do not fit.

    Example:
        >>> import torch
        >>> from zoo.structures import Alignment
        >>> said = Alignment(torch.zeros(1, 3, 3), torch.tensor([[1, 2]]))  # every symbol of weight 1
        >>> said.log_partition().exp()  # 112, 122, 012, 102, 120
        tensor([5.])
    """

    potentials: ClassVar[tuple[str, ...]] = ("log_probs",)
    log_probs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    target_lengths: Tensor | None = None
    blank: int = 0
    _backend: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.log_probs.dim() != 3 or 0 in self.log_probs.shape:
            raise ZooError(
                f"log_probs: expected shape (N, T, V + 1) with no zero in it, got {tuple(self.log_probs.shape)}."
            )
        if not 0 <= self.blank < self.log_probs.shape[2]:
            raise ZooError(f"blank: expected one of {self.log_probs.shape[2]} symbols, got {self.blank}.")
        _ = self._lengths
        targets, sizes = self._targets
        inside = torch.arange(targets.shape[1]) < sizes.unsqueeze(-1)
        wrong = ((targets < 0) | (targets >= self.log_probs.shape[2]) | (targets == self.blank)) & inside
        if wrong.any():
            n, u = wrong.nonzero()[0].tolist()
            raise ZooError(
                f"targets: expected symbols from 0 to {self.log_probs.shape[2] - 1} other than the blank "
                f"({self.blank}), got {int(targets[n, u])} at {u} of item {n}."
            )

    # What the kernels are given -------------------------------------------------------------------------------------

    @functools.cached_property
    def _lengths(self) -> Tensor:
        """(N,), int64, on the CPU."""
        return _checked(self.lengths, "lengths", self.num_items, 1, self.log_probs.shape[1])

    @functools.cached_property
    def _targets(self) -> tuple[Tensor, Tensor]:
        """Symbols (N, U) and their numbers (N,), int64, on the CPU."""
        if self.targets.dim() != 2 or len(self.targets) != self.num_items or self.targets.is_floating_point():
            raise ZooError(
                f"targets: expected integers of shape ({self.num_items}, U), got shape {tuple(self.targets.shape)} "
                f"of {self.targets.dtype}."
            )
        sizes = _checked(self.target_lengths, "target_lengths", self.num_items, 0, self.targets.shape[1])
        return self.targets.detach().to("cpu", torch.int64), sizes

    @functools.cached_property
    def _compiled(self) -> bool:
        on_cpu = self.log_probs.device.type == "cpu"
        return self._backend == "numba" or (self._backend is None and on_cpu and has_numba())

    def _run(self, kernel: str, log_probs: Tensor, *more: Any, rows: int | None = None) -> None:
        """A kernel on all items (or so many rows), ranges of them in parallel."""
        module = alignment_scaled if kernel == "scaled_kernel" else alignment_logs
        module.compile_kernels()
        targets, sizes = self._targets
        values = log_probs.detach().to("cpu")
        values = values if values.dtype in (torch.float32, torch.float64) else values.double()
        common = (values.contiguous().numpy(), targets.numpy(), self._lengths.numpy(), sizes.numpy(), self.blank)
        call: Callable[..., None] = getattr(module, kernel)
        threads = available_threads()  # each range has working memory of its own
        parts = ranges(self.num_items if rows is None else rows, most=1 if threads == 1 else 2 * threads, least=1)
        in_parallel([functools.partial(call, *common, low, high, *more) for low, high in parts])

    # Answers --------------------------------------------------------------------------------------------------------

    @property
    def num_items(self) -> int:
        return len(self.log_probs)

    @property
    def part_shape(self) -> tuple[int, ...]:
        return (self.log_probs.shape[1],)

    def value(self) -> Tensor:
        return self._solved(counts=False)[0]

    def solve(self, by_item: Sequence[bool]) -> tuple[Tensor, tuple[Tensor, ...]]:
        value, counts = self._solved(counts=True)
        return value, (counts,)

    def _solved(self, counts: bool) -> tuple[Tensor, Tensor]:
        """Value (N,) and expected symbols (N, T, V + 1), or nothing in their place."""
        if not self._compiled:
            return self._by_torch(counts)
        dtype = torch.float32 if self.log_probs.dtype == torch.float32 else torch.float64
        value = np.zeros(self.num_items)
        found = torch.zeros(self.log_probs.shape if counts else (0, 0, 0), dtype=dtype)
        failed = np.zeros(self.num_items, dtype=np.bool_)
        self._run("scaled_kernel", self.log_probs, counts, value, failed, found.numpy())
        if failed.any():
            rows = np.nonzero(failed)[0]
            self._run("logs_kernel", self.log_probs, rows, counts, value, found.numpy(), rows=len(rows))
        return self._cast(value), found

    def _cast(self, value: Any) -> Tensor:
        dtype = self.log_probs.dtype if self.log_probs.is_floating_point() else torch.get_default_dtype()
        return torch.as_tensor(value).to(self.log_probs.device, dtype)

    def moments(self, other: Alignment | None, gradient: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        value, mean = np.zeros(self.num_items), np.zeros(self.num_items)
        covariances = torch.zeros(self.log_probs.shape if gradient else (0, 0, 0), dtype=torch.float64)
        theirs = self.log_probs if other is None else other.log_probs
        theirs = theirs.detach().to("cpu", torch.float64).contiguous()
        outputs = (value, mean, covariances.numpy())
        self._run("moments_kernel", self.log_probs, other is None, theirs.numpy(), gradient, *outputs)
        return self._cast(mean), (covariances.to(self.log_probs.device),) if gradient else ()

    @torch.no_grad()
    def argmax(self) -> tuple[Tensor, Tensor]:
        """The most probable path of symbols (N, T), -1 beyond a length and where an item is impossible; its weight."""
        paths, scores = np.full(self.log_probs.shape[:2], -1), np.zeros(self.num_items)
        self._run("viterbi_kernel", self.log_probs, paths, scores)
        return torch.from_numpy(paths).to(self.log_probs.device), self._cast(scores)

    def sample(self, num_samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws of paths (num_samples, N, T), -1 beyond a length; a generator is one of the CPU.

        Raises:
            ZooError: an item is impossible and has nothing to draw from.
        """
        if num_samples < 1:
            raise ZooError(f"num_samples: expected at least 1, got {num_samples}.")
        shape = (num_samples, *self.log_probs.shape[:2])
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        paths, value = np.full(shape, -1), np.zeros(self.num_items)
        self._run("sample_kernel", self.log_probs, uniform.numpy(), value, paths)
        if not (value > -math.inf).all():
            first = int(np.nonzero(~(value > -math.inf))[0][0])
            raise ZooError(f"sample: item {first} has no alignment, or NaN; leave it out.")
        return torch.from_numpy(paths).to(self.log_probs.device)

    def score(self, parts: Tensor) -> Tensor:
        n, t, c = self.log_probs.shape
        if parts.dim() < 2 or parts.shape[-2:] != (n, t) or parts.is_floating_point():
            raise ZooError(
                f"score: expected integer paths (..., {n}, {t}), got shape {tuple(parts.shape)} of {parts.dtype}."
            )
        device = parts.device
        targets, sizes = (v.to(device) for v in self._targets)
        inside = torch.arange(t, device=device) < self._lengths.to(device).unsqueeze(-1)
        symbols = parts.clamp(0, c - 1).masked_fill(~inside, self.blank)
        before = torch.nn.functional.pad(symbols[..., :-1], (1, 0), value=self.blank)
        spoken = (symbols != self.blank) & (symbols != before)
        index = spoken.cumsum(-1) - 1
        padded = torch.nn.functional.pad(targets, (0, 1), value=-1).expand(*parts.shape[:-1], -1)
        expected = padded.gather(-1, index.clamp(0, targets.shape[1]))
        wrong = ((symbols != parts) & inside).any(-1) | (spoken & (symbols != expected)).any(-1)
        wrong = wrong | (spoken.sum(-1) != sizes)
        rows, steps = torch.arange(n, device=device).unsqueeze(-1), torch.arange(t, device=device)
        each = self.log_probs[rows, steps, symbols]
        total = torch.where(inside, each, torch.zeros_like(each)).sum(-1)
        return total.masked_fill(wrong, -math.inf)

    def _check_alike(self, other: Structure[Any]) -> None:
        super()._check_alike(other)
        assert isinstance(other, Alignment)
        pairs = ((self._lengths, other._lengths), *zip(self._targets, other._targets, strict=True))
        if self.blank != other.blank or not all(torch.equal(a, b) for a, b in pairs):
            raise ZooError("expect: expected alignments of the same targets and lengths, got others.")

    # The torch path: all items at once, by logarithms -----------------------------------------------------------------

    @torch.no_grad()
    def _by_torch(self, counts: bool) -> tuple[Tensor, Tensor]:
        """As the logarithmic kernel: forward messages, then the posterior backward, from each state to those before."""
        device = self.log_probs.device
        log_probs = self.log_probs if device.type != "cpu" else self.log_probs.double()
        targets, sizes = (v.to(device) for v in self._targets)
        n, t = log_probs.shape[:2]
        labels = targets.new_full((n, 2 * targets.shape[1] + 1), self.blank)
        labels[:, 1::2] = targets.clamp(0, log_probs.shape[2] - 1)
        hop = torch.zeros_like(labels, dtype=torch.bool)
        hop[:, 3::2] = targets[:, 1:] != targets[:, :-1]
        states, lengths = torch.arange(labels.shape[1], device=device), self._lengths.to(device)

        def before(message: Tensor) -> Tensor:
            """What may come before each state: itself, the one before, the one before that, (3, N, S)."""
            one = torch.nn.functional.pad(message, (1, 0), value=-math.inf)[:, :-1]
            two = torch.nn.functional.pad(message, (2, 0), value=-math.inf)[:, : message.shape[1]]
            return torch.stack([message, one, two.masked_fill(~hop, -math.inf)])

        final = (states == 2 * sizes.unsqueeze(-1)) | (states == 2 * sizes.unsqueeze(-1) - 1)
        message = log_probs.new_zeros(labels.shape).masked_fill(states > 1, -math.inf)
        messages, total = [], log_probs.new_zeros(n)
        for step in range(t):
            live = (step < lengths).unsqueeze(-1)
            ahead = message if step == 0 else before(message).logsumexp(0)
            ahead = ahead + log_probs[:, step].masked_fill(~live, 0.0).gather(-1, labels)
            norm = ahead.logsumexp(-1, keepdim=True).where(live, 0.0)
            message = torch.where(live, ahead - norm.masked_fill(norm == -math.inf, 0.0), message)
            total = total + norm.squeeze(-1)
            messages.append(message)
        ends = message.masked_fill(~final, -math.inf)
        total = total + ends.logsumexp(-1)
        if not counts:
            return self._cast(total), total
        result, weight = torch.zeros_like(log_probs), torch.zeros_like(ends)
        finish = torch.where((total > -math.inf).unsqueeze(-1), ends.softmax(-1), 0.0)
        for step in range(t - 1, -1, -1):
            weight = torch.where((lengths == step + 1).unsqueeze(-1), finish, weight)
            result[:, step].scatter_add_(-1, labels, weight)
            if step:
                origins = before(messages[step - 1])
                shares = (origins - origins.logsumexp(0)).exp() * weight
                shares = torch.where(weight > 0, shares, 0.0)
                shares = torch.nn.functional.pad(shares, (0, 2))
                width = labels.shape[1]
                weight = shares[0, :, :width] + shares[1, :, 1 : width + 1] + shares[2, :, 2 : width + 2]
        return self._cast(total), result


def _checked(lengths: Tensor | None, name: str, items: int, least: int, most: int) -> Tensor:
    """Lengths (N,), int64, on the CPU; all as long as can be by default."""
    if lengths is None:
        return torch.full((items,), most, dtype=torch.int64)
    if lengths.shape != (items,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise ZooError(
            f"{name}: expected {items} integers, one an item, got shape {tuple(lengths.shape)} of {lengths.dtype}."
        )
    lengths = lengths.detach().to("cpu", torch.int64)
    wrong = ((lengths < least) | (lengths > most)).nonzero()
    if len(wrong):
        first = int(wrong[0])
        raise ZooError(f"{name}: expected {least} to {most}, got {int(lengths[first])} for item {first}.")
    return lengths


def tiny() -> Alignment:
    """The smallest honest instance: ragged, with a repeated symbol."""
    generator = torch.Generator().manual_seed(0)
    log_probs = torch.randn(3, 4, 3, dtype=torch.float64, generator=generator).log_softmax(-1)
    return Alignment(
        log_probs, torch.tensor([[1, 1], [2, 0], [2, 1]]), torch.tensor([4, 2, 3]), torch.tensor([2, 1, 2])
    )
