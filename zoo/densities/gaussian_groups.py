"""Several Gaussian mixtures on the same few rows, their components side by side as if they were of one."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.core.statistics import Moments
from zoo.densities.gaussian_sums import LOG2_E, GaussianSums

__all__ = ["GroupSums"]


class GroupSums(GaussianSums):
    """The sums of S mixtures of K components each, of which S K are prepared."""

    def of_groups(self, x: Tensor, groups: int) -> tuple[Tensor, Moments]:
        """The log-likelihood of each of several mixtures, (S,), and the moments of all their components, at once.

        Args:
            groups: S, into as many equal parts the components fall. For few rows.

        Raises:
            ValueError: a density that is not finite, or zero in every component of a mixture.
        """
        columns = x.mT.to(self.dtype).contiguous()
        buffers = torch.empty(2, self.components * columns.numel(), dtype=self.dtype, device=x.device)
        difference, white = self._views(columns, buffers)
        joint = self._joint(columns, difference, white).unflatten(0, (groups, -1))
        peak = joint.amax(1, keepdim=True)
        if not bool(peak.isfinite().all()):
            raise ValueError("a row has no finite density")
        weights = joint.sub_(peak).mul_(LOG2_E).exp2_()
        norm = weights.sum(1, keepdim=True)
        weights = weights.div_(norm).flatten(0, 1)
        moments = self._about_new_means(columns, weights, difference, white)
        return norm.log_().add_(peak).sum((1, 2)), Moments(moments.count, self.means + moments.mean, moments.scatter)
