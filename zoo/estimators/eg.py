"""Expected gradient: exact E step, gradient M step. ∇ ln p(x) = E_{p(z|x)} ∇ ln p(x, z) (Fisher's identity)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo import program
from zoo.automatic.enumeration import evidence, why_not_exact
from zoo.batch import Data, call, num_data
from zoo.errors import ZooError
from zoo.estimators.base import Objective, Outcome, Run
from zoo.estimators.gradient import GradientEstimator, mean_bound, pyro_objective
from zoo.model import LatentVariableModel, can
from zoo.pieces import gathered, pieces

__all__ = ["EG"]


@dataclass(frozen=True)
class EG(GradientEstimator):
    """Gradient ascent on the exact ln p(x): the model's own ``log_marginal``, else Pyro's enumeration."""

    name: ClassVar[str] = "eg"
    e_step: ClassVar[str] = "exact posterior"
    m_step: ClassVar[str] = "gradient"
    sees_evidence: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True
    column: ClassVar[str] = "log_likelihood"

    def refuses(self, model: LatentVariableModel, x: Data) -> str | None:
        return None if can(model, "log_marginal") else why_not_exact(model, x, in_parts=True)

    def objective(self, model: LatentVariableModel, x: Data) -> Objective:
        if can(model, "log_marginal"):
            return lambda batch: mean_bound(-call(model.log_marginal, batch).sum(), batch)
        return pyro_objective(enumerated_evidence(model, x))

    def column_for(self, model: LatentVariableModel, x: Data) -> str:
        return self.column if model.normalized else "bound"

    def run(self, model: LatentVariableModel, x: Data, run: Run) -> Outcome:
        outcome = super().run(model, x, run)
        outcome.exact_q = True
        return outcome


def enumerated_evidence(model: LatentVariableModel, x: Data) -> Callable[..., Tensor]:
    """A function from data to -ln p(x), summed over data, by enumeration of every discrete latent."""
    nesting = program.plate_nesting(model, x, alone=True)

    def loss(*args: Any, **named: Any) -> Tensor:
        return -evidence(model, named or args, nesting)

    return loss


def log_density(model: LatentVariableModel, x: Data) -> Tensor:
    """The logarithm of a program's sum over its latents, nats, of each datum, (N,), or summed, (): ln p(x) if the
    program is normalised, else that up to a constant ln Z that is not known. No gradient is kept."""
    with torch.no_grad():
        if can(model, "log_marginal"):
            return gathered((call(model.log_marginal, piece) for piece in pieces(model, x)), num_data(x))
        nesting, parts = program.plate_nesting(model, x, alone=True), pieces(model, x)
        first = next(parts)
        if num_data(first) < num_data(x):
            with suppress(ZooError):  # what belongs to no single datum cannot be had by pieces
                rows = (evidence(model, p, nesting, rows=num_data(p)) for p in itertools.chain([first], parts))
                return gathered(rows, num_data(x))
        return evidence(model, x, nesting)


def exact_log_likelihood(model: LatentVariableModel, x: Data, checked: bool = False) -> Tensor | None:
    """ln p(x) of each datum, (N,), or summed (); None where no exact sum is to be had, or where what is summed is no
    density of the data. No gradient is kept.

    Args:
        checked: whether it is known already that the program can be summed.
    """
    summed = can(model, "log_marginal") or checked or why_not_exact(model, next(pieces(model, x))) is None
    return log_density(model, x) if summed and model.normalized else None


def row_log_likelihoods(model: LatentVariableModel, x: Data) -> Tensor | None:
    """ln p(x) of each datum, (N,), nats; None where no exact sum is to be had.

    Raises:
        ZooError: the program's ln p(x) is no sum over its data.
    """
    if can(model, "log_marginal"):
        return exact_log_likelihood(model, x)
    if not model.normalized or why_not_exact(model, x) is not None:
        return None
    with torch.no_grad():
        return evidence(model, x, program.plate_nesting(model, x, alone=True), rows=num_data(x))


def total_log_likelihood(model: LatentVariableModel, x: Data, checked: bool = False) -> float | None:
    """ln p(x) summed over the data, None as in :func:`exact_log_likelihood`; read off the E step where there is one,
    which is the fastest way to it."""
    if can(model, "e_step") and model.normalized:
        return float(call(model.e_step, x)["log_likelihood"].detach())
    exact = exact_log_likelihood(model, x, checked)
    return None if exact is None else float(exact.sum())
