"""``zoo.fit``: one model, one estimator, any number of starts; a new fitted copy comes back."""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from zoo import program
from zoo.automatic.checks import NOTHING_OBSERVED, is_observed, program_name
from zoo.automatic.enumeration import remembered
from zoo.automatic.starts import choose_start
from zoo.batch import Data, as_data, map_tensors, num_data, take, tensors
from zoo.checkpoint import Checkpoint, Checkpoints, RunFolder, fingerprint
from zoo.checks import failed_on_data
from zoo.errors import LikelihoodDecreased, ZooError, one_line, unknown_name
from zoo.estimators import estimator_classes, find_estimator
from zoo.estimators.base import Callback, Estimator, Outcome, Run, options_from, restore, snapshot
from zoo.estimators.eg import total_log_likelihood
from zoo.estimators.em import num_units
from zoo.evaluation import bound
from zoo.isolation import isolated, threads
from zoo.memory import PeakMemory
from zoo.model import FunctionModel, LatentVariableModel, as_model, prepared
from zoo.modes import told
from zoo.ranking import PRINTED, leaders
from zoo.results import Fit, load, model_name
from zoo.starts import MOST, Trial, promising, run_trial, same_start, scout, usual_number
from zoo.turns import exclusive

__all__ = ["as_device", "check_serves", "first_run", "fit", "serving", "start"]

#: What is taken, in this order, where nobody names an estimator.
DEFAULT_ESTIMATORS = ("em", "eg", "svi", "gumbel")
#: What ``fit`` takes besides the options of an estimator.
OPTIONS = ("init", "restarts", "seed", "device", "max_seconds", "progress", "track")


