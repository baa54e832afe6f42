"""Gaussian locations and scales: weighted means and scatters, one after the other (Meng & Rubin 1993)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.automatic.cells import Part, Parts, moments, overall_variance
from zoo.automatic.enumerated import shown
from zoo.automatic.lookup import VIEWS
from zoo.automatic.rule import Rule, natural
from zoo.automatic.sums import Sums, Use, Weighted, one
from zoo.core.statistics import Moments
from zoo.densities.covariance import floored_factor

__all__ = ["FLOOR", "Gaussians"]


#: No variance falls below this fraction of the data's own: a component on a single datum has no likeliest scale.
FLOOR = 1e-6


class Gaussians(Rule):
    """Means, then scales, of Normal, LogNormal and MultivariateNormal leaves.

    Its uses are of two kinds of parameters; a parameter is one or the other.
    """

    name = "gaussian"
    text = "closed form: weighted mean"
    scale_text = "closed form: weighted scatter about the mean"
    views: tuple[str, ...] = ("identity", "negative")
    scale_views = ("identity", "exp", "sqrt", "reciprocal", "rsqrt", "softplus")
    variance_views = ("identity", "exp", "square", "reciprocal", "softplus")

    def refuses(self, parameter: str, uses: list[Use]) -> str | None:
        arguments = {use.argument for use in uses} - {"value"}
        if "loc" in arguments:
            if len(arguments) > 1:
                return "is a location and a scale"
            reason = super().refuses(parameter, uses)
            return reason or self._one_matrix_each(uses)
        if "value" in {use.argument for use in uses}:
            return "is a scale with a prior"
        matrix = {use.leaf.family == "MultivariateNormal" for use in uses}
        if len(matrix) > 1:
            return "is a scale of vectors and of numbers"
        if matrix == {False}:
            keep, self.views = self.views, self.scale_views
            try:
                return super().refuses(parameter, uses)
            finally:
                self.views = keep
        for use in uses:
            if self._layout(use) is None:
                return f"makes a {use.argument} in an unknown way"
        return None

    def _one_matrix_each(self, uses: list[Use]) -> str | None:
        """A location entry whose data have different covariances has no weighted mean in closed form here."""
        for use in uses:
            if use.leaf.family != "MultivariateNormal":
                continue
            key = next(k for k in use.leaf.args if k != "loc")
            matrix = use.leaf.lookups[key]
            if matrix is None:
                if use.leaf.args[key].dim() > 2:
                    return "shares data whose covariances are not known to be equal"
                continue
            batch = torch.broadcast_shapes(use.lookup.ids.shape[:-1], matrix.ids.shape[:-2])
            rows = use.lookup.ids.expand(*batch, use.lookup.ids.shape[-1])
            first = matrix.ids[..., 0, 0].expand(batch).unsqueeze(-1).expand_as(rows)
            pairs = torch.unique(torch.stack([rows.reshape(-1), first.reshape(-1)]), dim=1)
            if len(torch.unique(pairs[0])) < pairs.shape[1]:
                return "has data with different covariances"
        return None

    def _layout(self, use: Use) -> str | None:
        """How a parameter makes a matrix: "diagonal", "factor" or "matrix" (whole, row by row); None if otherwise."""
        ids, view, space = use.lookup.ids, use.lookup.view, self.space
        d = ids.shape[-1]
        eye = torch.eye(d, dtype=torch.bool, device=ids.device)
        diagonal = ids[..., eye]
        if (diagonal < 0).any():
            return None
        owners = space.owner(diagonal)
        if len(owners) > 1:
            return None
        owner = next(iter(owners))
        name = type(space.constraints[owner]).__name__
        if (ids[..., ~eye] < 0).all():
            if use.lookup.constant[..., ~eye].any() or not natural(space.constraints[owner]):
                return None
            views = self.scale_views if use.argument == "scale_tril" else self.variance_views
            return "diagonal" if view in views else None
        base = ids[..., :1, :1]
        grid = (torch.arange(d)[:, None] * d + torch.arange(d)).to(ids.device)
        if space.shapes[owner][-2:] != (d, d) or ((base - space.offsets[owner]) % (d * d)).any():
            return None
        lower = torch.ones(d, d, dtype=torch.bool, device=ids.device).tril()
        if use.argument == "scale_tril" and view == "identity" and "Cholesky" in name:
            return "factor" if (ids - base == grid)[..., lower].all() else None
        if use.argument == "covariance_matrix" and (diagonal - base[..., 0] == grid.diagonal()).all():
            if view == "identity" and name == "_PositiveDefinite":
                return "matrix"
            if view == "gram" and "Cholesky" in name:
                return "factor"
        return None

    def collect(self, weighted: dict[int, Weighted], vector: Tensor) -> dict[str, Any]:
        cells = {id(use.leaf): moments(weighted[id(use.leaf)]) for use in self.uses if use.argument != "value"}
        parts = []
        for use in self.uses:
            given = weighted[id(use.leaf)]
            weight = given.weight if use.argument == "value" else None
            parts.append(Part(use, given.args, cells.get(id(use.leaf)), weight))
        return {"cells": Parts([parts])}

    def solve(self, sums: Mapping[str, Any], vector: Tensor) -> None:
        parts = [part for piece in sums["cells"].pieces for part in piece]
        self._locations([p for p in parts if p.use.argument in ("loc", "value")], vector)
        self._scales([p for p in parts if p.use.argument not in ("loc", "value")], vector)

    def _locations(self, parts: list[Part], vector: Tensor) -> None:
        # As a step from where the location is: a mean far from zero would lose digits to a quotient of large sums.
        top, bottom = Sums(self.space, vector), Sums(self.space, vector)
        for part in parts:
            use, args, cells = part.use, part.args, part.cells
            ids, sign = use.lookup.ids, -1.0 if use.lookup.view == "negative" else 1.0
            present = vector[ids.clamp_min(0)]
            if cells is None:  # a Normal prior
                assert part.weight is not None
                precision = args["scale"].square().reciprocal()
                top.add_weighted(ids, part.weight, precision * (args["loc"] - present))
                bottom.add_weighted(ids, part.weight, precision)
                continue
            if use.leaf.family == "MultivariateNormal":
                precision, count = one(cells.mean), cells.count.unsqueeze(-1)
            else:
                precision, count = args["scale"].square().reciprocal(), cells.count
            where = ids.expand(torch.broadcast_shapes(ids.shape, cells.mean.shape))
            top.add(where, (precision * count * (sign * cells.mean - present)).expand(where.shape))
            bottom.add(where, (precision * count).expand(where.shape))
        touched = bottom.entries > 0
        vector[touched] += (top.entries / bottom.entries)[touched]

    def _scales(self, parts: list[Part], vector: Tensor) -> None:
        squares, counts, floors = (Sums(self.space, vector) for _ in range(3))
        matrices: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        acted = set[str]()
        pools: dict[tuple[str, ...], list[Moments]] = {}
        pool_of: dict[int, tuple[str, ...]] = {}
        for part in parts:
            assert part.cells is not None
            whole = part.cells.merged(part.use.leaf.events)
            pool_of[id(part)] = (*sorted(self.space.owner(part.use.lookup.ids)), str(whole.mean.shape[1]))
            pools.setdefault(pool_of[id(part)], []).append(whole)
        variances = {key: overall_variance(pool) for key, pool in pools.items()}
        variance = torch.zeros(self.space.size, dtype=torch.bool)
        for part in parts:
            use, leaf, cells = part.use, part.use.leaf, part.cells
            assert cells is not None
            loc_lookup = leaf.lookups.get("loc")
            loc = part.args["loc"] if loc_lookup is None else self.space.evaluate(loc_lookup, vector)
            away = cells.mean - loc
            floor = FLOOR * variances[pool_of[id(part)]]
            if leaf.family != "MultivariateNormal":
                floor = floor.reshape(cells.mean.shape[cells.mean.dim() - leaf.events :])
                total = cells.scatter + cells.count * away.square()
                where = use.lookup.ids.expand(torch.broadcast_shapes(use.lookup.ids.shape, total.shape))
                squares.add(where, total.expand(where.shape))
                counts.add(where, cells.count.expand(where.shape))
                floors.add(where, (cells.count * floor).expand(where.shape))
                continue
            outer = away.unsqueeze(-1) * away.unsqueeze(-2)
            total = cells.scatter + cells.count[..., None, None] * outer
            layout = self._layout(use)
            if layout == "diagonal":
                ids = use.lookup.ids.diagonal(dim1=-2, dim2=-1)
                spread = total.diagonal(dim1=-2, dim2=-1)
                where = ids.expand(spread.shape)
                squares.add(where, spread)
                counts.add(where, cells.count.unsqueeze(-1).expand(where.shape))
                floors.add(where, (cells.count.unsqueeze(-1) * floor).expand(where.shape))
                if use.argument == "covariance_matrix":
                    variance[ids.reshape(-1)] = True
                continue
            owner = next(iter(self.space.owner(use.lookup.ids[..., 0, 0])))
            d = total.shape[-1]
            number = self.space.shapes[owner].numel() // (d * d)
            group = (use.lookup.ids[..., 0, 0] - self.space.offsets[owner]) // (d * d)
            zeros = vector.new_zeros(number, d, d), vector.new_zeros(number), floor
            sums, weight, _ = matrices.setdefault(owner, zeros)
            where = group.expand(cells.count.shape).reshape(-1)
            sums.index_add_(0, where, total.reshape(-1, d, d))
            weight.index_add_(0, where, cells.count.reshape(-1))
        variance = variance.to(counts.entries.device)
        touched = counts.entries > 0
        share = counts.entries.where(touched, torch.ones_like(counts.entries))
        target, least = squares.entries / share, floors.entries / share
        if (touched & (target < least)).any():
            # A scale below the floor is let be: lifting it would lower the likelihood. So nothing that moves the floor
            # from one iteration to the next (rounding, a weight) makes the climb fall either.
            least = torch.minimum(least, self._variances(vector, variance))
        acted |= self.space.owner((touched & (target < least)).nonzero().flatten())
        target = torch.maximum(target, least)
        for use in self.reaching:
            if use.argument in ("loc", "value"):
                continue
            mine = torch.zeros_like(touched)
            ids = use.lookup.ids
            mine[ids[ids >= 0]] = True
            mine &= touched
            view = use.lookup.view
            if view in VIEWS:
                vector[mine] = VIEWS[view].inverse(torch.where(variance, target, target.sqrt())[mine])
        for owner, (sums, weight, floor) in matrices.items():
            alive = weight > 0
            old = self.space.split(vector, owner)
            flat = old.reshape(-1, *sums.shape[-2:])
            factor = "Cholesky" in type(self.space.constraints[owner]).__name__
            present = flat[alive] if factor else torch.linalg.cholesky_ex(flat[alive]).L
            root, clipped = floored_factor(sums[alive] / weight[alive][:, None, None], floor, present)
            if clipped.any():
                acted.add(owner)
            flat[alive] = root if factor else root @ root.mT
        self.notes = [
            f"the variance floor ({FLOOR:g} of the data's variance) acts on {shown(name)}" for name in sorted(acted)
        ]

    def _variances(self, vector: Tensor, variance: Tensor) -> Tensor:
        """The variance that each entry of a scale stands for at present; ``variance``: entries that are variances."""
        present = torch.full_like(vector, torch.inf)
        for use in self.reaching:
            view = use.lookup.view
            if use.argument not in ("loc", "value") and view in VIEWS:
                ids = use.lookup.ids[use.lookup.ids >= 0]
                number = VIEWS[view].of(vector[ids])
                present[ids] = torch.where(variance[ids], number, number.square())
        return present
