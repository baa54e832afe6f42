"""Rows of probabilities: expected counts, normalised; Dirichlet prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.automatic.rule import Rule
from zoo.automatic.sums import Sums, Use, Weighted, one
from zoo.core.edges import NARROW, is_simplex, margin_of

__all__ = ["Counts", "likeliest_rows"]


def likeliest_rows(counts: Tensor, old: Tensor, least: Tensor | float) -> Tensor:
    """The rows of probabilities p >= ``least`` where sum(counts * ln p) is highest, (..., K); exact.

    Pseudo-counts below zero (a concentration below 1) draw their entries to the edge. Where a row has no others, the
    sum is highest in a corner: that of the largest count, or where the row stands already. A row without any counts
    stays as it is.
    """
    width = counts.shape[-1]
    least = torch.as_tensor(least, dtype=counts.dtype, device=counts.device).expand(*counts.shape[:-1], 1)
    ahead = counts.clamp_min(0)
    free = ahead > 0
    result = counts
    for _ in range(width):  # entries that would fall below the edge stand at it; the others share what is left
        left = 1 - (width - free.sum(-1, keepdim=True)) * least
        share = torch.where(free, ahead, torch.zeros_like(ahead))
        total = share.sum(-1, keepdim=True)
        result = torch.where(free, left * (share / total.where(total > 0, torch.ones_like(total))), least)
        low = free & (result < least)
        if not low.any():
            break
        free &= ~low
    top = counts == counts.amax(-1, keepdim=True)
    corner = torch.where(top, old, torch.full_like(old, -1.0)).argmax(-1, keepdim=True)
    cornered = least.expand(counts.shape).scatter(-1, corner, 1 - (width - 1) * least)
    result = torch.where((ahead > 0).any(-1, keepdim=True), result, cornered)
    return torch.where((counts == 0).all(-1, keepdim=True), old, result)


class Counts(Rule):
    """Rows of probabilities: expected counts, normalised."""

    name = "counts"
    text = "closed form: expected counts, normalised"
    views = ("identity", "log", "log_softmax", "softmax", "raw")

    def refuses(self, parameter: str, uses: list[Use]) -> str | None:
        space = self.space
        width = space.shapes[parameter][-1] if space.shapes[parameter] else 0
        start = space.offsets[parameter]
        simplex = is_simplex(space.constraints[parameter])
        for use in uses:
            view, ids = use.lookup.view, use.lookup.ids - start
            if not ids.dim() or ids.shape[-1] != width:
                return "is only a part of a row of probabilities"
            known = use.lookup.ids < 0
            impossible = -torch.inf if use.argument == "logits" else 0.0
            learned = ~known.all(-1, keepdim=True)  # a row of which nothing can move (a last state) is let be
            if (use.lookup.constant[known & learned] != impossible).any():
                return "is only a part of a row of probabilities"
            row = torch.where(known, -1, ids // width).amax(-1, keepdim=True)
            order = torch.where(known, -1 - torch.arange(width, device=ids.device), ids).sort(-1).values
            if not (known | (ids // width == row)).all() or not (order.diff(dim=-1) > 0).all():
                return "is no row of probabilities"
            if use.argument == "logits" and view not in ("log", "log_softmax", "raw", "identity"):
                return f"enters through {view}"
            if use.argument == "logits" and view == "identity" and simplex:
                return "enters as logits without a logarithm"
            if use.argument == "probs" and (view != "identity" or not simplex) and view != "softmax":
                return "enters as probabilities that need not add up to one"
            if use.argument == "value" and not (simplex and view == "identity"):
                return f"has a prior on its {view}"
        return None

    def collect(self, weighted: dict[int, Weighted], vector: Tensor) -> dict[str, Any]:
        sums = Sums(self.space, vector)
        for use, given in self._weighted(weighted):
            leaf, ids, weight = use.leaf, use.lookup.ids, given.weight
            if use.argument == "value":  # a Dirichlet prior
                sums.add_weighted(ids, weight.unsqueeze(-1), given.args["concentration"] - 1)
            elif leaf.value is None:  # the label of an inner mixture: its weight is by label already
                sums.add_weighted(ids, weight, one(weight))
            elif leaf.family == "Categorical":
                value = leaf.plain_value(given.args).long()
                shape = torch.broadcast_shapes(value.shape, ids.shape[:-1])
                hit = ids.expand(*shape, ids.shape[-1]).gather(-1, value.expand(shape).unsqueeze(-1)).squeeze(-1)
                sums.add_weighted(hit, weight, one(weight))
            else:
                sums.add_weighted(ids, weight.unsqueeze(-1), leaf.value)
        return {"counts": sums.entries}

    def solve(self, sums: Mapping[str, Any], vector: Tensor) -> None:
        priors = {n for u in self.uses if u.argument == "value" for n in self.space.owner(u.lookup.ids)}
        for name in self.space.owner(torch.cat([u.lookup.ids.reshape(-1) for u in self.uses])):
            counts, old = self.space.split(sums["counts"], name), self.space.split(vector, name)
            inset = margin_of(self.space.constraints[name])
            if inset is not None or name in priors:
                least = NARROW if inset is None else float(inset.margin)
                old.copy_(likeliest_rows(counts, old, least))
                continue
            counts = counts.clamp_min(0)
            total = counts.sum(-1, keepdim=True)
            probs = counts / total.where(total > 0, torch.ones_like(total))
            simplex = is_simplex(self.space.constraints[name])
            new = probs if simplex else probs.log()
            old.copy_(torch.where(total > 0, new, old))
