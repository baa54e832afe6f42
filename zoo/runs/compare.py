"""``zoo.compare``: same data, same start, one budget, many estimators, one table."""

from __future__ import annotations

import copy
import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from zoo.core.contract import LatentVariableModel, lacks, prepared
from zoo.core.data import Data, count, plain
from zoo.core.functions import as_model
from zoo.core.isolation import isolated
from zoo.core.problem import Problem
from zoo.core.turns import exclusive
from zoo.errors import LikelihoodDecreased, ZooError, one_line, unknown_name
from zoo.estimators import find_estimator
from zoo.estimators.base import Callback, options_from
from zoo.reporting.subjects import DRAWS
from zoo.runs.beside import settled, with_beside
from zoo.runs.fit import as_device, fit
from zoo.runs.gradients import GradientQuality, gradient_quality, sampled_gradients
from zoo.runs.one_start import exact_log_likelihood_known
from zoo.runs.prepare import check_serves, first_run, start, usual_estimators
from zoo.runs.ranking import leaders
from zoo.runs.result import Fit
from zoo.storage.folders import new_folder
from zoo.storage.json import to_json

__all__ = ["Comparison", "compare"]


@dataclass(repr=False)
class Comparison:
    """Fits of one model to the same data from the same starting points. Totals over the data, nats.

    Attributes:
        model: the model's name. data: the data's name. num_data: N.
        fits: one for every estimator and seed, seeds within estimators.
        gradients: bias and spread of each gradient estimator at the first seed's start and at the best optimum.
        x: the data. beside: whether weights or known latents stood beside them.
        notes: what could not be measured, a line each.
        interrupted: whether it was stopped before all was done.
    """

    model: str
    data: str
    num_data: float
    fits: list[Fit]
    gradients: list[GradientQuality] = field(default_factory=list)
    x: Data = None
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False
    beside: bool = False

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One plain row a fit."""
        return [fit.summary() for fit in self.fits]

    @property
    def estimators(self) -> list[str]:
        """Names in the order they were given."""
        return list(dict.fromkeys(fit.estimator for fit in self.fits))

    @functools.cached_property
    def _weighted(self) -> dict[int, tuple[float, float]]:
        """By ``id`` of a fit, its importance-weighted bound by :data:`DRAWS` draws and the standard error of that.

        What estimators that climb different bounds are compared by. Empty where the evidence is known, or a model does
        not offer ``log_weights``.
        """
        from zoo.scores.importance import importance_nll

        if (
            self.x is None
            or self.beside
            or not all(f.log_likelihood is None and lacks(f.model, "log_weights") is None for f in self.fits)
        ):
            return {}
        try:
            scored = {id(f): importance_nll(f.model, self.x, DRAWS) for f in self.fits}
        except Exception as error:  # whatever a program does where it is scored: the fits are done
            self.notes.append(f"no bound of {DRAWS} draws: {one_line(error)}")
            return {}
        return {key: (-each.nll * self.num_data, each.se * self.num_data) for key, each in scored.items()}

    @property
    def weighted_bounds(self) -> dict[int, float]:
        """By ``id`` of a fit, its importance-weighted bound by :data:`DRAWS` draws, total, nats."""
        return {key: value for key, (value, _) in self._weighted.items()}

    def score(self, this: Fit) -> float | None:
        """What a fit is judged by, total, nats: log-likelihood, else the importance-weighted bound, else the ELBO."""
        return self.weighted_bounds.get(id(this), this.elbo) if this.log_likelihood is None else this.log_likelihood

    @property
    def score_kind(self) -> str:
        """What :meth:`score` is here, in words."""
        if self.weighted_bounds:
            return f"bound of {DRAWS} draws"
        return "bound" if all(this.log_likelihood is None for this in self.fits) else "log-likelihood"

    def best_of(self, fits: Sequence[Fit]) -> Fit:
        """The one of highest score; degenerate and diverged ones last.

        Scores tie where they differ by less than rounding, ``tol`` or their Monte-Carlo error can tell, or than tables
        print. A tie goes to the fastest estimator, and in it to the first seed.
        """
        errors = [
            self._weighted[id(fit)][1] if id(fit) in self._weighted
            else fit.elbo_se or 0.0 if fit.log_likelihood is None
            else 0.0
            for fit in fits
        ]  # fmt: skip
        tied = [fits[i] for i in leaders(fits, [self.score(fit) for fit in fits], errors)]
        seconds = {name: statistics.median(f.seconds for f in tied if f.estimator == name) for name in self.estimators
                   if any(f.estimator == name for f in tied)}  # fmt: skip
        return min(tied, key=lambda fit: seconds[fit.estimator])

    @property
    def best(self) -> Fit:
        """The best of all fits, see :meth:`best_of`."""
        return self.best_of(self.fits)

    def to_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {"model": self.model, "data": self.data, "num_data": self.num_data, "rows": self.rows}

    def __repr__(self) -> str:
        # No score: where bounds are compared, that is work.
        fits = f"{len(self.fits)} fits by {', '.join(self.estimators)}"
        return f"{self.model} on {self.data}: {self.num_data} data, {fits}\nprint it for the table"

    def __str__(self) -> str:
        from zoo.reporting.text import text_table

        return text_table(self)

    def to_inference_data(self, num_draws: int = 100) -> Any:
        """All fits as ArviZ ``InferenceData``; chains are fits."""
        from zoo.reporting.arviz import to_inference_data

        return to_inference_data(self.fits, self.x, num_draws)

    def plot(self, path: str | Path) -> Path:
        """Draw likelihood (and bound) against time for every estimator into a picture file."""
        from zoo.reporting.curves import plot_comparison

        return plot_comparison(self, path)

    def save(self, folder: str | Path) -> Path:
        """Write ``comparison.json``, a folder a fit, pictures and ``report.html`` into a new folder; all or nothing.

        Raises:
            ZooError: the folder already holds something.
        """
        from zoo.reporting.report import write_report

        with new_folder(folder) as staging:
            record = {**self.to_dict(), "gradients": [asdict(row) for row in self.gradients]}
            (staging / "comparison.json").write_text(to_json(record))
            for this in self.fits:
                target = staging / "fits" / f"{this.estimator}-{this.seed}"
                target.mkdir(parents=True)
                this.write(target)
            write_report(self, staging)
        return Path(folder)


@exclusive
def compare(
    model: Any,
    x: Any,
    *,
    estimators: Sequence[str] | None = None,
    seeds: int | Iterable[int] = 1,
    guide: Callable[..., Any] | None = None,
    init: str | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    device: str | None = None,
    max_seconds: float | None = None,
    gradients: bool = True,
    track: int = 100,
    progress: bool | Callable[[str, int], bool | Callback | None] | None = False,
    data_name: str = "data",
    weights: Any = None,
    known: Mapping[str, Any] | None = None,
    fixed: str | Iterable[str] = (),
    **common: Any,
) -> Comparison:
    """Fit one model by several estimators from the same starting points.

    Args:
        model: a zoo model, or a Pyro program with ``guide``. It is left as it is.
        x: data as the model takes them.
        estimators: names; None takes the usual ones that can serve the model (em, or auto_em where it has no em; eg,
            svi, gumbel).
        seeds: how many, or which; for each, every estimator starts at the same parameters (guide included).
        init: how to start, as for ``fit``.
        options: by estimator, options of its own.
        device: where to compute; None leaves the model where it is.
        max_seconds: one budget, for each fit alike.
        gradients: measure bias and variance of the sampled gradients among them (needs an exact evidence).
        track: how often to evaluate the exact likelihood on the way, off the clock.
        progress: True shows a bar a fit; a function of (estimator, seed) gives what ``fit`` takes.
        weights: how often each row counts, as for ``fit``, like ``known`` latents and ``fixed`` parameters.
        common: options for every estimator that has them.

    Raises:
        ZooError: a mistake in the arguments, or an estimator that cannot serve the model; nothing has been done then.
        KeyboardInterrupt: before anything was fitted; after that the comparison comes back as far as it went.
    """
    template = as_model(model, guide)
    options = options or {}
    beside: dict[str, Any] = {"weights": weights, "known": known, "fixed": fixed}
    if estimators is None:
        estimators = list(dict.fromkeys([*usual_estimators(template, x, **beside), *options]))
    for name in options:
        if name not in estimators:
            find_estimator(name)
            raise ZooError(
                f"compare: options for {name!r} expected it among the estimators, got {', '.join(estimators)}."
            )
    if not estimators:
        raise ZooError("compare: estimators expected at least one name, got none.")
    chosen = _chosen_options(estimators, options, common)
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seed_list:
        raise ZooError(f"compare: seeds expected at least one, got {seeds!r}.")
    with isolated(seed_list[0]):
        base = copy.deepcopy(template)
        if device is not None:
            base.to(as_device(device))
        data = prepared(base, x, new=True)
        rows = with_beside(base, data, weights, known)
        problem = Problem(base, plain(rows))
        if not base.trusted:
            problem = first_run(base, plain(rows), any(find_estimator(name).uses_guide for name in chosen))
        problem, stopping = settled(problem, rows, fixed)
        rows = problem.data
        for name, given in chosen.items():
            check_serves(options_from(find_estimator(name), given), problem)
    first_init = template.inits[0] if init is None else init
    fits: list[Fit] = []
    origin = None
    try:
        for seed in seed_list:
            with isolated(seed):
                begun = start(base, rows, first_init)
            for name in stopping:
                begun.get_parameter(name).requires_grad_(True)
            origin = begun if origin is None else origin
            for name, given in chosen.items():
                shown = progress(name, seed) if callable(progress) else progress
                try:
                    this = fit(
                        begun, data, estimator=name, seed=seed, init="current",
                        max_seconds=max_seconds, progress=shown, track=track, data_name=data_name, **beside, **given,
                    )  # fmt: skip
                except LikelihoodDecreased as error:
                    this = error.fit
                fits.append(this)
                if this.status == "interrupted":
                    break
            if fits[-1].status == "interrupted":
                break
    except KeyboardInterrupt:
        if not fits:
            raise
    stopped = len(fits) < len(seed_list) * len(chosen) or fits[-1].status == "interrupted"
    fits.sort(key=lambda this: list(chosen).index(this.estimator))
    comparison = Comparison(template.label, data_name, count(rows), fits, x=plain(rows), interrupted=stopped)
    comparison.beside = rows is not comparison.x
    if gradients and not stopped and origin is not None:
        try:
            comparison.gradients = _gradients(origin, comparison, chosen, progress, rows)
        except KeyboardInterrupt:
            comparison.interrupted = True
        except Exception as error:  # whatever a program does where it is measured: the fits are done
            comparison.notes.append(f"no gradient quality: {one_line(error)}")
    return comparison


def _gradients(
    origin: LatentVariableModel, comparison: Comparison, chosen: dict[str, dict[str, Any]], progress: Any, data: Data
) -> list[GradientQuality]:
    """The gradients at the first seed's start and at the best optimum; none where nobody samples them."""
    from zoo.runs.progress import fraction_shown

    if not sampled_gradients(chosen) or not exact_log_likelihood_known(origin, data):
        return []
    rows = []
    with torch.random.fork_rng(devices=[]):
        for point, here in (("start", origin), ("optimum", comparison.best.model)):
            with fraction_shown(f"gradients, {point}", False if callable(progress) else progress) as told:
                rows += gradient_quality(here, data, chosen, point=point, told=told)
    return rows


def _chosen_options(
    estimators: Sequence[str], own: dict[str, dict[str, Any]], common: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Options by estimator. A common one must be known to at least one of them."""
    fields = {name: {f.name for f in dataclasses.fields(find_estimator(name))} for name in estimators}
    known = set().union(*fields.values())
    for option in common:
        if option not in known:
            raise unknown_name("option", option, known)
    chosen = {
        name: {**{k: v for k, v in common.items() if k in fields[name]}, **own.get(name, {})} for name in estimators
    }
    for name, given in chosen.items():
        options_from(find_estimator(name), given)
    return chosen
