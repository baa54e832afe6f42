"""How many starts a fit takes where nobody says, and which of them goes on.

EM ends in the optimum that its start leads to. The first start is run to its end; a few iterations from each of
several others tell which of them may come to more, as in the short runs of Biernacki, Celeux & Govaert (2003),
"Choosing starting values for the EM algorithm for getting the highest likelihood in multivariate Gaussian mixture
models". How many follows from what an iteration costs, counted beforehand and never timed: the same seed gives the same
fit on any machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data
from zoo.core.isolation import kept_generators
from zoo.core.problem import Problem
from zoo.core.state import snapshot
from zoo.errors import ZooError
from zoo.estimators.base import Estimator, Outcome, Run
from zoo.estimators.em import EM

if TYPE_CHECKING:
    from zoo.runs.result import Fit

__all__ = ["Trial", "promising", "run_trial", "run_trials", "same_start", "scout", "usual_number"]

#: EM iterations of a trial.
ITERATIONS = 20
#: Most starts, the first one with them.
MOST = 10
#: Most trials that are run on to their end.
RUN_ON = 2
#: Multiplications that all trials may take together, about as many as a processor does in a second.
BUDGET = 1e9
#: What an iteration costs besides: the calls themselves, in multiplications.
OVERHEAD = 3e5
#: The same for every site of a program that is run, and how often a program is run besides.
SITE_OVERHEAD, OTHER_RUNS = 5e5, 6
#: Gains of EM shrink by a rate; a slower one than this is not trusted for a forecast.
SLOWEST = 0.95


@dataclass
class Trial:
    """One start and how far a short run came from it.

    Attributes:
        state: the model's tensors at the start.
        forecast: the objective that the run would end at if its gains went on shrinking as they did (Aitken's
            acceleration; Böhning et al. 1994, "The distribution of the likelihood ratio for mixtures of densities from
            the one-parameter exponential family", section 2.3).
    """

    restart: int
    seed: int
    state: dict[str, torch.Tensor]
    outcome: Outcome
    forecast: float

    @property
    def entry(self) -> dict[str, Any]:
        """Its line in the list of starts."""
        return {
            "seed": self.seed,
            "status": self.outcome.status,
            "objective": self.outcome.objective,
            "log_likelihood": None,
            "degenerate": self.outcome.degenerate,
            "chosen": False,
            "notes": self.outcome.notes,
        }


def scout(estimator: Estimator) -> EM | None:
    """What tries the starts of a fit by this estimator: EM its own; None where it takes the first start there is.

    A run that is not to be longer than a trial is none itself, and held-out data choose by something else.
    """
    if not isinstance(estimator, EM) or estimator.validation is not None or estimator.max_iter <= ITERATIONS:
        return None
    return replace(estimator, max_iter=ITERATIONS)


def usual_number(scouting: EM | None, model: LatentVariableModel, x: Data) -> int:
    """How many starts to try: as many as the budget allows, from 1 to :data:`MOST`."""
    if scouting is None:
        return 1
    cost = _program_cost(model, x) if scouting.name == "auto_em" else ITERATIONS * _iteration_cost(model, x)
    return int(max(1, min(MOST, BUDGET // cost)))


def _iteration_cost(model: LatentVariableModel, x: Data) -> float:
    """Multiplications of an E and an M step: every datum meets every parameter that is not a network's."""
    own = (p for m in model.modules() for name, p in m._parameters.items() if p is not None and _own(m, name))
    count = sum(p.numel() for p in own)
    return OVERHEAD + float(model.num_units(x)) * count


def _own(module: Any, name: str) -> bool:
    """Whether an entry of a module's parameters is a model's own, and not a weight of a network."""
    declared = module.__dict__.get("_pyro_params", {})
    return name.removesuffix("_unconstrained") in declared or name.startswith("param/")


def _program_cost(model: LatentVariableModel, x: Data) -> float:
    """Multiplications of a trial by enumeration of a program, or by the kernel that stands for it."""
    from zoo.automatic.plan import make_plan

    try:
        with kept_generators():
            plan = make_plan(model, x)
    except ZooError:
        return BUDGET  # the run itself says what is wrong
    once = sum(site.elements for site in plan.sites) + SITE_OVERHEAD * len(plan.sites)
    step = once if plan.chain is None else OVERHEAD + 10 * sum(site.elements for site in plan.sites)
    return OTHER_RUNS * once + ITERATIONS * step


def run_trial(scouting: EM, problem: Problem, restart: int, seed: int) -> Trial:
    """A short run from where the model is; the model is moved, the trial keeps its start."""
    begun, run = snapshot(problem.model), Run()
    outcome: Outcome | Exception
    try:
        outcome = scouting.run(problem, run)
    except (RuntimeError, ValueError) as error:  # what factorisations make of an odd start
        outcome = error
    return _trial(outcome, run, restart, seed, begun)


def run_trials(scouting: EM, problems: Sequence[Problem], restarts: Sequence[int], seeds: Sequence[int]) -> list[Trial]:
    """The same of several starts at once."""
    from zoo.estimators.together import run_together

    begun, runs = [snapshot(problem.model) for problem in problems], [Run() for _ in problems]
    ends = run_together(scouting, problems, runs, starts=begun)
    return [_trial(*each) for each in zip(ends, runs, restarts, seeds, begun, strict=True)]


def _trial(end: Outcome | Exception, run: Run, restart: int, seed: int, begun: dict[str, torch.Tensor]) -> Trial:
    outcome = end if isinstance(end, Outcome) else Outcome("diverged", -math.inf, [" ".join(str(end).split())])
    return Trial(restart, seed, begun, outcome, _forecast(run.history["objective"], outcome.objective))


def _forecast(history: Sequence[float], reached: float) -> float:
    if len(history) < 3 or not math.isfinite(history[-3]):
        return reached
    before, last = history[-2] - history[-3], history[-1] - history[-2]
    if not 0 < last < before:
        return reached + max(0.0, last) * SLOWEST / (1 - SLOWEST)
    rate = min(last / before, SLOWEST)
    return reached + last * rate / (1 - rate)


def same_start(trial: dict[str, torch.Tensor], model: LatentVariableModel) -> bool:
    """Whether a model stands where a trial, or a fit, began."""
    now = model.state_dict()
    return all(torch.equal(value, now[name]) for name, value in trial.items())


def promising(trials: Sequence[Trial], first: Fit, reached: float, slack: float) -> list[int]:
    """The starts that may end above the first one's fit, the most promising one first.

    Args:
        reached: what the first one's fit is judged by.
        slack: nats by which a start must be expected above it.
    """
    sound = first.status != "diverged" and not first.degenerate
    able = [trial for trial in trials if trial.outcome.status not in ("diverged", "interrupted")]
    if sound:
        able = [trial for trial in able if not trial.outcome.degenerate and trial.forecast > reached + slack
                + (trial.forecast - trial.outcome.objective) / 10]  # fmt: skip
    able.sort(key=lambda trial: (not trial.outcome.degenerate, trial.forecast), reverse=True)
    return [trial.restart for trial in able[:RUN_ON]]
