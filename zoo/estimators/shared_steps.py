"""E and M step of a fit in several processes: each takes the E step of its own rows, and all go on from the sum."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from zoo.core.contract import LatentVariableModel
from zoo.core.ranks import Ranks
from zoo.core.statistics import Statistics
from zoo.estimators.steps import Steps

__all__ = ["SharedSteps"]


@dataclass(frozen=True)
class SharedSteps:
    """The steps of all ranks together.

    Attributes:
        own: those of this rank's rows.
    """

    own: Steps
    ranks: Ranks

    @property
    def model(self) -> LatentVariableModel:
        return self.own.model

    def e_step(self) -> Statistics:
        return self.ranks.total(self.own.e_step)

    def m_step(self, statistics: Any) -> Sequence[str]:
        step = functools.partial(self.own.m_step, statistics)
        return self.ranks.as_first(step, self.model)

    def reordered(self, generator: torch.Generator) -> SharedSteps:
        """Each rank's rows among themselves; what is drawn is the same number of numbers on all of them."""
        seed = int(torch.randint(2**31, (), generator=generator))
        return SharedSteps(self.own.reordered(torch.Generator().manual_seed(seed)), self.ranks)

    def doubled(self) -> SharedSteps:
        return SharedSteps(self.own.doubled(), self.ranks)
