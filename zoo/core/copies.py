"""Several copies of a model at parameters of their own, whose E and M steps on the same data are taken at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

from torch import Tensor, nn

from zoo.core.statistics import Statistics

__all__ = ["Copies", "with_parameters"]


class Copies(Protocol):
    """What a model's ``copies`` gives: S of them, the same numbers as one after the other but for rounding.

    What is out of the ordinary in any of them (numbers that are not finite, a matrix that has no factor) may be raised
    as a RuntimeError or ValueError: each is then taken alone.
    """

    def e_step(self) -> tuple[Tensor, Statistics]:
        """What EM climbs, (S,), nats, and the expected statistics of all."""
        ...

    def m_step(self, statistics: Statistics) -> Sequence[str]:
        """Sets the parameters of all; notes on constraints that acted in any."""
        ...

    def of_one(self, statistics: Statistics, index: int) -> Statistics:
        """The statistics of one copy, as its own ``m_step`` takes them."""
        ...

    def state(self) -> Any:
        """The present parameters; steps make new ones and leave these as they are."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The present parameters by name, for a checkpoint."""
        ...

    def load(self, values: dict[str, Tensor]) -> None:
        """Go on from what :meth:`tensors` gave of as many copies."""
        ...

    def state_of(self, state: Any, index: int) -> dict[str, Tensor]:
        """The parameters of one copy in a state, by the names of its ``state_dict``."""
        ...

    def keep(self, which: Sequence[int]) -> None:
        """Go on with these alone, in this order."""
        ...

    def kept(self, statistics: Statistics, which: Sequence[int]) -> Statistics:
        """The statistics of these alone."""
        ...


Module = TypeVar("Module", bound=nn.Module)


def with_parameters(model: Module, values: Mapping[str, Tensor]) -> Module:
    """A model with parameters of its own, by the names of ``named_parameters``, that shares all else with another.

    Networks too: it is made to be read, and for steps that leave them alone. A deep copy takes many times as long.
    """
    twin = copy.copy(model)
    twin._parameters = {
        name: None if p is None else nn.Parameter(values.get(name, p).detach(), requires_grad=p.requires_grad)
        for name, p in model._parameters.items()
    }
    return twin
