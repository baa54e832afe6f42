"""Probabilities of success: expected successes over trials; Beta prior."""

from __future__ import annotations

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

    def update(self, weighted: dict[int, Weighted], vector: Tensor) -> None:
        successes, failures = Sums(self.space, vector), Sums(self.space, vector)
        logits = torch.zeros(self.space.size, dtype=torch.bool)
        under_prior = torch.zeros_like(successes.entries, dtype=torch.bool)
        for use, given in self._weighted(weighted):
            leaf, ids, weight, args = use.leaf, use.lookup.ids, given.weight, given.args
            if use.argument == "value":  # a Beta prior
                under_prior[ids[ids >= 0]] = True
                successes.add_weighted(ids, weight, args["concentration1"] - 1)
                failures.add_weighted(ids, weight, args["concentration0"] - 1)
                continue
            if use.argument == "logits":
                logits[ids[ids >= 0]] = True
            assert leaf.value is not None
            won, lost = {
                "Bernoulli": lambda x, _: (x, 1 - x),
                "Binomial": lambda x, n: (x, n - x),
                "Geometric": lambda x, _: (one(x), x),
                "NegativeBinomial": lambda x, n: (x, n),
            }[leaf.family](leaf.value.to(weight.dtype), args.get("total_count", weight.new_ones(())).to(weight.dtype))
            successes.add_weighted(ids, weight, won)
            failures.add_weighted(ids, weight, lost)
        both = torch.stack([successes.entries, failures.entries], -1)
        both = torch.where(under_prior.unsqueeze(-1), both, both.clamp_min(0))
        least = self._least(vector, NARROW, under_prior).unsqueeze(-1)
        share = likeliest_rows(both, torch.stack([vector, 1 - vector], -1), least)[..., 0]
        touched = (both != 0).any(-1)
        self._write(vector, torch.where(logits.to(share.device), torch.logit(share), share), touched)
