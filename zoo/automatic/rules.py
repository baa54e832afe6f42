"""Closed-form M steps, one rule for each kind of parameter; every sum goes to the parameter entries it belongs to.

Each rule holds the leaves whose argument it updates. Three conjugate families cover most: ``counts`` (Categorical,
OneHotCategorical, Multinomial; Dirichlet prior), ``trials`` (Bernoulli, Binomial, Geometric, NegativeBinomial; Beta
prior), ``events`` (Poisson, Exponential, Gamma with known concentration; Gamma prior). Gaussian locations and scales
are updated one after the other, which is joint wherever a location's data share one scale (conditional maximisation:
Meng & Rubin 1993).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.automatic.enumeration import shown
from zoo.automatic.leaves import Leaf
from zoo.automatic.lookup import VIEWS, Lookup, ParameterSpace
from zoo.components.gaussian import floored_factor
from zoo.edges import NARROW, is_simplex, margin_of
from zoo.statistics import Moments, varying
from zoo.structures import gaussian

__all__ = ["FLOOR", "RULES", "Use", "kind_of"]

#: No variance falls below this fraction of the data's own: a component on a single datum has no likeliest scale.
FLOOR = 1e-6


@dataclass
class Use:
    """A parameter's appearance as one argument of a leaf, or as the value of a prior (``argument`` "value")."""

    leaf: Leaf
    argument: str
    lookup: Lookup


@dataclass
class Weighted:
    """A leaf with its weight in this M step; of a Gaussian leaf, its moments where the E step has summed already."""

    leaf: Leaf
    share: Tensor | Moments
    args: dict[str, Tensor]

    @property
    def weight(self) -> Tensor:
        """Its weight over its batch."""
        assert isinstance(self.share, Tensor)
        return self.share


def contract(weight: Tensor, term: Tensor, shape: torch.Size) -> Tensor:
    """The sum of ``weight * term`` over every dimension that ``shape`` (aligned right) lacks or has at size one."""
    rank = max(weight.dim(), term.dim(), len(shape))
    target = (1,) * (rank - len(shape)) + tuple(shape)
    sides = [t.reshape((1,) * (rank - t.dim()) + tuple(t.shape)) for t in (weight, term)]
    full = [max(s.shape[i] for s in sides) for i in range(rank)]
    letters = [[i for i in range(rank) if s.shape[i] > 1] for s in sides]
    out = [i for i in range(rank) if target[i] > 1 and full[i] > 1]
    squeezed = [s.reshape([n for n in s.shape if n > 1]) for s in sides]
    total = torch.einsum(squeezed[0], letters[0], squeezed[1].to(squeezed[0].dtype), letters[1], out)
    total = total.reshape([full[i] if i in out else 1 for i in range(rank)])
    return total.expand(target).reshape(shape)


class Sums:
    """Sums over the data, by parameter entry."""

    def __init__(self, space: ParameterSpace, like: Tensor) -> None:
        self.total = like.new_zeros(space.size + 1)  # the last takes what belongs to constants

    def add(self, ids: Tensor, term: Tensor) -> None:
        """Add ``term`` (of the shape of ``ids``) to the entries ``ids``."""
        self.total.index_add_(0, torch.where(ids < 0, len(self.total) - 1, ids).reshape(-1), term.reshape(-1))

    def add_weighted(self, ids: Tensor, weight: Tensor, term: Tensor) -> None:
        """Add the sum of weight * term to the entries ``ids``, which broadcast against both."""
        self.add(ids, contract(weight, term, ids.shape))

    @property
    def entries(self) -> Tensor:
        """The sums, (number of entries,)."""
        return self.total[:-1]


def one(like: Tensor) -> Tensor:
    return like.new_ones(())