@exclusive
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
    **options: Any,
) -> Fit:
    """Fit a model to data.

    Fits in several threads of one process come one after the other: what Pyro and torch keep is the process's.

    Args:
        model: a zoo model, or a Pyro program ``model(x)``. It is left as it is.
        x: data as the model takes them: array, tensor, or a tuple or dict of these.
        estimator: a name from ``zoo.estimators``; None takes em where the model has it, auto_em where the program's
            updates are closed forms (or few numbers), else the first of eg, svi, gumbel that can serve, else whichever
            can.
        guide: the guide of a program that is a plain function.
        seed: every draw comes from it.
        init: a starting point the model knows ("kmeans++", "random"), or "current"; None takes the model's default.
        restarts: starts, each run to its end; every one is listed, the best whose covariance floor did not act wins.
            None: em, auto_em and hard_em run the first and try up to nine others by short runs, as many as their cost
            allows; what promises more is run to its end too (see ``zoo.starts``). Other estimators,
            ``init="current"`` and a budget of seconds take one.
        device: where to compute; None leaves the model where it is.
        max_seconds: budget of each start.
        progress: True shows a bar; a function is called with every row of the history.
        track: evaluate the exact log-likelihood about this many times on the way, off the clock (0: only if free).
        out: a new folder for the result, and for checkpoints on the way to it (gradient estimators write them).
        checkpoint_every: how often: seconds (90.0, "90s"; 60 by default) or steps (500).
        data_name: what the data are called, for the record.
        resume: go on with what ``out`` holds, to the same parameters bit for bit; start anew if it holds nothing.
        options: the estimator's own, see its class.

    Returns:
        A :class:`~zoo.results.Fit` holding a new, fitted copy of the model.

    Raises:
        ZooError: a mistake in the arguments or the data; nothing has been done then.
        LikelihoodDecreased: EM's objective fell; its ``fit`` holds what was reached.
        KeyboardInterrupt: before there was a start; from there on the fit comes back, its status "interrupted".
    """
    template = as_model(model, guide)
    if estimator is None:
        estimator = usual_estimators(template, x, for_fit=True)[0]
    asked = chosen = options_from(find_estimator(estimator), options, OPTIONS)
    if restarts is not None and (not isinstance(restarts, int) or isinstance(restarts, bool) or restarts < 1):
        raise ZooError(f"fit: restarts expected a whole number of at least 1, got {restarts!r}.")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ZooError(f"fit: seed expected a whole number from 0 to 2**63 - 1, got {seed!r}.")
    asked_init, init = init, template.inits[0] if init is None else init
    if init not in {*template.inits, "current"}:
        raise unknown_name("init", init, {*template.inits, "current"})
    if out is None and (resume or checkpoint_every is not None):
        raise ZooError("fit: resume and checkpoint_every expected a folder for the run. Pass out=...")
    with isolated(seed), remembered():
        base = copy.deepcopy(template)
        if device is not None:
            base.to(as_device(device))
        data = prepared(base, x, new=True)
        whole = data
        data, chosen = with_held_out(chosen, base, data, seed)
        if isinstance(base, FunctionModel):
            with torch.random.fork_rng(devices=[]):
                first_run(base, data, chosen.uses_guide)
        if guide is not None and chosen.takes_no_guide:
            with torch.random.fork_rng(devices=[]):
                under = program.latent_sites(base, data)
            what = f"site {under[0].name!r}" if under else "the program"
            raise ZooError(
                f"{chosen.name}: {what} is under a guide, but its exact posterior is taken. Leave out the guide."
            )
        check_serves(chosen, base, data)
        check_moves(chosen, base, data)
        settings = {**describe(asked), "init": init, "restarts": restarts}
        folder = None
        if out is not None:
            identity = identify(base, whole, asked, seed, settings)
            folder = RunFolder(Path(out), Checkpoints(Path(out), identity, checkpoint_every), resume)
            if folder.complete:
                return load(out, base)
        resumed = None if folder is None or not resume else folder.checkpoints.latest()
        best: Fit | None = None
        failure: LikelihoodDecreased | None = None
        listed: dict[int, dict[str, Any]] = {}
        order, stopped = list(range(restarts or 1)), False
        tries = restarts is None and max_seconds is None and asked_init != "current"
        for restart in order:
            start_seed = seed if restart == 0 else derived_seed(seed, restart)
            done = None if folder is None else folder.finished(restart)
            with isolated(start_seed), threads(chosen.elements(data, base)):
                try:
                    candidate = start(base, data, init, restart)
                except KeyboardInterrupt:
                    if best is None:
                        raise
                    stopped = True
                    break
                try:
                    if done is not None:
                        this = load(done, candidate)
                    else:
                        if folder is not None:
                            folder.checkpoints.restart = restart
                        mine = resumed if resumed is not None and resumed.record["restart"] == restart else None
                        this = _run_one(
                            chosen, candidate, data, start_seed, max_seconds, progress, track,
                            None if folder is None else folder.checkpoints, mine,
                        )  # fmt: skip
                except LikelihoodDecreased as error:
                    failure, this = error, error.fit
            this.seed = seed
            if folder is not None and (restarts or 1) > 1 and done is None and this.status != "interrupted":
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
            stopped = this.status == "interrupted"
            if stopped:
                break
            if restart == 0 and tries:
                try:
                    trials = _trials(chosen, base, data, init, seed)
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
        best.restarts = [listed[restart] for restart in sorted(listed)]
        best.options = settings
        best.data = {"name": data_name, "checksum": fingerprint(whole)}
        if stopped:
            best.status = "interrupted"
        if folder is not None:
            folder.publish(best.write, keep=stopped or (restarts in (None, 1) and folder.checkpoints.unfinished))
        if failure is not None and best.status == "diverged":
            failure.fit = best
            raise failure
        return best


