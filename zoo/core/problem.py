"""What is to be fitted: a model, its data, and what is known of them besides."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from zoo.core.checks import failed_on_data
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, at_hand, plain
from zoo.core.program import Program, look, reached_by_marginal
from zoo.core.rows import Rows, declares

__all__ = ["Problem"]

#: Offers that answer for the program, and have to know what stands beside the rows: each with what it has to be told.
#: One number a row (of a likelihood, of a bound) can be weighted afterwards.
TOLD = {
    "e_step": ("weights", "known"),
    "closed_form": ("weights", "known"),
    "closed_form_statistics": ("weights", "known"),
    "log_marginal": ("known",),
    "elbo": ("known",),
    "elbo_parts": ("known",),
    "denoising": ("known",),
    "log_weights": ("known",),
    "choices": ("known",),
    "particles": ("known",),
    "relax": ("known",),
}


#: What the ln p(x) of models of the zoo depends on, by their kind: fits of one kind are many, and graphs take time.
_REACHED: dict[tuple[Any, ...] | None, tuple[str, ...]] = {}


def _kind(model: LatentVariableModel) -> tuple[Any, ...] | None:
    """All that decides which parameters the ln p(x) of a model of the zoo depends on; None of any other."""
    cls, config = type(model), model.config
    if not cls.__module__.startswith("zoo.models.") or not all(isinstance(v, _PLAIN) for v in config.values()):
        return None
    moving = tuple(name for name, p in model.named_parameters() if p.requires_grad)
    return cls, *config.items(), moving


#: Arguments of a constructor that are the same where they are equal.
_PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True, eq=False)
class Problem:
    """A model and the data that it is to be fitted to.

    Attributes:
        model: the model, which a fit moves in place.
        data: as the model takes them (:func:`zoo.core.contract.prepared`); :class:`~zoo.core.rows.Rows` where rows have
            weights, or latents are known.
    """

    model: LatentVariableModel
    data: Data
    _facts: dict[str, Any] = field(default_factory=dict, repr=False)  # what copies share

    def __reduce__(self) -> tuple[Any, ...]:
        return Problem, (self.model, self.data)  # what a run left in its trace is looked up again in another process

    @property
    def program(self) -> Program:
        """What the program is made of; it is run for that when it is first asked, and once for all copies."""
        if "program" not in self._facts:
            try:
                self._facts["program"] = look(self.model, at_hand(self.data))
            except Exception as error:
                if type(self.model).__module__.startswith("zoo."):
                    raise
                raise failed_on_data(self.model.name, error) from error  # a class of the user's
        made: Program = self._facts["program"]
        return made

    @property
    def theta(self) -> tuple[str, ...]:
        """Names of the parameters that p(x, z) depends on: those of an exact ln p(x) where the model offers one, for
        which no program need be run."""
        if "program" in self._facts or lacks(self.model, "log_marginal") is not None:
            return self.program.theta
        if "theta" not in self._facts:
            kind = _kind(self.model)
            self._facts["theta"] = _REACHED.get(kind) or reached_by_marginal(self.model, plain(at_hand(self.data)))
            if kind is not None:
                _REACHED[kind] = self._facts["theta"]
        names: tuple[str, ...] = self._facts["theta"]
        return names

    @property
    def num_tensors(self) -> int:
        """How many tensors the model's state has."""
        if "num_tensors" not in self._facts:
            self._facts["num_tensors"] = len(self.model.state_dict())
        number: int = self._facts["num_tensors"]
        return number

    @property
    def denoises(self) -> bool:
        """Whether what a guide's bound is on depends on noise beside the latents: it is none on ln p(x) then."""
        return not self.model.normalized and self.model.has_guide and bool(self.program.noise)

    def lacks(self, *offers: str) -> str | None:
        """Why the model does not offer all of these for the data, a phrase to follow "because"; None where it does."""
        return lacks(self.model, *offers) or next((why for name in offers if (why := self._deaf(name))), None)

    def _deaf(self, offer: str) -> str | None:
        """What an offer would have to be told of the rows and does not ask for, in a phrase."""
        if not isinstance(self.data, Rows):
            return None
        beside = {"weights": self.data.weights is not None, "known": bool(self.data.known)}
        for what in TOLD.get(offer, ()):
            if beside[what] and not declares(getattr(self.model, offer), what):
                return f"its {offer} takes no {what}" + (" latents" if what == "known" else "")
        return None

    def on(self, data: Data) -> Problem:
        """The same problem on other data."""
        return Problem(self.model, data)

    def of(self, model: LatentVariableModel) -> Problem:
        """The same problem for a copy of the model, of which no more needs to be looked up."""
        return replace(self, model=model)

    def beside(self, data: Data) -> Problem:
        """The same problem with something beside its rows, which changes nothing in the program."""
        return replace(self, data=data)
