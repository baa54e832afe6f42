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
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor
from torch.distributions import constraints

from guides.chain import AmortizedChain
from zoo.components.base import Components
from zoo.components.questions import Starting
from zoo.core.checks import number_from, positive
from zoo.core.contract import Axes, parameter, prepared
from zoo.core.copies import Copies
from zoo.core.data import Data, Fields, plain, tensors, weights_of
from zoo.core.memory import rows_at_once
from zoo.core.offers import follows
from zoo.core.pieces import categorical, gathered
from zoo.core.rows import Known, restricted
from zoo.core.sequences import checked, inside, lengths_of, steps_in
from zoo.core.statistics import Statistics
from zoo.densities.distributions import FEW, Selected
from zoo.errors import ZooError, unknown_name
from zoo.models.shared import chain_em
from zoo.models.shared.chain_starts import start
from zoo.models.shared.choices import StatePaths
from zoo.models.shared.copies import ChainCopies
from zoo.models.shared.markov import Marginal, follow, go_on, many_paths, sample_path, stationary
from zoo.structures import Chain

__all__ = ["HiddenMarkov"]

STARTS = ("free", "stationary", "uniform")
TOPOLOGIES = ("full", "left_right")


class HiddenMarkov(Components):
    """Base class of hidden Markov models with K states over rows of D features.

    Data are one sequence (T, D), a batch (N, T, D), or a dict (or tuple) of ``x`` and ``lengths`` (N,): what lies
    beyond a length is never read. With lengths that add up to the rows, x may also be the sequences one below the
    other, (sum of lengths, D). NaN entries are missing, and are summed out.

    Args of every subclass:
        num_states: K. num_features: D. initial: "free", "stationary" or "uniform" distribution of z_1.
        topology: "full", or "left_right". concentration: of a Dirichlet prior on the start and each row, at least 1.
        prior_strength: rows that a prior on emissions counts for. hidden_dim: of the guide's recurrent network.

    Shapes:
        initial_probs: (K,), p(z_1). transition_probs: (K, K), [i, j] = p(z_t = j | z_{t-1} = i); exact zeros stay zero.
        log_marginal(x): (N,), nats, summed over time. posterior(x): Categorical, batch (N, T): p(z_t | x_{1:T}).

    Raises:
        ZooError: arguments outside their ranges; x of another shape, lengths that do not fit, values of no emission.
    """

    reads_as: ClassVar[dict[str, str]] = {"initial_probs": "start_probs"}
    axes: ClassVar[Axes] = {
        "initial_probs": ("component",),
        "transition_probs": ("component", "next component"),
    }
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
        self.initial, self.topology = initial, topology
        self.concentration = number_from(1, concentration, "concentration", who)
        self.prior_strength = number_from(0, prior_strength, "prior_strength", who)
        k = num_states
        start = torch.full((k,), 1.0 / k, dtype=self.dtype)
        steps = torch.full((k, k), 1.0 / k, dtype=self.dtype)
        if topology == "left_right":
            unit = torch.eye(k, dtype=self.dtype)
            start, steps = unit[0], torch.cat((0.5 * (unit + unit.roll(1, 1))[:-1], unit[-1:]))
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
        self.start_probs = self._checked("start_probs", value, "initial_probs")

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
        lengths = lengths_of(x, lengths)
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
        lengths = lengths_of(x, lengths)
        first, steps = self.encoder(x, lengths)
        sample_path(first, steps, lengths)

    def elbo(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The guide's bound on ln p(x), (N,), nats, summed exactly over the guide's chain; differentiable."""
        return self.choices(x, lengths).bound()

    def choices(self, x: Tensor, lengths: Tensor | None = None) -> StatePaths:
        """p(x, z) and q(z | x) of each sequence's path, as tables."""
        lengths = lengths_of(x, lengths)
        first, steps = self.encoder(x, lengths)
        emission = self.emission(x, lengths)
        return StatePaths(self.log_initial, self.log_transition, emission, first, steps, lengths)

    # Exact inference --------------------------------------------------------------------------------------------

    def emission(self, x: Tensor, lengths: Tensor, known: Known | None = None) -> Tensor:
        """ln p(x_t | z_t = k), (N, T, K), nats; -inf for all k but a ``known["z"]``; 0 beyond a sequence's length."""
        if known is not None:
            return restricted(self.emission(x, lengths), known)
        n, t, _ = x.shape
        there = inside(x, lengths)
        if bool(there.all()):
            return self._row_log_prob(x.reshape(n * t, -1)).reshape(n, t, -1)
        packed = self._row_log_prob(x[there])
        out = packed.new_zeros(n, t, packed.shape[-1])
        return out.index_put((there,), packed)

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
        lengths = lengths_of(x, lengths)
        if torch.is_grad_enabled() or known is not None:
            return self._structure(x, lengths, known).log_partition()
        return self._by_sequences(lambda *part: self._structure(*part).log_partition(), x, lengths)

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
        marginals = functools.partial(chain_em.marginals, self)
        return categorical(probs=self._by_sequences(marginals, x, lengths_of(x, lengths)))

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
        steps, state = [], self._last(**prepared(self, x))
        for _ in range(num_steps):
            state = state @ self.transition_probs.detach()
            steps.append(state)
        return torch.stack(steps, 1)

    @torch.no_grad()
    def sample(self, num_data: int, num_steps: int) -> Tensor:
        """New sequences, (num_data, num_steps, D), by torch's generator."""
        if num_data * num_steps * self.num_states > FEW:
            paths = many_paths(self.log_initial, self.log_transition, num_data, num_steps)
            return Selected(self.components(), paths).sample()
        first = dist.Categorical(logits=self.log_initial).sample((num_data,))
        return Selected(self.components(), go_on(self.log_transition, first, num_steps)[:, :-1]).sample()

    def _last(self, x: Tensor, lengths: Tensor) -> Tensor:
        """p(z_T | x_{1:T}) of each sequence's last step, (N, K)."""
        return self._structure(x, lengths).filtered()[torch.arange(len(x)), lengths - 1]

    @torch.no_grad()
    def continuation(self, x: Tensor, lengths: Tensor | None = None, *, num_steps: int, num_samples: int = 1) -> Tensor:
        """Draws of what follows each sequence, (num_samples, N, num_steps, D), by torch's generator."""
        last = dist.Categorical(self._by_sequences(self._last, x, lengths_of(x, lengths))).sample((num_samples,))
        return Selected(self.components(), go_on(self.log_transition, last, num_steps)[..., 1:]).sample()

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
        return chain_em.expected(self, x, lengths_of(x, lengths), hard, weights, known)

    @torch.no_grad()
    def m_step(self, statistics: Statistics) -> list[str]:
        """Closed form for each block; with a stationary start, transitions climb numerically and never fall."""
        return chain_em.maximise(self, statistics)

    @follows("model", "e_step", "m_step", "log_prior", "emission")
    def copies(self, x: Tensor, lengths: Tensor | None = None, *, models: Sequence[HiddenMarkov]) -> Copies | None:
        """The E and M steps of several copies on few steps; None where they cannot be taken at once."""
        return ChainCopies.made(models, x, lengths_of(x, lengths))

    def log_prior(self) -> Tensor:
        """ln p(θ), up to a constant: Dirichlet on rows and start, the conjugate prior of the emissions."""
        return chain_em.log_prior(self)

    def pseudo_counts(self) -> float:
        """How many rows the emission's prior counts for, in each state."""
        return self.prior_strength

    def why_impossible(self, x: Data, which: Tensor) -> str:
        values, lengths = x["x"][which], lengths_of(x["x"], x.get("lengths"))[which]
        cause = self._barred(values[inside(values, lengths)]) or "no path through the states emits these values"
        lacking = ["prior_strength=1"] if self.prior_strength == 0 else []
        if "path" in cause and self.concentration == 1:
            lacking.append("concentration=2")
        return cause + (
            f". Fit with {' and '.join(lacking)} so that what training has not seen stays possible" if lacking else ""
        )

    # Data and starts --------------------------------------------------------------------------------------------

    def num_units(self, x: Data) -> float:
        """Time steps in the data, each as often as its sequence counts."""
        return steps_in(x)

    def validate(self, x: Data) -> dict[str, Tensor]:
        return checked(x, self.num_features, self.check_rows, type(self).__name__)

    @follows("model", "initialize")
    def starting(self, x: Data, init: str, restart: int = 0) -> Starting:
        """From clusters of rows, parts of sequences, or the best of several kinds: see ``chain_starts.py``."""
        return start(self, x, init, restart)

    def start_weight(self, complete: Tensor, weight: Tensor) -> Tensor:
        """Responsibilities of all that a state is made of, for ``complete`` rows (M, D) and states' weight (M, K)."""
        return weight

    def rows(self, x: Data) -> Tensor:
        """All time steps, (M, D); what is missing takes its column's mean."""
        values = x["x"]
        seen = values[inside(values, lengths_of(values, x.get("lengths")))]
        holes = seen.isnan()
        if not holes.any():
            return seen
        mean = seen.nanmean(0).nan_to_num(0.0)
        return torch.where(holes, self.fill(mean), seen)

    def measure(self, x: Data) -> None:
        """Keep what the prior and the floor are measured by, of data whose sequences count as often as they do."""
        data, weights = plain(x), self.row_weights(x)
        values = data["x"]
        self.overall = self.pseudo_row(self.rows(data), weights)
        self.take_scale(values[inside(values, lengths_of(values, data.get("lengths")))], weights)

    def row_weights(self, x: Data) -> Tensor | None:
        weights = weights_of(x)
        if weights is None:
            return None
        data = plain(x)
        return weights.repeat_interleave(lengths_of(data["x"], data.get("lengths")))

    def probe(self, x: Data) -> Data:
        return {"x": x["x"][:4, :6], "lengths": lengths_of(x["x"], x.get("lengths"))[:4].clamp_max(6)}

    def sample_like(self, template: Data, num_data: int) -> Tensor:
        """``num_data`` new sequences as long as the template's."""
        return self.sample(num_data, template["x"].shape[1])

    def permute_components(self, order: Tensor) -> None:
        """Relabel: state ``k`` becomes what ``order[k]`` was. The guide is permuted too."""
        self.permute_rows(order)
        with torch.no_grad():
            if self.initial == "free":
                self.start_probs_unconstrained.copy_(self.start_probs_unconstrained[order].clone())
            self.transition_probs_unconstrained.copy_(self.transition_probs_unconstrained[order][:, order].clone())
        self.encoder.permute(order)

    @property
    def num_components(self) -> int:
        """K, under the name mixtures have for it."""
        return self.num_states