def _trials(estimator: Estimator, model: LatentVariableModel, x: Data, init: str, seed: int) -> list[Trial]:
    """Short runs from the starts beside the first, as many as usual; a start that comes again is left out."""
    scouting, trials = scout(estimator), list[Trial]()
    if scouting is None:
        return trials
    with isolated(seed):
        first = start(model, x, init)
        known = [snapshot(first)]
    count = MOST
    for restart in range(1, MOST):
        if restart >= count:
            break
        start_seed = derived_seed(seed, restart)
        with isolated(start_seed), threads(estimator.elements(x, model)):
            try:
                candidate = start(model, x, init, restart)
            except ZooError:
                continue  # the first one was made, and is fitted
            if any(same_start(state, candidate) for state in known):
                continue
            if not trials and (count := usual_number(scouting, candidate, x)) <= restart:
                break
            trials.append(run_trial(scouting, candidate, x, restart, start_seed))
            known.append(trials[-1].state)
            if trials[-1].outcome.status == "interrupted":
                break
    return trials


def with_held_out(estimator: Estimator, model: LatentVariableModel, x: Data, seed: int) -> tuple[Data, Estimator]:
    """The data to fit, and the estimator with the held-out ones: a fraction is drawn from the data by the seed.

    Raises:
        ZooError: no fraction between 0 and 1, or one that leaves no data on a side.
    """
    asked = getattr(estimator, "validation", None)
    if asked is None:
        return x, estimator
    if isinstance(asked, (bool, str)):
        raise ZooError(f"{estimator.name}: validation expected a fraction or data, got {asked!r}. Take 0.1.")
    if not isinstance(asked, (int, float)):
        return x, replace(estimator, validation=prepared(model, asked))  # type: ignore[call-arg]
    if not 0 < asked < 1:
        raise ZooError(f"{estimator.name}: validation expected a fraction between 0 and 1, got {asked}. Take 0.1.")
    rows = num_data(x)
    held = max(1, round(asked * rows))
    if held >= rows:
        raise ZooError(
            f"{estimator.name}: validation={asked} expected data on both sides, got {rows} in all. "
            "Pass held-out data instead."
        )
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed)).to(tensors(x)[0].device)
    apart = take(x, order[:held].sort().values)
    return take(x, order[held:].sort().values), replace(estimator, validation=apart)  # type: ignore[call-arg]


