"""What all gradient estimators share: warm-up of the guide, the schedule, the training loop."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, mass, num_data, split, stream_of
from zoo.core.isolation import forked_rng, kept_generators
from zoo.core.objective import Objective, Step
from zoo.core.problem import Problem
from zoo.core.rows import Rows, known_at
from zoo.core.schedule import DECAYS, Schedule
from zoo.core.stage import Stage
from zoo.core.state import restore, snapshot
from zoo.errors import ZooError, unknown_name
from zoo.estimators.base import Estimator, Outcome, Run, above_zero, at_least, from_zero, given
from zoo.estimators.loop.adam import optimizer_imported
from zoo.estimators.loop.held_out import HeldOut
from zoo.estimators.loop.loop import Watch
from zoo.estimators.loop.train import train

__all__ = ["GradientEstimator", "GuidedEstimator"]

#: What climbs: by steps of a rate that falls, or by a quasi-Newton method.
OPTIMIZERS = ("adam", "lbfgs")
#: A network's weights work on every row; so many of them are worth one number of the data (see ``elements``).
WEIGHTS_AN_ELEMENT = 20
#: Guide-only steps before a climb, where neither the option nor the model says.
WARMUP = 500
#: Rows of held-out data that are scored at a time.
SCORED_ROWS = 1024


@dataclass(frozen=True)
class GradientEstimator(Estimator):
    """An estimator that climbs an objective by its gradient.

    Attributes:
        max_epochs: passes over the data; None takes enough for 3000 steps. Of "lbfgs" the most iterations.
        batch_size: rows a step; None takes what the model names (networks 128), else all rows up to 2048, else 256.
        learning_rate: Adam's, at the start, in units of each parameter's scale; it falls to a hundredth along a cosine.
        tol: status "converged" if, where the run ends, the gradient per datum is no longer than this, nats per unit of
            each parameter's scale. A sampled gradient must be no longer than its own noise, and the bound must not have
            moved over the last tenth by more than ``tol`` (nats per datum) or its noise. Else "max_iter", or "stalled"
            where held-out data ended the run.
        decay: how the rate falls: "cosine", "constant", or "stages".
        clip_norm: the longest gradient to follow, a norm over all parameters, each in units of its scale; None follows
            any.
        validation: a fraction of the data to hold out, or held-out data as the model takes them; the exact
            log-likelihood of these, or else the estimator's own bound at fixed random numbers, is followed once an
            epoch, and the parameters where it was highest are kept.
        patience: with ``validation``, epochs without a new best before the run stops.
        optimizer: "adam", or "lbfgs", a quasi-Newton method for an objective without noise on all data at once, which
            ends where the gradient is no longer than ``tol`` or iterations gain less than 1e-9 nats a datum. None
            takes "lbfgs" where it can, unless the model names a batch size, as networks do, or
            ``learning_rate``, ``decay`` or ``clip_norm`` ask for steps of a certain length.

    Raises:
        ZooError: an option outside its range, a word that is not known, or "lbfgs" with an option that is Adam's.
    """

    max_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 0.02
    tol: float = 1e-5
    decay: str = "cosine"
    clip_norm: float | None = None
    validation: Any = None
    patience: int = 20
    optimizer: str | None = None

    unit: ClassVar[str] = "epochs"
    streams: ClassVar[bool] = True
    #: Whether steps of Adam on all data keep the best parameters.
    keeps_best: ClassVar[bool] = False
    #: The history's column that the objective also is: "bound" for a bound that is not the ELBO.
    column: ClassVar[str] = "elbo"

    def __post_init__(self) -> None:
        if self.decay not in DECAYS:
            raise unknown_name(f"{self.name}: decay", str(self.decay), DECAYS)
        at_least(self.name, 1, **given(self, "max_epochs", "batch_size"), patience=self.patience)
        above_zero(self.name, learning_rate=self.learning_rate)
        from_zero(self.name, tol=self.tol)
        if self.optimizer not in (None, *OPTIMIZERS):
            raise unknown_name(f"{self.name}: optimizer", str(self.optimizer), OPTIMIZERS)
        if self.optimizer == "lbfgs" and (asked := self._asks_for_steps()):
            raise ZooError(f"{self.name}: optimizer='lbfgs' expected no {asked}, which is Adam's. Leave one out.")
        if self.clip_norm is not None and not (isinstance(self.clip_norm, (int, float)) and self.clip_norm > 0):
            raise ZooError(f"{self.name}: clip_norm expected a number above 0, got {self.clip_norm!r}. Take 1.0.")

    def objective(self, problem: Problem) -> Objective:
        """The objective for batches of the problem's data."""
        raise NotImplementedError

    def plan(self, problem: Problem) -> Schedule:
        model, x, size = problem.model, problem.data, self.batch_size
        if size is None and (not model.splits or self.optimizer == "lbfgs"):
            size = num_data(x)
        elif size is None and model.batch_size is not None:
            size = min(model.batch_size, num_data(x))
        return Schedule(self.max_epochs, size, self.learning_rate, self.decay)

    def exact(self, problem: Problem) -> bool:
        """Whether the objective has no noise on all data: every look gives the same value."""
        return False

    def climbs(self, problem: Problem) -> bool:
        """Whether a quasi-Newton method climbs the objective.

        Raises:
            ZooError: "lbfgs" was asked for, and cannot.
        """
        reason = self._needs_adam(problem)
        if reason is not None and self.optimizer == "lbfgs":
            raise ZooError(
                f"{self.name}: optimizer='lbfgs' expected an objective without noise on all data at once, "
                f"got {reason}. Take optimizer='adam'."
            )
        return reason is None

    def _needs_adam(self, problem: Problem) -> str | None:
        """Why the objective is climbed by Adam's steps, a phrase; None where a quasi-Newton method can."""
        if self.optimizer == "adam" or self._asks_for_steps():
            return "options of Adam"
        if self.optimizer is None and problem.model.batch_size is not None:
            return "a model that takes batches"
        rows = num_data(problem.data)
        if stream_of(problem.data) is not None:
            return "data that stay in a file"
        if self.plan(problem).resolve(rows)[1] < rows:
            return "batches of the data"
        if callable(self.moving(problem)):
            return "parameters that move in turns"
        return None if self.exact(problem) else "one with noise"

    def _asks_for_steps(self) -> str | None:
        """The option, if any, that only steps of Adam know."""
        usual = GradientEstimator
        names = ("learning_rate", "decay", "clip_norm")
        return next((name for name in names if getattr(self, name) != getattr(usual, name)), None)

    def elements(self, problem: Problem) -> int:
        model, rows = problem.model, max(1, num_data(problem.data))
        _, batch = Schedule(self.max_epochs, self.batch_size or model.batch_size).resolve(rows)
        batch = min(batch, rows)
        weights = sum(p.numel() for p in model.parameters() if p.dtype == torch.float32)
        return max(super().elements(problem) * batch // rows, batch * weights // WEIGHTS_AN_ELEMENT)

    def stages(self, problem: Problem) -> Iterator[Stage]:
        """What a run is made of, in order; each is made when those before it are done."""
        if problem.lacks("pretraining") is None:
            yield from problem.model.pretraining(problem)
        yield from self.preparing(problem)
        exact = self.climbs(problem)
        yield Stage("climb", self.objective(problem), self.plan(problem), self.moving(problem), exact=exact)

    def preparing(self, problem: Problem) -> Iterator[Stage]:
        """Stages that bring the climb to its start."""
        yield from ()

    def run(self, problem: Problem, run: Run) -> Outcome:
        outcome, notes = Outcome("converged", 0.0), list[str]()
        for stage in self.stages(problem):
            if run.stage not in (None, stage.name):
                continue  # it was done when the checkpoint was written
            outcome = train(problem, stage, run, self.watch(problem, stage))
            notes += [*outcome.notes, *(self.remarks(problem) if stage.recorded else ())]
            if outcome.status in ("interrupted", "diverged"):
                break
        outcome.notes = notes
        return outcome

    def remarks(self, problem: Problem) -> list[str]:
        """What a user should know of the climb, a line each."""
        return []

    def watch(self, problem: Problem, stage: Stage) -> Watch:
        """What a stage is watched by."""
        if not stage.recorded:
            return Watch(clip_norm=self.clip_norm)
        return Watch(self.tol, self.keeps_best, self.clip_norm, self.held_out(problem, stage.objective))

    def column_for(self, problem: Problem) -> str:
        """The history's column that the objective also is, for this model and these options."""
        return self.column

    def held_out(self, problem: Problem, objective: Objective) -> HeldOut | None:
        """What follows the held-out data, by the evidence or else by the ``objective``; None where there are none."""
        if self.validation is None:
            return None
        model = problem.model
        if problem.lacks("log_marginal") is None or problem.lacks("e_step") is None:
            from zoo.scores.evidence import total_log_likelihood

            return HeldOut(
                model, self.validation, functools.partial(total_log_likelihood, model), int(self.patience), "epoch"
            )
        score = fixed_score(model, objective)
        return HeldOut(model, self.validation, score, int(self.patience), "epoch", "bound")

    def rehearse(self, problem: Problem) -> None:
        if not self.climbs(problem):
            optimizer_imported()
        model = problem.model
        if model.splits:
            with kept_generators():
                step = self.objective(problem)(model.probe(problem.data))
                moving = [p for p in model.parameters() if p.requires_grad]
                torch.autograd.grad(step.surrogate, moving, allow_unused=True)

    def moving(self, problem: Problem) -> Any:
        """Which parameters move in the climb, as :class:`~zoo.core.stage.Stage` says it."""
        return None


@dataclass(frozen=True)
class GuidedEstimator(GradientEstimator):
    """A gradient estimator whose q is the model's guide.

    Attributes:
        warmup: guide-only steps at the starting θ: an untrained guide destroys a good start. 0 turns it off; None takes
            500, or none for a model that starts from networks as drawn. They count for ``max_seconds``; ``fit.warmup``
            says what they did.
        num_particles: draws from the guide a datum and step.

    Raises:
        ZooError: a ``warmup`` below 0, fewer than one particle; and as every gradient estimator.
    """

    uses_guide: ClassVar[bool] = True
    #: Whether the objective follows a weight of the KL (the β of a β-VAE).
    weighs_kl: ClassVar[bool] = True

    warmup: int | None = None
    num_particles: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.name, 0, **given(self, "warmup"))
        at_least(self.name, 1, num_particles=self.num_particles)

    def refuses(self, problem: Problem) -> str | None:
        return problem.lacks("guide") or _left_to_sums(problem)

    def fails(self, problem: Problem) -> str | None:
        """Why the objective of a user's program cannot be had: what it raises, in a phrase; None where it can."""
        if problem.model.trusted:
            return None
        try:
            with kept_generators():
                self.objective(problem)(problem.data)
        except Exception as error:  # whatever Pyro makes of a program that does not suit it
            return failure(error)
        return None

    def column_for(self, problem: Problem) -> str:
        if problem.denoises:
            return "denoising"
        return self.column if not self.weighs_kl or problem.program.kl_is_whole else "bound"

    def remarks(self, problem: Problem) -> list[str]:
        if self.weighs_kl or problem.program.kl_is_whole:
            return []
        return [f"{self.name} climbs a bound on the evidence, which knows no weight of the KL: beta had no part in it"]

    def preparing(self, problem: Problem) -> Iterator[Stage]:
        """The guide alone is trained, at the model's present parameters."""
        model = problem.model
        steps = self.warmup if self.warmup is not None else WARMUP if model.warmup is None else model.warmup
        if not steps:
            return
        only_guide = [name for name in problem.program.psi if name not in problem.program.theta]
        if not only_guide:
            return
        schedule, rows = self.plan(problem), num_data(problem.data)
        _, batch = schedule.resolve(rows)
        decay = "cosine" if schedule.decay == "stages" else schedule.decay
        schedule = dataclasses.replace(schedule, max_epochs=max(1, round(steps * batch / rows)), decay=decay)
        exact = self.climbs(problem)
        yield Stage("warm-up", self.objective(problem), schedule, only_guide, recorded=False, exact=exact)

    def warm_up(self, problem: Problem, run: Run) -> None:
        """Train the guide alone, at the model's present parameters."""
        for stage in self.preparing(problem):
            train(problem, stage, run, self.watch(problem, stage))


