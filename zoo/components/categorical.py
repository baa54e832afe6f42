"""Symbols of a finite alphabet, in log space."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.components.base import Components
from zoo.core.checks import rows
from zoo.core.contract import Axes, parameter
from zoo.core.data import Data
from zoo.core.statistics import Statistics, weighted_sum, wide
from zoo.errors import ZooError

__all__ = ["CategoricalComponents"]


class CategoricalComponents(Components):
    """K distributions over V symbols; a row is one symbol (D = 1). emission_probs (K, V), zeros are kept exactly."""

    axes: ClassVar[Axes] = {"emission_probs": ("component", "symbol")}
    per_component: tuple[str, ...] = ("emission_probs",)
    independent = True
    keeps: tuple[str, ...] = ("emission_probs",)
    takes_symbols = True
    metric = False
    emission_probs: Tensor
    emission_probs_unconstrained: Tensor

    def add_components(self, k: int, num_symbols: int) -> None:
        """Create the parameters of ``k`` components over ``num_symbols``; called by a model's constructor."""
        self.num_symbols = num_symbols
        draws = 0.5 + torch.rand(k, num_symbols, dtype=self.dtype)
        self.emission_probs = parameter(draws / draws.sum(-1, keepdim=True), constraints.simplex)

    @property
    def log_emission_probs(self) -> Tensor:
        """ln emission_probs, (K, V); -inf where a state never emits a symbol."""
        return torch.log_softmax(self.emission_probs_unconstrained, -1)

    def components(self) -> dist.TorchDistribution:
        return OneSymbol(logits=self.log_emission_probs)

    def component_log_prob(self, x: Tensor) -> Tensor:
        missing = x[:, 0].isnan()
        log_prob = self.log_emission_probs.mT[x[:, 0].nan_to_num(0.0).long()]
        return log_prob.masked_fill(missing.unsqueeze(-1), 0.0) if missing.any() else log_prob

    def rules_out(self) -> bool:
        return bool((self.log_emission_probs == -torch.inf).any())

    def name_rows(self, rows: Tensor) -> str:
        symbols = rows[:, 0].long().unique().tolist()
        named = ", ".join(map(str, symbols[:5])) + (", ..." if len(symbols) > 5 else "")
        return f"symbol{'s' if len(symbols) > 1 else ''} {named}"

    def component_statistics(self, x: Tensor, weight: Tensor) -> dict[str, Any]:
        seen = ~x[:, 0].isnan()
        symbols, weight = x[seen, 0].long(), wide(weight[seen])
        table = weight.new_zeros(self.num_symbols, weight.shape[1]).index_add_(0, symbols, weight)
        return {"symbols": table.mT}

    def update_components(self, statistics: Statistics) -> list[str]:
        if self.stays("emission_probs"):
            return []
        table, strength = statistics["symbols"], self.pseudo_counts()
        if strength:
            table = table + strength * self.overall
        total = table.sum(-1, keepdim=True)
        probs = table / total.where(total > 0, torch.ones_like(total))
        self.emission_probs = probs.where(total > 0, self.emission_probs.detach())
        return []

    def fill(self, mean: Tensor) -> Tensor:
        return mean.round()  # whole, as they are

    def overall_statistic(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        there = ~x[:, 0].isnan()
        symbols, counted = x[there, 0].long(), None if weights is None else weights[there]
        table = torch.bincount(symbols, counted, minlength=self.num_symbols).to(self.dtype)
        return table / (max(1, len(symbols)) if counted is None else counted.sum().clamp_min(1e-300))

    def pseudo_row(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The symbols' shares, (V,); where some do not occur, with half a symbol more of each: none is impossible."""
        shares = self.overall_statistic(x, weights)
        if (shares > 0).all():
            return shares
        count = float(weighted_sum((~x[:, 0].isnan()).to(self.dtype), weights))
        return (count * shares + 0.5) / (count + 0.5 * self.num_symbols)

    def component_log_prior(self) -> Tensor:
        return torch.special.xlogy(self.overall, self.emission_probs).sum()

    def start_features(self, rows: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(rows[:, 0].long(), self.num_symbols).to(rows.dtype)

    def leave_boundary(self, x: Tensor, counts: Tensor, shake: bool = True) -> None:
        uniform = torch.full_like(self.emission_probs, 1 / self.num_symbols)
        counts = counts.unsqueeze(-1)
        if not shake:
            self.emission_probs = (counts * self.emission_probs.detach() + uniform) / (counts + 1)
            return
        # Not only smoothed: shaken a little, as states with equal emissions would stay equal.
        shaken = uniform * (0.5 + torch.rand_like(uniform))
        mixed = counts * self.emission_probs.detach() + shaken * (1 + counts)
        self.emission_probs = mixed / mixed.sum(-1, keepdim=True)

    def check_rows(self, x: Data) -> Tensor:
        bad = ~x.isnan() & ((x != x.round()) | (x < 0) | (x >= self.num_symbols))
        if bad.any():
            raise ZooError(
                f"{type(self).__name__}: x expected symbols 0 to {self.num_symbols - 1}, got {float(x[bad][0]):g} in "
                f"{rows(bad)}. Recode the symbols or raise num_symbols."
            )
        return x

    def align_features(self) -> Tensor:
        """What to match states by, (K, V)."""
        return self.emission_probs.detach()


class OneSymbol(dist.Categorical):
    """A Categorical over rows of one symbol, event shape (1,)."""

    @property
    def event_shape(self) -> torch.Size:
        return torch.Size([1])

    def expand(self, batch_shape: Any, _instance: Any = None) -> OneSymbol:
        return OneSymbol(logits=self.logits.expand(*batch_shape, self.logits.shape[-1]), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        logits, index = self.logits, value.long()
        shape = torch.broadcast_shapes(logits.shape[:-1], index.shape[:-1])
        return logits.expand(*shape, -1).gather(-1, index.expand(*shape, 1)).squeeze(-1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008 (torch's own signature)
        return super().sample(sample_shape).unsqueeze(-1).to(self.logits.dtype)
