"""What a gradient estimator climbs: an objective, and what it says of one batch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from zoo.core.data import Data

__all__ = ["Objective", "Step"]


class Step(NamedTuple):
    """What an objective says of a batch: means per datum, each ().

    Attributes:
        surrogate: what is followed downhill; it carries the gradient.
        value: what is climbed, nats, without gradient; None where nobody knows it.
        parts: pieces of the value by name (``reconstruction``, ``kl``), nats, without gradient: columns of the history.
    """

    surrogate: Tensor
    value: Tensor | None
    parts: Mapping[str, Tensor] = MappingProxyType({})


class Objective:
    """What a gradient estimator climbs.

    Attributes:
        column: the history's column that the value also is: "elbo", "bound" for another bound, "log_likelihood".
        steady: whether the next step is the same operations on a batch's tensors as the one before: nothing in Python
            (a weight that anneals, a chain that goes on) makes it another. A GPU may repeat such steps.
    """

    column: str = "elbo"
    steady: bool = False

    def __call__(self, batch: Data) -> Step:
        raise NotImplementedError

    def at(self, fraction: float) -> None:
        """Told the fraction of the schedule done, before each step that is recorded: what anneals does it here."""

    def outcomes(self, batch: Data) -> Tensor | None:
        """ln q(z | x) of each outcome of all latents, (N, K), where there are few and q is a guide's; else None."""
        return None

    def state(self) -> dict[str, Tensor]:
        """What it carries from step to step, for a checkpoint."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
