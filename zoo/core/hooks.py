"""Bounds and batches by way of what a model offers instead of its Pyro programs (:mod:`zoo.core.offers`)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from zoo.core.choices import Choices
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, changed, mass, total
from zoo.core.objective import Objective, Step
from zoo.core.streams import Stream

__all__ = ["Computed", "HookedBound", "choose", "fresh", "settled", "weigh"]


def fresh(model: LatentVariableModel, batch: Data) -> Data:
    """The batch, with its own noise drawn anew where the model asks for that."""
    return changed(batch, call(model.resample, batch)) if lacks(model, "resample") is None else batch


def settled(model: LatentVariableModel, x: Data, seed: int) -> Data:
    """Data whose own noise (grey pixels to be drawn as 0 or 1) is drawn once, where the model has such; of a stream
    whenever rows are taken, from the same seed."""
    if lacks(model, "settle") is not None:
        return x
    hook: Any = model.settle
    step = functools.partial(call, functools.partial(hook, seed=seed))
    return x.then(step) if isinstance(x, Stream) else step(x)


class Computed(Objective):
    """An objective that is a function from a batch to its step.

    Args:
        noisy: the model whose batches have noise of their own, to be drawn anew for every step.
        chosen: what the model says of discrete latents, if the step is made of that.
    """

    steady = True

    def __init__(
        self,
        step: Callable[[Data], Step],
        column: str = "elbo",
        noisy: LatentVariableModel | None = None,
        chosen: Callable[[Data], Choices] | None = None,
    ) -> None:
        self.step, self.column, self.noisy, self.chosen = step, column, noisy, chosen

    def outcomes(self, batch: Data) -> Tensor | None:
        return None if self.chosen is None else self.chosen(batch).outcomes()

    def __call__(self, batch: Data) -> Step:
        return self.step(batch if self.noisy is None else fresh(self.noisy, batch))


class HookedBound(Objective):
    """The bound of a model's ``elbo_parts``: reconstruction less the weighted KL.

    Args:
        share: the KL's weight, as a share of its full one, by the fraction of the schedule done (Bowman et al. 2016;
            Sønderby et al. 2016); None leaves it alone. What is followed is annealed, the value is at full weight.
        draw_anew: whether each batch has its own noise drawn anew.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        num_particles: int,
        share: Callable[[float], float] | None = None,
        draw_anew: bool = True,
        column: str = "elbo",
    ) -> None:
        self.model, self.num_particles, self.draw_anew, self.column = model, num_particles, draw_anew, column
        self._share, self.weight = share, 1.0

    @property
    def steady(self) -> bool:  # type: ignore[override]
        return self.weight == 1

    def at(self, fraction: float) -> None:
        if self._share is not None:
            self.weight = min(max(self._share(fraction), 1e-6), 1.0)

    def __call__(self, batch: Data) -> Step:
        hook: Any = self.model.elbo_parts
        batch = fresh(self.model, batch) if self.draw_anew else batch
        bound, parts = call(lambda *a, **k: hook(*a, **k, num_particles=self.num_particles), batch)
        mean = followed = total(bound, batch) / mass(batch)
        if self.weight != 1:
            annealed = parts["reconstruction"] - self.model.kl_weight * self.weight * parts["kl"]
            followed = total(annealed, batch) / mass(batch)
        means = {name: total(value.detach(), batch) / mass(batch) for name, value in parts.items()}
        return Step(-followed, mean.detach(), means)


def weigh(model: LatentVariableModel, batch: Data, num_particles: int) -> Tensor:
    """The model's own ``log_weights``, (K, N) nats."""
    hook: Any = model.log_weights
    weights: Tensor = call(lambda *a, **k: hook(*a, **k, num_particles=num_particles), batch)
    return weights


def choose(model: LatentVariableModel, batch: Data) -> Choices:
    """The model's own ``choices``."""
    hook: Any = model.choices
    choices: Choices = call(hook, batch)
    return choices
