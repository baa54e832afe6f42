"""What all hidden Markov models share: a chain of states, each emitting a row.

    z_1 ~ Categorical(initial_probs)
    z_t | z_{t-1} ~ Categorical(transition_probs[z_{t-1}])        t = 2..T
    x_t | z_t ~ component z_t                                     t = 1..T

z_1 already emits x_1. Rabiner (1989), "A tutorial on hidden Markov models", section III. The emissions are a family of
components (``zoo/components``), the sums over paths ``zoo/structures/chain.py``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, ClassVar, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from guides.chain import AmortizedChain
from zoo.bayes import priors
from zoo.components import starts
from zoo.components.base import Components, partition
from zoo.core.checks import positive
from zoo.core.contract import parameter, prepared
from zoo.core.data import Data, Fields, plain, stacked, tensors, weights_of
from zoo.core.memory import rows_at_once
from zoo.core.pieces import added, categorical, gathered
from zoo.core.rows import Known, restricted
from zoo.core.statistics import Statistics, weighted_sum, wide
from zoo.densities import gaussian
from zoo.densities.distributions import FEW, Selected
from zoo.errors import ZooError, unknown_name
from zoo.models.shared.markov import Marginal, finite, follow, path_counts, stationary, stationary_m_step
from zoo.structures import Chain, chain

__all__ = ["HiddenMarkov"]

STARTS = ("free", "stationary", "uniform")
TOPOLOGIES = ("full", "left_right")


class HiddenMarkov(Components):
    """Base class of hidden Markov models with K states over rows of D features.

    Data are one sequence (T, D), a batch (N, T, D), or a dict (or tuple) of ``x`` and ``lengths`` (N,): what lies
    beyond a length is never read. With lengths that add up to the rows, x may also be the sequences one below the
    other, (sum of lengths, D). NaN entries are missing, and are summed out.

    Shapes:
        initial_probs: (K,), p(z_1). transition_probs: (K, K), [i, j] = p(z_t = j | z_{t-1} = i); exact zeros stay zero.
        log_marginal(x): (N,), nats, summed over time. posterior(x): Categorical, batch (N, T): p(z_t | x_{1:T}).

    Raises:
        ZooError: x of another shape, lengths that do not fit, values outside the emission's support.
    """

    reads_as: ClassVar[dict[str, str]] = {"initial_probs": "start_probs"}
    keeps: tuple[str, ...] = ("start_probs", "transition_probs")
    transition_probs: Tensor
    transition_probs_unconstrained: Tensor
    encoder: AmortizedChain
    overall: Tensor
    part = "state"
    in_pieces = ("log_marginal", "posterior", "predict")
    fields = Fields(("x", "lengths"))

    def __init__(
        self,
        num_states: int,
        num_features: int,
        initial: str,
        topology: str,
        concentration: float,
        prior_strength: float,
        hidden_dim: int,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self.num_states = positive(num_states, "num_states", who)
        self.num_features = positive(num_features, "num_features", who)
        if initial not in STARTS:
            raise unknown_name(f"{who}: initial", initial, STARTS)
        if topology not in TOPOLOGIES:
            raise unknown_name(f"{who}: topology", topology, TOPOLOGIES)
        if topology == "left_right" and initial == "stationary":
            raise ZooError(f"{who}: a left_right chain has no stationary start. Use initial='free'.")
        for name, value, least in (("concentration", concentration, 1), ("prior_strength", prior_strength, 0)):
            if not (math.isfinite(value) and value >= least):
                raise ZooError(f"{who}: {name} expected a number of at least {least}, got {value}.")
        self.initial, self.topology = initial, topology
        self.concentration, self.prior_strength = concentration, prior_strength
        k = num_states
        start = torch.full((k,), 1.0 / k, dtype=self.dtype)
        steps = torch.full((k, k), 1.0 / k, dtype=self.dtype)
        if topology == "left_right":
            start = torch.eye(k, dtype=self.dtype)[0]
            steps = torch.eye(k, dtype=self.dtype) * 0.5 + torch.eye(k, dtype=self.dtype).roll(1, 1) * 0.5
            steps[-1] = torch.eye(k, dtype=self.dtype)[-1]
        if initial == "free":
            self.start_probs = parameter(start, constraints.simplex)
        self.transition_probs = parameter(steps, constraints.simplex)
        self.encoder = AmortizedChain(num_features, k, hidden_dim).to(self.dtype)

    def add_prior(self) -> None:
        """Make room for what the prior looks like, once the components are there."""
        self.register_buffer("overall", self.overall_statistic(torch.zeros(2, self.num_features, dtype=self.dtype)))

    # The chain --------------------------------------------------------------------------------------------------

    @property
    def initial_probs(self) -> Tensor:
        """p(z_1), (K,): a parameter, uniform, or the chain's stationary distribution."""
        return self.log_initial.exp()

    @initial_probs.setter
    def initial_probs(self, value: Any) -> None:
        if self.initial != "free":
            raise ZooError(f"{type(self).__name__}.initial_probs: the start is {self.initial}; it cannot be assigned.")
        self.start_probs = value

    @property
    def log_initial(self) -> Tensor:
        """ln p(z_1), (K,); -inf where a state cannot be the first."""
        if self.initial == "free":
            return torch.log_softmax(self.start_probs_unconstrained, -1)
        if self.initial == "uniform":
            return torch.full_like(self.transition_probs_unconstrained[0], -math.log(self.num_states))
        return stationary(self.transition_probs).log()

    @property
    def log_transition(self) -> Tensor:
        """ln transition_probs, (K, K); -inf where a step is impossible."""
        return torch.log_softmax(self.transition_probs_unconstrained, -1)

    # Programs ---------------------------------------------------------------------------------------------------

    def model(self, x: Tensor, lengths: Tensor | None = None) -> None:
        log_initial, log_transition, components = self.log_initial, self.log_transition, self.components()
        missing = x.isnan()
        values = x.nan_to_num(0.0)
        lengths = self._lengths(x, lengths)
        with pyro.plate("data", x.shape[0]):
            z = None
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=cast(Any, t < lengths)):
                    logits = log_initial if z is None else follow(log_transition, z)
                    z = pyro.sample(f"z_{t}", dist.Categorical(logits=logits))
                    emission = Selected(components, z)
                    if missing[:, t].any():
                        emission = Marginal(self, components, z, missing[:, t])
                    pyro.sample(f"x_{t}", emission, obs=values[:, t])

    def guide(self, x: Tensor, lengths: Tensor | None = None) -> None:
        lengths = self._lengths(x, lengths)
        first, steps = self.encoder(x, lengths)
        with pyro.plate("data", x.shape[0]):
            z = None
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=cast(Any, t < lengths)):
                    logits = first if z is None else follow(steps[:, t - 1], z)
                    z = pyro.sample(f"z_{t}", dist.Categorical(logits=logits))

    def elbo(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The guide's bound on ln p(x), (N,), nats, summed exactly over the guide's chain; differentiable."""
        lengths = self._lengths(x, lengths)
        first, steps = self.encoder(x, lengths)
        emission = self.emission(x, lengths)
        q = Chain(first, steps, torch.zeros_like(emission), lengths)
        p = Chain(finite(self.log_initial), finite(self.log_transition), emission, lengths)
        return q.expect(p) + q.entropy()

    # Exact inference --------------------------------------------------------------------------------------------

    def emission(self, x: Tensor, lengths: Tensor, known: Known | None = None) -> Tensor:
        """ln p(x_t | z_t = k), (N, T, K), nats; -inf for all k but a ``known["z"]``; 0 beyond a sequence's length."""
        if known is not None:
            return restricted(self.emission(x, lengths), known)
        n, t, _ = x.shape
        inside = torch.arange(t, device=x.device) < lengths.unsqueeze(-1)
        if bool(inside.all()):
            return self._row_log_prob(x.reshape(n * t, -1)).reshape(n, t, -1)
        packed = self._row_log_prob(x[inside])
        out = packed.new_zeros(n, t, packed.shape[-1])
        return out.index_put((inside,), packed)

    def _row_log_prob(self, rows: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return self.component_log_prob(rows)
        return gathered(map(self.component_log_prob, rows.split(rows_at_once(self.row_size()))), len(rows))

    def datum_size(self, x: Data) -> int:
        values = x["x"] if isinstance(x, dict) else tensors(x)[0]
        return 3 * values.shape[1] * self.num_states  # emissions, messages, marginals

    def _by_sequences(self, answer: Callable[..., Tensor], x: Tensor, lengths: Tensor) -> Tensor:
        """``answer(x, lengths)``, (N, ...), by pieces of the sequences."""
        size = rows_at_once(self.datum_size(x))
        parts = zip(x.split(size), lengths.split(size), strict=True)
        return gathered((answer(*part) for part in parts), len(x))

    def log_marginal(self, x: Tensor, lengths: Tensor | None = None, known: Known | None = None) -> Tensor:
        """ln p(x_{1:T}) of each sequence, (N,), nats, with the states that are known (``known["z"]``, (N, T), -1 where
        not); exact, differentiable once; -inf for an impossible sequence."""
        lengths = self._lengths(x, lengths)
        if torch.is_grad_enabled() or known is not None:
            return self._log_marginal(x, lengths, known)
        return self._by_sequences(self._log_marginal, x, lengths)

    def _log_marginal(self, x: Tensor, lengths: Tensor, known: Known | None = None) -> Tensor:
        return self._structure(x, lengths, known).log_partition()

    def structure(self, x: Data) -> Chain:
        """p(z_{1:T} | x) as a whole, without a graph: draws, scores and entropies of paths, not of steps alone."""
        data = prepared(self, x)
        with torch.no_grad():
            return self._structure(data["x"], data["lengths"])

    def _structure(self, x: Tensor, lengths: Tensor, known: Known | None = None) -> Chain:
        return Chain(self.log_initial, self.log_transition, self.emission(x, lengths, known), lengths)

    @torch.no_grad()
    def posterior(self, x: Tensor, lengths: Tensor | None = None) -> dist.Categorical:
        """p(z_t | x_{1:T}), batch (N, T); uniform beyond a sequence's length."""
        return categorical(probs=self._by_sequences(self._marginals, x, self._lengths(x, lengths)))

    def _marginals(self, x: Tensor, lengths: Tensor) -> Tensor:
        family = self.diagonal()
        fast = family and chain.gaussian_marginals(self.log_initial, self.log_transition, x, *family, lengths)
        if fast:
            marginals, left = fast
            if len(left):
                marginals[left] = self._structure(x[left], lengths[left]).marginals().emission
        else:
            marginals = self._structure(x, lengths).marginals().emission
        total = marginals.sum(-1, keepdim=True)
        empty = total == 0
        if empty.any():
            marginals.masked_fill_(empty, 1.0)
            total = total.masked_fill(empty, float(self.num_states))
        return marginals.div_(total)

    def viterbi(self, x: Data) -> tuple[Tensor, Tensor]:
        """The most probable path (N, T), -1 beyond the length, and its ln p(x, z), (N,)."""
        return self.structure(x).argmax()

    def predict(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The most probable path, (N, T) integers, -1 beyond a sequence's length."""
        data = self.validate({"x": x, "lengths": lengths})
        with torch.no_grad():
            return self._by_sequences(lambda x, lengths: self._structure(x, lengths).argmax()[0], **data)

    def sample_posterior(self, x: Data, num_samples: int = 1) -> Tensor:
        """Exact draws of paths given x, (num_samples, N, T), by torch's generator."""
        return self.structure(x).sample(num_samples)

    def posterior_entropy(self, x: Data) -> Tensor:
        """Entropy of p(z_{1:T} | x), (N,), nats."""
        return self.structure(x).entropy()

    def filter(self, x: Data) -> Tensor:
        """p(z_t | x_{1:t}), (N, T, K)."""
        return self.structure(x).filtered()

    def forecast(self, x: Data, num_steps: int) -> Tensor:
        """p(z_{T+h} | x_{1:T}) for h = 1..num_steps, (N, num_steps, K)."""
        data = prepared(self, x)
        last = self.filter(data)[torch.arange(len(data["x"])), data["lengths"] - 1]
        steps, state = [], last
        for _ in range(num_steps):
            state = state @ self.transition_probs.detach()
            steps.append(state)
        return torch.stack(steps, 1)

    @torch.no_grad()
    def sample(self, num_data: int, num_steps: int) -> Tensor:
        """New sequences, (num_data, num_steps, D), by torch's generator."""
        if num_data * num_steps * self.num_states > FEW:
            return Selected(self.components(), self._many_paths(num_data, num_steps)).sample()
        components, states = self.components(), []
        z = dist.Categorical(logits=self.log_initial).sample((num_data,))
        for _ in range(num_steps):
            states.append(z)
            z = dist.Categorical(logits=self.log_transition[z]).sample()
        return Selected(components, torch.stack(states, 1)).sample()

    def _many_paths(self, num_data: int, num_steps: int) -> Tensor:
        """Paths (num_data, num_steps): a uniform number picks each next state from the cumulative transitions."""
        z = torch.multinomial(self.log_initial.exp(), num_data, replacement=True)
        edges = self.log_transition.exp().cumsum(-1)
        edges = edges / edges[:, -1:]  # exactly one at the end: a state that cannot be reached is never picked
        device = edges.device
        states, rows = z.new_empty(num_data, num_steps), torch.arange(num_data, device=device)
        states[:, 0] = z
        span = rows_at_once(num_data * self.num_states)
        for begin in range(1, num_steps, span):
            uniform = torch.rand(num_data, min(span, num_steps - begin), dtype=edges.dtype, device=device)
            # Where each state would lead, all steps of the span at once: (steps, num_data, K).
            leads = torch.stack([torch.searchsorted(row, uniform, right=True) for row in edges], -1).movedim(1, 0)
            if num_data == 1:
                state, path = int(states[0, begin - 1]), []
                for step in leads[:, 0].numpy(force=True).tolist():
                    state = step[state]
                    path.append(state)
                states[0, begin : begin + len(path)] = torch.tensor(path, device=device)
                continue
            for t, step in enumerate(leads, begin):
                states[:, t] = step[rows, states[:, t - 1]]
        return states

    # EM ---------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def e_step(
        self,
        x: Tensor,
        lengths: Tensor | None = None,
        hard: bool = False,
        weights: Tensor | None = None,
        known: Known | None = None,
    ) -> Statistics:
        """``starts`` (K,), ``steps`` (K, K), ``counts`` (K,), and the components' statistics.

        Args:
            weights: how often each sequence counts, (N,). known: ``known["z"]`` (N, T), -1 where z_t is not known.
        """
        lengths = self._lengths(x, lengths)
        plainly = hard or weights is not None or known is not None
        family = None if plainly else self.diagonal()
        if family is None:
            return self._pieces_e_step(x, lengths, weights, known, hard)
        totals = chain.gaussian_totals(self.log_initial, self.log_transition, x, *family, lengths)
        moments = totals and gaussian.moments_from(totals.counts, totals.first, totals.second, family[0])
        if totals is None or moments is None:
            return self._pieces_e_step(x, lengths)
        left = totals.left
        statistics = Statistics(
            x.shape[0] - len(left),
            totals.log_likelihood,
            starts=totals.initial,
            steps=totals.transition,
            counts=totals.counts,
            moments=moments,
        )
        return statistics + self._pieces_e_step(x[left], lengths[left]) if len(left) else statistics

    def _pieces_e_step(
        self,
        x: Tensor,
        lengths: Tensor,
        weights: Tensor | None = None,
        known: Known | None = None,
        hard: bool = False,
    ) -> Statistics:
        plain = functools.partial(self._plain_e_step, hard=hard)
        size = self.datum_size(x) + (0 if weights is None else self.num_states**2)
        return added(plain, (x, lengths, weights, known), size)

    def _plain_e_step(
        self, x: Tensor, lengths: Tensor, weights: Tensor | None, known: Known | None, hard: bool = False
    ) -> Statistics:
        """Densities, then the chain, then the components: for every family, and for missing entries."""
        emission = wide(self.emission(x, lengths, known))
        e = chain.expectations(self.log_initial, self.log_transition, emission, lengths, weights=weights)
        starts, steps, marginals = e.initial, e.transition, e.marginals
        log_likelihood = objective = e.log_likelihood
        if hard:
            paths, objective = Chain(self.log_initial, self.log_transition, emission, lengths).argmax()
            starts, steps, marginals = path_counts(paths, self.num_states, emission.dtype, weights)
        if weights is not None:
            log_likelihood, objective = (wide(weights) * v for v in (log_likelihood, objective))
        inside = torch.arange(x.shape[1], device=x.device) < lengths.unsqueeze(-1)
        packed = bool(inside.all())
        seen = x.reshape(-1, x.shape[-1]) if packed else x[inside]
        weight = marginals.reshape(-1, self.num_states) if packed else marginals[inside]
        return Statistics(
            x.shape[0] if weights is None else float(weights.sum()),
            log_likelihood.sum(),
            objective.sum(),
            starts=starts,
            steps=steps,
            counts=weight.sum(0),
            **self.component_statistics(seen, weight),
        )

    @torch.no_grad()
    def m_step(self, statistics: Statistics) -> list[str]:
        """Closed form for each block; with a stationary start, transitions climb numerically and never fall."""
        extra = self.concentration - 1
        allowed = self.transition_probs_unconstrained > -math.inf
        steps = statistics["steps"] + extra * allowed
        total = steps.sum(-1, keepdim=True)
        closed = (steps / total.where(total > 0, torch.ones_like(total))).where(total > 0, self.transition_probs)
        if self.initial == "free":
            starts = statistics["starts"] + extra * (self.start_probs_unconstrained > -math.inf)
            if starts.sum() > 0 and not self.stays("start_probs"):
                self.start_probs = starts / starts.sum()
        if self.stays("transition_probs"):
            return self.update_components(statistics)
        if self.initial == "stationary":
            closed = stationary_m_step(self.transition_probs, closed, steps, statistics["starts"])
        self.transition_probs = closed
        return self.update_components(statistics)

    def log_prior(self) -> Tensor:
        """ln p(θ), up to a constant: Dirichlet on rows and start, the conjugate prior of the emissions."""
        total = torch.zeros((), dtype=self.dtype)
        if self.concentration > 1:
            logs = [self.log_transition] + ([self.log_initial] if self.initial == "free" else [])
            total = total + (self.concentration - 1) * sum(v[v > -math.inf].sum() for v in logs)
        if self.prior_strength > 0:
            total = total + self.prior_strength * self.component_log_prior()
        return total

    def pseudo_counts(self) -> float:
        """How many rows the emission's prior counts for, in each state."""
        return self.prior_strength

    def why_impossible(self, x: Data, which: Tensor) -> str:
        values, lengths = x["x"][which], self._lengths(x["x"], x.get("lengths"))[which]
        inside = torch.arange(values.shape[1], device=values.device) < lengths.unsqueeze(-1)
        cause = self._barred(values[inside]) or "no path through the states emits these values"
        lacking = ["prior_strength=1"] if self.prior_strength == 0 else []
        if "path" in cause and self.concentration == 1:
            lacking.append("concentration=2")
        return cause + (
            f". Fit with {' and '.join(lacking)} so that what training has not seen stays possible" if lacking else ""
        )

    # Data and starts --------------------------------------------------------------------------------------------

    def num_units(self, x: Data) -> float:
        """Time steps in the data, each as often as its sequence counts."""
        data, weights = plain(x), weights_of(x)
        lengths = self._lengths(data["x"], data.get("lengths"))
        return int(lengths.sum()) if weights is None else float(weighted_sum(lengths.to(weights), weights))

    @staticmethod
    def _lengths(x: Tensor, lengths: Tensor | None) -> Tensor:
        return torch.full((x.shape[0],), x.shape[1], device=x.device) if lengths is None else lengths.long()

    def validate(self, x: Data) -> dict[str, Tensor]:
        who = type(self).__name__
        if isinstance(x, dict):
            unknown = set(x) - {"x", "lengths"}
            if "x" not in x or unknown:
                raise ZooError(f"{who}: data expected the names x and lengths, got {', '.join(map(str, x))}.")
            values, lengths = x["x"], x.get("lengths")
        elif isinstance(x, tuple):
            if len(x) != 2:
                raise ZooError(f"{who}: data expected (x, lengths), got {len(x)} entries.")
            values, lengths = x
        else:
            values, lengths = x, None
        d, given = self.num_features, tuple(values.shape)
        if lengths is not None:
            values = stacked(values, lengths, d)
        if values.dim() == 1 and d == 1:
            values = values.reshape(1, -1, 1)
        elif values.dim() == 2 and values.shape[1] != d and d == 1:
            values = values.unsqueeze(-1)  # (N, T) of single features
        elif values.dim() == 2:
            values = values.unsqueeze(0)
        if values.dim() != 3 or values.shape[-1] != d:
            raise ZooError(f"{who}: x expected shape (N, T, {d}) or one sequence (T, {d}), got {given}. Reshape it.")
        n, t = values.shape[:2]
        if n == 0 or t == 0:
            raise ZooError(f"{who}: x expected at least one sequence of one step, got shape {tuple(values.shape)}.")
        if lengths is not None and lengths.shape == (n,) and (lengths != lengths.round()).any():
            which = int((lengths != lengths.round()).nonzero()[0])
            raise ZooError(
                f"{who}: lengths expected whole numbers, got {float(lengths[which]):g} for sequence {which}. Round it."
            )
        lengths = self._lengths(values, lengths)
        if lengths.shape != (n,):
            raise ZooError(
                f"{who}: lengths expected shape ({n},), one a sequence, got {tuple(lengths.shape)}. "
                "Pad sequences to x of shape (N, T, D) first."
            )
        bad = (lengths < 1) | (lengths > t)
        if bad.any():
            which = int(bad.nonzero()[0])
            raise ZooError(
                f"{who}: lengths expected from 1 to {t}, got {int(lengths[which])} for sequence {which}. "
                "Correct it, or drop that sequence."
            )
        full = bool((lengths == t).all())
        inside = torch.arange(t, device=values.device) < lengths.unsqueeze(-1)
        values = values if full else values.masked_fill(~inside.unsqueeze(-1), 0.0)
        holes = values.is_floating_point() and bool(values.sum().isnan()) and bool(values.isnan().any())
        seen = values.masked_fill(values.isnan(), 0.0) if holes else values
        try:
            self.check_rows(seen.reshape(n * t, d) if full else seen[inside])
        except ZooError:
            for which, length in enumerate(lengths.tolist() if n > 1 else []):
                try:
                    self.check_rows(seen[which, :length])
                except ZooError as error:
                    raise ZooError(str(error).replace(": x expected", f": sequence {which} of x expected", 1)) from None
            raise
        return {"x": values, "lengths": lengths}

    def initialize(self, x: Data, init: str, restart: int = 0) -> None:
        """Cluster rows (left-right: cut sequences into parts), then one M step from those labels.

        Where there are fewer distinct rows than states, and in some later restarts (in all, of symbols), the start is
        the best of several kinds (``zoo/components/starts.py``).
        """
        values, lengths = x["x"], self._lengths(x["x"], x.get("lengths"))
        inside = torch.arange(values.shape[1], device=values.device) < lengths.unsqueeze(-1)
        if self.topology == "left_right":
            self._check_end_is_reached()
        complete = self.rows(x)
        self.encoder.set_from(complete)
        self.measure(x)
        if init == "current":
            return self.enter_support(complete)
        k = self.num_states
        if self.topology == "left_right":
            place = self._places(values.shape[1], lengths, restart)
            labels = place.clamp_max(k - 1)[inside]
        elif starts.num_distinct(complete, k) < k or (init == self.inits[0] and self._varies(restart)):
            self._start_from_best(x, restart)
            self.leave_boundary(complete, torch.full_like(self.log_transition[0], len(complete) / k), shake=False)
            return
        else:
            labels = partition(complete, k, init, lloyd=restart == 0)
        path = torch.full(values.shape[:2], -1)
        path[inside] = labels
        firsts, steps, _ = path_counts(path, k, self.dtype)
        weight = torch.nn.functional.one_hot(labels, k).to(self.dtype)
        counts = weight.sum(0)
        if self.topology == "full":  # every step stays possible, staying the likeliest
            steps = steps + steps.sum().clamp_min(1.0) * (0.02 / k + 0.02 * torch.eye(k, dtype=self.dtype)) / k
            firsts = firsts + 1.0
        else:
            steps = steps * (self.transition_probs > 0)  # a short sequence leaves out states
        self._start_from(complete, weight, firsts, steps)
        self.leave_boundary(complete, counts)

    def _varies(self, restart: int) -> bool:
        """Whether a restart takes another kind of start than clusters of rows."""
        return restart > 0 and (not self.metric or restart % 3 == 1)

    def _start_from(self, complete: Tensor, weight: Tensor, firsts: Tensor, steps: Tensor) -> None:
        """One M step from responsibilities (M, K) of rows (M, D), first states (K,) and steps (K, K)."""
        zero = torch.zeros((), dtype=self.dtype)
        counts = {"starts": firsts, "steps": steps, "counts": weight.sum(0)}
        self.m_step(Statistics(len(complete), zero, **counts, **self.start_statistics(complete, weight)))

    def _places(self, num_steps: int, lengths: Tensor, restart: int) -> Tensor:
        """Which part of its sequence each time step is in, (N, T): equal parts, at a later restart random ones."""
        k, step = self.num_states, torch.arange(num_steps)
        if restart == 0:
            return step * k // lengths.unsqueeze(-1).clamp_min(1)
        share = 0.25 + torch.rand(k, dtype=self.dtype)
        ends = (share / share.sum()).cumsum(0)[:-1].contiguous()
        return torch.bucketize(step / lengths.unsqueeze(-1), ends, right=True)

    def _start_from_best(self, x: Data, restart: int) -> None:
        """The best of random responsibilities and windows of neighbouring steps, on a part of long data."""
        values, lengths = x["x"], self._lengths(x["x"], x.get("lengths"))
        t, k = min(values.shape[1], starts.SHORT), self.num_states
        which = torch.randperm(len(values))[: max(1, starts.SHORT // t)].sort().values
        part = {"x": values[which, :t], "lengths": lengths[which].clamp_max(t)}
        inside = torch.arange(t, device=values.device) < part["lengths"].unsqueeze(-1)
        rows = self.rows(part)
        features = self.start_features(rows)
        grid = features.new_zeros(*inside.shape, features.shape[-1]).index_put((inside,), features)

        def draw(i: int) -> None:
            labels = starts.window_labels(grid, inside, k, average=i % 4 == 1) if i % 2 else None
            if labels is None:
                weight = starts.random_weights(features, k)
                steps = starts.sticky_steps(k, self.dtype) * len(rows) / k
            else:
                weight = 0.9 * torch.nn.functional.one_hot(labels, k).to(self.dtype) + 0.1 / k
                soft = weight.new_zeros(*inside.shape, k).index_put((inside,), weight)
                steps = torch.einsum("nti,ntj->ij", soft[:, :-1], soft[:, 1:]) + 0.1
            firsts = torch.full((k,), len(which) / k, dtype=self.dtype) + 1.0
            self._start_from(rows, weight, firsts, steps)

        starts.keep_best(self, part, features, restart, draw)
        with torch.no_grad():  # the climbs may have ruled out steps, from where no gradient leads anywhere
            self.transition_probs = 0.98 * self.transition_probs + 0.02 / k
            if self.initial == "free":
                self.initial_probs = 0.9 * self.initial_probs + 0.1 / k

    def _check_end_is_reached(self) -> None:
        possible = self.transition_probs_unconstrained > -math.inf
        reach = possible | torch.eye(self.num_states, dtype=torch.bool, device=possible.device)
        for _ in range(self.num_states):
            reach = (reach.double() @ reach.double()) > 0
        stuck = (~reach[:, -1]).nonzero().flatten().tolist()
        if stuck:
            raise ZooError(
                f"{type(self).__name__}: transition_probs of a left_right chain expected to reach the last state from "
                f"every one, but state {stuck[-1]} cannot. Give its row some weight on the next state."
            )

    def start_statistics(self, complete: Tensor, weight: Tensor) -> dict[str, Any]:
        """The components' statistics of starting labels, one-hot (N, K)."""
        return self.component_statistics(complete, weight)

    def rows(self, x: Data) -> Tensor:
        """All time steps, (M, D); what is missing takes its column's mean."""
        values = x["x"]
        lengths = self._lengths(values, x.get("lengths"))
        seen = values[torch.arange(values.shape[1], device=values.device) < lengths.unsqueeze(-1)]
        holes = seen.isnan()
        if not holes.any():
            return seen
        mean = seen.nanmean(0).nan_to_num(0.0)
        return torch.where(holes, self.fill(mean), seen)

    def measure(self, x: Data) -> None:
        """Keep what the prior and the floor are measured by, of data whose sequences count as often as they do."""
        data, weights = plain(x), self.row_weights(x)
        values = data["x"]
        inside = torch.arange(values.shape[1], device=values.device) < self._lengths(
            values, data.get("lengths")
        ).unsqueeze(-1)
        self.overall = self.pseudo_row(self.rows(data), weights)
        self.take_scale(values[inside], weights)

    def row_weights(self, x: Data) -> Tensor | None:
        weights = weights_of(x)
        if weights is None:
            return None
        data = plain(x)
        return weights.repeat_interleave(self._lengths(data["x"], data.get("lengths")))

    def probe(self, x: Data) -> Data:
        few = {"x": x["x"][:4, :6], "lengths": self._lengths(x["x"], x.get("lengths"))[:4].clamp_max(6)}
        return few

    def sample_like(self, template: Data, num_data: int) -> Tensor:
        """``num_data`` new sequences as long as the template's."""
        return self.sample(num_data, template["x"].shape[1])

    def permute_components(self, order: Tensor) -> None:
        """Relabel: state ``k`` becomes what ``order[k]`` was. The guide is permuted too."""
        self.permute_rows(order)
        with torch.no_grad():
            if self.initial == "free":
                self.start_probs_unconstrained.copy_(self.start_probs_unconstrained[order].clone())
            steps = self.transition_probs_unconstrained
            steps.copy_(steps[order][:, order].clone())
            e = self.encoder
            e.start.copy_(e.start[order].clone())
            e.link.copy_(e.link[order][:, order].clone())
            e.head.weight.copy_(e.head.weight[order].clone())
            e.head.bias.copy_(e.head.bias[order].clone())

    @property
    def num_components(self) -> int:
        """K, under the name mixtures have for it."""
        return self.num_states

    def chain_prior(self) -> priors.Prior:
        """Dirichlet(``concentration``) on a free start and on each row of the transitions."""
        if self.topology != "full":
            raise ZooError(
                f"{type(self).__name__}.prior: topology expected 'full', got {self.topology!r}, whose zeros have no "
                "prior. Use topology='full'."
            )
        free = {"start_probs": self.start_probs} if self.initial == "free" else {}
        rows = {**free, "transition_probs": self.transition_probs}
        return {
            n: fn for name, row in rows.items() for n, fn in priors.dirichlet(name, row, self.concentration).items()
        }
