"""Copies of a Gaussian mixture, by the arithmetic of its own E step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from zoo.core.statistics import Moments, Statistics
from zoo.densities.covariance import above_floor
from zoo.densities.gaussian_groups import GroupSums
from zoo.models.shared.copies import MixtureCopies, State

__all__ = ["FreeGaussianCopies", "GaussianCopies"]

#: What a checkpoint calls the parameters as steps keep them.
PRESENT = ("log_shares", "means", "factor")


class GaussianCopies(MixtureCopies):
    """Copies of a Gaussian mixture on rows ``x`` (N, D)."""

    def __init__(self, models: Sequence[Any], x: Tensor) -> None:
        super().__init__(models, x)
        self.sums = GroupSums(x, models[0].covariance_type)

    def e_step(self) -> tuple[Tensor, Statistics]:
        many = self.many
        return self._expected(self.log_mixing, many.means.detach(), many.scale_tril.detach())

    def _expected(self, log_mixing: Tensor, means: Tensor, scale_tril: Tensor) -> tuple[Tensor, Statistics]:
        total, moments = self.sums.e_step(log_mixing, means, scale_tril)
        return total, Statistics(len(self.x), total, counts=moments.count, moments=moments)


class FreeGaussianCopies(GaussianCopies):
    """The same where nothing stays and there is no prior: what the steps take and make is kept as they use it.

    To read and to assign parameters would take longer than the steps: they are stored unconstrained. What the class
    before knows of floors is asked where one may act.
    """

    def __init__(self, models: Sequence[Any], x: Tensor) -> None:
        super().__init__(models, x)
        self.floor: Tensor | None = None
        self.read: tuple[Any, State] | None = None  # a state as models store it
        self.present = self._read()
        self.begun = False  # until then what is stored is what it was

    @classmethod
    def serves(cls, model: Any) -> bool:
        stays = any(map(model.stays, ("weights", "means", "scale_tril")))
        return super().serves(model) and not stays and not model.pseudo_counts()

    def e_step(self) -> tuple[Tensor, Statistics]:
        return self._expected(*self.present)

    def m_step(self, statistics: Statistics) -> Sequence[str]:
        moments: Moments = statistics["moments"]
        count = self._apart(moments.count)
        if self.floor is None:
            self.floor = self.many.floor_under(moments)
        if not float(count.min()) > 0:
            return self._with_care(statistics)
        if self.many.covariance_type == "full":
            factor = above_floor(moments.scatter / moments.count[:, None, None], self.floor)
        else:
            variance, least = moments.scatter / moments.count[:, None], self.floor
            if self.many.covariance_type == "spherical":
                variance, least = variance.mean(-1), least.mean()
            factor = None if bool((variance < least).any()) else variance.sqrt()
        if factor is None or not math.isfinite(float(factor.sum())):
            return self._with_care(statistics)
        shares, dtype = (count / count.sum(-1, keepdim=True)).log(), self.x.dtype
        self.present, self.begun = (shares.to(dtype), moments.mean.to(dtype), factor.to(dtype)), True
        return []

    def _read(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.log_mixing, self.many.means.detach(), self.many.scale_tril.detach()

    def _with_care(self, statistics: Statistics) -> Sequence[str]:
        """As every mixture's, of what is stored."""
        if self.begun:
            self._store()
        notes = super().m_step(statistics)
        self.present = self._read()
        self.begun = False
        return notes

    def _store(self) -> None:
        whole, own = self._stored(self.present)
        for name, value in whole.items():
            self._set(name, value)
        self.own = own

    def state(self) -> Any:
        return self.present if self.begun else super().state()

    def tensors(self) -> dict[str, Tensor]:
        return dict(zip(PRESENT, self.present, strict=True)) if self.begun else super().tensors()

    def load(self, values: dict[str, Tensor]) -> None:
        self.begun = PRESENT[0] in values
        if not self.begun:
            super().load(values)
        shares, means, factor = PRESENT
        self.present = (values[shares], values[means], values[factor]) if self.begun else self._read()

    def state_of(self, state: Any, index: int) -> dict[str, Tensor]:
        if len(state) == 3:
            if self.read is None or self.read[0] is not state:
                self.read = state, self._stored(state)
            state = self.read[1]
        return super().state_of(state, index)

    def _stored(self, parameters: tuple[Tensor, ...]) -> State:
        """Parameters as a model stores them."""
        log_shares, means, factor = parameters
        if self.many.covariance_type == "full":
            raw = factor.tril(-1) + factor.diagonal(dim1=-2, dim2=-1).log().diag_embed()
        else:
            raw = factor.log()
        return {"means_unconstrained": means, "scale_tril_unconstrained": raw}, {"weights_unconstrained": log_shares}

    def keep(self, which: Sequence[int]) -> None:
        if not self.begun:
            super().keep(which)
            self.present = self._read()
            return
        chosen, (own, *apart) = list(which), self.present
        means, factor = (value.unflatten(0, (-1, self.k))[chosen].flatten(0, 1) for value in apart)
        self.present = own[chosen], means, factor
        self.count = len(which)
