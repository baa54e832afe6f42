"""Several Gaussian mixtures on the same few rows, their components side by side as if they were of one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.core.statistics import Moments
from zoo.densities.gaussian_sums import LOG2_E

__all__ = ["GroupSums"]


class GroupSums:
    """E steps of S mixtures of K components each on the same rows (N, D), one after another: few rows, where the calls
    decide. By differences, as :class:`zoo.densities.gaussian_sums.GaussianSums` takes them of one.

    On the CPU the arithmetic and the results are float64, elsewhere of the dtype of the data.
    """

    def __init__(self, x: Tensor, covariance_type: str) -> None:
        dtype = torch.float64 if x.device.type == "cpu" else x.dtype
        self.rows = x.to(dtype)
        self.columns = self.rows.mT.contiguous()  # (D, N)
        self.diagonal = covariance_type in ("diag", "spherical")
        self.normaliser = 0.5 * x.shape[1] * math.log(2 * math.pi)
        self.identity = torch.eye(x.shape[1], dtype=dtype, device=x.device)
        self.buffers = torch.empty(2, 0, dtype=dtype, device=x.device)

    @torch.no_grad()
    def e_step(self, log_weights: Tensor, means: Tensor, scale_tril: Tensor) -> tuple[Tensor, Moments]:
        """The log-likelihood of each mixture, (S,), in nats, and the moments of the S K components.

        Args:
            log_weights: (S, K). means: (S K, D). scale_tril: of the S K components, none of them tied.

        Raises:
            ValueError: a density that is not finite, or zero in every component of a mixture.
        """
        columns, means, (groups, k) = self.columns, means.to(self.columns), log_weights.shape
        difference, white = self._room(len(means))
        torch.sub(columns, means.unsqueeze(-1), out=difference)
        log_scale = self._whiten(scale_tril.to(columns), difference, white)
        height = log_weights - log_scale.view(groups, k).add_(self.normaliser)
        joint = torch.sub(height.unsqueeze(-1), white.square_().sum(1).view(groups, k, -1), alpha=0.5)
        peak = joint.amax(1, keepdim=True)
        weights = joint.sub_(peak).mul_(LOG2_E).exp2_()
        norm = weights.sum(1, keepdim=True)
        weights = weights.div_(norm).flatten(0, 1)
        total = norm.log_().add_(peak).view(groups, -1).sum(1)
        if not math.isfinite(float(total.sum())):  # asking each takes longer
            raise ValueError("a row has no finite density")
        return total, self._moments(weights, means, difference, white)

    def _room(self, components: int) -> tuple[Tensor, Tensor]:
        """Two arrays (S K, D, N), whatever stands in them."""
        size = components * self.columns.numel()
        if self.buffers.shape[1] < size:
            self.buffers = self.buffers.new_empty(2, size)
        first, second = (buffer[:size].view(components, *self.columns.shape) for buffer in self.buffers)
        return first, second

    def _whiten(self, scale: Tensor, difference: Tensor, white: Tensor) -> Tensor:
        """Differences from the means in units of their components, and ln of the units' size, (S K,)."""
        if self.diagonal:
            if scale.dim() == 1:
                scale = scale.unsqueeze(-1).expand(len(scale), len(self.columns))
            torch.mul(difference, scale.reciprocal().unsqueeze(-1), out=white)
            return scale.log().sum(-1)
        torch.bmm(torch.linalg.solve_triangular(scale, self.identity, upper=False), difference, out=white)
        return scale.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _moments(self, weights: Tensor, means: Tensor, difference: Tensor, white: Tensor) -> Moments:
        """Under the weights (S K, N), about the new means; what stands in the other two is overwritten."""
        count = safe = weights.sum(1)
        mean = weights @ self.rows
        if not float(count.min()) > 0:
            empty = count <= 0
            safe = count.masked_fill(empty, 1.0)
            mean = mean.where(~empty.unsqueeze(-1), means)
        mean /= safe.unsqueeze(-1)
        # What rounding has left of the mean is taken out: the corrected two-pass algorithm (Chan, Golub & LeVeque 1983,
        # equation 1.7).
        torch.sub(self.columns, mean.unsqueeze(-1), out=difference)
        weighted = torch.mul(difference, weights.unsqueeze(1), out=white)
        left = weighted.sum(-1)
        rest = left / safe.unsqueeze(-1)
        if self.diagonal:
            scatter = weighted.mul_(difference).sum(-1).addcmul_(left, rest, value=-1)
        else:
            scatter = torch.bmm(weighted, difference.mT).baddbmm_(left.unsqueeze(-1), rest.unsqueeze(-2), alpha=-1)
        return Moments(count, mean.add_(rest), scatter)
