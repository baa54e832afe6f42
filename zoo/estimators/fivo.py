"""The filtering variational objective: a particle filter's bound (Maddison et al. 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from zoo.core.data import Data, mass, total
from zoo.core.hooks import Computed
from zoo.core.objective import Objective, Step
from zoo.core.particles import PROPOSALS, particle_bound
from zoo.core.problem import Problem
from zoo.errors import ZooError, unknown_name
from zoo.estimators.gradient import GuidedEstimator

__all__ = ["FIVO"]


@dataclass(frozen=True)
class FIVO(GuidedEstimator):
    """Climbs E ln p_hat(x), sequence by sequence; p_hat is a particle filter's unbiased estimate of p(x).

    Maddison et al. (2017), "Filtering variational objectives", section 4.

    Attributes:
        num_particles: S. With one it is the ELBO.
        threshold: particles are resampled where their effective sample size has fallen below this share of S. 0 never
            resamples: then it is ``iwae``. 1 does at every step.
        proposal: what z_t is drawn from: the "guide", or the "prior", as in the bootstrap filter; no guide is trained
            then.
        score_terms: whether the gradient has the score-function terms of resampling. The paper leaves them out: they
            are noisy, and the gradient without them is biased.

    Raises:
        ZooError: a proposal that is not known, a threshold that is no share.
    """

    name: ClassVar[str] = "fivo"
    about_e: ClassVar[str] = "S particles led along each sequence by the guide, resampled where their weights differ"
    about_m: ClassVar[str] = "gradient"
    column: ClassVar[str] = "bound"
    weighs_kl: ClassVar[bool] = False

    num_particles: int = 4
    threshold: float = 0.5
    proposal: str = "guide"
    score_terms: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.proposal not in PROPOSALS:
            raise unknown_name("fivo: proposal", str(self.proposal), PROPOSALS)
        if not (isinstance(self.threshold, (int, float)) and 0 <= self.threshold <= 1):
            raise ZooError(f"fivo: threshold expected a share from 0 to 1, got {self.threshold!r}. Take 0.5.")

    def refuses(self, problem: Problem) -> str | None:
        return problem.lacks("particles") or super().refuses(problem)

    def column_for(self, problem: Problem) -> str:
        return "elbo" if self.num_particles == 1 and self.proposal == "guide" else "bound"

    def remarks(self, problem: Problem) -> list[str]:
        untrained = ["particles came from the prior: the guide is as it was"] if self.proposal == "prior" else []
        return [*super().remarks(problem), *untrained]

    def objective(self, problem: Problem) -> Objective:
        model = problem.model

        def step(batch: Data) -> Step:
            found = particle_bound(
                model, batch, int(self.num_particles), self.threshold, self.proposal, bool(self.score_terms)
            )
            bound = total(found.bound.detach(), batch) / mass(batch)
            return Step(-total(found.surrogate, batch) / mass(batch), bound)

        return Computed(step, self.column_for(problem), model)
