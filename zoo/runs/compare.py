"""``zoo.compare``: same data, same start, one budget, many estimators, one table."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.core.contract import LatentVariableModel, lacks, prepared
from zoo.core.data import Data, count, plain
from zoo.core.functions import as_model
from zoo.core.isolation import isolated, kept_generators
from zoo.core.places import counted
from zoo.core.spread import check_jobs, spread
from zoo.core.turns import exclusive
from zoo.errors import ZooError, one_line
from zoo.estimators import find_estimator
from zoo.estimators.base import Callback
from zoo.reporting.subjects import DRAWS
from zoo.runs.gradients import GradientQuality, gradient_quality, sampled_gradients
from zoo.runs.grounds import ComparedFits, Ground
from zoo.runs.making import made
from zoo.runs.one_start import exact_log_likelihood_known
from zoo.runs.prepare import check_init, check_serves, usual_estimators
from zoo.runs.progress import fraction_shown
from zoo.runs.ranking import leaders
from zoo.runs.result import Fit
from zoo.runs.variants import Variant, folder_of, sorted_out, variant
from zoo.storage.folders import new_folder
from zoo.storage.json import to_json

if TYPE_CHECKING:
    from zoo.reporting.page import Figure

__all__ = ["Comparison", "compare"]


@dataclass(repr=False)
class Comparison:
    """Fits of one model to the same data from the same starting points. Totals over the data, nats.

    Attributes:
        model: the model's name. data: the data's name. num_data: N.
        fits: one for every variant and seed, seeds within variants.
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
        """Labels of the variants in the order they were given: an estimator's name where nothing else was said."""
        return list(dict.fromkeys(fit.label for fit in self.fits))

    @functools.cached_property
    def _weighted(self) -> dict[int, tuple[float, float]]:
        """By ``id`` of a fit, its importance-weighted bound by ``DRAWS`` draws and the standard error of that.

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
        """By ``id`` of a fit, its importance-weighted bound by ``DRAWS`` draws, total, nats."""
        return {key: value for key, (value, _) in self._weighted.items()}

    @functools.cached_property
    def annealed(self) -> dict[int, tuple[float, float]]:
        """By ``id`` of a fit of an energy whose ln Z is no affordable sum, its log-likelihood by annealed importance
        sampling, total, nats, and the standard error of that; empty where the evidence is known, or a bound on it.

        (Pseudo-likelihoods would need no annealing, and favour estimators that learn what lies near the data: ``cd``.)
        """
        from zoo.scores.annealed import annealed_likelihood

        known = any(f.log_likelihood is not None or f.elbo is not None for f in self.fits)
        offers = ("annealed_log_partition", "free_energy")
        if self.x is None or self.beside or known or any(lacks(f.model, *offers) is not None for f in self.fits):
            return {}
        return {id(f): annealed_likelihood(f.model, prepared(f.model, self.x), f.seed) for f in self.fits}

    def score(self, this: Fit) -> float | None:
        """What a fit is judged by, total, nats: log-likelihood, else the importance-weighted bound, else the ELBO; of
        energies whose ln Z is not known, what annealing says.

        Args:
            this: one of ``fits``.
        """
        if this.log_likelihood is not None:
            return this.log_likelihood
        if id(this) in self.annealed:
            return self.annealed[id(this)][0]
        return self.weighted_bounds.get(id(this), this.elbo)

    @property
    def score_kind(self) -> str:
        """What :meth:`score` is here, in words."""
        if self.weighted_bounds:
            return f"bound of {DRAWS} draws"
        if self.annealed:
            return "annealed log-likelihood"
        return "bound" if all(this.log_likelihood is None for this in self.fits) else "log-likelihood"

    def best_of(self, fits: Sequence[Fit]) -> Fit:
        """The one of highest score; degenerate and diverged ones last.

        Scores tie where they differ by less than rounding, ``tol`` or their Monte-Carlo error can tell, or than tables
        print. A tie goes to the fastest estimator, and in it to the first seed.

        Args:
            fits: at least one of them.
        """
        errors = [
            self._weighted[id(fit)][1] if id(fit) in self._weighted
            else self.annealed[id(fit)][1] if id(fit) in self.annealed
            else fit.elbo_se or 0.0 if fit.log_likelihood is None
            else 0.0
            for fit in fits
        ]  # fmt: skip
        tied = [fits[i] for i in leaders(fits, [self.score(fit) for fit in fits], errors)]
        seconds = {name: statistics.median(f.seconds for f in tied if f.label == name) for name in self.estimators
                   if any(f.label == name for f in tied)}  # fmt: skip
        return min(tied, key=lambda fit: seconds[fit.label])

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

    def _repr_html_(self) -> str:
        from zoo.reporting.notebook import comparison_html

        return comparison_html(self)

    def __str__(self) -> str:
        from zoo.reporting.text import text_table

        return text_table(self)

    def to_inference_data(self, num_draws: int = 100, *, predictive: bool = False) -> Any:
        """All fits as ArviZ ``InferenceData``; chains are fits.

        Args:
            num_draws: of the latents, from each fit.
            predictive: whether as many data are drawn from each fit too, as ``posterior_predictive``.
        """
        from zoo.reporting.arviz import to_inference_data

        return to_inference_data(self.fits, self.x, num_draws, predictive=predictive)

    def plot(self, path: str | Path | None = None, *, dark: bool = False) -> Figure:
        """Likelihood (and bound) against time for every estimator, a figure that a notebook shows.

        Args:
            path: where to save it: .png, .svg or .pdf. dark: whether on dark paper.
        """
        from zoo.reporting.curves import plot_comparison
        from zoo.reporting.page import as_figure

        return as_figure(lambda folder: plot_comparison(self, folder / "comparison.png", dark=dark), path)

    def save(self, folder: str | Path) -> Path:
        """Write ``comparison.json``, a folder a fit, pictures and ``report.html`` into a new folder; all or nothing.

        Raises:
            ZooError: the folder already holds something.
        """
        with new_folder(folder) as staging:
            self.write(staging)
        return Path(folder)

    def write(self, folder: Path) -> None:
        """The files of :meth:`save`, into a folder that exists."""
        from zoo.reporting.report import write_report

        record = {**self.to_dict(), "gradients": [asdict(row) for row in self.gradients]}
        (folder / "comparison.json").write_text(to_json(record))
        for this in self.fits:
            target = folder / "fits" / f"{folder_of(this.label)}-{this.seed}"
            target.mkdir(parents=True)
            this.write(target)
        write_report(self, folder)


@exclusive
@counted
def compare(
    model: Any,
    x: Any,
    *,
    estimators: str | Sequence[str | Variant] | None = None,
    seeds: int | Iterable[int] = 1,
    guide: Callable[..., Any] | None = None,
    init: str | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    device: str | None = None,
    max_seconds: float | None = None,
    gradients: bool = True,
    track: int = 100,
    progress: bool | Callable[[str, int], bool | Callback | None] | None = False,
    data_name: str | None = None,
    weights: Any = None,
    known: Mapping[str, Any] | None = None,
    fixed: str | Iterable[str] = (),
    jobs: int = 1,
    checkpoints: str | Path | None = None,
    **common: Any,
) -> Comparison:
    """Fit one model by several estimators from the same starting points.

    Args:
        model: as for ``fit``: a zoo model, its name or class, or a Pyro program with a guide. It is left as it is.
        x: data as the model takes them, or a path or name for :func:`zoo.load_data`.
        estimators: names (a list, or with commas), names with options of their own ("gumbel:temperature=0.5"), or a
            :class:`Variant` each; None takes the usual ones that can serve the model (em, or auto_em where it has no
            em; eg, svi, gumbel).
        seeds: how many, or which; for each, every estimator starts at the same parameters (guide included).
        guide: of a program, as for ``fit``. init: how to start, as for ``fit``.
        options: by estimator, or label of a variant, options of its own.
        device: where to compute; None leaves the model where it is.
        max_seconds: one budget, for each fit alike.
        gradients: measure bias and variance of the sampled gradients among them (needs an exact evidence).
        track: how often to evaluate the exact likelihood on the way, off the clock.
        progress: True shows a bar a fit; a function of (label, seed) gives what ``fit`` takes.
        data_name: what the data are called, for the record.
        weights, known, fixed: how often each row counts, known latents and parameters that stay, as for ``fit``.
        jobs: processes among which the fits are divided, as for ``fit``; the comparison is the same, and a bar counts
            fits. What is scored after them stays in this process.
        checkpoints: a folder for what each fit keeps on the way and in the end; the same call with it goes on from
            there. It is the caller's to remove when the comparison is saved.
        common: options for every estimator that has them; arguments of a model that is given by its name or class.

    Raises:
        ZooError: a mistake in the arguments, or an estimator that cannot serve the model; nothing has been done then.
        KeyboardInterrupt: before anything was fitted; after that the comparison comes back as far as it went.

    Example:
        >>> found = zoo.compare("ppca", "iris", num_factors=2, estimators=["closed_form", "em"], gradients=False)
        >>> [(fit.estimator, round(fit.log_likelihood, 3)) for fit in found.fits]
        [('closed_form', -404.963), ('em', -404.963)]
    """
    check_jobs("compare", jobs)
    if jobs != 1 and callable(progress):
        raise ZooError("compare: progress expected True, False or None with jobs, got a function. Leave out jobs.")
    data_name = data_name or (Path(x).name if isinstance(x, (str, Path)) else "data")
    model, x = made(model, x, common, guide)
    template = as_model(model, guide)
    options = options or {}
    beside: dict[str, Any] = {"weights": weights, "known": known, "fixed": fixed}
    if isinstance(estimators, str):
        estimators = [word.strip() for word in estimators.split(",")]
    if estimators is None:
        estimators = list(dict.fromkeys([*usual_estimators(template, x, **beside), *options]))
    if not estimators:
        raise ZooError("compare: estimators expected at least one name, got none.")
    variants = sorted_out([variant(each) for each in estimators], options, common)
    seed_list = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not seed_list:
        raise ZooError(f"compare: seeds expected at least one, got {seeds!r}.")
    grounds: dict[int, Ground] = {}
    for each in variants:
        if id(each.model) not in grounds:
            own = template if each.model is None else as_model(each.model)
            guided = any(find_estimator(v.estimator).uses_guide for v in variants if v.model is each.model)
            with isolated(seed_list[0]):
                grounds[id(each.model)] = Ground.of(own, x, device, beside, guided)
    with isolated(seed_list[0]):
        for each in variants:
            check_serves(each.made(), grounds[id(each.model)].problem)
            check_init(grounds[id(each.model)].problem.model, init)
    fits: list[Fit] = []
    pairs = [(seed, i) for seed in seed_list for i in range(len(variants))]
    aside = jobs != 1 and len(pairs) > 1
    settings = {**beside, "max_seconds": max_seconds, "track": track, "data_name": data_name}
    places = [grounds[id(each.model)] for each in variants]
    kept = None if checkpoints is None else Path(checkpoints)
    run = ComparedFits(variants, places, init, settings, not aside and progress, kept)
    bar = progress if aside and not callable(progress) else False
    try:
        with spread(run, pairs, jobs) as found, fraction_shown("compare", bar) as shown:
            for this, (_, i) in zip(found, pairs, strict=True):
                this.x = run.grounds[i].x
                fits.append(this)
                if shown is not None:
                    shown(len(fits) / len(pairs))
                if this.status == "interrupted":
                    break
    except KeyboardInterrupt:
        if not fits:
            raise
    stopped = len(fits) < len(seed_list) * len(variants) or fits[-1].status == "interrupted"
    labels = [each.label for each in variants]
    fits.sort(key=lambda this: labels.index(this.label))
    rows = grounds[id(variants[0].model)].problem.data
    comparison = Comparison(template.label, data_name, count(rows), fits, x=plain(rows), interrupted=stopped)
    comparison.beside = rows is not comparison.x
    if gradients and not stopped and id(None) in grounds:
        try:
            origin = grounds[id(None)].begun(seed_list[0], init)
            comparison.gradients = _gradients(origin, comparison, variants, progress, grounds[id(None)].problem.data)
        except KeyboardInterrupt:
            comparison.interrupted = True
        except Exception as error:  # whatever a program does where it is measured: the fits are done
            comparison.notes.append(f"no gradient quality: {one_line(error)}")
    return comparison


def _gradients(
    origin: LatentVariableModel, comparison: Comparison, variants: Sequence[Variant], progress: Any, data: Data
) -> list[GradientQuality]:
    """The gradients at the first seed's start and at the best optimum; none where nobody samples them."""
    here = [each for each in variants if each.model is None]
    if not sampled_gradients(each.estimator for each in here) or not exact_log_likelihood_known(origin, data):
        return []
    chosen = {each.label: each.made() for each in here}
    best = comparison.best_of([this for this in comparison.fits if this.label in chosen])
    rows = []
    with kept_generators():
        for point, model in (("start", origin), ("optimum", best.model)):
            with fraction_shown(f"gradients, {point}", False if callable(progress) else progress) as told:
                rows += gradient_quality(model, data, chosen, point=point, told=told)
    return rows