class Rule:
    """One kind of update. ``views``: the functions of a parameter that it can invert."""

    name: str
    text: str
    views: tuple[str, ...] = ()

    def __init__(self, space: ParameterSpace) -> None:
        self.space = space
        self.uses: list[Use] = []
        self.notes: list[str] = []

    def refuses(self, parameter: str, uses: list[Use]) -> str | None:
        """Why these uses of a parameter have no update in closed form."""
        views = {use.lookup.view for use in uses}
        odd = views - set(self.views)
        if odd:
            return f"enters through {sorted(map(str, odd))[0]}"
        if len(views) > 1:
            return "enters through several functions"
        if not _natural(self.space.constraints[parameter]):
            return f"is constrained to {self.space.constraints[parameter]}"
        return None

    def update(self, weighted: dict[int, Weighted], vector: Tensor) -> None:
        """Write the updated entries into ``vector``."""
        raise NotImplementedError

    def _least(self, vector: Tensor, otherwise: float, where: Tensor) -> Tensor:
        """By entry, how far from an edge of its support it stays; ``otherwise`` for those of no prior, where asked."""
        least = torch.where(where, otherwise, 0.0).to(vector)
        for name in self.space.names:
            inset = margin_of(self.space.constraints[name])
            if inset is not None:
                part = self.space.split(least, name)
                part.copy_(inset.margin_like(part).expand(part.shape))
        return least

    def _weighted(self, weighted: dict[int, Weighted]) -> list[tuple[Use, Weighted]]:
        """Each use with its leaf's weight."""
        return [(use, weighted[id(use.leaf)]) for use in self.uses]

    def _write(self, vector: Tensor, target: Tensor, touched: Tensor) -> None:
        """Set the touched entries so that their view is the target; an entry without data keeps its value."""
        for view in {use.lookup.view for use in self.uses if use.argument != "value"}:
            assert view is not None
            mine = torch.zeros_like(touched)
            for use in self.uses:
                if use.lookup.view == view and use.argument != "value":
                    mine[use.lookup.ids[use.lookup.ids >= 0]] = True
            mine &= touched
            vector[mine] = VIEWS[view].inverse(target[mine])


def _natural(constraint: Any) -> bool:
    """Whether a maximum without the constraint is the maximum under it."""
    inset = margin_of(constraint)
    base = constraint if inset is None else inset.base
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    name = type(base).__name__
    if name in ("_Interval", "_HalfOpenInterval"):
        return float(base.lower_bound) == 0 and float(base.upper_bound) == 1
    if name in ("_GreaterThan", "_GreaterThanEq"):
        return float(base.lower_bound) == 0
    return name in ("_Real", "_Simplex", "_PositiveDefinite") or "Softplus" in name or "Cholesky" in name


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

    def update(self, weighted: dict[int, Weighted], vector: Tensor) -> None:
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
        priors = {n for u in self.uses if u.argument == "value" for n in self.space.owner(u.lookup.ids)}
        for name in self.space.owner(torch.cat([u.lookup.ids.reshape(-1) for u in self.uses])):
            counts, old = self.space.split(sums.entries, name), self.space.split(vector, name)
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

    def update(self, weighted: dict[int, Weighted], vector: Tensor) -> None:
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
        touched = exposure.entries > 0
        rate = events.entries / exposure.entries.where(touched, torch.ones_like(exposure.entries))
        least = self._least(vector, 0.0, torch.zeros_like(touched))
        self._write(vector, torch.maximum(rate.clamp_min(0), least), touched)


@dataclass
class Cells:
    """Weighted moments of a Gaussian leaf's data, one for every combination of its arguments' rows.

    Shapes (A is what the arguments' batch shapes broadcast to; D the event of a multivariate leaf):
        count: A. mean: A or A + (D,). scatter: A, or A + (D, D), about the mean.
    """

    count: Tensor
    mean: Tensor
    scatter: Tensor

    def merged(self, features: int) -> Moments:
        """The data's own moments by feature, over all cells; count, mean and scatter of one shape (1, F).

        Args:
            features: right dimensions of the cells that are features; of a multivariate leaf, all of (D,).
        """
        count, scatter = self.count, self.scatter
        if scatter.dim() > count.dim():
            count, scatter, features = count.unsqueeze(-1), scatter.diagonal(dim1=-2, dim2=-1), 1
        tail = self.mean.shape[self.mean.dim() - features :]
        count, mean, scatter = (
            v.expand(self.mean.shape).reshape(-1, tail.numel()) for v in (count, self.mean, scatter)
        )
        total = count.sum(0, keepdim=True)
        centre = (count * mean).sum(0, keepdim=True) / total.where(total > 0, torch.ones_like(total))
        spread = (scatter + count * (mean - centre).square()).sum(0, keepdim=True)
        return Moments(total, centre, spread)