def identify(
    model: LatentVariableModel, x: Data, estimator: Estimator, seed: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """What a run is made of, in plain values: two runs that agree in it take the same path."""
    own = isinstance(model, FunctionModel)
    given = {f.name: getattr(estimator, f.name) for f in fields(estimator)}
    more = {
        n: fingerprint(as_data(v, symbols=True)) for n, v in given.items() if settings[n] == "given" and not callable(v)
    }
    found: dict[str, Any] = {
        "model": model_name(model),
        "arguments": {} if own else {name: getattr(v, "__name__", str(v)) for name, v in model.config.items()},
        "data": fingerprint(x),
        "estimator": estimator.name,
        "seed": seed,
        "option": {**settings, **more},
    }
    if settings["init"] == "current" and not own:
        found["start"] = fingerprint(snapshot(model))
    return found


def describe(estimator: Estimator) -> dict[str, Any]:
    """The options as plain values: data given as one are not kept."""
    values = {f.name: getattr(estimator, f.name) for f in fields(estimator)}
    return {k: v if isinstance(v, (int, float, str, bool, type(None))) else "given" for k, v in values.items()}


def start(
    model: LatentVariableModel, x: Data, init: str, restart: int = 0, searched: bool = True
) -> LatentVariableModel:
    """A copy of the model at a starting point: fresh guide, parameters from the data (both from torch's generator).

    Args:
        searched: whether parameters that have a prior go to the best of a few draws.
    """
    candidate = copy.deepcopy(model)
    if init != "current":
        candidate.reset_guide()
    candidate.initialize(x, init, restart)
    with torch.no_grad():
        for name, staying in model.named_parameters():
            if not staying.requires_grad and name in dict(candidate.named_parameters()):
                candidate.get_parameter(name).copy_(staying)
    if searched and isinstance(candidate, FunctionModel):
        choose_start(candidate, x, first=restart == 0)
    return candidate


def first_run(model: FunctionModel, x: Data, wants_guide: bool = False) -> None:
    """Create a program's parameters; what its data cannot do is the user's to hear in one line.

    A program with discrete latents only, and no guide where one is wanted, gets one of tables.
    """
    try:
        model.initialize(x, "current")
        if wants_guide and not model.has_guide:
            latents = program.latent_sites(model, x)
            if latents and all(site.discrete for site in latents):
                model.take_guide(x)
        if model.has_guide:
            check_guide(model, x)
    except Exception as error:
        raise failed_on_data(model.name, error) from error
    if not is_observed(model, x):
        raise ZooError(f"{model.name}: {NOTHING_OBSERVED}. Give a sample statement obs=...")


def unnormalised(model: LatentVariableModel) -> str:
    """The note on a fit whose objective is no log-likelihood."""
    factors = model.factors if isinstance(model, FunctionModel) else ()
    what = f"site {factors[0]!r} is a pyro.factor, so the program" if factors else "the program"
    return (
        f"{what} is a density only up to a factor Z that is not known: what was climbed is no log-likelihood, and "
        f"there is none. If its factors are log-densities of data, say so: {program_name(model)}.normalized = True"
    )


def check_moves(estimator: Estimator, model: LatentVariableModel, x: Data) -> None:
    """Raise ZooError where an estimator has no parameter to fit."""
    moving = [name for name, p in model.named_parameters() if p.requires_grad]
    if moving and isinstance(model, FunctionModel) and model.has_guide and not estimator.uses_guide:
        moving = program.parameter_roles(model, x)[0]
    if not moving:
        some = any(True for _ in model.parameters())
        what = "all its parameters are to stay (requires_grad=False)" if some else "it has no parameters"
        raise ZooError(
            f"{program_name(model)}: nothing is to be fitted: {what}. Score it by zoo.evaluate(model, x), decode it by "
            "zoo.discrete_posterior(model, x)."
        )


def check_guide(model: FunctionModel, x: Data) -> None:
    """Raise ZooError where a user's guide draws what the program does not have, leaves out what it needs, or draws it
    in another shape. A discrete latent may be left out: it can be summed over."""
    drawn, run = program.draw(model, x, 1, 0)
    found, sites = program.sample_sites(drawn), program.sample_sites(run)
    latents = [name for name, site in sites.items() if not site["is_observed"]]
    strange = [name for name, site in found.items() if name not in latents and not site["infer"].get("is_auxiliary")]
    if strange:
        known = ", ".join(map(repr, latents)) or "none"
        raise ZooError(
            f"the guide expected to draw the latents of the program {model.name!r}, {known}, got {strange[0]!r}. "
            "Give it the name the program has."
        )
    for name in latents:
        if name in found:
            ours, theirs = (one[name]["fn"].event_dim for one in (found, sites))
            if ours != theirs:
                raise ZooError(
                    f"site {name!r} expected as many event dimensions in the guide as in the program, got {ours} and "
                    f"{theirs}. Put both in the plate, or end both with .to_event(n)."
                )
        elif not getattr(sites[name]["fn"], "has_enumerate_support", False):
            raise ZooError(
                f"the guide expected to draw every continuous latent of the program {model.name!r}, got none for "
                f"{name!r}. Sample {name!r} in it."
            )


def check_serves(estimator: Estimator, model: LatentVariableModel, x: Data) -> None:
    """Raise ZooError if the estimator cannot serve the model, naming the ones that can."""
    reason = estimator.refuses(model, x)
    if reason is not None:
        able = serving(model, x)
        fix = f"Use {', '.join(able)}." if able else "No estimator can."
        raise ZooError(f"{estimator.name} cannot fit this model: {reason}. {fix}")


def serving(model: LatentVariableModel, x: Data, among: Iterable[str] | None = None) -> list[str]:
    """The names of the estimators that can serve a model on such data, of all or in the order of those asked for."""
    classes = estimator_classes()
    with torch.random.fork_rng(devices=[]):
        return [name for name in among or sorted(classes) if classes[name]().refuses(model, x) is None]


def usual_estimators(model: Any, x: Any, guide: Callable[..., Any] | None = None, for_fit: bool = False) -> list[str]:
    """Which estimators to take where nobody says: those of em, eg, svi, gumbel that can serve the model.

    In the place of em stands auto_em where the model has no M step of its own and the program's is closed form, or
    climbs a few numbers only: steps along the gradient take hundreds of times as long there.
    Where only one of them can, iwae and rws come beside it, so that there is something to compare; where none can, all
    others that can. Never empty.

    Args:
        for_fit: whether one fit is to be made, in which a guide that was given must have a part.

    Raises:
        ZooError: no estimator can serve the model.
    """
    with isolated(0), remembered():
        base = copy.deepcopy(as_model(model, guide))
        ready = prepared(base, x, new=True)
        if isinstance(base, FunctionModel):
            first_run(base, ready)
        usual = serving(base, ready, DEFAULT_ESTIMATORS)
        given_guide = for_fit and isinstance(base, FunctionModel) and base.has_guide
        if "em" not in usual and not given_guide and suits_auto_em(base, ready):
            usual.insert(0, "auto_em")
        if len(usual) == 1:
            usual += serving(base, ready, ("iwae", "rws"))
        usual = usual or serving(base, ready)
    if not usual:
        raise ZooError("no estimator can serve this model: it has neither an exact sum nor a guide. Pass a guide.")
    return usual


def suits_auto_em(model: LatentVariableModel, x: Data) -> bool:
    """Whether auto_em can serve a model, and its updates are closed forms but for a few numbers."""
    from zoo.automatic.newton import NEWTON_SIZE
    from zoo.automatic.plan import make_plan

    if not serving(model, x, ("auto_em",)):
        return False
    ready = start(model, x, model.inits[0])
    try:
        with torch.random.fork_rng(devices=[]):
            plan = make_plan(ready, x)
    except ZooError:
        return False
    return sum(plan.space.raw[name].numel() for name in plan.numeric) <= NEWTON_SIZE


@functools.cache
def _optimizer_imported() -> None:
    """Take one step of Adam on nothing: torch imports its compiler at the first, a second that no fit should pay."""
    nothing = torch.zeros(1, requires_grad=True)
    nothing.grad = torch.zeros(1)
    torch.optim.Adam([nothing], fused=True).step()


def derived_seed(seed: int, *path: int) -> int:
    """A seed for a sub-run, unrelated to its neighbours."""
    digest = hashlib.sha256(repr((seed, *path)).encode()).digest()
    return int.from_bytes(digest[:6], "big")


def _run_one(
    estimator: Estimator,
    model: LatentVariableModel,
    x: Data,
    seed: int,
    max_seconds: float | None,
    progress: bool | Callback | None,
    track: int,
    checkpoints: Checkpoints | None = None,
    resumed: Checkpoint | None = None,
) -> Fit:
    """One run, from where the model is."""
    from zoo.progress import shown

    def evidence() -> float:
        with torch.random.fork_rng(devices=[]):
            try:
                total = total_log_likelihood(model, x, checked=True)
            except Exception:  # it is for the curve alone; the score at the end has a note on what fails
                total = None
        return math.nan if total is None else total

    gradient = hasattr(estimator, "learning_rate")
    with shown(progress, estimator.name, "epochs" if gradient else "iterations") as callback, PeakMemory() as memory:
        began, run = snapshot(model), Run(num_data(x), callback)
        failure: LikelihoodDecreased | None = None
        try:
            if gradient:
                _optimizer_imported()
            estimator.rehearse(model, x)
            run = Run(num_data(x), callback, max_seconds, checkpoints=checkpoints, resumed=resumed)
            if track and not estimator.sees_evidence and exact_log_likelihood_known(model, x):
                run.track, run.track_every = evidence, max(1, 3000 // track)
            model.train()
            outcome = estimator.run(model, x, run)
        except LikelihoodDecreased as error:
            failure = error
            last = run.history["objective"][-1] if run.iterations else -math.inf
            outcome = Outcome("diverged", last, [str(error)], exact_q=True)
        except KeyboardInterrupt:  # outside the estimator's own loop
            last = run.history["objective"][-1] if run.iterations else -math.inf
            outcome = Outcome("interrupted", last, exact_q=estimator.sees_evidence)
            if not run.iterations:
                restore(model, began)
        seconds = run.seconds
        model.eval()
    if not all(
        bool(v.isfinite().all()) or bool(v.isinf().any() and not v.isnan().any()) for v in model.state_dict().values()
    ):
        restore(model, began)
        outcome = Outcome("diverged", -math.inf, [*outcome.notes, "a parameter became NaN; the starting point is kept"])
    if checkpoints is not None:
        outcome.notes = [*outcome.notes, *(resumed.damaged if resumed is not None else ()), *checkpoints.notes]
    this = _finish(estimator, model, x, run, outcome, seed, seconds, memory.peak_mb)
    if failure is not None:
        failure.fit = this
        raise failure
    return this


def exact_log_likelihood_known(model: LatentVariableModel, x: Data) -> bool:
    """Whether ln p(x) is tractable."""
    with torch.random.fork_rng(devices=[]):
        return total_log_likelihood(model, program.probe(model, x)) is not None


def _finish(
    estimator: Estimator,
    model: LatentVariableModel,
    x: Data,
    run: Run,
    outcome: Outcome,
    seed: int,
    seconds: float,
    peak_mb: float | None,
) -> Fit:
    """Score the parameters that were kept, with the discrete model always; what fails is noted, no fit lost to it."""
    scores = _Scores()
    total = scores.take("log-likelihood", lambda: total_log_likelihood(model, x))
    elbo, elbo_se = outcome.elbo, None if outcome.elbo is None else 0.0
    if outcome.draws is not None:
        elbo_se = outcome.draws.diagnostics.get("elbo_se", elbo_se)
    if outcome.exact_q:
        elbo, elbo_se = total, None if total is None else 0.0
    elif elbo is None and program.has_guide(model):
        elbo, elbo_se = scores.take("elbo", lambda: bound(model, x)) or (None, None)
    if not model.normalized:
        outcome.notes = [*outcome.notes, unnormalised(model)]
    theta = scores.take("number of parameters", lambda: program.parameter_roles(model, x)[0]) or []
    size = scores.take("number of parameters", lambda: model.num_free_parameters(theta))
    units = scores.take("number of time steps", lambda: num_units(model, x))
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
        num_data=num_data(x),
        num_units=units or num_data(x),
        num_parameters=size or 0,
        notes=[*outcome.notes, *scores.notes],
        degenerate=outcome.degenerate,
        peak_memory_mb=peak_mb,
        exact_q=outcome.exact_q,
        guide_trained=not outcome.exact_q and program.has_guide(model) and estimator.uses_guide,
        warmup=run.warmup,
        template=map_tensors(lambda t: t[:1].clone() if t.dim() else t.clone(), x),
    )


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


def _better(this: Fit, best: Fit) -> bool:
    """Whether a later start beats the best of the earlier ones: by more than rounding."""
    return leaders([best, this], [_judged(best), _judged(this)]) == [1]


def _judged(this: Fit) -> float:
    """What a start is chosen by: likelihood times prior, where the model has one."""
    score = this.log_likelihood if this.log_likelihood is not None else this.elbo
    objective = this.history["objective"][-1] if this.iterations else -math.inf
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
