"""``zoo.fit``: one model, one estimator, any number of starts; a new fitted copy comes back."""

from __future__ import annotations

import copy
import hashlib
import math
import traceback
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyro
import torch

from zoo import program
from zoo.batch import Data, map_tensors, num_data
from zoo.errors import LikelihoodDecreased, ZooError, unknown_name
from zoo.estimators import estimator_classes, find_estimator
from zoo.estimators.base import Callback, Estimator, Outcome, Run, options_from, restore, snapshot
from zoo.estimators.eg import total_log_likelihood
from zoo.estimators.em import num_units
from zoo.evaluation import bound
from zoo.isolation import isolated, threads
from zoo.memory import PeakMemory
from zoo.model import FunctionModel, LatentVariableModel, as_model, prepared
from zoo.results import Fit

__all__ = ["as_device", "check_serves", "first_run", "fit", "serving", "start"]

#: Folders whose frames are not the user's.
_LIBRARIES = (str(Path(__file__).parent), str(Path(pyro.__file__).parent), str(Path(torch.__file__).parent))


def fit(
    model: Any,
    x: Any,
    *,
    estimator: str = "em",
    guide: Callable[..., Any] | None = None,
    seed: int = 0,
    init: str | None = None,
    restarts: int = 1,
    device: str | None = None,
    max_seconds: float | None = None,
    progress: bool | Callback | None = False,
    track: int = 0,
    **options: Any,
) -> Fit:
    """Fit a model to data.

    Args:
        model: a zoo model, or a Pyro program ``model(x)``. It is left as it is.
        x: data as the model takes them: array, tensor, or a tuple or dict of these.
        estimator: a name from ``zoo.estimators``.
        guide: the guide of a program that is a plain function.
        seed: every draw comes from it.
        init: a starting point the model knows ("kmeans++", "random"), or "current"; None takes the model's default.
        restarts: starts to try; every one is listed, the best whose covariance floor did not act wins.
        device: where to compute; None leaves the model where it is.
        max_seconds: budget of each start.
        progress: True shows a bar; a function is called with every row of the history.
        track: evaluate the exact log-likelihood about this many times on the way, off the clock (0: only if free).
        options: the estimator's own, see its class.

    Returns:
        A :class:`~zoo.results.Fit` holding a new, fitted copy of the model.

    Raises:
        ZooError: a mistake in the arguments or the data; nothing has been done then.
        LikelihoodDecreased: EM's objective fell; its ``fit`` holds what was reached.
    """
    chosen = options_from(find_estimator(estimator), options)
    template = as_model(model, guide)
    if not isinstance(restarts, int) or restarts < 1:
        raise ZooError(f"fit: restarts expected a whole number of at least 1, got {restarts!r}.")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
        raise ZooError(f"fit: seed expected a whole number from 0 to 2**63 - 1, got {seed!r}.")
    init = template.inits[0] if init is None else init
    if init not in {*template.inits, "current"}:
        raise unknown_name("init", init, {*template.inits, "current"})
    with isolated(seed):
        base = copy.deepcopy(template)
        if device is not None:
            base.to(as_device(device))
        data = prepared(base, x)
        if isinstance(base, FunctionModel):
            with torch.random.fork_rng(devices=[]):
                first_run(base, data)
        check_serves(chosen, base, data)
        best: Fit | None = None
        listed: list[dict[str, Any]] = []
        failure: LikelihoodDecreased | None = None
        for restart in range(restarts):
            start_seed = seed if restart == 0 else derived_seed(seed, restart)
            with isolated(start_seed), threads(chosen.elements(data)):
                candidate = start(base, data, init, restart)
                try:
                    this = _run_one(chosen, candidate, data, start_seed, max_seconds, progress, track)
                except LikelihoodDecreased as error:
                    if restarts == 1:
                        raise
                    failure, this = error, error.fit
            this.seed = seed
            listed.append(
                {
                    "seed": start_seed,
                    "status": this.status,
                    "objective": this.history["objective"][-1] if this.iterations else None,
                    "log_likelihood": this.log_likelihood,
                    "degenerate": this.degenerate,
                    "chosen": False,
                    "notes": this.notes,
                }
            )
            if best is None or _rank(this) > _rank(best):
                best, chosen_index = this, restart
            if this.status == "interrupted":
                break
        assert best is not None
        if failure is not None and best.status == "diverged":
            raise failure
        listed[chosen_index]["chosen"] = True
        best.restarts = listed
        best.options = {**describe(chosen), "init": init, "restarts": restarts}
        return best