def overall_variance(parts: list[Moments]) -> Tensor:
    """The variance by feature of all the data that a scale serves, (F,); never zero."""
    count = sum((p.count for p in parts), torch.zeros_like(parts[0].count))
    safe = count.where(count > 0, torch.ones_like(count))
    mean = sum((p.count * p.mean for p in parts), torch.zeros_like(count)) / safe
    spread = sum((p.scatter + p.count * (p.mean - mean).square() for p in parts), torch.zeros_like(count))
    return varying((spread / safe)[0], mean[0])


def moments(given: Weighted) -> Cells:
    """Moments over all that the arguments do not tell apart. Two passes, so that no digits are lost far from zero."""
    if isinstance(given.share, Moments):
        shape = torch.broadcast_shapes(*(v.shape for v in given.args.values()))
        done = given.share
        wide = done.count.unsqueeze(-1).expand(done.mean.shape)
        return Cells(*(v.reshape(shape) for v in (wide, done.mean, done.scatter)))
    leaf, w = given.leaf, given.weight
    assert leaf.value is not None
    x = leaf.value.to(w.dtype)
    if leaf.family == "LogNormal":
        x = x.log()
    if leaf.family == "MultivariateNormal":
        return _matrix_moments(w, x, given.args)
    shape = torch.broadcast_shapes(*(v.shape for v in given.args.values()))
    rows = _rows_and_groups(w, x, shape, leaf.events)
    if rows is not None:
        found = gaussian.weighted_moments(*rows, True, rows[0].mean(0).expand(rows[1].shape[1], -1))
        wide = found.count.unsqueeze(-1).expand(found.mean.shape)
        return Cells(*(v.reshape(shape) for v in (wide, found.mean, found.scatter)))
    count = contract(w, one(w), shape)
    mean = contract(w, x, shape) / count.where(count > 0, torch.ones_like(count))
    return Cells(count, mean, contract(w, (x - mean).square(), shape))


def _rows_and_groups(w: Tensor, x: Tensor, shape: torch.Size, events: int) -> tuple[Tensor, Tensor] | None:
    """Rows (M, E) and weights (M, G), where the leaf is that simple: one weight a row and group for all features."""
    if events > 1 or w.dim() != 2 + events or len(shape) != 1 + events or (events and w.shape[-1] != 1):
        return None
    features = shape[-1] if events else 1
    if x.shape != (w.shape[0], 1, features)[: 2 + events] or shape[0] != w.shape[1]:
        return None
    return x.reshape(w.shape[0], features), w.reshape(w.shape[0], w.shape[1])


