"""Exact sums over a chain of discrete states z_1..z_T, of which z_1 already emits x_1.

The weight of a path is ``initial[z_1] + sum_t transition[z_{t-1}, z_t] + sum_t emission[t, z_t]``, in nats; none of the
three need be normalised, and -inf forbids. One dynamic programme gives the log-partition, whose gradient is the
posterior (Baum, 1972; Eisner, 2016, "Inside-outside and forward-backward algorithms are just backprop"), the most
probable path, exact draws, the entropy and the filter.

On the CPU: numba kernels in float64, each step scaled to sum to one (Rabiner, 1989, section V.A). What scaling can lose
is an underflowing message that later turns out to matter. The kernels bound that loss by the message of the other
direction, and a sequence where it is not negligible is done again by logarithms. Three layouts of the same recursion:

- few states, many sequences: sequences side by side, so that vector instructions run over sequences;
- few states, one long sequence: cut into blocks, whose transfer matrices give the messages at the cuts (Sarkka &
  Garcia-Fernandez, 2021, "Temporal parallelization of Bayesian smoothers", the associative form); then as above;
- many states, or transitions that change with time: vector instructions run over states.

Elsewhere (GPU, or without numba) torch does all sequences at once, one step after the other, by logarithms.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.isolation import available_threads
from zoo.structures.parallel import has_numba, in_parallel

__all__ = ["Expectations", "entropy", "expectations", "filtered", "log_partition", "sample", "viterbi"]

# Scaled messages may lose what is below 1e-308. They are used while normalisers stay above _SAFE and messages of the
# other direction below 1 / _SAFE: then the loss is below K * 1e-108 of the total, far under rounding.
_SAFE = 1e-100
_LANES = 32  # sequences side by side: four vectors of eight
_MANY_LANES = 64  # if there are many rows of few states: the loops' overhead is halved, and they still fit the cache
_FEW_STATES = 16  # up to here, side by side is faster (16: 1.3 times, 5: over 3 times)
_FEW_SEQUENCES = 8  # below, there is too little to put side by side
_BLOCK = 400  # steps: what two such arrays of 32 lanes need fits the second-level cache
_DENSE = 1e-10  # transitions all above this: no message can die between cuts
_MOST_JOBS = 16  # a fixed number, so that sums are the same whatever the number of threads


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
    chain = _Chain(initial, transition, emission, lengths, _backend)
    return _LogPartition.apply(initial, transition, emission, chain)


@torch.no_grad()
def expectations(
    initial: Tensor,
    transition: Tensor,
    emission: Tensor,
    lengths: Tensor | None = None,
    *,
    out: Tensor | None = None,
    _backend: str | None = None,
) -> Expectations:
    """The E step of a chain: log-partition and expected counts in one forward-backward pass, without a graph.

    Args:
        initial: as for :func:`log_partition`, like the next three.
        transition: see there.
        emission: see there.
        lengths: see there.
        out: (N, T, K), contiguous, float64 and on the CPU, where the marginals are written; saves an allocation
            every EM iteration.

    Returns:
        An :class:`Expectations`.
    """
    chain = _Chain(initial, transition, emission, lengths, _backend)
    if out is not None and not (
        out.shape == emission.shape and out.dtype == torch.float64 and out.is_contiguous() and out.device.type == "cpu"
    ):
        raise ZooError(
            f"out: expected a contiguous float64 CPU tensor of shape {tuple(emission.shape)}, got {tuple(out.shape)} "
            f"of {out.dtype} on {out.device}; leave it away to have one made."
        )
    value, starts, pairs, marginals = chain.solve(per_sequence=False, out=out)
    if initial.dim() == 1:
        starts = starts.sum(0)
    return Expectations(chain.cast(value), chain.cast(starts), chain.cast(pairs), chain.cast(marginals))


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
    chain = _Chain(initial, transition, emission, lengths, _backend)
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
    chain = _Chain(initial, transition, emission, lengths, _backend)
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
    chain = _Chain(initial, transition, emission, lengths, _backend)
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
    chain = _Chain(initial, transition, emission, lengths, _backend)
    return chain.cast(chain.forward_messages()[0].exp_())


class _LogPartition(torch.autograd.Function):
    """The value with the posterior as its gradient, computed together where a gradient will be wanted."""

    @staticmethod
    def forward(ctx: Any, initial: Tensor, transition: Tensor, emission: Tensor, chain: _Chain) -> Tensor:
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


class _Chain:
    """Checked arguments in the arithmetic's dtype, and what is computed from them."""

    def __init__(
        self, initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor | None, backend: str | None
    ) -> None:
        if emission.dim() != 3 or 0 in emission.shape:
            raise ZooError(
                f"emission: expected shape (N, T, K) with no zero in it, got {tuple(emission.shape)}; "
                "give a single sequence as emission.unsqueeze(0)."
            )
        self.n, self.t, self.k = n, t, k = emission.shape
        if initial.shape not in ((k,), (n, k)):
            raise ZooError(
                f"initial: expected shape ({k},) or ({n}, {k}) for these emissions, got {tuple(initial.shape)}."
            )
        if transition.shape not in ((k, k), (n, t - 1, k, k)):
            raise ZooError(
                f"transition: expected shape ({k}, {k}) or ({n}, {t - 1}, {k}, {k}) for these emissions, "
                f"got {tuple(transition.shape)}."
            )
        device = emission.device
        if initial.device != device or transition.device != device:
            raise ZooError(
                f"chain: expected all tensors on {device}, got initial on {initial.device} and transition on "
                f"{transition.device}; move them with .to(device)."
            )
        self.result_dtype = emission.dtype if emission.is_floating_point() else torch.get_default_dtype()
        self.shared = transition.dim() == 2
        self.numba = backend == "numba" or (backend is None and device.type == "cpu" and has_numba())
        dtype = torch.float64 if device.type == "cpu" else self.result_dtype
        self.initial = initial.detach().to(dtype)
        self.transition = transition.detach().to(dtype)
        self.emission = emission.detach().to(dtype)
        self.lengths = self._check_lengths(lengths)
        self.full = bool((self.lengths == t).all())

    def _check_lengths(self, lengths: Tensor | None) -> Tensor:
        """(N,), int64, on the CPU."""
        if lengths is None:
            return torch.full((self.n,), self.t, dtype=torch.int64)
        if lengths.shape != (self.n,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
            raise ZooError(
                f"lengths: expected {self.n} integers, one a sequence, got shape {tuple(lengths.shape)} "
                f"of {lengths.dtype}."
            )
        lengths = lengths.detach().to("cpu", torch.int64)
        wrong = ((lengths < 1) | (lengths > self.t)).nonzero()
        if len(wrong):
            first = int(wrong[0])
            raise ZooError(
                f"lengths: expected 1 to {self.t}, got {int(lengths[first])} for sequence {first}; "
                "leave empty sequences out."
            )
        return lengths

    def cast(self, values: Tensor) -> Tensor:
        """In the dtype of what came in."""
        return values.to(self.result_dtype)

    def value(self) -> Tensor:
        """(N,), the log-partition alone."""
        if self.numba:
            return _Kernels(self).run(None)[0]
        return self._torch_forward(keep=False)[1]

    def solve(self, per_sequence: bool, out: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Value (N,), p(z_1 | x) (N, K), expected transitions, marginals (N, T, K).

        Transitions: (N, T - 1, K, K) if they change with time, else (N, K, K), or summed (K, K) unless per_sequence.
        """
        if self.numba:
            marginals = torch.empty(self.emission.shape, dtype=torch.float64) if out is None else out
            value, pairs = _Kernels(self).run(marginals, per_sequence)
        else:
            value, pairs, marginals = self._torch_solve()
            if self.shared and not per_sequence:
                pairs = pairs.sum(0)
            if out is not None:
                marginals = out.copy_(marginals)
        return value, marginals[:, 0], pairs, marginals

    # The torch path: all sequences at once, by logarithms ----------------------------------------------------------

    @functools.cached_property
    def mask(self) -> Tensor:
        """(N, T): which steps exist."""
        device = self.emission.device
        return torch.arange(self.t, device=device) < self.lengths.to(device).unsqueeze(-1)

    def _step(self, t: int) -> Tensor:
        """Transitions from step t to t + 1, (1 or N, K, K); zero beyond a length, where NaN may stand."""
        if self.shared:
            return self.transition.unsqueeze(0)
        return self.transition[:, t].masked_fill(~self.mask[:, t + 1].reshape(-1, 1, 1), 0.0)

    def _emitted(self, t: int) -> Tensor:
        """Emissions of step t, (N, K), zero beyond a length."""
        return self.emission[:, t] if self.full else self.emission[:, t].masked_fill(~self.mask[:, t, None], 0.0)

    def _live(self, t: int, new: Tensor, old: Tensor | float) -> Tensor:
        """``new`` where step t exists, ``old`` elsewhere."""
        if self.full:
            return new
        live = self.mask[:, t].reshape(-1, *[1] * (new.dim() - 1))
        return torch.where(live, new, torch.as_tensor(old, dtype=new.dtype, device=new.device))

    def _torch_forward(self, keep: bool) -> tuple[Tensor, Tensor]:
        """Normalised log forward messages (N, T, K), -inf beyond a length (empty unless ``keep``), and the value."""
        messages = torch.full(self.emission.shape if keep else (0,), -math.inf).to(self.emission)
        message = self.initial + self._emitted(0)
        total = torch.zeros(self.n, dtype=message.dtype, device=message.device)
        for t in range(self.t):
            if t:
                ahead = torch.logsumexp(message.unsqueeze(-1) + self._step(t - 1), 1) + self._emitted(t)
                message = self._live(t, ahead, message)
            norm = torch.logsumexp(message, -1)  # zero for a sequence that has ended
            total = total + norm
            message = message - norm.masked_fill(norm == -math.inf, 0.0).unsqueeze(-1)
            if keep:
                messages[:, t] = self._live(t, message, -math.inf)
        return messages, total

    def _torch_solve(self) -> tuple[Tensor, Tensor, Tensor]:
        """Value (N,), expected transitions (N, [T - 1,] K, K), marginals (N, T, K)."""
        forward, total = self._torch_forward(keep=True)
        possible = (total != -math.inf).reshape(-1, 1)
        marginals = torch.zeros_like(forward)
        shape = (self.n, self.k, self.k) if self.shared else (self.n, self.t - 1, self.k, self.k)
        pairs = torch.zeros(shape, dtype=forward.dtype, device=forward.device)
        backward = torch.zeros_like(forward[:, 0])
        for t in range(self.t - 1, -1, -1):
            joint = forward[:, t] + backward
            norm = torch.logsumexp(joint, -1, keepdim=True)
            gamma = (joint - norm).exp()
            marginals[:, t] = self._live(t, torch.where(possible, gamma, 0.0), 0.0)
            backward = self._live(t, backward - norm, 0.0)  # so that the products sum to one: no drift over long chains
            if t:
                onward = self._step(t - 1) + (self._emitted(t) + backward).unsqueeze(1)  # (N, K, K)
                both = forward[:, t - 1].unsqueeze(-1) + onward
                both = (both - torch.logsumexp(both, (1, 2), keepdim=True)).exp()
                both = self._live(t, torch.where(possible.unsqueeze(-1), both, 0.0), 0.0)
                if self.shared:
                    pairs += both
                else:
                    pairs[:, t - 1] = both
                backward = self._live(t, torch.logsumexp(onward, -1), 0.0)
        return total, pairs, marginals

    # What follows from the forward messages ------------------------------------------------------------------------

    def forward_messages(self) -> tuple[Tensor, Tensor]:
        """ln p(z_t | x_1..x_t), (N, T, K), -inf beyond a length; and the value (N,)."""
        if not self.numba:
            return self._torch_forward(keep=True)
        messages = torch.full(self.emission.shape, -math.inf, dtype=torch.float64)
        value = torch.empty(self.n, dtype=torch.float64)
        _Kernels(self).each(_forward_logs, messages.numpy(), value.numpy())
        return messages, value

    def viterbi(self) -> tuple[Tensor, Tensor]:
        """Paths (N, T) and scores (N,)."""
        device = self.emission.device
        paths = torch.full((self.n, self.t), -1, dtype=torch.int64, device=device)
        if self.numba:
            scores = torch.empty(self.n, dtype=torch.float64)
            _Kernels(self).each(_viterbi, paths.numpy(), scores.numpy())
            return paths, scores
        score = self.initial + self._emitted(0)
        back = torch.zeros(self.emission.shape, dtype=torch.int64, device=device)
        still = torch.arange(self.k, device=device).expand(self.n, self.k)
        for t in range(1, self.t):
            best, origin = (score.unsqueeze(-1) + self._step(t - 1)).max(1)
            score = self._live(t, best + self._emitted(t), score)
            back[:, t] = torch.where(self.mask[:, t, None], origin, still)
        scores, state = score.max(-1)
        for t in range(self.t - 1, -1, -1):
            paths[:, t] = state
            state = back[:, t].gather(1, state.unsqueeze(-1)).squeeze(-1)
        paths.masked_fill_(~self.mask | ~(scores > -math.inf).unsqueeze(-1), -1)
        return paths, scores

    def sample(self, messages: Tensor, num_samples: int, generator: torch.Generator | None) -> Tensor:
        """(S, N, T), from forward messages of possible sequences; both paths take the same random numbers."""
        device = self.emission.device
        shape = (num_samples, self.n, self.t)
        uniform = torch.rand(shape, generator=generator, dtype=messages.dtype, device=device)
        paths = torch.full(shape, -1, dtype=torch.int64, device=device)
        if self.numba:
            _Kernels(self).each(_sample, messages.numpy(), uniform.numpy(), paths.numpy())
            return paths
        rows = torch.arange(self.n, device=device)
        state = torch.zeros(shape[:2], dtype=torch.int64, device=device)
        last = self.lengths.to(device) - 1
        for t in range(self.t - 1, -1, -1):
            logits = messages[:, t].expand(num_samples, -1, -1)
            if t + 1 < self.t:
                into = self._step(t).expand(self.n, -1, -1)[rows, :, state]  # (S, N, K)
                logits = torch.where((last == t).unsqueeze(-1), logits, logits + into)
            weights = (logits - logits.amax(-1, keepdim=True)).exp()
            cumulative = weights.cumsum(-1)
            drawn = (cumulative <= uniform[..., t, None] * cumulative[..., -1:]).sum(-1)
            live = self.mask[:, t].expand_as(state)
            state = torch.where(live, drawn.clamp(max=self.k - 1), state)
            paths[..., t] = torch.where(live, state, -1)
        return paths

    def entropy(self, messages: Tensor) -> Tensor:
        """(N,), from the forward messages; anything for an impossible sequence."""
        if self.numba:
            result = torch.empty(self.n, dtype=torch.float64)
            _Kernels(self).each(_entropy, messages.numpy(), result.numpy())
            return result
        behind = torch.zeros_like(messages[:, 0])  # entropy of the path so far given its end
        last = messages[:, 0]
        for t in range(1, self.t):
            joint = messages[:, t - 1].unsqueeze(-1) + self._step(t - 1)
            norm = torch.logsumexp(joint, 1, keepdim=True)
            log_origin = joint - norm.masked_fill(norm == -math.inf, 0.0)
            origin = log_origin.exp()
            ahead = torch.where(origin > 0, origin * (behind.unsqueeze(-1) - log_origin), 0.0).sum(1)
            behind = self._live(t, ahead, behind)
            last = self._live(t, messages[:, t], last)
        weight = last.exp()
        return torch.where(weight > 0, weight * (behind - last), 0.0).sum(-1)


# The numba path ------------------------------------------------------------------------------------------------------


def _split(cost: Any, parts: int) -> list[tuple[int, int]]:
    """At most so many ranges of indices, of about equal total cost and none empty."""
    total = np.cumsum(cost)
    edges = np.searchsorted(total, np.linspace(0, total[-1], parts + 1)[1:-1], side="left") + 1
    edges = np.unique(np.clip(np.concatenate(([0], edges, [len(total)])), 0, len(total)))
    return [(int(a), int(b)) for a, b in itertools.pairwise(edges)]


class _Kernels:
    """Arrays as the kernels want them, and how the work is divided."""

    def __init__(self, chain: _Chain) -> None:
        _compile()
        self.chain = chain
        k = chain.k
        self.lengths = chain.lengths.numpy()
        self.emission = chain.emission.contiguous().numpy()
        self.log_initial = chain.initial.reshape(-1, k).contiguous().numpy()
        transition = chain.transition.reshape(1, 1, k, k) if chain.shared else chain.transition
        self.log_transition = transition.contiguous().numpy()
        if transition.shape[1]:
            peak = transition.amax((-2, -1), keepdim=True)
            peak = peak.masked_fill(peak.isinf(), 0.0)
            self.transition = (transition - peak).exp_().contiguous().numpy()
            self.shift = peak[..., 0, 0].contiguous().numpy()
        else:  # a single step
            rows = transition.shape[0]
            self.transition, self.shift = np.zeros((rows, 1, k, k)), np.zeros((rows, 1))
        self.back = np.ascontiguousarray(self.transition[0, 0].T)
        peak = chain.initial.reshape(-1, k).amax(-1, keepdim=True)
        peak = peak.masked_fill(peak.isinf(), 0.0)
        self.initial = (chain.initial.reshape(-1, k) - peak).exp_().contiguous().numpy()
        self.initial_shift = peak[:, 0].contiguous().numpy()

    def each(self, kernel: Callable[..., None], *more: Any) -> None:
        """``kernel`` on every sequence, by logarithms."""
        common = (self.log_initial, self.log_transition, self.transition, self.shift, self.emission, self.lengths)
        ranges = _split(self.lengths, _MOST_JOBS)
        in_parallel([functools.partial(kernel, *common, start, stop, *more) for start, stop in ranges])

    def run(self, marginals: Tensor | None, per_sequence: bool = False) -> tuple[Tensor, Tensor]:
        """Value (N,) and expected transitions (as ``_Chain.solve``); fills the marginals (N, T, K).

        Without marginals the value alone is computed.
        """
        chain = self.chain
        n, t, k = chain.n, chain.t, chain.k
        full = marginals is not None
        value = np.zeros(n)
        bad = np.zeros(n, dtype=np.bool_)
        smooth = marginals.numpy() if marginals is not None else np.zeros((1, 1, k))
        varying = not chain.shared
        smallest = float(self.transition.min()) if chain.shared else 0.0
        checked = smallest < _SAFE  # the value needs the backward pass too
        few = chain.shared and k <= _FEW_STATES
        blocks = few and smallest > _DENSE and n < 2 * _LANES and int(self.lengths.max()) >= 4 * _BLOCK
        if blocks:
            pairs = self._by_blocks(value, bad, smooth, full, per_sequence)
        elif few and n >= _FEW_SEQUENCES:
            pairs = self._side_by_side(value, bad, smooth, full, full or checked, per_sequence)
        else:
            pairs = self._by_states(value, bad, smooth, full, full or checked, per_sequence)
        if chain.shared:
            pairs *= self.transition[0, 0]
        if bad.any():
            self._by_logarithms(np.nonzero(bad)[0], value, smooth, full, pairs, per_sequence)
        if full and not chain.full:
            _clear(smooth, self.lengths)
            if varying and t > 1:
                _clear(pairs.reshape(n, t - 1, k * k), self.lengths - 1)
        return torch.from_numpy(value), torch.from_numpy(pairs)

    def _side_by_side(self, value: Any, bad: Any, smooth: Any, write: bool, full: bool, per_sequence: bool) -> Any:
        """Sequences in the lanes of vectors, the longest first."""
        n, k = self.chain.n, self.chain.k
        rows = np.argsort(-self.lengths, kind="stable")
        start = np.zeros(n, dtype=np.int64)
        length = self.lengths[rows]
        enter = np.broadcast_to(self.initial, (n, k))[rows]
        leave = np.ones((n, k))
        shift = np.broadcast_to(self.initial_shift, n) + (self.lengths - 1) * self.shift[0, 0]
        result, failed, pairs = self._lanes(rows, start, length, enter, leave, smooth, write, full, per_sequence)
        value[rows] = result
        value += shift
        bad[rows] = failed
        if per_sequence:
            ordered = np.empty_like(pairs)
            ordered[rows] = pairs
            return ordered
        return pairs.sum(0)

    def _lanes(
        self,
        rows: Any,
        start: Any,
        length: Any,
        enter: Any,
        leave: Any,
        smooth: Any,
        write: bool,
        full: bool,
        per_row: bool,
        weights: Any = None,
        shifts: Any = None,
    ) -> tuple[Any, Any, Any]:
        """The value and failure of each row, and the pairs of each row or of each job.

        ``weights`` (groups, T, K, lanes) and ``shifts`` (groups, T, lanes) of the emissions, if they are at hand.
        """
        k = self.chain.k
        count, lanes = len(rows), self._width(len(rows))
        groups = -(-count // lanes)
        ranges = _split(length[::lanes], min(groups, _MOST_JOBS))
        value, failed = np.zeros(count), np.zeros(count, dtype=np.bool_)
        pairs = np.zeros((count if per_row else len(ranges), k, k))
        ready = weights is not None
        if weights is None:
            weights, shifts = np.empty((1, 1, k, 1)), np.empty((1, 1, 1))
        calls = [
            functools.partial(
                _lanes_kernel, self.transition[0, 0], self.back, self.emission, rows, start, length, enter, leave,
                a * lanes, min(b * lanes, count), lanes, -1 if per_row else job, write, full, ready, weights, shifts,
                value, failed, pairs, smooth,
            )
            for job, (a, b) in enumerate(ranges)
        ]  # fmt: skip
        in_parallel(calls)
        return value, failed, pairs

    def _width(self, rows: int) -> int:
        """How many of so many rows to put side by side."""
        return _MANY_LANES if rows >= 4 * _MANY_LANES and self.chain.k <= 8 else _LANES

    def _by_blocks(self, value: Any, bad: Any, smooth: Any, full: bool, per_sequence: bool) -> Any:
        """Long sequences cut into blocks; transfer matrices give the messages at the cuts."""
        n, k = self.chain.n, self.chain.k
        number = -(-self.lengths // _BLOCK)
        rows = np.repeat(np.arange(n), number)
        first = np.concatenate(([0], np.cumsum(number)[:-1]))
        index = np.arange(len(rows)) - np.repeat(first, number)
        size = np.repeat(-(-self.lengths // number), number)  # equal sizes, but for the last
        start = index * size
        length = np.minimum(size, self.lengths[rows] - start)
        order = np.argsort(-length, kind="stable")
        transfer = np.empty((len(rows), k, k))
        lanes = self._width(len(rows))
        groups = -(-len(rows) // lanes)
        longest = int(length.max())
        kept = longest if full else 1  # for the value alone they are computed twice, rather than O(N T K) held
        weights, shifts = np.empty((groups, kept, k, lanes)), np.empty((groups, kept, lanes))
        a = self.transition[0, 0]
        in_parallel([
            functools.partial(
                _transfer_kernel, a, self.emission, rows, start, length, order,
                i * lanes, min((i + 1) * lanes, len(rows)), lanes, weights[i], shifts[i], transfer,
            )
            for i in range(groups)
        ])  # fmt: skip
        enter, ends, leave = np.empty((len(rows), k)), np.empty((len(rows), k)), np.empty((len(rows), k))
        _cuts(a, np.broadcast_to(self.initial, (n, k)).copy(), transfer, first, number, enter, ends, leave)
        result, failed, pairs = self._lanes(
            rows[order], start[order], length[order], enter[order], leave[order], smooth, full, full, per_sequence,
            weights if full else None, shifts,
        )  # fmt: skip
        np.add.at(value, rows[order], result)
        value += np.broadcast_to(self.initial_shift, n) + (self.lengths - 1) * self.shift[0, 0]
        np.logical_or.at(bad, rows[order], failed)
        if not full:
            return pairs.sum(0)
        later = np.nonzero(index > 0)[0]
        later = later[~bad[rows[later]]]
        ratio = smooth[rows[later], start[later]] / enter[later]  # (M, K); p(z_t | x) / p(z_t | x_1..x_{t-1})
        if per_sequence:
            each = np.zeros((n, k, k))
            np.add.at(each, rows[order], pairs)
            np.add.at(each, rows[later], ends[later - 1][:, :, None] * ratio[:, None, :])
            each[bad] = 0.0
            return each
        if bad.any():  # blocks of a failed sequence may have added to the sum
            return self._side_by_side(value, bad, smooth, full, full, per_sequence)
        return pairs.sum(0) + ends[later - 1].T @ ratio

    def _by_states(self, value: Any, bad: Any, smooth: Any, write: bool, full: bool, per_sequence: bool) -> Any:
        """One sequence after the other, the states in the lanes of vectors."""
        chain = self.chain
        n, t, k = chain.n, chain.t, chain.k
        varying = not chain.shared
        ranges = _split(self.lengths, _MOST_JOBS)
        if varying:
            pairs = np.zeros((n, t - 1, k, k)) if write else np.zeros((1, 1, k, k))
        else:
            pairs = np.zeros((n if per_sequence else len(ranges), 1, k, k))
        common = (
            self.initial, self.initial_shift, self.transition, self.back, self.shift, self.emission, self.lengths,
        )  # fmt: skip
        outputs = (value, bad, pairs, smooth)
        threads = available_threads()
        if full and n < threads:
            for row in range(n):
                self._both_ends(common, row, per_sequence, write, outputs)
        else:
            in_parallel([
                functools.partial(
                    _states_kernel, *common, a, b, -1 if varying or per_sequence else job,
                    varying, write, full, *outputs,
                )
                for job, (a, b) in enumerate(ranges)
            ])  # fmt: skip
        if varying:
            return pairs
        return pairs[:, 0] if per_sequence else pairs.sum((0, 1))

    def _both_ends(self, common: Any, row: int, per_sequence: bool, write: bool, outputs: Any) -> None:
        """One sequence by two threads: the forward and the backward pass do not need each other."""
        initial, initial_shift, transition, back, shift, emission, lengths = common
        value, bad, pairs, smooth = outputs
        length, k = int(lengths[row]), self.chain.k
        weights, forward, backward = np.empty((length, k)), np.empty((length, k)), np.empty((length, k))
        shifts, scales = np.empty(length), np.empty(length)
        edges = np.linspace(0, length, 2 * available_threads() + 1).astype(np.int64)
        pieces = [(int(a), int(b)) for a, b in itertools.pairwise(edges) if a < b]
        in_parallel([functools.partial(_weigh, emission[row], a, b, weights, shifts) for a, b in pieces])
        varying = not self.chain.shared
        step, step_shift = transition[row if varying else 0], shift[row if varying else 0]
        own = row if initial.shape[0] > 1 else 0
        (total, good), _ = in_parallel([
            functools.partial(
                _forward, initial[own], initial_shift[own], step, step_shift, varying, weights, shifts, length,
                forward, True,
            ),
            functools.partial(_backward, step, back, varying, weights, length, backward, scales),
        ])  # fmt: skip
        parts = np.zeros((len(pieces), 1, k, k))
        target = smooth[row] if write else np.empty((length, k))
        results = in_parallel([
            functools.partial(
                _combine, step, varying, weights, forward, backward, scales, a, b, target,
                pairs[row] if varying and write else parts[i], write,
            )
            for i, (a, b) in enumerate(pieces)
        ])  # fmt: skip
        value[row] = total
        bad[row] = not (good and all(results))
        if not varying and not bad[row]:
            pairs[row if per_sequence else 0] += parts.sum(0)

    def _by_logarithms(self, rows: Any, value: Any, smooth: Any, write: bool, pairs: Any, per_sequence: bool) -> None:
        """Sequences again in which scaling may have lost something; also impossible ones and those with NaN."""
        chain = self.chain
        common = (self.log_initial, self.log_transition, self.transition, self.shift, self.emission, self.lengths)
        k = chain.k
        size = (chain.t - 1, k, k) if not chain.shared else (1, k, k)

        def one(row: int) -> Any:
            both = np.zeros(size)
            _logs_kernel(*common, row, write, value, smooth[row] if write else smooth[0], both)
            return both

        for start in range(0, len(rows), _MOST_JOBS):  # in pieces, so that few results are held
            piece = [int(row) for row in rows[start : start + _MOST_JOBS]]
            results = in_parallel([functools.partial(one, row) for row in piece])
            if not write:
                continue
            for row, both in zip(piece, results, strict=True):
                if not chain.shared:
                    pairs[row] = both
                elif per_sequence:
                    pairs[row] = both[0]
                else:
                    pairs += both[0]


# Kernels: plain Python that numba compiles at the first call. The innermost loops run over contiguous memory, and are
# spelled out, as slices would cost reference counts.


def _exp(x: Any, size: int, work: Any, bits: Any) -> None:
    """exp of the first ``size`` entries of x in place, all at most 0; zero below -708. To about 1 ulp.

    2^k e^r with |r| <= ln 2 / 2 and a Taylor polynomial, written so that it vectorises: libm's exp, called
    entry by entry, would take longer than the recursions. ``bits`` is ``work`` seen as int64.
    """
    magic = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer, which then stands in the low bits
    for i in range(size):
        v = -708.0 if x[i] < -708.0 else x[i]
        work[i] = v * 1.4426950408889634 + magic
    for i in range(size):
        v = -708.0 if x[i] < -708.0 else x[i]
        whole = work[i] - magic
        r = (v - whole * 0.6931471803691238) - whole * 1.9082149292705877e-10
        p = 1.0 / 6227020800.0
        p = p * r + 1.0 / 479001600.0
        p = p * r + 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        p = p * r + 1.0
        x[i] = 0.0 if x[i] < -708.0 else p
    for i in range(size):
        bits[i] = (bits[i] << 52) + 4607182418800017408  # 1023 << 52, the bias
    for i in range(size):
        x[i] *= work[i]


def _mix(a: Any, x: Any, out: Any, size: int, lanes: int) -> None:
    """out[j, q] = sum_i a[i, j] x[i, q]; four i at once, as loads and stores decide."""
    head = (size - 1) % 4 + 1
    for j in range(size):
        if head == 1:
            a0 = a[0, j]
            for q in range(lanes):
                out[j, q] = a0 * x[0, q]
        elif head == 2:
            a0, a1 = a[0, j], a[1, j]
            for q in range(lanes):
                out[j, q] = a0 * x[0, q] + a1 * x[1, q]
        elif head == 3:
            a0, a1, a2 = a[0, j], a[1, j], a[2, j]
            for q in range(lanes):
                out[j, q] = a0 * x[0, q] + a1 * x[1, q] + a2 * x[2, q]
        else:
            a0, a1, a2, a3 = a[0, j], a[1, j], a[2, j], a[3, j]
            for q in range(lanes):
                out[j, q] = a0 * x[0, q] + a1 * x[1, q] + a2 * x[2, q] + a3 * x[3, q]
        for i in range(head, size, 4):
            a0, a1, a2, a3 = a[i, j], a[i + 1, j], a[i + 2, j], a[i + 3, j]
            for q in range(lanes):
                out[j, q] += a0 * x[i, q] + a1 * x[i + 1, q] + a2 * x[i + 2, q] + a3 * x[i + 3, q]


def _weigh_lanes(
    emission: Any, rows: Any, start: Any, low: int, t: int, active: int, out: Any, shift: Any, work: Any, bits: Any
) -> None:
    """out[k, q] = exp(emission - shift[q]) at step t of each lane's row; shift is the largest of the step."""
    size, lanes = out.shape
    for q in range(active):
        n, s = rows[low + q], start[low + q] + t
        for k in range(size):
            out[k, q] = emission[n, s, k]
    for q in range(active):
        shift[q] = out[0, q]
    for k in range(1, size):
        for q in range(active):
            shift[q] = out[k, q] if out[k, q] > shift[q] else shift[q]
    for k in range(size):
        for q in range(active):
            out[k, q] -= shift[q]  # NaN, and so refused, if nothing is possible
        for q in range(active, lanes):
            out[k, q] = 0.0
    _exp(out.reshape(-1), size * lanes, work, bits)


def _lanes_kernel(
    a: Any, back: Any, emission: Any, rows: Any, start: Any, length: Any, enter: Any, leave: Any, low: int, high: int,
    lanes: int, slot: int, write: bool, full: bool, ready: bool, all_weights: Any, all_shifts: Any,
    value: Any, failed: Any, pairs: Any, smooth: Any,
) -> None:  # fmt: skip
    """Forward-backward on rows low..high, groups of lanes at a time; rows are (parts of) sequences, longest first.

    ``enter`` (rows, K) is the message into the first step, ``leave`` that into the last from behind, both linear.
    Pairs lack the factor of the transition; they go to ``pairs[slot]``, or to each row's own if slot is -1.
    """
    size = a.shape[0]
    keep = length[low] if full else 2
    weights = np.empty((1 if ready else keep, size, lanes))
    forward = np.empty((keep, size, lanes))
    work = np.empty(size * lanes)
    bits = work.view(np.int64)
    new = np.empty((size, lanes))
    beta = np.empty((size, lanes))
    after = np.empty((size, lanes))
    counts = np.empty((size, size, lanes))
    shift, total, norm, inverse = np.empty(lanes), np.empty(lanes), np.empty(lanes), np.empty(lanes)
    product, reach = np.empty(lanes), np.empty(lanes)
    least, most = np.empty(lanes), np.empty(lanes)
    broken = np.zeros(lanes, dtype=np.bool_)
    for first in range(low, high, lanes):
        width = min(lanes, high - first)
        active = width
        if ready:
            weights = all_weights[first // lanes]
        for q in range(lanes):
            total[q] = 0.0
            product[q] = 1.0
            inverse[q] = 1.0
            least[q] = np.inf
            most[q] = 0.0
        for t in range(length[first]):
            while length[first + active - 1] <= t:
                active -= 1
            here, before = (t, t - 1) if full else (t & 1, 1 - (t & 1))
            at = t if ready else here
            if ready:
                for q in range(active):
                    shift[q] = all_shifts[first // lanes, t, q]
            else:
                _weigh_lanes(emission, rows, start, first, t, active, weights[at], shift, work, bits)
            if t == 0:
                for j in range(size):
                    for q in range(active):
                        new[j, q] = enter[first + q, j]
            else:
                _mix(a, forward[before], new, size, active)
            for q in range(active):
                norm[q] = 0.0
            for j in range(size):
                for q in range(active):
                    v = new[j, q] * (weights[at, j, q] * inverse[q])
                    forward[here, j, q] = v
                    norm[q] += v
            # The message keeps its sum: the next step divides by it, off the critical path.
            # A zero becomes NaN in the next step, and NaN stays NaN: neither is missed by looking at the last.
            outside = 0
            for q in range(active):
                inverse[q] = 1.0 / norm[q]
                least[q] = norm[q] if norm[q] < least[q] else least[q]
                product[q] *= norm[q]
                total[q] += shift[q]
                outside += (product[q] < 1e-100) | (product[q] > 1e100)
            if outside:
                for q in range(active):
                    if (product[q] < 1e-100) | (product[q] > 1e100):
                        total[q] += math.log(product[q]) if product[q] > 0.0 else 0.0
                        product[q] = 1.0
        for q in range(width):
            value[first + q] = total[q] + math.log(product[q])
            broken[q] = not (least[q] >= 1e-100 and norm[q] >= 1e-100)
        if full:
            for i in range(size):
                for j in range(size):
                    for q in range(lanes):
                        counts[i, j, q] = 0.0
            active = 0
            for t in range(length[first] - 1, -1, -1):
                joined = active
                while active < width and length[first + active] > t:
                    active += 1
                if joined:
                    for j in range(size):
                        for q in range(joined):
                            after[j, q] = weights[t + 1, j, q] * beta[j, q]
                    _mix(back, after, beta, size, joined)
                for j in range(size):
                    for q in range(joined, active):
                        beta[j, q] = leave[first + q, j]
                for q in range(active):
                    norm[q] = 0.0
                    reach[q] = 0.0
                for j in range(size):
                    for q in range(active):
                        norm[q] += forward[t, j, q] * beta[j, q]
                        reach[q] += beta[j, q]
                for q in range(active):
                    inverse[q] = 1.0 / norm[q]
                    ratio = reach[q] * inverse[q]
                    most[q] = ratio if ratio > most[q] else most[q]
                for j in range(size):
                    for q in range(active):
                        beta[j, q] *= inverse[q]
                        new[j, q] = forward[t, j, q] * beta[j, q]
                if write:
                    for q in range(active):
                        n, s = rows[first + q], start[first + q] + t
                        for j in range(size):
                            smooth[n, s, j] = new[j, q]
                    for j in range(size):
                        for q in range(joined):
                            after[j, q] *= inverse[q]
                    for i in range(size):
                        for j in range(size):
                            for q in range(joined):
                                counts[i, j, q] += forward[t, i, q] * after[j, q]
            for q in range(width):
                if not (most[q] <= 1e100 and norm[q] > 0.0):  # norm: of the first step, NaN if any was
                    broken[q] = True
        for q in range(width):
            failed[first + q] = broken[q]
            if write and not broken[q]:
                target = first + q if slot < 0 else slot
                for i in range(size):
                    for j in range(size):
                        pairs[target, i, j] += counts[i, j, q]


def _transfer_kernel(
    a: Any, emission: Any, rows: Any, start: Any, length: Any, order: Any, low: int, high: int, lanes: int,
    weights: Any, shifts: Any, transfer: Any,
) -> None:  # fmt: skip
    """transfer[row], (K, K), up to a factor: the product over the row's steps of transition times emission weight.

    A row that starts its sequence begins with the weight alone. The weights (T, K, lanes) and their shifts are kept if
    there is room.
    """
    size = a.shape[0]
    width = high - low
    own_rows, own_start = rows[order[low:high]], start[order[low:high]]
    work = np.empty(size * lanes)
    bits = work.view(np.int64)
    norm = np.empty(lanes)
    many = size * lanes
    state, new = np.ones((size, many)), np.empty((size, many))  # [to, from and lane]
    active = width
    for t in range(length[order[low]]):
        while length[order[low + active - 1]] <= t:
            active -= 1
        at = t if weights.shape[0] > 1 else 0
        _weigh_lanes(emission, own_rows, own_start, 0, t, active, weights[at], shifts[at], work, bits)
        if t == 0:
            for j in range(size):
                for i in range(size):
                    for q in range(lanes):
                        if q < active and own_start[q] == 0:
                            new[j, i * lanes + q] = 1.0 if i == j else 0.0
                        else:
                            new[j, i * lanes + q] = a[i, j]
        else:
            _mix(a, state, new, size, many)
        for j in range(size):
            for i in range(size):
                for q in range(active):  # a row that has ended keeps its matrix
                    state[j, i * lanes + q] = new[j, i * lanes + q] * weights[at, j, q]
        if t % 4 == 3:  # four steps shrink it by 1e-40 at most
            for q in range(lanes):
                norm[q] = 0.0
            for j in range(size):
                for i in range(size):
                    for q in range(lanes):
                        norm[q] += state[j, i * lanes + q]
            for q in range(lanes):
                norm[q] = 1.0 / norm[q]
            for j in range(size):
                for i in range(size):
                    for q in range(lanes):
                        state[j, i * lanes + q] *= norm[q]
    for q in range(width):
        for i in range(size):
            for j in range(size):
                transfer[order[low + q], i, j] = state[j, i * lanes + q]


def _cuts(a: Any, initial: Any, transfer: Any, first: Any, number: Any, enter: Any, ends: Any, leave: Any) -> None:
    """Messages at the cuts: into each block's first step, out of its last, and from behind into its last."""
    size = a.shape[0]
    for n in range(len(first)):
        low, high = first[n], first[n] + number[n]
        for b in range(low, high):
            for j in range(size):
                if b == low:
                    enter[b, j] = initial[n, j]
                else:
                    enter[b, j] = 0.0
                    for i in range(size):
                        enter[b, j] += ends[b - 1, i] * a[i, j]
            norm = 0.0
            for j in range(size):
                ends[b, j] = 0.0
                for i in range(size):
                    ends[b, j] += (initial[n, i] if b == low else ends[b - 1, i]) * transfer[b, i, j]
                norm += ends[b, j]
            for j in range(size):
                ends[b, j] = ends[b, j] / norm if norm > 0.0 else np.nan
        for j in range(size):
            leave[high - 1, j] = 1.0
        for b in range(high - 1, low, -1):
            norm = 0.0
            for i in range(size):
                leave[b - 1, i] = 0.0
                for j in range(size):
                    leave[b - 1, i] += transfer[b, i, j] * leave[b, j]
                norm += leave[b - 1, i]
            for i in range(size):
                leave[b - 1, i] = leave[b - 1, i] / norm if norm > 0.0 else np.nan


def _weigh(emission: Any, start: int, stop: int, weights: Any, shift: Any) -> None:
    """weights[t] = exp(emission[t] - shift[t]), where shift is the largest of the step."""
    size = emission.shape[1]
    work, peaks = np.empty(size), np.empty(8)
    bits = work.view(np.int64)
    for t in range(start, stop):
        # Eight maxima at once, then theirs: one after the other, each would wait for the one before.
        for q in range(8):
            peaks[q] = emission[t, q] if q < size else emission[t, 0]
        for k in range(8, size - 7, 8):
            for q in range(8):
                peaks[q] = emission[t, k + q] if emission[t, k + q] > peaks[q] else peaks[q]
        peak = peaks[0]
        for q in range(1, 8):
            peak = peaks[q] if peaks[q] > peak else peak
        for k in range(size - size % 8, size):
            peak = emission[t, k] if emission[t, k] > peak else peak
        shift[t] = peak
        for k in range(size):
            weights[t, k] = emission[t, k] - peak  # NaN, and so refused, if nothing is possible
        _exp(weights[t], size, work, bits)


def _times(a: Any, x: Any, out: Any) -> None:
    """out = x a, for a vector x and a matrix a; eight rows at once, as loads and stores of out decide."""
    size = a.shape[0]
    for j in range(size):
        out[j] = 0.0
    stop = size - size % 8
    for i in range(0, stop, 8):
        x0, x1, x2, x3, x4, x5, x6, x7 = x[i], x[i + 1], x[i + 2], x[i + 3], x[i + 4], x[i + 5], x[i + 6], x[i + 7]
        for j in range(size):
            first = x0 * a[i, j] + x1 * a[i + 1, j] + x2 * a[i + 2, j] + x3 * a[i + 3, j]
            out[j] += first + x4 * a[i + 4, j] + x5 * a[i + 5, j] + x6 * a[i + 6, j] + x7 * a[i + 7, j]
    for i in range(stop, size):
        x0 = x[i]
        for j in range(size):
            out[j] += x0 * a[i, j]


def _forward(
    initial: Any, initial_shift: float, step: Any, step_shift: Any, varying: bool, weights: Any, shift: Any,
    length: int, forward: Any, keep: bool,
) -> tuple[float, bool]:  # fmt: skip
    """Scaled forward messages, each with its normaliser as its sum; the value, and whether no normaliser was tiny."""
    size = initial.shape[0]
    total, product, inverse = initial_shift, 1.0, 1.0
    for t in range(length):
        here, before = (t, t - 1) if keep else (t & 1, 1 - (t & 1))
        if t == 0:
            for j in range(size):
                forward[here, j] = initial[j]
        else:
            _times(step[t - 1 if varying else 0], forward[before], forward[here])
            total += step_shift[t - 1 if varying else 0]
        norm = 0.0
        for j in range(size):
            forward[here, j] *= weights[t, j] * inverse
            norm += forward[here, j]
        if not norm >= 1e-100:
            return -np.inf, False
        inverse = 1.0 / norm
        product *= norm
        total += shift[t]
        if not (1e-100 < product < 1e100):
            total += math.log(product)
            product = 1.0
    return total + math.log(product), True


def _backward(step: Any, back: Any, varying: bool, weights: Any, length: int, backward: Any, scales: Any) -> None:
    """Backward messages that sum to one, and scales[t]: the factor that made backward[t - 1] so."""
    size = weights.shape[1]
    after = np.empty(size)
    for j in range(size):
        backward[length - 1, j] = 1.0
    for t in range(length - 1, 0, -1):
        for j in range(size):
            after[j] = weights[t, j] * backward[t, j]
        if varying:
            for i in range(size):
                dot = 0.0
                for j in range(size):
                    dot += step[t - 1, i, j] * after[j]
                backward[t - 1, i] = dot
        else:
            _times(back, after, backward[t - 1])
        norm = 0.0
        for i in range(size):
            norm += backward[t - 1, i]
        scales[t] = 1.0 / norm if norm > 0.0 else 0.0
        for i in range(size):
            backward[t - 1, i] *= scales[t]


def _combine(
    step: Any, varying: bool, weights: Any, forward: Any, backward: Any, scales: Any, start: int, stop: int,
    smooth: Any, pairs: Any, write: bool,
) -> bool:  # fmt: skip
    """Marginals of steps start..stop, and pairs (t, t + 1) for t among them; whether nothing can have been lost."""
    length, size = forward.shape
    after = np.empty((4, size))
    origin = np.empty((4, size))
    held = 0
    for t in range(start, stop):
        norm, reach = 0.0, 0.0
        for j in range(size):
            norm += forward[t, j] * backward[t, j]
            reach += backward[t, j]
        if not (norm > 0.0 and reach <= 1e100 * norm):
            return False
        inverse = 1.0 / norm
        if not write:
            continue
        for j in range(size):
            smooth[t, j] = forward[t, j] * backward[t, j] * inverse
        if t + 1 == length:
            break
        inverse *= scales[t + 1]
        if varying:
            for i in range(size):
                f = forward[t, i] * inverse
                for j in range(size):
                    pairs[t, i, j] = f * step[t, i, j] * weights[t + 1, j] * backward[t + 1, j]
            continue
        for j in range(size):
            after[held, j] = weights[t + 1, j] * backward[t + 1, j] * inverse
            origin[held, j] = forward[t, j]
        held += 1
        if held == 4:  # four at once, as loads and stores of the sums decide
            for i in range(size):
                f0, f1, f2, f3 = origin[0, i], origin[1, i], origin[2, i], origin[3, i]
                for j in range(size):
                    pairs[0, i, j] += f0 * after[0, j] + f1 * after[1, j] + f2 * after[2, j] + f3 * after[3, j]
            held = 0
    for h in range(held):
        for i in range(size):
            f0 = origin[h, i]
            for j in range(size):
                pairs[0, i, j] += f0 * after[h, j]
    return True


def _states_kernel(
    initial: Any, initial_shift: Any, transition: Any, back: Any, shift: Any, emission: Any, lengths: Any, low: int,
    high: int, slot: int, varying: bool, write: bool, full: bool, value: Any, bad: Any, pairs: Any, smooth: Any,
) -> None:  # fmt: skip
    """Sequences low..high one after the other; pairs as in ``_lanes_kernel``, or per step if ``varying``."""
    longest, size = 0, emission.shape[2]
    for n in range(low, high):
        longest = max(longest, lengths[n])
    weights = np.empty((longest, size))
    shifts, scales = np.empty(longest), np.empty(longest)
    forward = np.empty((longest if full else 2, size))
    backward = np.empty((longest if full else 1, size))
    scratch = np.zeros((1, size, size))
    for n in range(low, high):
        length = lengths[n]
        own, which = n if initial.shape[0] > 1 else 0, n if varying else 0
        _weigh(emission[n], 0, length, weights, shifts)
        value[n], good = _forward(
            initial[own],
            initial_shift[own],
            transition[which],
            shift[which],
            varying,
            weights,
            shifts,
            length,
            forward,
            full,
        )
        if good and full:
            _backward(transition[which], back, varying, weights, length, backward, scales)
            target = smooth[n] if write else smooth[0]
            if varying and write:
                sums = pairs[n]
            else:
                sums = scratch
                scratch[:] = 0.0
            good = _combine(
                transition[which], varying, weights, forward[:length], backward, scales, 0, length, target, sums, write
            )
            if good and write and not varying:
                into = n if slot < 0 else slot
                for i in range(size):
                    for j in range(size):
                        pairs[into, 0, i, j] += scratch[0, i, j]
        bad[n] = not good


def _log_step(message: Any, log_a: Any, a: Any, shift: float, out: Any, work: Any) -> None:
    """out[j] = ln sum_i exp(message[i] + log_a[i, j]); directly where the sum by a = exp(log_a - shift) is tiny."""
    size = message.shape[0]
    peak = -np.inf
    for i in range(size):
        peak = message[i] if not message[i] <= peak else peak  # NaN stays
    if peak == -np.inf:
        for j in range(size):
            out[j] = -np.inf
        return
    for i in range(size):
        work[i] = math.exp(message[i] - peak)
    for j in range(size):
        dot = 0.0
        for i in range(size):
            dot += work[i] * a[i, j]
        if dot > 1e-100:
            out[j] = peak + shift + math.log(dot)
            continue
        top = -np.inf
        for i in range(size):
            v = message[i] + log_a[i, j]
            top = v if not v <= top else top
        dot = 0.0
        if top != -np.inf:
            for i in range(size):
                dot += math.exp(message[i] + log_a[i, j] - top)
        out[j] = top + math.log(dot) if top != -np.inf else -np.inf


def _log_sum(x: Any) -> float:
    """ln sum exp(x)."""
    top = -np.inf
    for i in range(x.shape[0]):
        top = x[i] if not x[i] <= top else top
    if top == -np.inf:
        return -np.inf
    dot = 0.0
    for i in range(x.shape[0]):
        dot += math.exp(x[i] - top)
    return top + math.log(dot)


def _forward_logs_one(
    log_initial: Any,
    log_transition: Any,
    transition: Any,
    shift: Any,
    emission: Any,
    lengths: Any,
    n: int,
    messages: Any,
) -> float:
    """ln p(z_t | x_1..x_t) of sequence n into messages (T, K); returns the value. -inf from an impossible step on."""
    size = emission.shape[2]
    own, which = n if log_initial.shape[0] > 1 else 0, n if log_transition.shape[0] > 1 else 0
    work = np.empty(size)
    total = 0.0
    for t in range(lengths[n]):
        if t == 0:
            for j in range(size):
                messages[t, j] = log_initial[own, j] + emission[n, t, j]
        else:
            s = t - 1 if log_transition.shape[1] > 1 else 0
            _log_step(
                messages[t - 1], log_transition[which, s], transition[which, s], shift[which, s], messages[t], work
            )
            for j in range(size):
                messages[t, j] += emission[n, t, j]
        norm = _log_sum(messages[t])
        total += norm
        if norm == -np.inf:
            for later in range(t, lengths[n]):
                for j in range(size):
                    messages[later, j] = -np.inf
            return norm
        for j in range(size):
            messages[t, j] -= norm
    return total


def _forward_logs(
    log_initial: Any, log_transition: Any, transition: Any, shift: Any, emission: Any, lengths: Any,
    low: int, high: int, messages: Any, value: Any,
) -> None:  # fmt: skip
    """Forward messages of sequences low..high."""
    for n in range(low, high):
        value[n] = _forward_logs_one(log_initial, log_transition, transition, shift, emission, lengths, n, messages[n])


def _logs_kernel(
    log_initial: Any, log_transition: Any, transition: Any, shift: Any, emission: Any, lengths: Any,
    n: int, write: bool, value: Any, smooth: Any, pairs: Any,
) -> None:  # fmt: skip
    """Forward-backward of sequence n by logarithms; pairs (1 or T - 1, K, K) with the factor of the transition."""
    size, length = emission.shape[2], lengths[n]
    messages = np.empty((length, size))
    value[n] = _forward_logs_one(log_initial, log_transition, transition, shift, emission, lengths, n, messages)
    if not write:
        return
    if value[n] == -np.inf:
        for t in range(length):
            for j in range(size):
                smooth[t, j] = 0.0
        return
    which = n if log_transition.shape[0] > 1 else 0
    behind, after, joint = np.zeros(size), np.empty(size), np.empty((size, size))
    for t in range(length - 1, -1, -1):
        for j in range(size):
            after[j] = messages[t, j] + behind[j]
        norm = _log_sum(after)
        for j in range(size):
            smooth[t, j] = math.exp(after[j] - norm)
            after[j] = behind[j] - norm + emission[n, t, j]
        if t == 0:
            break
        s = t - 1 if log_transition.shape[1] > 1 else 0
        into = t - 1 if pairs.shape[0] > 1 else 0
        for i in range(size):
            for j in range(size):
                joint[i, j] = log_transition[which, s, i, j] + after[j]
            behind[i] = _log_sum(joint[i])
            for j in range(size):
                joint[i, j] += messages[t - 1, i]
        norm = _log_sum(joint.reshape(-1))
        for i in range(size):
            for j in range(size):
                pairs[into, i, j] += math.exp(joint[i, j] - norm)


def _viterbi(
    log_initial: Any, log_transition: Any, transition: Any, shift: Any, emission: Any, lengths: Any,
    low: int, high: int, paths: Any, scores: Any,
) -> None:  # fmt: skip
    """Best paths of sequences low..high; paths come filled with -1."""
    size = emission.shape[2]
    longest = 0
    for n in range(low, high):
        longest = max(longest, lengths[n])
    origin = np.empty((longest, size), dtype=np.int32)
    score, new = np.empty(size), np.empty(size)
    arg = np.empty(size, dtype=np.int32)
    for n in range(low, high):
        own, which = n if log_initial.shape[0] > 1 else 0, n if log_transition.shape[0] > 1 else 0
        for j in range(size):
            score[j] = log_initial[own, j] + emission[n, 0, j]
        for t in range(1, lengths[n]):
            s = t - 1 if log_transition.shape[1] > 1 else 0
            for j in range(size):
                new[j] = score[0] + log_transition[which, s, 0, j]
                arg[j] = 0
            for i in range(1, size):
                for j in range(size):
                    v = score[i] + log_transition[which, s, i, j]
                    better = v > new[j]
                    new[j] = v if better else new[j]
                    arg[j] = i if better else arg[j]
            for j in range(size):
                origin[t, j] = arg[j]
                score[j] = new[j] + emission[n, t, j]
        best = 0
        for j in range(1, size):
            if score[j] > score[best]:
                best = j
        scores[n] = score[best]
        if score[best] > -np.inf:
            for t in range(lengths[n] - 1, -1, -1):
                paths[n, t] = best
                if t:
                    best = origin[t, best]


def _sample(
    log_initial: Any, log_transition: Any, transition: Any, shift: Any, emission: Any, lengths: Any,
    low: int, high: int, messages: Any, uniform: Any, paths: Any,
) -> None:  # fmt: skip
    """Draws (S, N, T) by inverting the cumulative weights at ``uniform``; paths come filled with -1."""
    size = emission.shape[2]
    weights, logits = np.empty(size), np.empty(size)
    for n in range(low, high):
        which = n if log_transition.shape[0] > 1 else 0
        for d in range(uniform.shape[0]):
            state = 0
            for t in range(lengths[n] - 1, -1, -1):
                s = t if log_transition.shape[1] > 1 else 0
                top = -np.inf
                for i in range(size):
                    logits[i] = messages[n, t, i]
                    if t + 1 < lengths[n]:
                        logits[i] += log_transition[which, s, i, state]
                    top = max(top, logits[i])
                total = 0.0
                for i in range(size):
                    total += math.exp(logits[i] - top)
                    weights[i] = total
                state = 0
                while state < size - 1 and weights[state] <= uniform[d, n, t] * total:
                    state += 1
                paths[d, n, t] = state


def _entropy(
    log_initial: Any, log_transition: Any, transition: Any, shift: Any, emission: Any, lengths: Any,
    low: int, high: int, messages: Any, result: Any,
) -> None:  # fmt: skip
    """Entropies of sequences low..high from their forward messages."""
    size = emission.shape[2]
    behind, new, logits = np.empty(size), np.empty(size), np.empty(size)
    for n in range(low, high):
        which = n if log_transition.shape[0] > 1 else 0
        for j in range(size):
            behind[j] = 0.0
        for t in range(1, lengths[n]):
            s = t - 1 if log_transition.shape[1] > 1 else 0
            for j in range(size):
                for i in range(size):
                    logits[i] = messages[n, t - 1, i] + log_transition[which, s, i, j]
                norm = _log_sum(logits)
                new[j] = 0.0
                for i in range(size):
                    if logits[i] > -np.inf:
                        new[j] += math.exp(logits[i] - norm) * (behind[i] - (logits[i] - norm))
            for j in range(size):
                behind[j] = new[j]
        last = lengths[n] - 1
        result[n] = 0.0
        for j in range(size):
            if messages[n, last, j] > -np.inf:
                result[n] += math.exp(messages[n, last, j]) * (behind[j] - messages[n, last, j])


def _clear(values: Any, lengths: Any) -> None:
    """Zeros beyond each length."""
    for n in range(values.shape[0]):
        for t in range(lengths[n], values.shape[1]):
            for k in range(values.shape[2]):
                values[n, t, k] = 0.0


_COMPILED = (
    "_exp", "_mix", "_weigh_lanes", "_lanes_kernel", "_transfer_kernel", "_cuts", "_weigh", "_times", "_forward",
    "_backward", "_combine", "_states_kernel", "_log_step", "_log_sum", "_forward_logs_one", "_forward_logs",
    "_logs_kernel", "_viterbi", "_sample", "_entropy", "_clear",
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def _compile() -> None:
    """Replaces the kernels by numba's. Here and not at the top, so that importing this module does not import numba."""
    import numba

    names = globals()
    for name in _COMPILED:
        # Fused multiply-adds everywhere; sums may be reordered where nothing tests for NaN or relies on rounding.
        flags = {"contract"} if name in ("_exp", "_weigh_lanes") else {"contract", "reassoc"}
        try:
            names[name] = numba.njit(nogil=True, cache=True, fastmath=flags, error_model="numpy")(names[name])
        except RuntimeError:  # nowhere to write the cache
            names[name] = numba.njit(nogil=True, fastmath=flags, error_model="numpy")(names[name])
