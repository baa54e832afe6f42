"""Bernoulli mixture model, also known as latent class analysis: binary answers from one of K classes.

    z ~ Categorical(weights)
    x_d | z ~ Bernoulli(probs[z, d])      d = 1..D, independent given z

Lazarsfeld & Henry (1968), Latent Structure Analysis, chapter 2; EM: McLachlan & Peel (2000), Finite Mixture Models,
chapter 5; Bishop (2006), Pattern Recognition and Machine Learning, section 9.3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from zoo.batch import Data
from zoo.checks import rows
from zoo.distributions import ExactBernoulli
from zoo.errors import ZooError
from zoo.models.mixture import Mixture
from zoo.statistics import Statistics

__all__ = ["BernoulliMixture"]


class BernoulliMixture(Mixture):
    """Mixture of K classes of D independent binary features.

    Probabilities of exactly 0 and 1 are kept: they are the maximum likelihood of a feature that is constant in a
    class, and what they forbid scores -inf.

    Args:
        num_components: K, at least 1.
        num_features: D, at least 1.
        hidden_dims: widths of the encoder's hidden layers; none by default, as the exact posterior's logits are
            linear in x.

    Shapes:
        x: (N, D), entries 0 or 1.
        weights: (K,). probs: (K, D), p(x_d = 1 | z = k). logits: (K, D), ln probs / (1 - probs), may be infinite.
        log_marginal(x): (N,), nats. posterior(x): Categorical, batch (N,), K outcomes.
        e_step(x): ``counts`` (K,), ``ones`` and ``zeros`` (K, D), how often each feature is 1 and 0 by class.

    Raises:
        ZooError: x of another shape, or with entries other than 0 and 1.

    Example:
        >>> model, x = tiny()
        >>> model.log_marginal(x).shape
        torch.Size([12])
    """

    reference = "Lazarsfeld & Henry (1968), Latent Structure Analysis; McLachlan & Peel (2000), ch. 5"
    per_component = ("weights", "logits")

    def __init__(self, num_components: int, num_features: int, hidden_dims: Sequence[int] = ()) -> None:
        super().__init__(num_components, num_features, hidden_dims)
        # Distinct classes: equal ones would stay equal under EM and EG alike.
        self.logits = nn.Parameter(torch.randn(num_components, num_features, dtype=self.dtype))

    @property
    def probs(self) -> Tensor:
        """p(x_d = 1 | z = k), (K, D), in [0, 1]."""
        return self.logits.sigmoid()

    @probs.setter
    def probs(self, value: Any) -> None:
        who = f"{type(self).__name__}.probs"
        try:
            new = torch.as_tensor(value, dtype=self.logits.dtype, device=self.logits.device)
        except (TypeError, ValueError, RuntimeError):
            raise ZooError(f"{who} expected a tensor or an array, got {type(value).__name__}.") from None
        if new.shape != self.logits.shape:
            shape = tuple(self.logits.shape)
            raise ZooError(f"{who} expected shape {shape}, got {tuple(new.shape)}. Reshape it first.")
        outside = ~((new >= 0) & (new <= 1))
        if outside.any():
            raise ZooError(f"{who} expected values in [0, 1], got {float(new[outside][0]):.4g}. Clip it.")
        self._set_logits(torch.logit(new))

    def _set_logits(self, logits: Tensor) -> None:
        with torch.no_grad():
            self.logits.copy_(logits)

    def components(self) -> dist.TorchDistribution:
        return ExactBernoulli(logits=self.logits).to_event(1)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """ln p(x_n | z_n = k), (N, K), nats: one matrix product, with infinite logits taken apart (0 * inf is NaN)."""
        never, always = self.logits == -torch.inf, self.logits == torch.inf
        finite = self.logits.masked_fill(never | always, 0.0)
        # ln p(x) = x logit + ln(1 - p); a certain feature contributes 0 where it is as it must be.
        silent = logsigmoid(-finite).masked_fill(never | always, 0.0)
        log_prob = x @ finite.mT + silent.sum(-1)
        if not (never.any() or always.any()):
            return log_prob
        never, always = never.to(x.dtype), always.to(x.dtype)
        violations = x @ (never - always).mT + always.sum(-1)  # (N, K), whole numbers
        return log_prob.masked_fill(violations > 0.5, -torch.inf)

    def weighted_statistics(self, x: Tensor, responsibilities: Tensor) -> dict[str, Tensor]:
        # Both, not one and the total: a class that never sees a 0 then has a probability of exactly 1.
        return {"ones": responsibilities.mT @ x, "zeros": responsibilities.mT @ (1 - x)}

    def update_components(self, statistics: Statistics) -> list[str]:
        alive = (statistics["counts"] > 0).unsqueeze(-1)
        logits = statistics["ones"].log() - statistics["zeros"].log()
        self._set_logits(logits.where(alive, self.logits.detach()))
        return []

    def initialize(self, x: Tensor, init: str, restart: int = 0) -> None:
        """Cluster, one M step, then off the boundary: at a probability of 0 or 1 no gradient leads anywhere."""
        super().initialize(x, init, restart)
        if init == "current":
            return
        overall = (x.sum(0) + 0.5) / (x.shape[0] + 1)  # (D,), inside (0, 1)
        counts = self.weights.detach().unsqueeze(-1) * x.shape[0]
        self.probs = (counts * self.probs.detach() + overall) / (counts + 1)

    def validate(self, x: Data) -> Tensor:
        x = super().validate(x)
        bad = (x != 0) & (x != 1)
        if bad.any():
            raise ZooError(
                f"{type(self).__name__}: x expected entries 0 or 1, got {float(x[bad][0]):g} in {rows(bad)}. "
                "Binarise it first, for instance x > x.mean()."
            )
        return x

    def align_features(self) -> Tensor:
        """What to match components by, (K, D)."""
        return self.probs.detach()


def tiny() -> tuple[BernoulliMixture, Tensor]:
    """The smallest honest instance, and data from it."""
    model = BernoulliMixture(num_components=2, num_features=3)
    model.weights = torch.tensor([0.4, 0.6])
    model.probs = torch.tensor([[0.9, 0.8, 0.3], [0.2, 0.1, 0.6]])
    generator = torch.Generator().manual_seed(0)
    z = torch.bernoulli(torch.full((12,), 0.6, dtype=torch.float64), generator=generator).long()
    return model, torch.bernoulli(model.probs.detach()[z], generator=generator)
