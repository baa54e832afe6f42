"""Probabilities of success: expected successes over trials; Beta prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.automatic.counts import likeliest_rows
from zoo.automatic.rule import Rule
from zoo.automatic.sums import Sums, Use, Weighted, one
from zoo.core.edges import NARROW

__all__ = ["Trials"]


class Trials(Rule):
    """Probabilities of success: expected successes over expected trials."""

    name = "trials"
    text = "closed form: expected successes over trials"
    views = ("identity", "logit", "sigmoid", "complement", "exp", "log")

    def refuses(self, parameter: str, uses: list[Use]) -> str | None:
        if len({use.argument for use in uses} - {"value"}) > 1:
            return "enters as probabilities and as logits"
        for use in uses:
            if use.argument == "logits" and use.lookup.view not in ("identity", "logit"):
                return f"enters as logits through {use.lookup.view}"
            if use.argument == "value" and use.lookup.view != "identity":
                return f"has a prior on its {use.lookup.view}"
        return super().refuses(parameter, uses)

    def collect(self, weighted: dict[int, Weighted], vector: Tensor) -> dict[str, Any]:
        successes, failures = Sums(self.space, vector), Sums(self.space, vector)
        for use, given in self._weighted(weighted):
            leaf, ids, weight, args = use.leaf, use.lookup.ids, given.weight, given.args
            if use.argument == "value":  # a Beta prior
                successes.add_weighted(ids, weight, args["concentration1"] - 1)
                failures.add_weighted(ids, weight, args["concentration0"] - 1)
                continue
            assert leaf.value is not None
            won, lost = {
                "Bernoulli": lambda x, _: (x, 1 - x),
                "Binomial": lambda x, n: (x, n - x),
                "Geometric": lambda x, _: (one(x), x),
                "NegativeBinomial": lambda x, n: (x, n),
            }[leaf.family](leaf.value.to(weight.dtype), args.get("total_count", weight.new_ones(())).to(weight.dtype))
            successes.add_weighted(ids, weight, won)
            failures.add_weighted(ids, weight, lost)
        return {"successes": successes.entries, "failures": failures.entries}

    def solve(self, sums: Mapping[str, Any], vector: Tensor) -> None:
        logits, under_prior = (self._entries(vector, argument) for argument in ("logits", "value"))
        both = torch.stack([sums["successes"], sums["failures"]], -1)
        both = torch.where(under_prior.unsqueeze(-1), both, both.clamp_min(0))
        least = self._least(vector, NARROW, under_prior).unsqueeze(-1)
        share = likeliest_rows(both, torch.stack([vector, 1 - vector], -1), least)[..., 0]
        touched = (both != 0).any(-1)
        self._write(vector, torch.where(logits, torch.logit(share), share), touched)

    def _entries(self, like: Tensor, argument: str) -> Tensor:
        """Which entries are used as this argument."""
        there = torch.zeros_like(like, dtype=torch.bool)
        for use in self.reaching:
            if use.argument == argument:
                there[use.lookup.ids[use.lookup.ids >= 0]] = True
        return there
