"""What all gradient estimators share: warm-up of the guide, the schedule, the training loop."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from zoo import program
from zoo.batch import Data, num_data
from zoo.estimators.base import Estimator, Objective, Outcome, Run
from zoo.model import FunctionModel, LatentVariableModel
from zoo.training import Schedule, train

__all__ = ["GradientEstimator", "GuidedEstimator", "needs_guide"]


@dataclass(frozen=True)
class GradientEstimator(Estimator):
    """An estimator that climbs an :class:`~zoo.estimators.base.Objective` by Adam.

    Attributes:
        max_epochs: passes over the data; None takes enough for 3000 steps.
        batch_size: rows a step; None takes all rows up to 2048, else 256.
        learning_rate: Adam's, at the start, in units of each parameter's scale; it falls to a hundredth along a cosine.
        tol: status "converged" if the bound per datum moved less than this over the schedule's last part, nats.
    """

    max_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 0.02
    tol: float = 1e-4

    #: Whether the full-batch objective has no sampling noise.
    deterministic: ClassVar[bool] = False
    #: The history's column that the objective also is.
    column: ClassVar[str] = "elbo"

    def objective(self, model: LatentVariableModel, x: Data) -> Objective:
        """The objective for batches of data like ``x``."""
        raise NotImplementedError

    def plan(self, model: LatentVariableModel, x: Data) -> Schedule:
        size = self.batch_size
        if size is None and isinstance(model, FunctionModel):
            size = num_data(x)  # a program of the user's own may not know that it sees a part of the data
        return Schedule(self.max_epochs, size, self.learning_rate)

    def elements(self, x: Data) -> int:
        rows = max(1, num_data(x))
        _, batch = Schedule(self.max_epochs, self.batch_size).resolve(rows)
        return super().elements(x) * min(batch, rows) // rows

    def run(self, model: LatentVariableModel, x: Data, run: Run) -> Outcome:
        objective = self.objective(model, x)
        return train(
            model,
            objective,
            x,
            run,
            self.plan(model, x),
            on_fraction=getattr(objective, "at", None),
            names=self.moving(model, x),
            tol=self.tol,
            deterministic=self.deterministic,
            column=self.column,
        )

    def rehearse(self, model: LatentVariableModel, x: Data) -> None:
        if not isinstance(model, FunctionModel):
            with torch.random.fork_rng(devices=[]):
                surrogate, _ = self.objective(model, x)(program.probe(model, x))
                torch.autograd.grad(surrogate, list(model.parameters()), allow_unused=True)

    def moving(self, model: LatentVariableModel, x: Data) -> Any:
        """Which parameters move, as :func:`zoo.training.train` takes them."""
        return None


@dataclass(frozen=True)
class GuidedEstimator(GradientEstimator):
    """A gradient estimator whose q is the model's guide.

    Attributes:
        warmup: guide-only steps at the starting θ: an untrained guide destroys a good start. 0 turns it off.
        num_particles: draws from the guide a datum and step.
    """

    uses_guide: ClassVar[bool] = True

    warmup: int = 500
    num_particles: int = 1

    def refuses(self, model: LatentVariableModel, x: Data) -> str | None:
        return needs_guide(model)

    def run(self, model: LatentVariableModel, x: Data, run: Run) -> Outcome:
        warmed = self.warm_up(model, x, run)
        return warmed if warmed.status in ("interrupted", "diverged") else super().run(model, x, run)

    def warm_up(self, model: LatentVariableModel, x: Data, run: Run) -> Outcome:
        """Train the guide alone, at the model's present parameters."""
        if not self.warmup:
            return Outcome("converged", 0.0)
        theta, psi = program.parameter_roles(model, x)
        only_guide = [name for name in psi if name not in theta]
        if not only_guide:
            return Outcome("converged", 0.0)
        schedule = self.plan(model, x)
        _, batch = schedule.resolve(num_data(x))
        epochs = max(1, round(int(self.warmup) * batch / num_data(x)))
        objective = self.objective(model, x)
        return train(
            model, objective, x, run, dataclasses.replace(schedule, max_epochs=epochs), names=only_guide, record=False
        )


def needs_guide(model: LatentVariableModel) -> str | None:
    """The reason, if any, why an estimator that needs a guide cannot serve the model."""
    if program.has_guide(model):
        return None
    return "it has no guide; pass guide=... (for instance a pyro.infer.autoguide)"


def mean_bound(total: torch.Tensor, batch: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """(surrogate, bound) per datum from a Pyro loss: minus the bound, summed over the batch."""
    loss = total / num_data(batch)
    return loss, -loss.detach()
