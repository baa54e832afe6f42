"""How good is an estimator's gradient? Its bias and spread against the exact expected gradient, at shared points."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.core.isolation import differentiable, isolated
from zoo.core.objective import Objective
from zoo.core.problem import Problem
from zoo.estimators import estimator_classes
from zoo.estimators.base import Estimator, Run
from zoo.estimators.eg import EG
from zoo.estimators.gradient import GradientEstimator, GuidedEstimator
from zoo.estimators.svi import SVI

__all__ = ["GradientQuality", "gradient_quality", "sampled_gradients"]


@dataclass(frozen=True)
class GradientQuality:
    """One estimator's gradient in θ at one point, per datum, in units of each parameter's scale.

    Attributes:
        estimator: its label. point: "start" or "optimum".
        exact_norm: length of the exact gradient ∇ ln p(x) / N.
        bias: length of (mean of the draws - exact). bias_se: its Monte-Carlo noise; below about twice that it is none.
            A bias may be true and still have no noise: ``svi`` with exact sums is off by what its guide misses.
        sd: root of the summed variance of a single draw.
        num_draws: draws taken.
    """

    estimator: str
    point: str
    exact_norm: float
    bias: float
    bias_se: float
    sd: float
    num_draws: int


def gradient_quality(
    model: LatentVariableModel,
    x: Data,
    estimators: Mapping[str, Estimator | dict[str, Any]],
    *,
    point: str,
    num_draws: int = 100,
    warmup: int = 1000,
    seed: int = 0,
    told: Callable[[float], None] | None = None,
) -> list[GradientQuality]:
    """Bias and spread of estimators' gradients at the model's present θ, with one warmed-up guide for all that have q.

    Args:
        model: at the point; left as it is. Needs an exact evidence.
        estimators: by label, or options by an estimator's name; those without a gradient are passed over.
        point: a word for the table.
        told: called now and then with the fraction done.
    """
    made = {n: e if isinstance(e, Estimator) else estimator_classes()[n](**e) for n, e in estimators.items()}
    measured = {name: each for name, each in made.items() if isinstance(each, GradientEstimator)}
    if not measured:
        return []
    guided = any(isinstance(each, GuidedEstimator) for each in measured.values())
    with isolated(seed):
        here = copy.deepcopy(model)
        problem = Problem(here, x)
        drawn = {name for name, each in measured.items() if not each.exact(problem)}
        draws_in_all = sum(num_draws if name in drawn else 1 for name in measured)
        steps = _Steps(told, warmup if guided else 0, draws_in_all)
        if guided:
            SVI(warmup=warmup, optimizer="adam").warm_up(problem, Run(steps))
            steps.done = steps.warmup
        theta = problem.program.theta
        exact = _gradient(here, x, EG().objective(problem), theta)
        rows = []
        for name, each in measured.items():
            objective = (replace(each, warmup=0) if isinstance(each, GuidedEstimator) else each).objective(problem)
            count = num_draws if name in drawn else 1
            draws = torch.stack([steps.count(_gradient(here, x, objective, theta)) for _ in range(count)])
            variance = draws.var(0).sum() if count > 1 else torch.zeros(())
            rows.append(
                GradientQuality(
                    name,
                    point,
                    float(exact.norm()),
                    float((draws.mean(0) - exact).norm()),
                    float((variance / count).sqrt()),
                    float(variance.sqrt()),
                    count,
                )
            )
        return rows


def sampled_gradients(names: Iterable[str]) -> bool:
    """Whether one of these estimators follows a gradient that is not exact: else there is nothing to measure."""
    kinds = [estimator_classes()[name] for name in names]
    return any(issubclass(kind, GradientEstimator) and not kind.sees_evidence for kind in kinds)


class _Steps:
    """Counts steps of a known number, and tells which fraction is done; a callback of the warm-up's run."""

    def __init__(self, told: Callable[[float], None] | None, warmup: int, draws: int) -> None:
        self.told, self.warmup, self.total, self.done = told, warmup, warmup + draws, 0

    def __call__(self, row: dict[str, Any], fraction: float | None) -> None:
        """A row of a history: a warm-up has none."""

    def stage(self, name: str, fraction: float) -> None:
        if self.told is not None:
            self.told(fraction * self.warmup / self.total)

    def count(self, value: Tensor) -> Tensor:
        self.done += 1
        if self.told is not None:
            self.told(self.done / self.total)
        return value


def _gradient(model: LatentVariableModel, x: Data, objective: Objective, theta: Sequence[str]) -> Tensor:
    """The ascent direction in θ, flattened, each entry times its parameter's unit step."""
    named = dict(model.named_parameters())
    scales = model.parameter_scales(x)
    with differentiable():
        grads = torch.autograd.grad(-objective(x).surrogate, [named[n] for n in theta], allow_unused=True)
    parts = []
    for name, grad in zip(theta, grads, strict=True):
        value = torch.zeros_like(named[name]) if grad is None else grad
        parts.append((value * scales[name].to(value) if name in scales else value).flatten())
    return torch.cat(parts)
