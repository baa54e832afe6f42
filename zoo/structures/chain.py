"""Exact sums over a chain of discrete states z_1..z_T, of which z_1 already emits x_1.

The weight of a path is ``initial[z_1] + sum_t transition[z_{t-1}, z_t] + sum_t emission[t, z_t]``, in nats; none of the
three need be normalised, and -inf forbids. One dynamic programme gives the log-partition, whose gradient is the
posterior (Baum, 1972), the most probable path, exact draws, the entropy and the filter: :class:`Chain`.

On the CPU: numba kernels in float64, divided up by ``chain_layouts.py``.
Elsewhere (GPU, or without numba) torch does all sequences at once, one step after the other, by logarithms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from zoo.core.places import sequence_name
from zoo.densities import diagonal
from zoo.errors import ZooError
from zoo.structures.base import Counts, Structure
from zoo.structures.chain_layouts import Layouts
from zoo.structures.chain_problem import ChainProblem

__all__ = [
    "Chain",
    "Expectations",
    "Totals",
    "entropy",
    "expectations",
    "filtered",
    "gaussian_totals",
    "log_partition",
    "sample",
    "viterbi",
]


@dataclass(frozen=True, eq=False)
class Chain(Structure[Tensor]):
    """Paths of N sequences through K states; see the module. Parts are paths (..., N, T), int64, -1 beyond a length.

    Memory of the log-partition beyond the arguments: O(N T K) if a gradient is wanted, and O(N K^2) if shared
    transitions of fewer than 64 states want one; those that change with time are copied. Without a gradient, O(K) for
    each sequence now worked on if all (shared) transitions are above 1e-100 of the largest and there are fewer than 64
    states; otherwise O(T K), as the check on underflow needs both directions.

    Args:
        initial: (K,) or (N, K), log-weights of z_1.
        transition: (K, K), [i, j] from state i to state j; or (N, T - 1, K, K), [n, t] from step t to t + 1.
        emission: (N, T, K), ln p(x_t | z_t = k).
        lengths: (N,), integers from 1 to T; by default all T. What lies beyond is never read.

    Raises:
        ZooError: shapes or lengths that do not fit.

    Example:
        >>> import torch
        >>> from zoo.structures import Chain
        >>> chain = Chain(torch.zeros(2), torch.eye(2).log(), torch.tensor([[[0.0, -1.0], [0.0, -1.0]]]))
        >>> chain.log_partition().exp()  # two paths without a change of state: 1 + exp(-2)
        tensor([1.1353])
        >>> chain.argmax()[0]
        tensor([[0, 0]])
    """

    potentials: ClassVar[tuple[str, ...]] = ("initial", "transition", "emission")
    initial: Tensor
    transition: Tensor
    emission: Tensor
    lengths: Tensor | None = None
    _backend: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _ = self._problem  # checks the arguments

    @functools.cached_property
    def _problem(self) -> ChainProblem:
        return ChainProblem(self.initial, self.transition, self.emission, self.lengths, self._backend)

    @property
    def num_items(self) -> int:
        return self._problem.n

    @property
    def part_shape(self) -> tuple[int, ...]:
        return (self._problem.t,)

    def value(self) -> Tensor:
        return self._problem.cast(self._problem.value())

    def solve(self, by_item: Sequence[bool]) -> tuple[Tensor, tuple[Counts, ...]]:
        value, starts, pairs, marginals = self._problem.solve(per_sequence=by_item[1])
        if self.initial.dim() == 1 and not by_item[0]:
            starts = starts.sum(0)
        return self._problem.cast(value), (starts, pairs, marginals)

    def moments(self, other: Chain | None, gradient: bool) -> tuple[Tensor, tuple[Tensor, ...]]:
        problem = self._problem
        messages, value = problem.forward_messages()
        mean, covariances = problem.moments(messages, None if other is None else other._problem, gradient)
        return problem.cast(mean.masked_fill(~(value > -math.inf), math.nan)), covariances or ()

    def argmax(self) -> tuple[Tensor, Tensor]:
        """The most probable path (Viterbi, 1967); of equals, the one with the lowest states, from the last step on.

        Returns:
            paths (N, T), int64; -1 beyond the length, and throughout where a sequence is impossible.
            scores (N,), the path's weight in nats: ln p(x, z) of an HMM; -inf for an impossible sequence.
        """
        paths, scores = self._problem.viterbi()
        return paths, self._problem.cast(scores)

    def sample(self, num_samples: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """Exact draws of whole paths from the posterior: filter forward, sample backward (Chib, 1996).

        Args:
            num_samples: S, independent draws of each sequence's path.
            generator: torch's random numbers, of the tensors' device; by default torch's own.

        Returns:
            (S, N, T), int64; -1 beyond a sequence's length.

        Raises:
            ZooError: a sequence is impossible and has no posterior.
        """
        if num_samples < 1:
            raise ZooError(f"num_samples: expected at least 1, got {num_samples}.")
        messages, value = self._problem.forward_messages()
        if not bool((value > -math.inf).all()):
            first = int((~(value > -math.inf)).nonzero()[0])
            raise ZooError(
                f"sample: {sequence_name(first)} has probability zero or NaN and no posterior to draw from; "
                "leave it out."
            )
        return self._problem.sample(messages, num_samples, generator)

    def score(self, parts: Tensor) -> Tensor:
        problem = self._problem
        if parts.dim() < 2 or parts.shape[-2:] != (problem.n, problem.t) or parts.is_floating_point():
            raise ZooError(
                f"score: expected integer paths (..., {problem.n}, {problem.t}), got shape {tuple(parts.shape)} of "
                f"{parts.dtype}."
            )
        inside = problem.mask
        wrong = (((parts < 0) | (parts >= problem.k)) & inside).any(-1)
        z = parts.clamp(0, problem.k - 1).masked_fill(~inside, 0)
        rows = torch.arange(problem.n, device=z.device)
        steps = torch.arange(problem.t, device=z.device)
        total = self.initial[z[..., 0]] if self.initial.dim() == 1 else self.initial[rows, z[..., 0]]
        emitted = self.emission[rows.unsqueeze(-1), steps, z]
        total = total + torch.where(inside, emitted, torch.zeros_like(emitted)).sum(-1)
        if self.transition.dim() == 2:
            moved = self.transition[z[..., :-1], z[..., 1:]]
        else:
            moved = self.transition[rows.unsqueeze(-1), steps[:-1], z[..., :-1], z[..., 1:]]
        total = total + torch.where(inside[:, 1:], moved, torch.zeros_like(moved)).sum(-1)
        return total.masked_fill(wrong, -math.inf)

    def filtered(self) -> Tensor:
        """p(z_t | x_1..x_t), (N, T, K): what is known of the state when its datum has come.

        Times the transition: the forecast. Zero beyond a sequence's length, and from the step on at which it has become
        impossible.
        """
        return self._problem.cast(self._problem.forward_messages()[0].exp_())

    def _check_alike(self, other: Structure[Any]) -> None:
        super()._check_alike(other)
        assert isinstance(other, Chain)
        if not torch.equal(self._problem.lengths, other._problem.lengths):
            raise ZooError("expect: expected chains of the same lengths, got others; give both the same lengths.")


class Expectations(NamedTuple):
    """What EM needs of a chain.

    Shapes:
        log_likelihood: (N,), the log-partition in nats; -inf for an impossible sequence, which counts for nothing.
        initial: expected starts in each state, (K,); (N, K) where the initial was given so.
        transition: expected transitions, (K, K), summed over time and sequences; (N, T - 1, K, K) where given so.
        marginals: (N, T, K), p(z_t | x); zero beyond a sequence's length.
    """

    log_likelihood: Tensor
    initial: Tensor
    transition: Tensor
    marginals: Tensor


class Totals(NamedTuple):
    """What EM needs of chains that emit diagonal Gaussians, summed over time and sequences.

    Shapes:
        log_likelihood: (), the log-partitions' sum in nats.
        initial: (K,) and transition: (K, K), expected starts and transitions.
        counts, first, second: (K,), (K, D), (K, D), expected sums of 1, x - mean and (x - mean)^2 in each state.
        left: (M,), indices of the sequences that are in none of these: those with NaN, impossible ones, and those in
            which scaling might lose something.
    """

    log_likelihood: Tensor
    initial: Tensor
    transition: Tensor
    counts: Tensor
    first: Tensor
    second: Tensor
    left: Tensor


# The same as functions of tensors --------------------------------------------------------------------------------


def log_partition(
    initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor | None = None, *, _backend: str | None = None
) -> Tensor:
    """:meth:`Chain.log_partition` of these tensors."""
    return Chain(initial, transition, emission, lengths, _backend).log_partition()


@torch.no_grad()
def expectations(
    initial: Tensor,
    transition: Tensor,
    emission: Tensor,
    lengths: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    out: Tensor | None = None,
    _backend: str | None = None,
) -> Expectations:
    """The E step of a chain: log-partition and expected counts in one forward-backward pass, without a graph.

    Args:
        initial, transition, emission, lengths: those of a :class:`Chain`.
        weights: (N,), how often each sequence counts in the expectations (not in the log-partition). Shared
            transitions then take O(N K^2) numbers.
        out: (N, T, K), contiguous, float64 and on the CPU, where the marginals are written; saves an allocation
            every EM iteration.

    Returns:
        An :class:`Expectations`.
    """
    chain = ChainProblem(initial, transition, emission, lengths, _backend)
    if out is not None and not (
        out.shape == emission.shape and out.dtype == torch.float64 and out.is_contiguous() and out.device.type == "cpu"
    ):
        raise ZooError(
            f"out: expected a contiguous float64 CPU tensor of shape {tuple(emission.shape)}, got {tuple(out.shape)} "
            f"of {out.dtype} on {out.device}; leave it away to have one made."
        )
    value, starts, pairs, marginals = chain.solve(per_sequence=weights is not None, out=out)
    if weights is not None:
        weights = weights.to(marginals.dtype)
        starts, marginals = weights.unsqueeze(-1) * starts, marginals.mul_(weights.reshape(-1, 1, 1))
        if not isinstance(pairs, Tensor):
            pairs = pairs.weighted(weights)
        elif transition.dim() == 2:
            pairs = torch.tensordot(weights, pairs, 1)
        else:
            pairs = weights.reshape(-1, 1, 1, 1) * pairs
    assert isinstance(pairs, Tensor)
    if initial.dim() == 1:
        starts = starts.sum(0)
    return Expectations(chain.cast(value), chain.cast(starts), chain.cast(pairs), chain.cast(marginals))


@torch.no_grad()
def gaussian_totals(
    initial: Tensor, transition: Tensor, x: Tensor, means: Tensor, scale: Tensor, lengths: Tensor | None = None
) -> Totals | None:
    """The E step of chains of diagonal Gaussians in one pass over the data; two of a long one that does not forget.

    Densities, messages and marginals of the lanes or the sequence now worked on stay in the cache; what leaves it are
    sums, and of a long sequence that does not forget up to 16 MB of densities, kept from the first pass to the second.
    The same as :func:`expectations` of the log-densities, and weighted sums by its marginals.

    Args:
        initial: (K,), log-weights of z_1.
        transition: (K, K), log-weights, [i, j] from state i to state j.
        x: (N, T, D), contiguous or copied.
        means: (K, D), about which the sums are taken.
        scale: (K, D), standard deviations.
        lengths: (N,), as for a :class:`Chain`.

    Returns:
        :class:`Totals`; None where the kernels do not serve: another dtype than float64, a GPU, no numba, or a few
        sequences that cannot be cut into blocks.
    """
    if not diagonal.serves(x, means, scale, initial, transition):
        return None
    chain = ChainProblem(initial, transition, x, lengths, family=diagonal.coefficients(means, scale))
    found = Layouts(chain).totals()
    if found is None:
        return None
    d = x.shape[-1]
    total, starts, pairs, sums, left = found
    return Totals(total, starts, pairs, sums[0], sums[1 : 1 + d].mT, sums[1 + d :].mT, left)


@torch.no_grad()
def gaussian_marginals(
    initial: Tensor, transition: Tensor, x: Tensor, means: Tensor, scale: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor] | None:
    """p(z_t | x_{1:T}), (N, T, K), in one pass as :func:`gaussian_totals`, and which sequences it leaves to others.

    Returns:
        Marginals, zero beyond a length and anything for the sequences named by the second tensor; None as there.
    """
    if not diagonal.serves(x, means, scale, initial, transition):
        return None
    chain = ChainProblem(initial, transition, x, lengths, family=diagonal.coefficients(means, scale))
    marginals = torch.empty(chain.n, chain.t, chain.k, dtype=torch.float64)
    bad = Layouts(chain).smoothed(marginals)
    return None if bad is None else (marginals, bad.nonzero()[:, 0])


@torch.no_grad()
def viterbi(
    initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor | None = None, *, _backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """:meth:`Chain.argmax` of these tensors."""
    return Chain(initial, transition, emission, lengths, _backend).argmax()


@torch.no_grad()
def sample(
    initial: Tensor,
    transition: Tensor,
    emission: Tensor,
    lengths: Tensor | None = None,
    *,
    num_samples: int = 1,
    generator: torch.Generator | None = None,
    _backend: str | None = None,
) -> Tensor:
    """:meth:`Chain.sample` of these tensors."""
    return Chain(initial, transition, emission, lengths, _backend).sample(num_samples, generator)


def entropy(
    initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor | None = None, *, _backend: str | None = None
) -> Tensor:
    """:meth:`Chain.entropy` of these tensors, by the recursion of Hernando, Crespi & Cybenko (2005), (N,), nats."""
    return Chain(initial, transition, emission, lengths, _backend).entropy()


@torch.no_grad()
def filtered(
    initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor | None = None, *, _backend: str | None = None
) -> Tensor:
    """:meth:`Chain.filtered` of these tensors."""
    return Chain(initial, transition, emission, lengths, _backend).filtered()


def tiny() -> Chain:
    """The smallest honest instance: ragged, with a step that is forbidden."""
    generator = torch.Generator().manual_seed(0)
    initial = torch.randn(2, dtype=torch.float64, generator=generator)
    transition = torch.tensor([[0.5, -1.0], [-math.inf, 0.2]], dtype=torch.float64)
    emission = torch.randn(3, 4, 2, dtype=torch.float64, generator=generator)
    return Chain(initial, transition, emission, torch.tensor([4, 1, 3]))