def describe(estimator: Estimator) -> dict[str, Any]:
    """The options as plain values: data given as one are not kept."""
    values = {f.name: getattr(estimator, f.name) for f in fields(estimator)}
    return {k: v if isinstance(v, (int, float, str, bool, type(None))) else "given" for k, v in values.items()}


def start(model: LatentVariableModel, x: Data, init: str, restart: int = 0) -> LatentVariableModel:
    """A copy of the model at a starting point: fresh guide, parameters from the data (both from torch's generator)."""
    candidate = copy.deepcopy(model)
    if init != "current":
        candidate.reset_guide()
    candidate.initialize(x, init, restart)
    return candidate


def first_run(model: FunctionModel, x: Data) -> None:
    """Create a program's parameters; what its data cannot do is the user's to hear in one line."""
    try:
        model.initialize(x, "current")
    except ZooError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        own = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(_LIBRARIES)]
        place = f" in {own[-1].filename}, line {own[-1].lineno}" if own else ""
        raise ZooError(
            f"the program {model.name!r} failed on its data{place} ({type(error).__name__}: {first}). "
            "Run it by itself first."
        ) from error


def check_serves(estimator: Estimator, model: LatentVariableModel, x: Data) -> None:
    """Raise ZooError if the estimator cannot serve the model, naming the ones that can."""
    reason = estimator.refuses(model, x)
    if reason is not None:
        able = serving(model, x)
        fix = f"Use {', '.join(able)}." if able else "No estimator can."
        raise ZooError(f"{estimator.name} cannot fit this model: {reason}. {fix}")


def serving(model: LatentVariableModel, x: Data) -> list[str]:
    """The names of the estimators that can serve a model on such data."""
    with torch.random.fork_rng(devices=[]):
        return [name for name, cls in sorted(estimator_classes().items()) if cls().refuses(model, x) is None]


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
) -> Fit:
    from zoo.progress import shown

    def evidence() -> float:
        with torch.random.fork_rng(devices=[]):
            total = total_log_likelihood(model, x)
        return math.nan if total is None else total

    with shown(progress, estimator.name) as callback, PeakMemory() as memory:
        estimator.rehearse(model, x)
        run = Run(num_data(x), callback, max_seconds)
        if track and not estimator.sees_evidence and exact_log_likelihood_known(model, x):
            run.track, run.track_every = evidence, max(1, 3000 // track)
        began = snapshot(model)
        failure: LikelihoodDecreased | None = None
        try:
            outcome = estimator.run(model, x, run)
        except LikelihoodDecreased as error:
            failure = error
            last = run.history["objective"][-1] if run.iterations else -math.inf
            outcome = Outcome("diverged", last, [str(error)], exact_q=True)
        seconds = run.seconds
    if not all(
        bool(v.isfinite().all()) or bool(v.isinf().any() and not v.isnan().any()) for v in model.state_dict().values()
    ):
        restore(model, began)
        outcome = Outcome("diverged", -math.inf, [*outcome.notes, "a parameter became NaN; the starting point is kept"])
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
    """Score the parameters that were kept, with the discrete model always."""
    total = total_log_likelihood(model, x)
    elbo, elbo_se = outcome.elbo, None if outcome.elbo is None else 0.0
    if outcome.exact_q:
        elbo, elbo_se = total, 0.0
    elif elbo is None and program.has_guide(model):
        elbo, elbo_se = bound(model, x)
    theta, _ = program.parameter_roles(model, x)
    return Fit(
        model=model,
        estimator=estimator.name,
        options=describe(estimator),
        seed=seed,
        status=outcome.status,
        log_likelihood=total,
        elbo=elbo,
        elbo_se=elbo_se,
        history=run.history,
        iterations=run.iterations,
        seconds=seconds,
        num_data=num_data(x),
        num_units=num_units(model, x),
        num_parameters=model.num_free_parameters(theta),
        notes=outcome.notes,
        degenerate=outcome.degenerate,
        peak_memory_mb=peak_mb,
        guide_trained=not outcome.exact_q and program.has_guide(model) and estimator.uses_guide,
        template=map_tensors(lambda t: t[:1].clone() if t.dim() else t.clone(), x),
    )


def _rank(this: Fit) -> tuple[bool, bool, float]:
    score = this.log_likelihood if this.log_likelihood is not None else this.elbo
    objective = this.history["objective"][-1] if this.iterations else -math.inf
    value = objective if this.estimator == "hard_em" or score is None else score
    return this.status != "diverged", not this.degenerate, -math.inf if math.isnan(value) else value


def as_device(device: str) -> torch.device:
    """The torch device of a name, or a ZooError if this torch cannot use it."""
    try:
        chosen = torch.device(device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ZooError(f"device expected one this torch can use, got {device!r}. Use 'cpu'.") from None
    return chosen
