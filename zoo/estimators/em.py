"""Expectation maximisation: exact E step, closed-form M step (Dempster, Laird & Rubin 1977), and its hard variant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.core.memory import SMALL
from zoo.core.problem import Problem
from zoo.core.ranks import present
from zoo.core.rows import Rows, declares
from zoo.core.state import restore, snapshot
from zoo.core.statistics import Statistics
from zoo.core.streams import Stream
from zoo.errors import unknown_name
from zoo.estimators.base import Estimator, Outcome, Run, at_least, from_zero, needs_statistics
from zoo.estimators.climb import Climb
from zoo.estimators.shared_steps import SharedSteps
from zoo.estimators.steps import ModelSteps, Steps, objective_of

__all__ = ["EM", "HardEM"]


@dataclass(frozen=True)
class EM(Estimator):
    """EM by the model's own ``e_step`` and ``m_step``: Dempster, Laird & Rubin (1977).

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

    Raises:
        ZooError: an option outside its range.
    """

    name: ClassVar[str] = "em"
    about_e: ClassVar[str] = "exact posterior"
    about_m: ClassVar[str] = "closed form"
    sees_evidence: ClassVar[bool] = True
    spreads: ClassVar[bool] = True
    hard: ClassVar[bool] = False
    streams: ClassVar[bool] = True
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
        if self.accelerate not in (None, "squarem"):
            raise unknown_name("accelerate", str(self.accelerate), ("squarem",))

    def refuses(self, problem: Problem) -> str | None:
        return needs_statistics(problem)

    def rehearse(self, problem: Problem) -> None:
        if problem.model.copies_of_one and self.takes_copies(problem):
            return  # what repeats is not the model's own step
        small = self.elements(problem) < SMALL
        with torch.no_grad():
            self.steps(problem if small else problem.on(problem.model.probe(problem.data))).e_step()

    def steps(self, problem: Problem) -> Steps:
        """The E and M step that a run repeats."""
        return ModelSteps(problem.model, problem.data, self.hard)

    def run(self, problem: Problem, run: Run) -> Outcome:
        return self.finish(Climb(self, self.shared(problem), problem, run))

    def shared(self, problem: Problem) -> Steps:
        """The steps of a run in all processes of its fit together."""
        ranks = present()
        if ranks.size == 1:
            return self.steps(problem)
        return SharedSteps(self.steps(problem.on(ranks.own(problem.data))), ranks)

    def finish(self, climb: Climb) -> Outcome:
        """Go on to the end of a run, a ``climb``, from where its model is."""
        model, steps = climb.model, climb.steps
        with torch.no_grad():
            try:
                while climb.ended is None:
                    climb.iteration += 1
                    statistics = steps.e_step()
                    known = float(statistics["log_likelihood"]) if model.normalized else None
                    if not climb.goes_on(objective_of(steps, statistics), known, snapshot(model)):
                        if climb.run.checkpoints is not None and climb.cut_off:  # more time goes on from here
                            self._maximise(climb, statistics)
                            climb.save()
                            climb.run.checkpoints.unfinished = True
                        break
                    self._maximise(climb, statistics)
                    if climb.run.due():
                        climb.save()
            except KeyboardInterrupt:
                climb.status = "interrupted"
            except torch.linalg.LinAlgError as error:
                climb.fail(error)
        return climb.outcome()

    def _maximise(self, climb: Climb, statistics: Statistics) -> None:
        climb.notes = climb.steps.m_step(statistics)
        if self.accelerate:
            climb.notes = self._squarem(climb.steps, climb.present())

    def takes_copies(self, problem: Problem) -> bool:
        """Whether several starts of a problem may be climbed at once, where the model offers that."""
        plain = self.validation is None and self.accelerate is None and not self.hard
        rows = plain and not isinstance(problem.data, (Rows, Stream))
        few = problem.num_tensors * self.elements(problem) <= SMALL // 2
        return rows and few and present().size == 1 and problem.lacks("copies") is None

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
    """Hard EM: the E step takes the most probable z (k-means, Viterbi training). Climbs ln p(x, z) in z and θ.

    Celeux & Govaert (1992), "A classification EM algorithm for clustering and two stochastic versions".
    """

    name: ClassVar[str] = "hard_em"
    about_e: ClassVar[str] = "most probable z"
    hard: ClassVar[bool] = True

    def refuses(self, problem: Problem) -> str | None:
        reason = super().refuses(problem)
        if reason is None and not declares(problem.model.e_step, "hard"):
            return "its e_step has no hard=True: the latent has no most probable value to count"
        return reason
