"""Independent binary features, in log space."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from zoo.components.base import Components
from zoo.core.checks import assigned, rows
from zoo.core.contract import Axes
from zoo.core.data import Data
from zoo.core.statistics import Statistics, weighted_sum, wide
from zoo.densities.distributions import ExactBernoulli
from zoo.errors import ZooError

__all__ = ["BernoulliComponents"]


class BernoulliComponents(Components):
    """K groups of D independent binary features; ``logits`` (K, D) may be infinite: probabilities 0 and 1 are exact."""

    reads_as: ClassVar[dict[str, str]] = {"probs": "logits"}
    axes: ClassVar[Axes] = {"probs": ("component", "feature")}
    per_component: tuple[str, ...] = ("logits",)
    independent = True
    keeps: tuple[str, ...] = ("logits",)

    def add_components(self, k: int, d: int) -> None:
        """Create the parameters of ``k`` components over ``d`` features; called by a model's constructor."""
        # Distinct groups: equal ones would stay equal under EM and EG alike.
        self.logits = nn.Parameter(torch.randn(k, d, dtype=self.dtype))

    @property
    def probs(self) -> Tensor:
        """p(x_d = 1 | z = k), (K, D), in [0, 1]."""
        return self.logits.sigmoid()

    @probs.setter
    def probs(self, value: Any) -> None:
        who = f"{type(self).__name__}.probs"
        new = assigned(value, self.logits, who)
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
        missing = x.isnan()
        there = (~missing).to(x.dtype) if missing.any() else torch.ones_like(x[:1])
        x = x.nan_to_num(0.0)
        log_prob = x @ finite.mT + there @ silent.mT
        if not (never.any() or always.any()):
            return log_prob
        never, always = never.to(x.dtype), always.to(x.dtype)
        violations = x @ (never - always).mT + there @ always.mT  # (N, K), whole numbers
        return log_prob.masked_fill(violations > 0.5, -torch.inf)

    def rules_out(self) -> bool:
        return bool(self.logits.isinf().any())

    def component_statistics(self, x: Tensor, weight: Tensor) -> dict[str, Any]:
        # Both, not one and the total: a class that never sees a 0 then has a probability of exactly 1.
        x, weight = wide(x), wide(weight)
        return {"ones": weight.mT @ x.nan_to_num(0.0), "zeros": weight.mT @ (1 - x).nan_to_num(0.0)}

    def update_components(self, statistics: Statistics) -> list[str]:
        if self.stays("logits"):
            return []
        ones, zeros, strength = statistics["ones"], statistics["zeros"], self.pseudo_counts()
        if strength:
            ones, zeros = ones + strength * self.overall, zeros + strength * (1 - self.overall)
        alive = ones + zeros > 0
        logits = ones.log() - zeros.log()
        self._set_logits(logits.where(alive, self.logits.detach()))
        return []

    def fill(self, mean: Tensor) -> Tensor:
        return mean.round()  # whole, as they are

    def overall_statistic(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        count = x.shape[0] if weights is None else float(weights.sum())
        return (weighted_sum(x, weights) + 0.5) / (count + 1)  # inside (0, 1), also for a feature that never changes

    def component_log_prior(self) -> Tensor:
        return (self.overall * logsigmoid(self.logits) + (1 - self.overall) * logsigmoid(-self.logits)).sum()

    def leave_boundary(self, x: Tensor, counts: Tensor, shake: bool = True) -> None:
        overall = (x.sum(0) + 0.5) / (x.shape[0] + 1)  # (D,), inside (0, 1)
        counts = counts.unsqueeze(-1)
        self.probs = (counts * self.probs.detach() + overall) / (counts + 1)

    def check_rows(self, x: Data) -> Tensor:
        x = super().check_rows(x)
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
