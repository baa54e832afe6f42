"""Expectation maximisation: exact E step, closed-form M step (Dempster, Laird & Rubin 1977), and its hard variant."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, count
from zoo.core.memory import SMALL
from zoo.core.problem import Problem
from zoo.core.rows import declares
from zoo.core.state import restore, snapshot
from zoo.errors import LikelihoodDecreased, unknown_name
from zoo.estimators.base import Estimator, Outcome, Run, at_least, from_zero, needs_statistics
from zoo.estimators.loop.held_out import HeldOut
from zoo.estimators.steps import ModelSteps, Steps, allowance, judged, objective_of
from zoo.scores.evidence import log_density, summed, total_log_likelihood

__all__ = ["EM", "HardEM"]


@dataclass(frozen=True)
class EM(Estimator):
    """EM by the model's own ``e_step`` and ``m_step``.

    Attributes:
        max_iter: most iterations; one is one E and one M step.
        tol: stop when an iteration gains less than this per datum (per time step for sequences), nats; 0 runs
            exactly ``max_iter`` iterations.
        accelerate: None, or "squarem": Varadhan & Roland (2008), "Simple and globally convergent methods for
            accelerating the convergence of any EM algorithm", scheme S3; a jump is kept only if the objective
            does not fall, so the climb stays monotone. An iteration is then one jump: three E and M steps.
        validation: a fraction of the data to hold out, or held-out data as the model takes them; their log-likelihood
            is followed, and the parameters where it was highest are kept.
        patience: with ``validation``, iterations without a new best before the run stops.
    """

    name: ClassVar[str] = "em"
    about_e: ClassVar[str] = "exact posterior"
    about_m: ClassVar[str] = "closed form"
    sees_evidence: ClassVar[bool] = True
    hard: ClassVar[bool] = False
    #: What a fall beyond rounding means.
    cause: ClassVar[str] = "The model's m_step does not maximise what its e_step measures"

    max_iter: int = 100_000
    tol: float = 1e-9
    accelerate: str | None = None
    validation: Any = None
    patience: int = 5

    def __post_init__(self) -> None:
        at_least(self.name, 0, max_iter=self.max_iter)
        at_least(self.name, 1, patience=self.patience)
        from_zero(self.name, tol=self.tol)

    def refuses(self, problem: Problem) -> str | None:
        if self.accelerate not in (None, "squarem"):
            raise unknown_name("accelerate", str(self.accelerate), ("squarem",))
        return self._lacks(problem)

    def rehearse(self, problem: Problem) -> None:
        small = self.elements(problem) < SMALL
        with torch.no_grad():
            self.steps(problem if small else problem.on(problem.model.probe(problem.data))).e_step()

    def steps(self, problem: Problem) -> Steps:
        """The E and M step that a run repeats."""
        return ModelSteps(problem.model, problem.data, self.hard)

    def run(self, problem: Problem, run: Run) -> Outcome:
        model, x = problem.model, problem.data
        rows, units = count(x), model.num_units(x)
        steps = self.steps(problem)
        last, status = -math.inf, "max_iter"
        rounding = 0.0  # the largest that was measured
        notes: Sequence[str] = ()
        kept_notes: Sequence[str] = ()
        remarks: list[str] = []
        best = here = snapshot(model)
        held_out = None
        if self.validation is not None:
            score = functools.partial(_total_density, model)
            if model.normalized:
                score = functools.partial(total_log_likelihood, model)
            held_out = HeldOut(model, self.validation, score, int(self.patience))
        with torch.no_grad():
            try:
                for iteration in range(1, int(self.max_iter) + 2):
                    statistics = steps.e_step()
                    objective = objective_of(steps, statistics)
                    if math.isnan(objective) or objective == math.inf:
                        restore(model, best)
                        return Outcome("diverged", last, [f"the objective became {objective} at iteration {iteration}"])
                    fall, free = last - objective, allowance(objective, rows)
                    if fall > max(free, rounding):
                        exact_fall, rounding = judged(steps, here, fall)
                        if exact_fall > rounding:
                            restore(model, best)
                            raise LikelihoodDecreased(iteration, exact_fall, rounding=rounding, cause=self.cause)
                        rounding = max(rounding, fall)
                    if iteration > 1 and objective == last == -math.inf:
                        note = "the data have probability zero at the starting point and stay there"
                        return Outcome("diverged", last, [note], exact_q=not self.hard)
                    here = snapshot(model)
                    if fall <= free:
                        best, kept_notes = here, notes
                    elif self.tol > 0 and fall >= self.tol * units:
                        status, within = "stalled", f"which is rounding (up to {rounding:.1g}, measured)"
                        remarks = [f"iteration {iteration} lost {fall:.1g} nats, {within}, and was taken back"]
                        break
                    last = max(objective, last)
                    if iteration > self.max_iter:  # nothing but the objective of the last M step was wanted
                        break
                    columns: dict[str, float | None] = {}
                    if held_out is not None:
                        if held_out.worse(lambda _, now=best: now, last, kept_notes):  # type: ignore[misc]
                            status = "converged"
                        columns = {"validation": held_out.last}
                    known = float(statistics["log_likelihood"]) if model.normalized else None
                    run.record(objective, log_likelihood=known, **columns)
                    if self.tol > 0 and -fall < self.tol * units:
                        status = "converged"
                    elif self.tol > 0 and -fall < free / 64:
                        status = "stalled"
                    if status != "max_iter" or run.out_of_time:
                        break
                    notes = steps.m_step(statistics)
                    if self.accelerate:
                        notes = self._squarem(steps, here)
            except KeyboardInterrupt:
                status = "interrupted"
            except torch.linalg.LinAlgError as error:
                if last == -math.inf:
                    raise
                status, why = "diverged", str(error).split(":")[0]
                remarks = [f"iteration {iteration} found no numbers ({why}), and was taken back"]
        restore(model, best)
        if held_out is not None and held_out.state is not None and status in ("converged", "stalled", "max_iter"):
            restore(model, held_out.state)
            last, kept_notes = held_out.objective, [*held_out.notes, held_out.note]
            return Outcome(status, last, list(kept_notes), bool(held_out.notes), None, exact_q=not self.hard)
        elbo = last - float(model.log_prior().detach()) if self.hard else None
        return Outcome(status, last, [*kept_notes, *remarks], bool(kept_notes), elbo, exact_q=not self.hard)

    def _lacks(self, problem: Problem) -> str | None:
        """What the model would have to offer, in a phrase; None where it does."""
        return needs_statistics(problem)

    def _squarem(self, steps: Steps, start: dict[str, Tensor]) -> Sequence[str]:
        """From one EM step past ``start``: take a second, extrapolate, and keep whichever is higher."""
        model = steps.model
        names = [name for name, value in start.items() if value.is_floating_point()]

        def flat() -> Tensor:
            state = model.state_dict()
            return torch.cat([state[name].flatten() for name in names])

        theta0 = torch.cat([start[name].flatten() for name in names])
        theta1 = flat()
        notes2 = steps.m_step(steps.e_step())
        theta2, plain = flat(), snapshot(model)
        r, v = theta1 - theta0, theta2 - 2 * theta1 + theta0
        moved = torch.isfinite(r) & torch.isfinite(v)
        r, v = r.where(moved, torch.zeros_like(r)), v.where(moved, torch.zeros_like(v))
        if v.norm() == 0:
            return notes2
        alpha = -float(r.norm() / v.norm())
        if alpha > -1:
            return notes2
        jump = (theta0 - 2 * alpha * r + alpha**2 * v).where(moved, theta2)
        base = objective_of(steps, steps.e_step())
        state, offset = model.state_dict(), 0
        for name in names:
            size = state[name].numel()
            state[name].copy_(jump[offset : offset + size].reshape(state[name].shape))
            offset += size
        try:
            statistics = steps.e_step()
            reached = objective_of(steps, statistics)
            if reached >= base:
                return steps.m_step(statistics)
        except (RuntimeError, ValueError):
            pass  # the jump left the parameters' domain
        restore(model, plain)
        return notes2


@dataclass(frozen=True)
class HardEM(EM):
    """Hard EM: the E step takes the most probable z (k-means, Viterbi training). Climbs ln p(x, z) in z and θ."""

    name: ClassVar[str] = "hard_em"
    about_e: ClassVar[str] = "most probable z"
    hard: ClassVar[bool] = True

    def refuses(self, problem: Problem) -> str | None:
        reason = super().refuses(problem)
        if reason is None and not declares(problem.model.e_step, "hard"):
            return "its e_step has no hard=True: the latent has no most probable value to count"
        return reason


def _total_density(model: LatentVariableModel, x: Data) -> float | None:
    return summed(log_density(model, x), x)
