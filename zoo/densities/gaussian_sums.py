"""Densities and moments of K Gaussians in bounded memory: by tiles on the CPU, elsewhere by guarded matrix products."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from zoo.core.isolation import threads
from zoo.core.parallel import has_numba
from zoo.core.statistics import Moments
from zoo.densities import gaussian_tiles

__all__ = ["GaussianSums"]


# The largest rounding error the feature path may make, by its bound: nats a datum, and relative to each covariance
# in its own metric for the moments. Measured errors are 3 to 8 times below the bound. No stopping rule of EM looks
# closer than 1e-10 nats a datum; the differences themselves are good to 1e-14 or, ill-conditioned, 1e-12.
TOLERANCE = 1e-10
# The same for sums in float32 (of tiles, about the means before): what the data have lost themselves is of this size.
SINGLE_TOLERANCE = 1e-5
# Responsibilities in float32 are zero below 1e-28: where a component has less than this, all are summed in float64.
_STARVED = 1e-15
# More features than this (D > 64) and the triangle of products no longer pays for its passes over memory.
_MOST_FEATURES = 2145
# More sums than this and one set of them for every slice of the data takes too much memory.
_MOST_SUMS = 2**19
# Below this many multiplications, the overhead of the calls decides, and the differences need fewer of them.
SMALL = 2**19
LOG2_E = 1 / math.log(2)
#: What stands beside the rows: how often each counts, and its component where that is known; None for none.
Beside: TypeAlias = tuple[Tensor | None, Tensor | None]


def _cut(beside: Beside, start: int, rows: int) -> Beside:
    """What stands beside ``rows`` rows from ``start`` on."""
    counts, labels = (None if values is None else values[start : start + rows] for values in beside)
    return counts, labels


class GaussianSums:
    """What one E step prepares from the parameters, and its sums over pieces of the data."""

    def __init__(
        self,
        x: Tensor,
        log_weights: Tensor,
        means: Tensor,
        scale_tril: Tensor,
        covariance_type: str,
        hard: bool,
        chunk_size: int | None,
    ) -> None:
        cpu = x.device.type == "cpu"
        self.dtype = torch.float64 if cpu else torch.promote_types(x.dtype, means.dtype)
        self.hard, self.chunk_size = hard, chunk_size
        self.diagonal = covariance_type in ("diag", "spherical")
        self.tied = covariance_type == "tied"
        components, features = means.shape
        self.components, self.features = components, features
        self.log_weights, self.means = log_weights.to(self.dtype), means.to(self.dtype)
        scale = scale_tril.to(self.dtype)
        # The inverse of the factor: (K, D, D), or (K, D, 1) where it is diagonal.
        if self.diagonal:
            if scale.dim() == 1:
                scale = scale.unsqueeze(-1).expand(components, features)
            self.whitener = scale.reciprocal().unsqueeze(-1)
            log_scale = scale.log().sum(-1)
        else:
            identity = torch.eye(features, dtype=self.dtype, device=x.device)
            whitener = torch.linalg.solve_triangular(scale, identity, upper=False)
            self.whitener = whitener.expand(components, features, features)
            log_scale = scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self.log_scale = log_scale + 0.5 * features * math.log(2 * math.pi)
        self.log_height = (self.log_weights - self.log_scale).unsqueeze(-1)  # (K, 1): ln w_k N(mu_k; mu_k, Sigma_k)
        # Rows a piece. The sizes keep one piece inside a common L3 cache; a GPU wants larger ones.
        doubles = 2**19 if cpu else 2**25
        self.rows = chunk_size or max(64, doubles // (components * features))
        products = features if self.diagonal else features * (features + 1) // 2
        self.num_features = 1 + features + products
        self.compiled = cpu and has_numba() and components * self.num_features <= _MOST_SUMS
        self.feature_rows = chunk_size or max(256, min(8192 if cpu else 2**30, 2 * doubles // self.num_features))

    def totals(self, x: Tensor, beside: Beside = (None, None)) -> tuple[Tensor, Tensor, Moments]:
        """Log-likelihood, objective and moments of the rows of ``x`` (N, D).

        Args:
            beside: how often each row counts, (N,), and its component, (N,), -1 where it is not known; None for none.
        """
        totals = None
        if x.shape[0] * self.components * self.num_features > SMALL:
            if self.compiled:
                with threads(0):  # the rows are shared out among threads of our own
                    totals = self._by_tiles(x, beside)
            elif self.num_features <= _MOST_FEATURES:
                totals = self._by_features(x, beside)
        return self._by_differences(x, beside) if totals is None else totals

    # Tiles ------------------------------------------------------------------------------------------------------

    def _by_tiles(self, x: Tensor, beside: Beside) -> tuple[Tensor, Tensor, Moments] | None:
        """The three totals by the compiled pass; None where something overflows.

        Moments are taken about the means before. Where these are so far from the new ones that digits would go, a
        second pass takes them about the new ones: the corrected two-pass algorithm, as in ``_differences``.
        """
        if x.dtype == torch.float32:
            totals, starved = self._in_dtype(x, torch.float32, SINGLE_TOLERANCE, beside)
            if not starved:
                return totals
        return self._in_dtype(x, self.dtype, TOLERANCE, beside)[0]

    def _in_dtype(
        self, x: Tensor, dtype: torch.dtype, tolerance: float, beside: Beside
    ) -> tuple[tuple[Tensor, Tensor, Moments] | None, bool]:
        """The three totals by arithmetic in a dtype, and whether a component has too little of the data for it."""
        heights, whitener = self.log_height[:, 0], self.whitener.squeeze(-1) if self.diagonal else self.whitener
        whitener = whitener.masked_fill(self._dead().reshape(-1, *[1] * (whitener.dim() - 1)), 0.0)
        about = self.means
        for last in (False, True):
            about = about.to(dtype).double()
            found = gaussian_tiles.sums(x, dtype, heights, whitener, self.means, about, self.hard, *beside)
            if dtype != self.dtype and not self.hard and bool(((found.count < _STARVED) & ~self._dead()).any()):
                return None, True
            least = torch.finfo(dtype).eps / tolerance
            moments, kept = self._moments(found.count, found.first, found.second, about, least)
            if kept or last:
                break
            if not bool(moments.mean.isfinite().all()):
                return None, False
            about = moments.mean
        if not bool(moments.scatter.isfinite().all()):
            return None, False
        log_likelihood, objective = found.log_likelihood, found.objective
        for start, stop in found.left_out:
            more = self._by_differences(x[start:stop], _cut(beside, start, stop - start))
            log_likelihood, objective, moments = log_likelihood + more[0], objective + more[1], moments + more[2]
        return (log_likelihood, objective, moments), False

    def _dead(self) -> Tensor:
        """(K,), components of weight zero."""
        return self.log_weights == -math.inf

    def joints(self, x: Tensor) -> Iterator[tuple[Tensor, float]]:
        """As :func:`log_joints` says."""
        work = x.shape[0] * self.components * self.num_features
        if work > SMALL and self.num_features <= _MOST_FEATURES:
            for piece, _, joint, bound in self._tables(x, self._centre()):
                if joint is not None:
                    yield joint, 2 * bound
                else:
                    yield from self._joints_by_differences(piece)
        else:
            yield from self._joints_by_differences(x)

    def _joints_by_differences(self, x: Tensor) -> Iterator[tuple[Tensor, float]]:
        rows = min(self.rows, max(1, x.shape[0]))
        buffers = torch.empty(2, self.components * self.features * rows, dtype=self.dtype, device=x.device)
        for piece in x.split(rows):
            columns = piece.mT.to(self.dtype).contiguous()
            joint = self._joint(columns, *self._views(columns, buffers))
            if not bool(joint.isfinite().all()):
                joint = self._possible(joint, columns)
            yield joint, 0.0

    def _responsibilities(self, joint: Tensor, peak: Tensor, slack: float = 0.0) -> tuple[Tensor, Tensor]:
        """ln sum_k (a row's log-likelihood) and the responsibilities, which take the place of ``joint`` (K, B).

        ``peak`` (B,) is the maximum over k, finite. Components within ``slack`` nats of it are equals (hard only).
        """
        if self.hard:
            best = (joint >= peak - slack).to(torch.uint8).argmax(0, keepdim=True)  # the first of equals
        # torch's exp2 is three times as fast as its exp, which besides stalls on arguments that underflow.
        responsibilities = joint.sub_(peak).mul_(LOG2_E).exp2_()
        norm = responsibilities.sum(0)
        if self.hard:
            responsibilities.zero_().scatter_(0, best, 1.0)
        else:
            responsibilities.div_(norm)
        return norm.log_().add_(peak), responsibilities

    # Differences ------------------------------------------------------------------------------------------------

    def _by_differences(self, x: Tensor, beside: Beside = (None, None)) -> tuple[Tensor, Tensor, Moments]:
        rows = min(self.rows, max(1, x.shape[0]))
        buffers = torch.empty(2, self.components * self.features * rows, dtype=self.dtype, device=x.device)
        log_likelihood, objective, moments = self._differences(x[:rows], buffers, _cut(beside, 0, rows))
        for start in range(rows, x.shape[0], rows):
            more = self._differences(x[start : start + rows], buffers, _cut(beside, start, rows))
            log_likelihood, objective, moments = log_likelihood + more[0], objective + more[1], moments + more[2]
        return log_likelihood, objective, Moments(moments.count, self.means + moments.mean, moments.scatter)

    def _differences(self, x: Tensor, buffers: Tensor, beside: Beside) -> tuple[Tensor, Tensor, Moments]:
        """The three totals of one piece, by the formula as it is written.

        The mean is relative to the component's current one, so that merging pieces far from zero loses no digits.
        """
        columns = x.mT.to(self.dtype).contiguous()  # (D, B)
        difference, white = self._views(columns, buffers)
        counts, labels = beside
        joint = self._only(labels, self._joint(columns, difference, white))
        peak = joint.amax(0)
        lost = torch.zeros((), dtype=self.dtype, device=x.device)
        if not bool(peak.isfinite().all()):
            joint = self._possible(joint, columns)  # a row of zeros alone has no responsibilities
            peak = joint.amax(0)
            alive = peak != -math.inf
            if not bool(alive.all()):
                lost = lost - math.inf
            columns, joint, peak = columns[:, alive], joint[:, alive], peak[alive]
            counts = None if counts is None else counts[alive]
            difference, white = self._views(columns, buffers)
        log_rows, weights = self._responsibilities(joint, peak)
        if counts is not None:
            log_rows, weights, peak = log_rows * counts, weights * counts, peak * counts
        log_likelihood = log_rows.sum() + lost
        objective = peak.sum() + lost if self.hard else log_likelihood
        return log_likelihood, objective, self._about_new_means(columns, weights, difference, white)

    def _about_new_means(self, columns: Tensor, weights: Tensor, difference: Tensor, white: Tensor) -> Moments:
        """The moments of columns (D, B) under weights (K, B), their means relative to the present ones."""
        # About the new mean, not the current one, which may be far off; what its rounding leaves is taken out
        # afterwards (the corrected two-pass algorithm, Chan, Golub & LeVeque, 1983, equation 1.7).
        count = weights.sum(1)
        safe = count.where(count > 0, torch.ones_like(count)).unsqueeze(-1)
        mean = torch.where(count.unsqueeze(-1) > 0, weights @ columns.mT / safe, self.means)
        torch.sub(columns, mean.unsqueeze(-1), out=difference)
        weighted = torch.mul(difference, weights.unsqueeze(1), out=white)
        rest = weighted.sum(-1) / safe  # (K, D), the rounding of the mean
        if self.diagonal:
            scatter = weighted.mul_(difference).sum(-1) - safe * rest.square()
        else:
            scatter = torch.bmm(weighted, difference.mT)
            scatter -= (safe * rest).unsqueeze(-1) * rest.unsqueeze(-2)
        return Moments(count, mean.sub_(self.means).add_(rest), scatter)

    def _views(self, columns: Tensor, buffers: Tensor) -> tuple[Tensor, Tensor]:
        """Two arrays (K, D, B) in the buffers, for B columns of data."""
        shape, size = (self.components, *columns.shape), self.components * columns.numel()
        return buffers[0, :size].view(shape), buffers[1, :size].view(shape)

    def _joint(self, columns: Tensor, difference: Tensor, white: Tensor) -> Tensor:
        """ln w_k N(x_n; mu_k, Sigma_k), (K, B), of columns (D, B); what stands in the other two is overwritten."""
        torch.sub(columns, self.means.unsqueeze(-1), out=difference)
        if self.diagonal:
            torch.mul(difference, self.whitener, out=white)
        else:
            torch.bmm(self.whitener, difference, out=white)
        return torch.sub(self.log_height, white.square_().sum(1), alpha=0.5)

    def _only(self, labels: Tensor | None, joint: Tensor) -> Tensor:
        """The joint (K, B), -inf at all components but the one that is known."""
        if labels is None:
            return joint
        others = torch.arange(self.components, device=joint.device).unsqueeze(-1) != labels
        return joint.masked_fill_(others & (labels >= 0), -math.inf)

    def _possible(self, joint: Tensor, columns: Tensor) -> Tensor:
        """The joint with a density of zero where a distance overflowed, also where it came out as inf - inf.

        What is not finite in the data itself stays NaN and shows.
        """
        overflow = joint.isnan() & columns.isfinite().all(0)
        return joint.masked_fill_(overflow | (self.log_weights == -math.inf).unsqueeze(-1), -math.inf)

    # Features ---------------------------------------------------------------------------------------------------

    def _centre(self) -> Tensor:
        """(D,), what features are taken about; NaN, and so refused by the bound, if all weights are zero."""
        return self.log_weights.softmax(0) @ self.means

    def _tables(
        self, x: Tensor, centre: Tensor
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, float] | tuple[Tensor, None, None, float]]:
        """Pieces of the data, each with its features (F, B), its ln-joint (K, B) and the bound on that one's rounding.

        None for both where the bound is too large. The next piece overwrites them.
        """
        components, features, products = self.components, self.features, self.num_features
        shift = self.means - centre  # (K, D)
        whitener = self.whitener.masked_fill(self._dead().reshape(-1, 1, 1), 0.0)
        coefficients = self._coefficients(shift, whitener)

        # Every product in the expanded square, also those inside the coefficients, is in absolute value a term
        # of || |W_k| (|x - c| + |mu_k - c|) ||^2 / 2: rounding errors are at most a few eps of it.
        size = whitener.abs()
        if self.diagonal:
            size = torch.diag_embed(size.squeeze(-1))
        offset = (size @ shift.abs().unsqueeze(-1)).squeeze(-1)  # (K, D)
        eps = torch.finfo(self.dtype).eps

        rows = min(self.feature_rows, x.shape[0])
        buffer = torch.empty(products * rows, dtype=self.dtype, device=x.device)
        joint_buffer = torch.empty(components * rows, dtype=self.dtype, device=x.device)
        for start in range(0, x.shape[0], rows):
            piece = x[start : start + rows]
            table = buffer[: products * piece.shape[0]].view(products, -1)  # (F, B): rows of it are contiguous
            centred = table[1 : 1 + features]
            torch.sub(piece.mT, centre.unsqueeze(-1), out=centred)
            reach = torch.mv(size.flatten(0, 1), centred.abs().amax(1)).view_as(offset) + offset
            bound = 0.5 * eps * float(reach.square().sum(-1).max())
            if not bound <= TOLERANCE:  # also if it is NaN
                yield piece, None, None, bound
                continue
            table[0] = 1.0
            if self.diagonal:
                torch.square(centred, out=table[1 + features :])
            else:
                row = 1 + features
                for i in range(features):
                    torch.mul(centred[i:], centred[i], out=table[row : row + features - i])
                    row += features - i
            joint = joint_buffer[: components * piece.shape[0]].view(components, -1)
            if self.tied:  # the square in x is common to all components
                torch.mm(coefficients[:, : 1 + features], table[: 1 + features], out=joint)
                joint += coefficients[:1, 1 + features :] @ table[1 + features :]
            else:
                torch.mm(coefficients, table, out=joint)
            yield piece, table, joint, bound

    def _by_features(self, x: Tensor, beside: Beside) -> tuple[Tensor, Tensor, Moments] | None:
        """The three totals by matrix products with [1, x, x x^T], piece by piece; None where they are unsafe."""
        centre = self._centre()
        sums = torch.zeros(self.components, self.num_features, dtype=self.dtype, device=x.device)
        log_likelihood = torch.zeros((), dtype=self.dtype, device=x.device)
        objective = torch.zeros_like(log_likelihood)
        others: Moments | None = None
        start = 0
        for piece, table, joint, bound in self._tables(x, centre):
            counts, labels = here = _cut(beside, start, len(piece))
            start += len(piece)
            peak = None if joint is None else self._only(labels, joint).amax(0)
            if table is None or joint is None or peak is None or (labels is not None and bool(peak.isinf().any())):
                more = self._by_differences(piece, here)
                others = more[2] if others is None else others + more[2]
                log_likelihood += more[0]
                objective += more[1]
                continue
            log_rows, responsibilities = self._responsibilities(joint, peak, 2 * bound)
            if counts is not None:
                log_rows, responsibilities, peak = log_rows * counts, responsibilities * counts, peak * counts
            log_likelihood += log_rows.sum()
            objective += peak.sum() if self.hard else log_rows.sum()
            sums.addmm_(responsibilities, table.mT)
        count, total, products = sums.split([1, self.features, self.num_features - 1 - self.features], 1)
        if not self.diagonal:
            upper = torch.triu_indices(self.features, self.features, device=x.device)
            square = sums.new_empty(self.components, self.features, self.features)
            square[:, upper[0], upper[1]] = products
            square[:, upper[1], upper[0]] = products
            products = square
        moments, kept = self._moments(
            count.squeeze(-1), total, products, centre, torch.finfo(self.dtype).eps / TOLERANCE
        )
        if not kept:
            return None
        return log_likelihood, objective, moments if others is None else moments + others

    def _coefficients(self, shift: Tensor, whitener: Tensor) -> Tensor:
        """(K, F): ln w_k N(x; mu_k, Sigma_k) = coefficients_k . [1, x - c, products], where shift = mu - c."""
        if self.diagonal:
            precision = whitener.squeeze(-1).square()  # (K, D)
            linear = precision * shift
            square = -0.5 * precision
        else:
            precision = whitener.mT @ whitener
            linear = (precision @ shift.unsqueeze(-1)).squeeze(-1)
            upper = torch.triu_indices(self.features, self.features, device=shift.device)
            square = -precision[:, upper[0], upper[1]]
            square[:, upper[0] == upper[1]] *= 0.5  # the others stand for two products
        constant = self.log_height - 0.5 * (linear * shift).sum(-1, keepdim=True)
        return torch.cat([constant, linear, square], 1)

    def _moments(
        self, count: Tensor, first: Tensor, second: Tensor, about: Tensor, least: float
    ) -> tuple[Moments, bool]:
        """Moments about the mean from those about points (D,) or (K, D), and whether enough digits are left.

        Enough are where the variance in every direction is at least the fraction ``least`` of what it is about them.
        """
        empty = (count <= 0).unsqueeze(-1)
        delta = first / count.unsqueeze(-1).masked_fill(empty, 1.0)  # (K, D)
        mean = torch.where(empty, self.means, about + delta)
        if self.diagonal:
            scatter = second - first * delta
            kept = scatter >= least * second
        else:
            scatter = second - first.unsqueeze(-1) * delta.unsqueeze(-2)
            scale = second.diagonal(dim1=-2, dim2=-1).rsqrt()  # (K, D)
            share = scale.unsqueeze(-1) * scatter * scale.unsqueeze(-2)
            # What is left of the raw second moments in the direction that loses most.
            kept = torch.linalg.eigvalsh(share.nan_to_num(0.0, 0.0, 0.0)) >= least
        return Moments(count, mean, scatter), bool((kept | empty).all())