def failure(error: Exception) -> str:
    """What a user's program raised, in a phrase."""
    first = (str(error).splitlines() or [type(error).__name__])[0].removesuffix(".")
    return first if isinstance(error, ZooError) else f"its program fails there ({type(error).__name__}: {first})"


def nothing_to_weigh(problem: Problem) -> str | None:
    """The reason, if any, why draws from the guide have no weights: all of them are noise."""
    noise = problem.denoises and not problem.program.latents
    return "all that its guide draws is noise, which has no weight" if noise else None


def _left_to_sums(problem: Problem) -> str | None:
    """The reason, if any, why known latents cannot be had with the model's guide: it leaves some of them out."""
    known = problem.data.known if isinstance(problem.data, Rows) else {}
    left = [name for name in sorted(problem.program.left_out) if known_at(known, name) is not None] if known else []
    return f"its guide leaves out {left[0]!r}, which is known" if left else None


def fixed_score(model: LatentVariableModel, objective: Objective) -> Callable[[Data], float | None]:
    """The objective's value on data, total, nats: always at the same random numbers, so that only θ and ψ move it, and
    as at the end of any annealing; None where it is not known."""

    def score(data: Data) -> float | None:
        objective.at(1.0)  # the next step sets it back
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad(), forked_rng(0):
                values = [(objective(piece).value, mass(piece)) for piece in split(data, SCORED_ROWS)]
        finally:
            for module, mode in modes:
                module.training = mode
        known = [float(value) * size for value, size in values if value is not None]
        return sum(known) if len(known) == len(values) else None

    return score


def repeats(estimator: GradientEstimator, problem: Problem) -> bool:
    """Whether an objective has the same value when it is looked at again with other random numbers."""
    before, values = snapshot(problem.model), []  # running statistics of a network move with every look
    try:
        for seed in (0, 1):
            with forked_rng(seed):
                step = estimator.objective(problem)(problem.data)
                values.append(float((step.surrogate if step.value is None else step.value).detach()))
    finally:
        restore(problem.model, before)
    return values[0] == values[1] or values[0] != values[0]


def pyro_step(loss: Callable[[Data], torch.Tensor]) -> Callable[[Data], Step]:
    """From a Pyro loss, minus the bound summed over a batch, as a function of data, that of its steps."""

    def step(batch: Data) -> Step:
        with torch.enable_grad():  # Pyro's enumeration refuses a bound that cannot be differentiated
            return mean_bound(loss(batch), batch)

    return step


def mean_bound(total: torch.Tensor, batch: Data) -> Step:
    """The step of a Pyro loss: minus the bound, summed over the batch."""
    loss = total / mass(batch)
    return Step(loss, -loss.detach())