def _matrix_moments(w: Tensor, x: Tensor, args: dict[str, Tensor]) -> Cells:
    shape = torch.broadcast_shapes(*(v.shape[: v.dim() - (1 if k == "loc" else 2)] for k, v in args.items()))
    d = x.shape[-1]
    if w.dim() == 2 and shape == w.shape[1:] and x.shape == (w.shape[0], 1, d):
        rows = x.reshape(-1, d)
        found = gaussian.weighted_moments(rows, w, False, rows.mean(0).expand(w.shape[1], -1))
        return Cells(found.count, found.mean, found.scatter)
    count = contract(w, one(w), shape)
    safe = count.where(count > 0, torch.ones_like(count))
    mean = contract(w.unsqueeze(-1), x, torch.Size([*shape, d])) / safe.unsqueeze(-1)
    away = x - mean
    scatter = contract((w.unsqueeze(-1) * away).unsqueeze(-1), away.unsqueeze(-2), torch.Size([*shape, d, d]))
    return Cells(count, mean, scatter)


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
            if use.lookup.constant[..., ~eye].any() or not _natural(space.constraints[owner]):
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

    def update(self, weighted: dict[int, Weighted], vector: Tensor) -> None:
        served = {id(use.leaf) for use in self.uses if use.argument != "value"}
        data = {key: moments(weighted[key]) for key in served}
        self._locations(weighted, data, vector)
        self._scales(weighted, data, vector)

    def _locations(self, weighted: dict[int, Weighted], data: dict[int, Cells], vector: Tensor) -> None:
        uses = [u for u in self.uses if u.argument in ("loc", "value")]
        if not uses:
            return
        # As a step from where the location is: a mean far from zero would lose digits to a quotient of large sums.
        top, bottom = Sums(self.space, vector), Sums(self.space, vector)
        for use in uses:
            given = weighted[id(use.leaf)]
            ids, sign = use.lookup.ids, -1.0 if use.lookup.view == "negative" else 1.0
            present = vector[ids.clamp_min(0)]
            if use.argument == "value":  # a Normal prior
                precision = given.args["scale"].square().reciprocal()
                top.add_weighted(ids, given.weight, precision * (given.args["loc"] - present))
                bottom.add_weighted(ids, given.weight, precision)
                continue
            cells = data[id(use.leaf)]
            if use.leaf.family == "MultivariateNormal":
                precision, count = one(cells.mean), cells.count.unsqueeze(-1)
            else:
                precision, count = given.args["scale"].square().reciprocal(), cells.count
            where = ids.expand(torch.broadcast_shapes(ids.shape, cells.mean.shape))
            top.add(where, (precision * count * (sign * cells.mean - present)).expand(where.shape))
            bottom.add(where, (precision * count).expand(where.shape))
        touched = bottom.entries > 0
        vector[touched] += (top.entries / bottom.entries)[touched]

    def _scales(self, weighted: dict[int, Weighted], data: dict[int, Cells], vector: Tensor) -> None:
        squares, counts, floors = (Sums(self.space, vector) for _ in range(3))
        matrices: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        acted = set[str]()
        pools: dict[tuple[str, ...], list[Moments]] = {}
        pool_of: dict[int, tuple[str, ...]] = {}
        for use in self.uses:
            if use.argument not in ("loc", "value"):
                cells, features = data[id(use.leaf)], use.leaf.events
                whole = cells.merged(features)
                pool_of[id(use)] = (*sorted(self.space.owner(use.lookup.ids)), str(whole.mean.shape[1]))
                pools.setdefault(pool_of[id(use)], []).append(whole)
        variances = {key: overall_variance(parts) for key, parts in pools.items()}
        variance = torch.zeros(self.space.size, dtype=torch.bool)
        for use in self.uses:
            if use.argument in ("loc", "value"):
                continue
            leaf, cells = use.leaf, data[id(use.leaf)]
            loc_lookup, given = leaf.lookups.get("loc"), weighted[id(leaf)]
            loc = given.args["loc"] if loc_lookup is None else self.space.evaluate(loc_lookup, vector)
            away = cells.mean - loc
            floor = FLOOR * variances[pool_of[id(use)]]
            if leaf.family != "MultivariateNormal":
                floor = floor.reshape(cells.mean.shape[cells.mean.dim() - leaf.events :])
            if leaf.family != "MultivariateNormal":
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
        for use in self.uses:
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
        for use in self.uses:
            view = use.lookup.view
            if use.argument not in ("loc", "value") and view in VIEWS:
                ids = use.lookup.ids[use.lookup.ids >= 0]
                number = VIEWS[view].of(vector[ids])
                present[ids] = torch.where(variance[ids], number, number.square())
        return present


RULES: tuple[type[Rule], ...] = (Counts, Trials, Events, Gaussians)

_KINDS: dict[tuple[str, str], type[Rule]] = {
    **{(f, a): Counts for f in ("Categorical", "OneHotCategorical", "Multinomial") for a in ("probs", "logits")},
    **{(f, a): Trials for f in ("Bernoulli", "Binomial", "Geometric", "NegativeBinomial") for a in ("probs", "logits")},
    ("Poisson", "rate"): Events,
    ("Exponential", "rate"): Events,
    ("Gamma", "rate"): Events,
    **{(f, a): Gaussians for f in ("Normal", "LogNormal") for a in ("loc", "scale")},
    **{("MultivariateNormal", a): Gaussians for a in ("loc", "scale_tril", "covariance_matrix")},
}
_PRIORS: dict[str, type[Rule]] = {"Dirichlet": Counts, "Beta": Trials, "Gamma": Events, "Normal": Gaussians}


def kind_of(use: Use) -> type[Rule] | str:
    """The rule for a use, or why there is none."""
    leaf = use.leaf
    fixed = {name: lookup is not None and lookup.fixed for name, lookup in leaf.lookups.items()}
    if use.argument == "value":
        if leaf.family not in _PRIORS:
            return f"has a {leaf.family} prior, for which no update is known"
        if not all(fixed.values()):
            return "has a prior that depends on other parameters"
        return _PRIORS[leaf.family]
    rule = _KINDS.get((leaf.family, use.argument))
    if rule is None:
        return f"is the {use.argument} of a {leaf.family}: no closed form"
    if leaf.is_prior:
        return "is a parameter of a prior"
    if not all(fixed.get(name, True) for name in ("total_count", "concentration")):
        return f"shares a {leaf.family} with another unknown argument"
    return rule
