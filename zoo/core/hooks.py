"""Bounds and batches by way of what a model offers instead of its Pyro programs (:mod:`zoo.core.offers`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.data import Data, call, changed, mass, total

__all__ = ["FreshBatches", "HookedBound", "Objective", "fresh", "settled", "weigh"]


def fresh(model: LatentVariableModel, batch: Data) -> Data:
    """The batch, with its own noise drawn anew where the model asks for that."""
    return changed(batch, call(model.resample, batch)) if lacks(model, "resample") is None else batch


def settled(model: LatentVariableModel, x: Data, seed: int) -> Data:
    """Data whose own noise (grey pixels to be drawn as 0 or 1) is drawn once, where the model has such."""
    if lacks(model, "settle") is not None:
        return x
    hook: Any = model.settle
    return call(lambda *a, **k: hook(*a, **k, seed=seed), x)


class FreshBatches:
    """An objective that sees every batch with its noise drawn anew."""

    def __init__(self, model: LatentVariableModel, objective: Objective) -> None:
        self.model, self.objective = model, objective

    def __call__(self, batch: Data) -> tuple[Tensor, Tensor]:
        return self.objective(fresh(self.model, batch))


class HookedBound:
    """Batch to (surrogate, bound) from the model's ``elbo_parts``.

    Args:
        share: the KL's weight as a function of the fraction of the schedule done; None leaves it alone.
        draw_anew: whether each batch has its own noise drawn anew.

    Attributes:
        parts: means per datum of the last batch, nats, each () and without gradient.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        num_particles: int,
        share: Callable[[float], float] | None = None,
        draw_anew: bool = True,
    ) -> None:
        self.model, self.num_particles, self.share, self.draw_anew = model, num_particles, share, draw_anew
        self.parts: dict[str, Tensor] = {}

    def at(self, fraction: float) -> None:
        """Told the fraction of the schedule done, before each step."""
        if self.share is not None:
            self.model.anneal(self.share(fraction))

    def __call__(self, batch: Data) -> tuple[Tensor, Tensor]:
        hook: Any = self.model.elbo_parts
        batch = fresh(self.model, batch) if self.draw_anew else batch
        bound, parts = call(lambda *a, **k: hook(*a, **k, num_particles=self.num_particles), batch)
        self.parts = {name: total(value.detach(), batch) / mass(batch) for name, value in parts.items()}
        mean = total(bound, batch) / mass(batch)
        return -mean, mean.detach()


def weigh(model: LatentVariableModel, batch: Data, num_particles: int) -> Tensor:
    """The model's own ``log_weights``, (K, N) nats."""
    hook: Any = model.log_weights
    weights: Tensor = call(lambda *a, **k: hook(*a, **k, num_particles=num_particles), batch)
    return weights


class Objective(Protocol):
    """A batch's (surrogate to minimise, bound), both means per datum; the surrogate carries the gradient.

    An objective, or else the model, may have an attribute ``parts``: named pieces of the last batch's bound
    (``reconstruction``, ``kl``) as detached 0-d tensors, nats per datum. The loop averages them over an epoch
    into columns of the history.
    """

    def __call__(self, batch: Data) -> tuple[Tensor, Tensor]: ...
