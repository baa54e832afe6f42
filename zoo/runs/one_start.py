"""One start, or several at once: run, then scored; what fails in scoring loses no fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, at_hand, count, map_tensors, plain
from zoo.core.isolation import kept_generators
from zoo.core.memory import PeakMemory
from zoo.core.problem import Problem
from zoo.core.state import restore, set_training, snapshot
from zoo.errors import LikelihoodDecreased, one_line
from zoo.estimators.base import Callback, Estimator, Outcome, Run
from zoo.estimators.em import EM
from zoo.estimators.loop.position import last_objective
from zoo.runs.identity import describe
from zoo.runs.modes import told
from zoo.runs.prepare import unnormalised
from zoo.runs.result import Fit
from zoo.scores.bounds import bound
from zoo.scores.evidence import total_log_likelihood
from zoo.storage.checkpoint import Checkpoint, Checkpoints

__all__ = ["exact_log_likelihood_known", "run_one", "run_several"]


def run_one(
    estimator: Estimator,
    problem: Problem,
    seed: int,
    max_seconds: float | None,
    progress: bool | Callback | None,
    track: int,
    checkpoints: Checkpoints | None = None,
    resumed: Checkpoint | None = None,
) -> Fit:
    """One run, from where the model is."""
    from zoo.runs.progress import shown

    model, x = problem.model, problem.data

    def evidence() -> float:
        with kept_generators():
            try:
                total = total_log_likelihood(model, x, checked=True)
            except Exception:  # it is for the curve alone; the score at the end has a note on what fails
                total = None
        return math.nan if total is None else total

    with shown(progress, estimator.name, estimator.unit) as callback, PeakMemory() as memory:
        began, run = snapshot(model), Run(callback)
        failure: LikelihoodDecreased | None = None
        try:
            estimator.rehearse(problem)
            run = Run(callback, max_seconds, checkpoints=checkpoints, resumed=resumed)
            if track and not estimator.sees_evidence and exact_log_likelihood_known(model, x):
                run.track, run.track_every = evidence, max(1, 3000 // track)
            model.train()
            outcome = estimator.run(problem, run)
        except LikelihoodDecreased as error:
            failure = error
            last = last_objective(run)
            outcome = Outcome("diverged", last, [str(error)], exact_q=True)
        except KeyboardInterrupt:  # outside the estimator's own loop
            last = last_objective(run)
            outcome = Outcome("interrupted", last, exact_q=estimator.sees_evidence)
            if not run.iterations:
                restore(model, began)
        seconds = run.seconds
        model.eval()
    outcome = _with_numbers(model, began, outcome)
    outcome.notes = [*outcome.notes, *_told(checkpoints, resumed)]
    this = finish(estimator, problem, run, outcome, seed, seconds, memory.peak_mb)
    if failure is not None:
        failure.fit = this
        raise failure
    return this


def run_several(
    estimator: EM,
    problems: Sequence[Problem],
    seeds: Sequence[int],
    max_seconds: float | None,
    told: Callable[[float], None] | None,
    checkpoints: Checkpoints | None = None,
    resumed: Checkpoint | None = None,
) -> list[Fit | LikelihoodDecreased]:
    """The same of several starts at once, copies of one model: each start's fit, or what was found wrong with EM.

    What a start raises beyond that is raised.

    Args:
        told: is told which fraction of them has ended.
    """
    from zoo.estimators.together import run_together

    begun = [snapshot(problem.model) for problem in problems]
    with PeakMemory() as memory:
        runs = [Run(None, max_seconds) for _ in problems]
        try:
            estimator.rehearse(problems[0])
            runs = [Run(None, max_seconds) for _ in problems]
            for problem in problems:
                set_training(problem.model, True)
            ends = run_together(estimator, problems, runs, told, checkpoints, resumed, begun)
        except KeyboardInterrupt:  # outside the estimator's own loop
            ends = [Outcome("interrupted", last_objective(run), exact_q=True) for run in runs]
            for problem, began in zip(problems, begun, strict=True):
                restore(problem.model, began)
    fits: list[Fit | LikelihoodDecreased] = []
    sound = _are_numbers([problem.model for problem in problems])
    for problem, run, end, began, seed in zip(problems, runs, ends, begun, seeds, strict=True):
        set_training(problem.model, False)
        if isinstance(end, Exception) and not isinstance(end, LikelihoodDecreased):
            raise end
        failure = end if isinstance(end, LikelihoodDecreased) else None
        outcome = Outcome("diverged", last_objective(run), [str(end)], exact_q=True) if failure else end
        assert isinstance(outcome, Outcome)
        outcome = outcome if sound else _with_numbers(problem.model, began, outcome)
        outcome.notes = [*outcome.notes, *_told(checkpoints, resumed)]
        this = finish(estimator, problem, run, outcome, seed, run.seconds, memory.peak_mb)
        if failure is not None:
            failure.fit = this
        fits.append(failure or this)
    return fits


def _told(checkpoints: Checkpoints | None, resumed: Checkpoint | None) -> list[str]:
    """What a user should know of a run's checkpoints, a line each."""
    damaged = [] if resumed is None else resumed.damaged
    return [] if checkpoints is None else [*damaged, *checkpoints.notes]


