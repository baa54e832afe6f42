"""Exact sums over a chain of discrete states z_1..z_T, of which z_1 already emits x_1.

The weight of a path is ``initial[z_1] + sum_t transition[z_{t-1}, z_t] + sum_t emission[t, z_t]``, in nats; none of the
three need be normalised, and -inf forbids. One dynamic programme gives the log-partition, whose gradient is the
posterior (Baum, 1972; Eisner, 2016, "Inside-outside and forward-backward algorithms are just backprop"), the most
probable path, exact draws, the entropy and the filter.

On the CPU: numba kernels in float64, ``chain_layouts.py`` and ``chain_kernels.py``.
Elsewhere (GPU, or without numba) torch does all sequences at once, one step after the other, by logarithms.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.densities import diagonal
from zoo.errors import ZooError
from zoo.structures.chain_layouts import Layouts
from zoo.structures.chain_problem import ChainProblem

__all__ = [
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


# What the user calls ---------------------------------------------------------------------------------------------


def log_partition(
    initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor | None = None, *, _backend: str | None = None
) -> Tensor:
    """ln of the sum over all paths of exp(weight): for an HMM, ln p(x) of each sequence.

    Its gradient is the posterior: with respect to ``emission`` the marginals p(z_t | x), to ``transition`` the
    expected transitions, to ``initial`` p(z_1 | x); zero where a sequence is impossible. It can be differentiated once;
    a second time raises.

    Memory beyond the arguments: O(N T K) if a gradient is wanted, and O(N K^2) if shared transitions want one; those
    that change with time are copied. Without a gradient, O(K) for each sequence now worked on if all (shared)
    transitions are above 1e-100 of the largest; otherwise O(T K), as the check on underflow needs both directions.

    Args:
        initial: (K,) or (N, K), log-weights of z_1.
        transition: (K, K), [i, j] from state i to state j; or (N, T - 1, K, K), [n, t] from step t to t + 1.
        emission: (N, T, K), ln p(x_t | z_t = k).
        lengths: (N,), integers from 1 to T; by default all T. What lies beyond is never read.

    Returns:
        (N,), in nats, in the dtype of ``emission``.

    Raises:
        ZooError: for shapes or lengths that do not fit.
    """
    chain = ChainProblem(initial, transition, emission, lengths, _backend)
    return _LogPartition.apply(initial, transition, emission, chain)


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
        initial: as for :func:`log_partition`, like the next three.
        transition: see there.
        emission: see there.
        lengths: see there.
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
        pairs = torch.tensordot(weights, pairs, 1) if transition.dim() == 2 else weights.reshape(-1, 1, 1, 1) * pairs
    if initial.dim() == 1:
        starts = starts.sum(0)
    return Expectations(chain.cast(value), chain.cast(starts), chain.cast(pairs), chain.cast(marginals))


@torch.no_grad()
def gaussian_totals(
    initial: Tensor, transition: Tensor, x: Tensor, means: Tensor, scale: Tensor, lengths: Tensor | None = None
) -> Totals | None:
    """The E step of chains that emit diagonal Gaussians in one pass over the data, without any (N, T, K) array.

    Densities, messages and marginals of the lanes or the sequence now worked on stay in the cache; what leaves it are
    sums. The same as :func:`expectations` of the log-densities, and weighted sums by its marginals.

    Args:
        initial: (K,), log-weights of z_1.
        transition: (K, K), log-weights, [i, j] from state i to state j.
        x: (N, T, D), contiguous or copied.
        means: (K, D), about which the sums are taken.
        scale: (K, D), standard deviations.
        lengths: as for :func:`log_partition`.

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
    value, starts, pairs, sums, bad = found
    d = x.shape[-1]
    total = value.masked_fill(bad, 0.0).sum()
    return Totals(total, starts.sum(0), pairs, sums[0], sums[1 : 1 + d].mT, sums[1 + d :].mT, bad.nonzero()[:, 0])


