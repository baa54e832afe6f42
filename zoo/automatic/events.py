"""Rates: expected events over exposure; Gamma prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.automatic.rule import Rule
from zoo.automatic.sums import Sums, Use, Weighted, one

__all__ = ["Events"]


class Events(Rule):
    """Rates: expected number of events over expected exposure."""

    name = "events"
    text = "closed form: expected events over exposure"
    views = ("identity", "exp", "log", "reciprocal", "softplus", "square", "sqrt")

    def refuses(self, parameter: str, uses: list[Use]) -> str | None:
        if any(use.argument == "value" and use.lookup.view != "identity" for use in uses):
            return "has a prior on a function of it"
        if any(u.argument == "value" for u in uses) and any(u.lookup.view != "identity" for u in uses):
            return "has a prior, and enters through a function"
        return super().refuses(parameter, uses)

    def collect(self, weighted: dict[int, Weighted], vector: Tensor) -> dict[str, Any]:
        events, exposure = Sums(self.space, vector), Sums(self.space, vector)
        for use, given in self._weighted(weighted):
            leaf, ids, weight, args = use.leaf, use.lookup.ids, given.weight, given.args
            if use.argument == "value":  # a Gamma prior
                events.add_weighted(ids, weight, args["concentration"] - 1)
                exposure.add_weighted(ids, weight, args["rate"])
                continue
            assert leaf.value is not None
            x = leaf.value.to(weight.dtype)
            known = args.get("concentration", one(x))
            events.add_weighted(ids, weight, x if leaf.family == "Poisson" else known)
            exposure.add_weighted(ids, weight, one(x) if leaf.family == "Poisson" else x)
        return {"events": events.entries, "exposure": exposure.entries}

    def solve(self, sums: Mapping[str, Any], vector: Tensor) -> None:
        events, exposure = sums["events"], sums["exposure"]
        touched = exposure > 0
        rate = events / exposure.where(touched, torch.ones_like(exposure))
        least = self._least(vector, 0.0, torch.zeros_like(touched))
        self._write(vector, torch.maximum(rate.clamp_min(0), least), touched)