def _with_numbers(model: LatentVariableModel, began: dict[str, Tensor], outcome: Outcome) -> Outcome:
    """An outcome whose parameters are numbers: where one became NaN, the model is put back to where it began."""
    if not any(bool(value.isnan().any()) for value in model.state_dict().values()):
        return outcome
    restore(model, began)
    return Outcome("diverged", -math.inf, [*outcome.notes, "a parameter became NaN; the starting point is kept"])


def _are_numbers(models: Sequence[LatentVariableModel]) -> bool:
    """Whether every number of these models is finite; a sum that is says so of all that were added."""
    kinds = dict[Any, list[Tensor]]()
    for value in (v for m in models for v in m.state_dict().values() if v.is_floating_point()):
        kinds.setdefault((value.dtype, value.device), []).append(value.reshape(-1))
    return all(math.isfinite(torch.cat(values).sum()) for values in kinds.values())


def exact_log_likelihood_known(model: LatentVariableModel, x: Data) -> bool:
    """Whether ln p(x) is tractable."""
    with kept_generators():
        return total_log_likelihood(model, model.probe(x)) is not None


def finish(
    estimator: Estimator,
    problem: Problem,
    run: Run,
    outcome: Outcome,
    seed: int,
    seconds: float,
    peak_mb: float | None,
) -> Fit:
    """Score the parameters that were kept, with the discrete model always, where the run has not done so; what fails is
    noted, no fit lost to it."""
    model, x, scores = problem.model, problem.data, _Scores()
    total = outcome.log_likelihood
    if total is None:
        total = scores.take("log-likelihood", lambda: _log_likelihood(problem, estimator))
    elbo, elbo_se = outcome.elbo, None if outcome.elbo is None else 0.0
    if outcome.draws is not None:
        elbo_se = outcome.draws.diagnostics.get("elbo_se", elbo_se)
    if outcome.exact_q:
        elbo, elbo_se = total, None if total is None else 0.0
    elif elbo is None and model.has_guide and not scores.take("look for noise", lambda: problem.denoises):
        elbo, elbo_se = scores.take("elbo", lambda: bound(problem)) or (None, None)
    if not model.normalized:
        outcome.notes = [*outcome.notes, unnormalised(model)]
    theta = scores.take("number of parameters", lambda: problem.theta) or ()
    size = scores.take("number of parameters", lambda: model.num_free_parameters(theta))
    units = scores.take("number of time steps", lambda: model.num_units(x))
    more, at_edge = scores.take("word on the priors", lambda: told(model, x, outcome.draws is not None)) or ([], False)
    outcome.notes, outcome.degenerate = [*outcome.notes, *more], outcome.degenerate or at_edge
    return Fit(
        model=model,
        estimator=estimator.name,
        options=describe(estimator),
        seed=seed,
        status="interrupted" if scores.interrupted else outcome.status,
        log_likelihood=total,
        elbo=elbo,
        elbo_se=elbo_se,
        draws=outcome.draws,
        history=run.history,
        iterations=run.iterations,
        seconds=seconds,
        num_data=count(x),
        num_units=units or count(x),
        num_parameters=size or 0,
        notes=[*outcome.notes, *scores.notes],
        degenerate=outcome.degenerate,
        peak_memory_mb=peak_mb,
        exact_q=outcome.exact_q,
        guide_trained=not outcome.exact_q and model.has_guide and estimator.uses_guide,
        warmup=run.warmup,
        template=map_tensors(lambda t: t[:1].clone() if t.dim() else t.clone(), plain(at_hand(x))),
    )


def _log_likelihood(problem: Problem, estimator: Estimator) -> float | None:
    """ln p(x), total, nats; a program that has been looked up is not asked again whether it can be summed."""
    offered = problem.lacks("log_marginal") is None or problem.lacks("e_step") is None
    if estimator.uses_guide and not offered and not all(site.discrete for site in problem.program.latents):
        return None
    return total_log_likelihood(problem.model, problem.data)


class _Scores:
    """Takes scores one by one; one that fails is None, with a note that says why; Ctrl-C leaves out the rest."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.interrupted = False

    def take(self, what: str, score: Callable[[], Any]) -> Any:
        try:
            return None if self.interrupted else score()
        except KeyboardInterrupt:
            self.interrupted = True
            self.notes.append(f"no {what}: interrupted")
        except Exception as error:  # whatever a program does where it is scored: the fit is done
            self.notes.append(f"no {what}: {one_line(error)}")
        return None
