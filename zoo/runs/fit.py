"""``zoo.fit``: one model, one estimator, any number of starts; a new fitted copy comes back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.automatic.enumeration import remembered
from zoo.core.contract import prepared
from zoo.core.data import at_hand, num_data, plain, stream_of, weights_of
from zoo.core.duplicates import duplicate
from zoo.core.functions import as_model
from zoo.core.isolation import isolated, kept_generators, reseed, threads
from zoo.core.places import counted
from zoo.core.problem import Problem
from zoo.core.ranks import joined
from zoo.core.rows import Rows
from zoo.core.spread import check_jobs, spread
from zoo.core.state import snapshot
from zoo.core.streams import Stream
from zoo.core.turns import exclusive
from zoo.errors import LikelihoodDecreased, ZooError
from zoo.estimators import find_estimator
from zoo.estimators.base import Callback, Estimator, options_from
from zoo.estimators.em import EM
from zoo.runs.beside import settled, with_beside
from zoo.runs.identity import derived_seed, describe, identify
from zoo.runs.load import load
from zoo.runs.making import made
from zoo.runs.prepare import (
    check_init,
    check_moves,
    check_serves,
    first_run,
    possible_rows,
    start,
    usual_estimators,
    with_held_out,
)
from zoo.runs.progress import fraction_shown, waited_for
from zoo.runs.ranking import PRINTED, leaders
from zoo.runs.restarts import Restarts
from zoo.runs.result import Fit
from zoo.runs.side_by_side import start_together, started
from zoo.runs.spreading import check_spreads
from zoo.runs.starts import MOST, Trial, promising, run_trial, run_trials, same_start, scout, usual_number
from zoo.storage.checkpoint import Checkpoints, RunFolder, fingerprint
from zoo.storage.folders import held

__all__ = ["as_device", "fit"]

#: What ``fit`` takes besides the options of an estimator.
OPTIONS = ("init", "restarts", "seed", "device", "max_seconds", "progress", "track", "jobs")


@exclusive
@counted
def fit(
    model: Any,
    x: Any,
    *,
    estimator: str | None = None,
    guide: Callable[..., Any] | None = None,
    seed: int = 0,
    init: str | None = None,
    restarts: int | None = None,
    device: str | None = None,
    max_seconds: float | None = None,
    progress: bool | Callback | None = False,
    track: int = 0,
    out: str | Path | None = None,
    checkpoint_every: float | str | None = None,
    resume: bool = False,
    data_name: str | None = None,
    weights: Any = None,
    known: Mapping[str, Any] | None = None,
    fixed: str | Iterable[str] = (),
    jobs: int = 1,
    **options: Any,
) -> Fit:
    """Fit a model to data.

    Fits in several threads of one process come one after the other: what Pyro and torch keep is the process's.

    Where ``torch.distributed`` has several processes (``torchrun``), all of them call this with the same arguments, and
    the fit is that of one: each takes its share of the rows of every sum, and gets the result. The first one writes.

    Args:
        model: a zoo model, or a Pyro program ``model(x)``: it is left as it is. Or the name or class of a model of the
            zoo, its arguments among the options; what is missing of its sizes is read off the data.
        x: data as the model takes them: array, tensor, data frame, a tuple or dict of these; or a path or name for
            :func:`zoo.load_data`.
        estimator: a name from ``zoo.estimators``; None takes em where the model has it, auto_em where the program's
            updates are closed forms (or few numbers), else the first of eg, svi, gumbel that can serve, else whichever
            can.
        guide: the guide of a program that is a plain function.
        seed: every draw comes from it.
        init: a starting point the model knows ("kmeans++", "random"), or "current"; None takes the model's default.
        restarts: starts, each run to its end; every one is listed, the best whose covariance floor did not act wins.
            None: em, auto_em and hard_em run the first and try up to nine others by short runs, as many as their cost
            allows; what promises more is run to its end too (see ``zoo.runs.starts``). Other estimators,
            ``init="current"`` and a budget of seconds take one.
        device: where to compute; None leaves the model where it is.
        max_seconds: budget of each start.
        progress: True shows a bar; a function is called with every row of the history.
        track: evaluate the exact log-likelihood about this many times on the way, off the clock (0: only if free).
        out: a new folder for the result, and for checkpoints on the way to it.
        checkpoint_every: how often: seconds (90.0, "90s"; 60 by default) or steps (500).
        data_name: what the data are called, for the record.
        resume: go on with what ``out`` holds, to the same parameters bit for bit; start anew if it holds nothing.
        weights: how often each row (or sequence) counts, (N,), not negative: weight 2 is a row that is there twice, 0
            one that is not. What is climbed is the weighted sum of ln p(x). Starts from clusters count every row once.
        known: by latent site its values where they are known, one entry a row (of a chain one a time step), NaN or -1
            where they are not: ``{"z": labels}``; strings stand for 0, 1, ... in sorted order, None where there is
            none. What is climbed is then ln p(x, known z). Starts are renumbered to
            agree with the labels.
        fixed: names of parameters that stay at the values the model has, whatever the start: ``["means"]``. EM's M step
            is then the maximum in the others.
        jobs: processes among which the ``restarts`` are divided, -1 for as many as there are cores; the fit is the
            same. joblib's, or under ``joblib.parallel_config`` those of Dask and others; a bar then counts starts.
        options: the estimator's own, see its class; and arguments of a model that is given by its name or class.

    Returns:
        A :class:`~zoo.runs.result.Fit` holding a new, fitted copy of the model.

    Raises:
        ZooError: a mistake in the arguments or the data; nothing has been done then.
        LikelihoodDecreased: EM's objective fell; its ``fit`` holds what was reached.
        KeyboardInterrupt: before there was a start; from there on the fit comes back, its status "interrupted".

    Example:
        >>> fit = zoo.fit("gaussian_mixture", "iris", num_components=3)
        >>> fit.estimator, fit.status, round(fit.log_likelihood, 4)
        ('em', 'converged', -180.1855)
    """
    check_jobs("fit", jobs)
    data_name = Path(x).name if data_name is None and isinstance(x, (str, Path)) else data_name
    with joined() as ranks, waited_for(ranks.first and progress, "reading"):
        model, x = made(model, x, options, guide)
    template = as_model(model, guide)
    if estimator is None:
        beside: dict[str, Any] = {"weights": weights, "known": known, "fixed": fixed}
        if isinstance(x, Stream):
            beside |= {"weights": None, "in_pieces": True}
        estimator = usual_estimators(template, at_hand(x), for_fit=True, first=True, **beside)[0]
    asked = chosen = options_from(find_estimator(estimator), options, OPTIONS)
    if restarts is not None and (not isinstance(restarts, int) or isinstance(restarts, bool) or restarts < 1):
        raise ZooError(f"fit: restarts expected a whole number of at least 1, got {restarts!r}.")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ZooError(f"fit: seed expected a whole number from 0 to 2**63 - 1, got {seed!r}.")
    if jobs != 1 and (restarts or 1) > 1 and callable(progress):
        raise ZooError(
            "fit: progress expected True, False or None with jobs, got a function of this process. Leave out jobs."
        )
    asked_init, init = init, template.inits[0] if init is None else init
    check_init(template, init)
    if out is None and (resume or checkpoint_every is not None):
        raise ZooError("fit: resume and checkpoint_every expected a folder for the run. Pass out=...")
    with (
        joined() as ranks,
        isolated(seed),
        remembered(),
        waited_for(ranks.first and progress, asked.name),
        ExitStack() as until_done,
    ):
        progress = ranks.first and progress
        base = duplicate(template)
        if device is not None:
            base.to(as_device(device))
        whole = data = with_beside(base, prepared(base, x, new=True), weights, known)
        data, left_out = possible_rows(base, data)
        data, chosen = with_held_out(chosen, base, data, seed)
        with kept_generators():
            problem = first_run(base, plain(data), chosen.uses_guide)
        problem, stopping = settled(problem, data, fixed)
        data = problem.data
        if guide is not None and chosen.takes_no_guide:
            under = problem.program.latents
            what = f"site {under[0].name!r}" if under else "the program"
            raise ZooError(
                f"{chosen.name}: {what} is under a guide, but its exact posterior is taken. Leave out the guide."
            )
        check_serves(chosen, problem)
        check_moves(chosen, problem)
        settings = {**describe(asked), "init": init, "restarts": restarts}
        if ranks.size > 1:
            check_spreads(ranks, chosen, data, jobs, {**settings, "seed": seed, "out": out is None})
        if fixed:
            settings["fixed"] = ",".join([fixed] if isinstance(fixed, str) else fixed)
        folder = None
        if out is not None:
            identity = identify(base, whole, asked, seed, settings)
            if not Path(out).is_file():
                ranks.from_first(lambda: until_done.enter_context(held(Path(out))))
            folder = RunFolder(Path(out), Checkpoints(Path(out), identity, checkpoint_every), resume)
            if folder.complete:
                whole_fit = load(out, base)
                whole_fit.x = plain(whole)
                return whole_fit
        resumed = None if folder is None or not resume else folder.checkpoints.latest()
        best: Fit | None = None
        failure: LikelihoodDecreased | None = None
        listed: dict[int, dict[str, Any]] = {}
        order, stopped = list(range(restarts or 1)), False
        tries = restarts is None and max_seconds is None and asked_init != "current"
        began, begin = list[str](), init
        if (stream := stream_of(data)) is not None:
            began = [stream.told]
            if tries and scout(chosen) is not None and not isinstance(data, Rows):
                first = fit(base, stream.sample, estimator=estimator, seed=seed, init=init, fixed=fixed, **options)
                began = [f"{stream.told}; begun where the best of {len(first.restarts)} starts on these ended"]
                begin = "current"
                problem = problem.of(first.model)
            tries = False
        each = Restarts(chosen, problem, begin, seed, max_seconds, progress, track, folder, resumed)
        each.spare = len(order) == 1 and not (tries and scout(chosen) is not None)
        start_together(each, order)
        aside = jobs != 1 and len(order) > 1 and not each.ready
        if aside:
            each = replace(each, progress=False, side_by_side=True)
        bar = progress if aside and not callable(progress) else False
        with spread(each, order, jobs if aside else 1) as starts, fraction_shown("starts", bar) as shown:
            for restart in order:  # it may grow
                try:
                    this, start_seed, new, fell = next(starts)
                except KeyboardInterrupt:
                    if best is None:
                        raise
                    stopped = True
                    break
                failure = fell or failure
                if shown is not None:
                    shown((restart + 1) / len(order))
                this.seed = seed
                if folder is not None and (tries or len(order) > 1) and new and this.status != "interrupted":
                    folder.finish(restart, this.write, this.seconds)
                listed[restart] = {
                    "seed": start_seed,
                    "status": this.status,
                    "objective": this.history["objective"][-1] if this.iterations else None,
                    "log_likelihood": this.log_likelihood,
                    "degenerate": this.degenerate,
                    "chosen": False,
                    "notes": this.notes,
                }
                if best is None or _better(this, best):
                    best, chosen_index = this, restart
                stopped = stopped or this.status == "interrupted"
                if stopped and not each.ready:
                    break
                if restart == 0 and tries:
                    try:
                        trials = _trials(chosen, problem, init, seed)
                    except KeyboardInterrupt:
                        stopped = True
                        break
                    listed.update({trial.restart: trial.entry for trial in trials})
                    stopped = any(trial.outcome.status == "interrupted" for trial in trials)
                    if stopped:
                        break
                    order += promising(trials, this, _judged(this), PRINTED)
        assert best is not None
        listed[chosen_index]["chosen"] = True
        best.notes = [*best.notes, *left_out, *began]
        if checkpoint_every is not None and not chosen.writes_checkpoints:
            best.notes.append(f"{chosen.name} writes no checkpoints: a run of it that is stopped begins anew")
        best.restarts = [listed[restart] for restart in sorted(listed)]
        best.options = settings
        best.x = plain(whole)
        for name in stopping:  # for this fit alone
            best.model.get_parameter(name).requires_grad_(True)
        best.data = {"name": data_name, "checksum": fingerprint(whole)}
        if weights_of(data) is not None:
            best.data["rows"] = num_data(data)
        if stopped:
            best.status = "interrupted"
        if folder is not None:
            folder.publish(best.write, keep=stopped or (restarts in (None, 1) and folder.checkpoints.unfinished))
        if failure is not None and best.status == "diverged":
            failure.fit = best
            raise failure
        return best


def _trials(estimator: Estimator, problem: Problem, init: str, seed: int) -> list[Trial]:
    """Short runs from the starts beside the first, as many as usual; a start that comes again is left out."""
    model, x = problem.model, problem.data
    scouting, trials = scout(estimator), list[Trial]()
    if scouting is None:
        return trials
    if scouting.takes_copies(problem):
        return _trials_at_once(scouting, problem, init, seed)
    by_program = scouting.name == "auto_em"  # what that costs is seen where it has begun
    count = MOST if by_program else usual_number(scouting, model, x)
    if count == 1:  # a start of large data may cost what several iterations do
        return trials
    with isolated(seed):
        known = [snapshot(start(model, x, init))]
    for restart in range(1, MOST):
        if restart >= count:
            break
        start_seed = derived_seed(seed, restart)
        with isolated(start_seed), threads(estimator.elements(problem)):
            try:
                candidate = start(model, x, init, restart)
            except ZooError:
                continue  # the first one was made, and is fitted
            if any(same_start(state, candidate) for state in known):
                continue
            if by_program and len(known) == 1 and (count := usual_number(scouting, candidate, x)) <= restart:
                break
            trials.append(run_trial(scouting, problem.of(candidate), restart, start_seed))
            known.append(trials[-1].state)
            if trials[-1].outcome.status == "interrupted":
                break
    return trials


def _trials_at_once(scouting: EM, problem: Problem, init: str, seed: int) -> list[Trial]:
    """The same where starts are made, and run, at once."""
    numbers = range(usual_number(scouting, problem.model, problem.data))
    seeds = [seed, *(derived_seed(seed, restart) for restart in numbers[1:])]
    known: list[dict[str, Tensor]] = []
    waiting: list[tuple[Problem, int, int]] = []
    with isolated(seed), threads(scouting.elements(problem)):
        if len(numbers) > 1:
            for each in zip(started(problem, init, numbers, seeds), numbers, seeds, strict=True):
                candidate = each[0]
                if isinstance(candidate, ZooError):
                    continue  # the first one was made, and is fitted
                if not any(same_start(state, candidate.model) for state in known):
                    known.append(snapshot(candidate.model))
                    waiting.append((candidate, *each[1:]))
        others = [each for each in waiting if each[1] > 0]
        reseed(seed)
        return run_trials(scouting, *map(list, zip(*others, strict=True))) if others else []


def _better(this: Fit, best: Fit) -> bool:
    """Whether a later start beats the best of the earlier ones: by more than rounding."""
    return leaders([best, this], [_judged(best), _judged(this)]) == [1]


def _judged(this: Fit) -> float:
    """What a start is chosen by: likelihood times prior, where the model has one."""
    score = this.log_likelihood if this.log_likelihood is not None else this.elbo
    last = this.history["objective"][-1] if this.iterations else None
    objective = -math.inf if last is None else last
    if this.estimator == "hard_em" or score is None:
        return objective
    return score if this.draws is not None else score + float(this.model.log_prior().detach())


def as_device(device: str) -> torch.device:
    """The torch device of a name, or a ZooError if this torch cannot use it."""
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ZooError(f"device expected one this torch can use, got {device!r}. Use 'cpu'.") from None
    return chosen
