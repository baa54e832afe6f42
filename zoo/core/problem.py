"""What is to be fitted: a model, its data, and what is known of them besides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from torch import Tensor

from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data
from zoo.core.program import Program, look

__all__ = ["Problem"]


@dataclass(frozen=True, eq=False)
class Problem:
    """A model and the data that it is to be fitted to.

    Attributes:
        model: the model, which a fit moves in place.
        data: as the model takes them (:func:`zoo.core.contract.prepared`).
        weights: how often each row or sequence counts, (N,), not negative; None counts each once.
        known: by latent site, its values where they are known, one entry a row (a time step for chains), NaN or -1
            where they are not.
    """

    model: LatentVariableModel
    data: Data
    weights: Tensor | None = None
    known: dict[str, Tensor] | None = None

    @cached_property
    def program(self) -> Program:
        """What the program is made of; it is run for that when it is first asked, and once."""
        return look(self.model, self.data)

    def lacks(self, *offers: str) -> str | None:
        """Why the model does not offer all of these, a phrase to follow "because"; None where it does."""
        return lacks(self.model, *offers)

    def on(self, data: Data) -> Problem:
        """The same problem on other data."""
        return replace(self, data=data)

    def of(self, model: LatentVariableModel) -> Problem:
        """The same problem for a copy of the model, of which no more needs to be looked up."""
        copied = replace(self, model=model)
        if "program" in self.__dict__:
            copied.__dict__["program"] = self.program
        return copied
