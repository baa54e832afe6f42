"""Exact sums over a chain of discrete states z_1..z_T, of which z_1 already emits x_1.

The weight of a path is ``initial[z_1] + sum_t transition[z_{t-1}, z_t] + sum_t emission[t, z_t]``, in nats; none of the
three need be normalised, and -inf forbids. One dynamic programme gives the log-partition, whose gradient is the
posterior (Baum, 1972; Eisner, 2016, "Inside-outside and forward-backward algorithms are just backprop"), the most
probable path, exact draws, the entropy and the filter.

On the CPU: numba kernels in float64, ``chain_layouts.py`` and ``chain_kernels.py``.
Elsewhere (GPU, or without numba) torch does all sequences at once, one step after the other, by logarithms.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.structures import chain_kernels as kernels
from zoo.structures import diagonal
from zoo.structures.chain_layouts import Layouts
from zoo.structures.parallel import has_numba

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
    chain = _Chain(initial, transition, x, lengths, family=diagonal.coefficients(means, scale))
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
    """Checked arguments in the arithmetic's dtype, and what is computed from them.

    With a ``family`` of densities (``diagonal.coefficients``), ``emission`` holds the data (N, T, D) instead.
    """

    def __init__(
        self,
        initial: Tensor,
        transition: Tensor,
        emission: Tensor,
        lengths: Tensor | None,
        backend: str | None = None,
        family: Tensor | None = None,
    ) -> None:
        if emission.dim() != 3 or 0 in emission.shape:
            raise ZooError(
                f"emission: expected shape (N, T, K) with no zero in it, got {tuple(emission.shape)}; "
                "give a single sequence as emission.unsqueeze(0)."
            )
        n, t, k = emission.shape
        self.family = family
        if family is not None:
            k = family.shape[1]
        self.n, self.t, self.k = n, t, k
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
            return Layouts(self).run(None)[0]
        return self._torch_forward(keep=False)[1]

    def solve(self, per_sequence: bool, out: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Value (N,), p(z_1 | x) (N, K), expected transitions, marginals (N, T, K).

        Transitions: (N, T - 1, K, K) if they change with time, else (N, K, K), or summed (K, K) unless per_sequence.
        """
        if self.numba:
            marginals = torch.empty(self.emission.shape, dtype=torch.float64) if out is None else out
            value, pairs = Layouts(self).run(marginals, per_sequence)
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
        Layouts(self).each(kernels.forward_logs_kernel, messages.numpy(), value.numpy())
        return messages, value

    def viterbi(self) -> tuple[Tensor, Tensor]:
        """Paths (N, T) and scores (N,)."""
        device = self.emission.device
        paths = torch.full((self.n, self.t), -1, dtype=torch.int64, device=device)
        if self.numba:
            scores = torch.empty(self.n, dtype=torch.float64)
            Layouts(self).each(kernels.viterbi_kernel, paths.numpy(), scores.numpy())
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
            Layouts(self).each(kernels.sample_kernel, messages.numpy(), uniform.numpy(), paths.numpy())
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
            Layouts(self).each(kernels.entropy_kernel, messages.numpy(), result.numpy())
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