@torch.no_grad()
def viterbi(
    initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor | None = None, *, _backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """The most probable path (Viterbi, 1967); of equals, the one with the lowest states, from the last step on.

    Args:
        initial: as for :func:`log_partition`, like the next three.
        transition: see there.
        emission: see there.
        lengths: see there.

    Returns:
        paths (N, T), int64; -1 beyond the length, and throughout where a sequence is impossible.
        scores (N,), the path's weight in nats: ln p(x, z) of an HMM; -inf for an impossible sequence.
    """
    chain = ChainProblem(initial, transition, emission, lengths, _backend)
    paths, scores = chain.viterbi()
    return paths, chain.cast(scores)


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
    """Exact draws of whole paths from the posterior: filter forward, sample backward (Chib, 1996).

    Args:
        initial: as for :func:`log_partition`, like the next three.
        transition: see there.
        emission: see there.
        lengths: see there.
        num_samples: S, independent draws of each sequence's path.
        generator: torch's random numbers, of the tensors' device; by default torch's own.

    Returns:
        (S, N, T), int64; -1 beyond a sequence's length.

    Raises:
        ZooError: also if a sequence is impossible, since it has no posterior.
    """
    if num_samples < 1:
        raise ZooError(f"num_samples: expected at least 1, got {num_samples}.")
    chain = ChainProblem(initial, transition, emission, lengths, _backend)
    messages, value = chain.forward_messages()
    if not bool((value > -math.inf).all()):
        first = int((~(value > -math.inf)).nonzero()[0])
        raise ZooError(
            f"sample: sequence {first} has probability zero or NaN and no posterior to draw from; leave it out."
        )
    return chain.sample(messages, num_samples, generator)


@torch.no_grad()
def entropy(
    initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor | None = None, *, _backend: str | None = None
) -> Tensor:
    """Entropy of the posterior over paths, by the recursion of Hernando, Crespi & Cybenko (2005), without cancellation.

    Args:
        initial: as for :func:`log_partition`, like the next three.
        transition: see there.
        emission: see there.
        lengths: see there.

    Returns:
        (N,), in nats; NaN for an impossible sequence, which has no posterior.
    """
    chain = ChainProblem(initial, transition, emission, lengths, _backend)
    messages, value = chain.forward_messages()
    return chain.cast(chain.entropy(messages).masked_fill(~(value > -math.inf), math.nan))


@torch.no_grad()
def filtered(
    initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor | None = None, *, _backend: str | None = None
) -> Tensor:
    """p(z_t | x_1..x_t): what is known of the state when its datum has come. Times the transition: the forecast.

    Args:
        initial: as for :func:`log_partition`, like the next three.
        transition: see there.
        emission: see there.
        lengths: see there.

    Returns:
        (N, T, K); zero beyond a sequence's length, and from the step on at which it has become impossible.
    """
    chain = ChainProblem(initial, transition, emission, lengths, _backend)
    return chain.cast(chain.forward_messages()[0].exp_())


class _LogPartition(torch.autograd.Function):
    """The value with the posterior as its gradient, computed together where a gradient will be wanted."""

    @staticmethod
    def forward(ctx: Any, initial: Tensor, transition: Tensor, emission: Tensor, chain: ChainProblem) -> Tensor:
        if not any(ctx.needs_input_grad):
            return chain.cast(chain.value())
        value, starts, pairs, marginals = chain.solve(per_sequence=ctx.needs_input_grad[1])
        ctx.save_for_backward(starts, pairs, marginals, initial, transition, emission)
        ctx.shared = initial.dim() == 1, transition.dim() == 2
        return chain.cast(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        starts, pairs, marginals, *inputs = ctx.saved_tensors
        upstream = gradient
        gradient = gradient.to(marginals.dtype)
        results: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0]:
            results[0] = gradient @ starts if ctx.shared[0] else gradient.unsqueeze(-1) * starts
        if ctx.needs_input_grad[1]:
            if ctx.shared[1]:
                results[1] = torch.tensordot(gradient, pairs, 1)
            else:
                results[1] = gradient.reshape(-1, 1, 1, 1) * pairs
        if ctx.needs_input_grad[2]:
            results[2] = gradient.reshape(-1, 1, 1) * marginals
        found = [None if g is None else g.to(x.dtype) for g, x in zip(results, inputs, strict=True)]
        if torch.is_grad_enabled():  # create_graph=True
            found = list(_Refuse.apply(upstream, *inputs, *found))
        return (*found, None)


class _Refuse(torch.autograd.Function):
    """Passes first derivatives on as functions of all inputs, and raises when they are differentiated.

    torch's ``once_differentiable`` would leave them constants where the loss is linear in the value: a
    gradient penalty would then be silently wrong.
    """

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else g.view_as(g) for g in arguments[4:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "log_partition can be differentiated once only; for second derivatives use torch.logsumexp step by step, "
            "or finite differences of the gradient."
        )


# One problem, checked, and its two implementations -----------------------------------------------------------------
