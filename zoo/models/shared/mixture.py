"""What all mixtures share: z picks one of K components, x comes from it.

    z ~ Categorical(weights)
    x | z ~ component z

McLachlan & Peel (2000), Finite Mixture Models, chapter 2. A subclass gives ``components()``, its sufficient
statistics and its M step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial, reduce
from operator import add
from typing import ClassVar

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from guides import AmortizedCategorical
from zoo.components import starts
from zoo.components.base import Components
from zoo.components.climbs import set_state
from zoo.components.clusters import cluster, num_distinct
from zoo.components.first_steps import FirstStep, FirstSteps
from zoo.components.questions import Starting
from zoo.core.checks import positive
from zoo.core.contract import Axes, parameter
from zoo.core.copies import Copies
from zoo.core.data import Data, split
from zoo.core.memory import PIECE_ROWS, rows_at_once
from zoo.core.offers import follows
from zoo.core.parallel import in_parallel
from zoo.core.pieces import categorical, gathered
from zoo.core.rows import Known, restricted
from zoo.core.statistics import Statistics, wide
from zoo.densities.distributions import FEW, Selected
from zoo.models.shared.choices import OneOfMany
from zoo.models.shared.copies import MixtureCopies

__all__ = ["Mixture"]

_LOG2_E = 1 / math.log(2)


class Mixture(Components):
    """Base class of mixtures with K components over vectors of D features.

    Args of every subclass:
        num_components: K, at least 1. num_features: D, at least 1.
        hidden_dims: widths of the encoder's hidden layers; () makes its logits linear.
        num_coordinates: of a row as the encoder sees it (``coordinates``); None takes D.

    Raises:
        ZooError: sizes below 1.

    Shapes:
        x: (N, D).
        log_marginal(x): (N,), nats. posterior(x): Categorical of batch shape (N,) over K.
        e_step(x): ``counts`` (K,), and what ``component_statistics`` adds.
    """

    axes: ClassVar[Axes] = {"weights": ("component",)}
    keeps: tuple[str, ...] = ("weights",)
    in_pieces = ("e_step", "log_marginal", "posterior", "predict")
    weights: Tensor
    weights_unconstrained: Tensor
    encoder: AmortizedCategorical

    def __init__(
        self, num_components: int, num_features: int, hidden_dims: Sequence[int], num_coordinates: int | None = None
    ) -> None:
        super().__init__()
        who = type(self).__name__
        self.num_components = positive(num_components, "num_components", who)
        self.num_features = positive(num_features, "num_features", who)
        equal = torch.full((num_components,), 1.0 / num_components, dtype=self.dtype)
        self.weights = parameter(equal, constraints.simplex)
        self.encoder = AmortizedCategorical(num_coordinates or num_features, num_components, hidden_dims)
        self.encoder.to(self.dtype)

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Categorical(logits=self.log_mixing))
            pyro.sample("x", Selected(self.components(), z), obs=x)

    def guide(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", self.encoder(self.coordinates(x)))

    def choices(self, x: Tensor) -> OneOfMany:
        """p(x, z) and q(z | x) of each datum's z, as tables."""
        return OneOfMany(self.log_mixing, self.component_log_prob(x), self.encoder.log_probs(self.coordinates(x)))

    def withholds(self) -> dict[str, str]:
        known = getattr(type(self.encoder), "forward", None) is AmortizedCategorical.forward
        return {} if known else {"choices": "its encoder is a network of another kind than its own"}

    def coordinates(self, x: Tensor) -> Tensor:
        """Rows (N, D) as the encoder and k-means see them, (N, num_coordinates): where distances mean something."""
        return x

    @property
    def log_mixing(self) -> Tensor:
        """ln weights, (K,), -inf for a component that has died."""
        return torch.log_softmax(self.weights_unconstrained, -1)

    def log_joint(self, x: Tensor, known: Known | None = None) -> Tensor:
        """ln p(x_n, z_n = k), (N, K), nats; -inf for all k but the ``known["z"]``."""
        return restricted(self.component_log_prob(x) + self.log_mixing, known)

    def joint_pieces(self, x: Tensor) -> Iterator[tuple[Tensor, float]]:
        """:meth:`log_joint`, piece by piece and without gradient: (K, B) of the next B rows, which may be overwritten.

        Beside each, how far two of a row's entries may lie apart and still be equal but for rounding.
        """
        with torch.no_grad():
            for piece in x.split(rows_at_once(self.datum_size(x))):
                yield self.log_joint(piece).mT, 0.0

    def datum_size(self, x: Data) -> int:
        return self.row_size()

    def log_marginal(self, x: Tensor, known: Known | None = None) -> Tensor:
        """ln p(x_n), (N,), nats, or ln p(x_n, z_n) where z_n is known; exact, differentiable; -inf if impossible."""
        if not torch.is_grad_enabled() and known is None:
            return gathered((joint.logsumexp(0).to(x.dtype) for joint, _ in self.joint_pieces(x)), len(x))
        log_joint = self.log_joint(x, known)
        log_marginal = log_joint.logsumexp(-1)
        impossible = log_marginal == -torch.inf
        if not impossible.any():
            return log_marginal
        # One impossible datum must not turn the gradient of the others into NaN, as logsumexp of nothing does.
        return log_joint.masked_fill(impossible.unsqueeze(-1), 0.0).logsumexp(-1).masked_fill(impossible, -torch.inf)

    def posterior(self, x: Tensor) -> dist.Categorical:
        """p(z_n | x_n), batch shape (N,) over K; the prior where x_n is impossible."""
        if not torch.is_grad_enabled():
            return categorical(gathered(self._log_posteriors(x), len(x)))
        log_joint = self.log_joint(x)
        impossible = log_joint.amax(-1, keepdim=True) == -torch.inf
        return dist.Categorical(logits=torch.where(impossible, self.log_mixing, log_joint))

    def _log_posteriors(self, x: Tensor) -> Iterator[Tensor]:
        for joint, _ in self.joint_pieces(x):
            peak = joint.amax(0)
            if (peak == -torch.inf).any():
                joint = torch.where(peak == -torch.inf, self.log_mixing.unsqueeze(-1), joint)
                peak = joint.amax(0)
            joint = joint - peak
            # torch's exp2 is three times as fast as its exp.
            joint -= (joint * _LOG2_E).exp2_().sum(0).log_()
            yield joint.mT.to(x.dtype)

    @torch.no_grad()
    def e_step(
        self, x: Tensor, hard: bool = False, weights: Tensor | None = None, known: Known | None = None
    ) -> Statistics:
        """Expected sufficient statistics under p(z | x), or at the most probable z (``hard``).

        Args:
            weights: how often each row counts, (N,). known: ``known["z"]`` (N,), -1 where z is not known.
        """
        pieces = split((x, weights, known), PIECE_ROWS)
        calls = [partial(self._e_step, rows, counted, sure, hard) for rows, counted, sure in pieces]
        return reduce(add, in_parallel(calls, pure=True))

    def _e_step(self, x: Tensor, weights: Tensor | None, known: Known | None, hard: bool) -> Statistics:
        log_joint = wide(self.log_joint(x, known))
        log_marginal = log_joint.logsumexp(-1, keepdim=True)
        if hard:
            best, index = log_joint.max(-1, keepdim=True)
            weight = torch.zeros_like(log_joint).scatter_(-1, index, 1.0)
        else:
            best = log_marginal
            weight = (log_joint - log_marginal.clamp_min(torch.finfo(log_joint.dtype).min)).exp()
        if weights is not None:
            weight, log_marginal, best = (wide(weights).unsqueeze(-1) * v for v in (weight, log_marginal, best))
        count = x.shape[0] if weights is None else float(weights.sum())
        return self._statistics(x, weight, log_marginal.sum(), best.sum(), count)

    def _statistics(
        self, x: Tensor, weight: Tensor, log_likelihood: Tensor, objective: Tensor, count: float | None = None
    ) -> Statistics:
        count = x.shape[0] if count is None else count
        return Statistics(
            count, log_likelihood, objective, counts=weight.sum(0), **self.component_statistics(x, weight)
        )

    def m_step(self, statistics: Statistics) -> list[str]:
        """Set weights and components to the maximum of the expected complete-data likelihood."""
        if not self.stays("weights"):
            counts = statistics["counts"]
            self.weights = counts / counts.sum()
        return self.update_components(statistics)

    @follows("model", "e_step", "_e_step", "_statistics", "m_step", "log_joint")
    def copies(self, x: Tensor, models: Sequence[Mixture]) -> Copies | None:
        """The E and M steps of several copies on few rows; None where they cannot be taken at once."""
        return MixtureCopies(models, x) if len(x) <= PIECE_ROWS and MixtureCopies.serves(self) else None

    def validate(self, x: Data) -> Tensor:
        return self.check_rows(x)

    def rows(self, x: Data) -> Tensor:
        return x

    @follows("model", "initialize")
    def starting(self, x: Tensor, init: str, restart: int = 0) -> Starting:
        """Cluster the data and take one M step from that hard assignment; the encoder takes the data's scale.

        Where there are fewer distinct rows than components, the start is the best of random responsibilities.
        """
        points = self.coordinates(x)
        self.encoder.set_from(points)
        if init == "current":
            self.enter_support(x)
            return
        k = self.num_components
        if not self.collapses and num_distinct(points, k) < k:
            yield from self._start_from_best(x, restart)
            self.leave_boundary(x, self.weights.detach() * x.shape[0], shake=False)
            return
        labels = yield cluster(points, k, init, lloyd=restart == 0, who=type(self).__name__)
        weights = torch.eye(k, dtype=x.dtype, device=x.device)
        if len(x) <= PIECE_ROWS:
            set_state(self, (yield FirstSteps(self, x, x, [_first_step(weights[labels])]))[0])
        else:
            self._start_from(x, labels, weights)
        self.leave_boundary(x, self.weights.detach() * x.shape[0])

    def _start_from(self, x: Tensor, labels: Tensor, weights: Tensor) -> None:
        """The M step from labels (N,) of many rows, whose responsibilities are the ``weights`` (K, K)."""
        zero = torch.zeros((), dtype=x.dtype)

        def of_piece(rows: Tensor, chosen: Tensor) -> Statistics:
            return self._statistics(rows, weights[chosen], zero, zero)

        pieces = zip(x.split(PIECE_ROWS), labels.split(PIECE_ROWS), strict=True)
        self.m_step(reduce(add, in_parallel([partial(of_piece, *piece) for piece in pieces], pure=True)))

    def _start_from_best(self, x: Tensor, restart: int) -> Starting:
        part = x[torch.randperm(x.shape[0])[: starts.SHORT].to(x.device)]

        def draw(_: int) -> FirstStep:
            return _first_step(starts.random_weights(part, self.num_components))

        yield from starts.keep_best(self, part, part, part, restart, draw)

    def predict(self, x: Tensor) -> Tensor:
        """The most probable component of each datum, (N,) integers, the lowest of equals."""
        return gathered(map(_first_largest, self.joint_pieces(x)), len(x))

    @torch.no_grad()
    def sample_like(self, template: Tensor, num_data: int) -> Tensor:
        """``num_data`` new rows, by torch's generator."""
        if num_data * self.num_components <= FEW:  # as the program draws
            z = dist.Categorical(logits=self.log_mixing).expand([num_data]).sample()
        else:
            z = torch.multinomial(self.log_mixing.exp(), num_data, replacement=True)
        return Selected(self.components(), z).sample()

    def permute_components(self, order: Tensor) -> None:
        """Relabel: component ``k`` becomes what ``order[k]`` was. Guides are permuted too."""
        self.permute_rows(order)
        with torch.no_grad():
            self.weights_unconstrained.copy_(self.weights_unconstrained[order].clone())
        self.encoder.permute(order)


def _first_step(weight: Tensor) -> FirstStep:
    return FirstStep(weight, {"counts": weight.sum(0)})


def _first_largest(piece: tuple[Tensor, float]) -> Tensor:
    joint, slack = piece
    # By the largest of numbers that fall from the first on: torch's argmax down the columns takes three times as long.
    falling = torch.arange(len(joint), 0, -1, dtype=torch.int32, device=joint.device).unsqueeze(-1)
    first = torch.where(joint >= joint.amax(0) - slack, falling, 0).amax(0)
    return (len(joint) - first).where(first > 0, 0).long()
