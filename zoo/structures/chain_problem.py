"""A chain's arguments, checked, and what is computed from them: compiled on a processor, by torch elsewhere."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from zoo.core.parallel import has_numba
from zoo.errors import ZooError
from zoo.structures import chain_logs
from zoo.structures.chain_layouts import Layouts
from zoo.structures.chain_products import CountsByItem

__all__ = ["ChainProblem"]


class ChainProblem:
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

    def solve(
        self, per_sequence: bool, out: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor | CountsByItem, Tensor]:
        """Value (N,), p(z_1 | x) (N, K), expected transitions, marginals (N, T, K).

        Transitions: (N, T - 1, K, K) if they change with time, else (N, K, K), or summed (K, K) unless per_sequence;
        per_sequence may also give what stands for (N, K, K).
        """
        pairs: Tensor | CountsByItem
        if self.numba:
            marginals = torch.empty(self.emission.shape, dtype=torch.float64) if out is None else out
            value, pairs = Layouts(self).run(marginals, per_sequence)
        else:
            value, pairs, marginals = self._torch_solve()
            if self.shared and not per_sequence and isinstance(pairs, Tensor):
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
        Layouts(self).each(chain_logs.forward_logs_kernel, messages.numpy(), value.numpy())
        return messages, value

    def viterbi(self) -> tuple[Tensor, Tensor]:
        """Paths (N, T) and scores (N,)."""
        device = self.emission.device
        paths = torch.full((self.n, self.t), -1, dtype=torch.int64, device=device)
        if self.numba:
            scores = torch.empty(self.n, dtype=torch.float64)
            Layouts(self).each(chain_logs.viterbi_kernel, paths.numpy(), scores.numpy())
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
            Layouts(self).each(chain_logs.sample_kernel, messages.numpy(), uniform.numpy(), paths.numpy())
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

    def moments(
        self, messages: Tensor, other: ChainProblem | None, gradient: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor] | None]:
        """Posterior means (N,) of another chain's weight (of ln p without one) and its covariances with the counts.

        The covariances: starts (N, K), transitions (N, [T - 1,] K, K), emissions (N, T, K). The other chain has the
        same layout. Anything for an impossible sequence.
        """
        if not self.numba:
            return self._torch_moments(messages, other, gradient)
        layouts = Layouts(self)
        steps = (1 if self.shared else max(1, self.t - 1)) if gradient else 0
        pairs = torch.zeros(self.n, steps, self.k, self.k, dtype=torch.float64)
        smooth = torch.zeros(self.emission.shape if gradient else (0, 0, 0), dtype=torch.float64)
        mean = torch.empty(self.n, dtype=torch.float64)
        theirs = layouts if other is None else Layouts(other)
        layouts.each(
            chain_logs.moments_kernel, messages.numpy(), other is None, theirs.log_initial, theirs.log_transition,
            theirs.emission, gradient, mean.numpy(), pairs.numpy(), smooth.numpy(),
        )  # fmt: skip
        if not gradient:
            return mean, None
        return mean, (smooth[:, 0], pairs[:, 0] if self.shared else pairs[:, : self.t - 1], smooth)

    def _torch_moments(
        self, messages: Tensor, other: ChainProblem | None, gradient: bool
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor] | None]:

        def step(t: int) -> tuple[Tensor, Tensor]:
            """p(z_{t-1} = i | z_t = j) and the weight that the step to t adds, (N, i, j)."""
            joint = messages[:, t - 1].unsqueeze(-1) + self._step(t - 1)
            norm = torch.logsumexp(joint, 1, keepdim=True)
            log_origin = joint - norm.masked_fill(norm == -math.inf, 0.0)
            if other is None:
                return log_origin.exp(), log_origin
            return log_origin.exp(), (other._step(t - 1) + other._emitted(t).unsqueeze(1)).expand_as(joint)

        def average(weight: Tensor, what: Tensor, dim: int) -> Tensor:
            return torch.where(weight > 0, weight * what, 0.0).sum(dim)

        first = torch.zeros_like(messages[:, 0])
        behind = [first if other is None else first + other.initial + other._emitted(0)]  # by step: the mean so far
        last = messages[:, 0]
        for t in range(1, self.t):
            origin, gain = step(t)
            behind.append(self._live(t, average(origin, behind[-1].unsqueeze(-1) + gain, 1), behind[-1]))
            last = self._live(t, messages[:, t], last)
        end = last if other is None else torch.zeros_like(last)
        mean = average(last.exp(), behind[-1] + end, -1)
        if not gradient:
            return mean, None
        finite = mean.isfinite()
        centre = mean.where(finite, torch.zeros_like(mean)).reshape(-1, 1, 1)
        smooth = torch.zeros_like(messages)
        shape = (self.n, self.k, self.k) if self.shared else (self.n, self.t - 1, self.k, self.k)
        pairs = torch.zeros(shape, dtype=messages.dtype, device=messages.device)
        weight, ahead = torch.zeros_like(first), torch.zeros_like(first)
        final = (self.lengths - 1).to(messages.device)
        for t in range(self.t - 1, -1, -1):
            ends = ((final == t) & finite).unsqueeze(-1)
            weight, ahead = torch.where(ends, last.exp(), weight), torch.where(ends, end, ahead)
            smooth[:, t] = torch.where(weight > 0, weight * (behind[t] + ahead - centre[..., 0]), 0.0)
            if not t:
                break
            origin, gain = step(t)
            pair = torch.where(weight.unsqueeze(1) > 0, weight.unsqueeze(1) * origin, 0.0)
            gain = gain + ahead.unsqueeze(1)
            moved = torch.where(pair > 0, pair * (behind[t - 1].unsqueeze(-1) + gain - centre), 0.0)
            if self.shared:
                pairs += moved
            else:
                pairs[:, t - 1] = moved
            weight, total = pair.sum(-1), average(pair, gain, -1)
            ahead = torch.where(weight > 0, total / weight, 0.0)
        return mean, (smooth[:, 0], pairs, smooth)
