"""``zoo.select``: one model over a grid of settings, and which of them the data speak for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.core.contract import prepared
from zoo.core.data import Data, plain
from zoo.core.places import counted
from zoo.core.spread import check_jobs, spread
from zoo.core.turns import exclusive
from zoo.errors import LikelihoodDecreased, ZooError, one_line, unknown_name
from zoo.estimators import find_estimator, option_names
from zoo.reporting.subjects import CRITERIA
from zoo.runs.fit import fit
from zoo.runs.folds import Folds, FoldScore, check_folds, together
from zoo.runs.grids import Builder, Point, holds, points, told
from zoo.runs.progress import fraction_shown
from zoo.runs.ranking import finest
from zoo.runs.result import Fit
from zoo.runs.selection import Candidate, Selection
from zoo.runs.starts import scout
from zoo.scores.entropy import posterior_entropy

__all__ = ["select"]

#: Starts, each run to its end, of a fit that ends below one that it holds as a special case; one round after another.
ROUNDS = (10, 40)
#: Fits that a grid may ask for where nobody allows more.
MOST_FITS = 200


@exclusive
@counted
def select(
    model: Any,
    x: Any,
    *,
    grid: Mapping[str, Any],
    criterion: str = "bic",
    estimator: str | None = None,
    guide: Callable[..., Any] | None = None,
    folds: int | None = None,
    seed: int = 0,
    init: str | None = None,
    restarts: int | None = None,
    device: str | None = None,
    max_seconds: float | None = None,
    max_fits: int = MOST_FITS,
    progress: bool | None = False,
    data_name: str | None = None,
    jobs: int = 1,
    checkpoints: str | Path | None = None,
    **options: Any,
) -> Selection:
    """Fit a model at every point of a grid and choose by a criterion: how many components, states or factors.

    A fit that fails is a row with its reason. One that ends below another which it holds as a special case (fewer
    components, a simpler covariance) is fitted again from more starts, unless ``restarts`` says how many.

    Args:
        model: the name or class of a model of the zoo, or a model for its class and arguments, which is left as it is;
            or a function of the grid's names that makes a model, a Pyro program ``program(x)``, or a program and its
            guide: ``lambda k: program_of(k)``.
        x: data as the model takes them, or a path or name for :func:`zoo.load_data`.
        grid: by argument its values: ``{"num_components": range(1, 9), "covariance_type": ["full", "diag"]}``.
        criterion: what ``best`` goes by: "bic" or "aic" (see :class:`Fit`), "icl" (BIC + 2 × the posterior's entropy),
            all lower is better; or "cv", the mean held-out ln p(x) a datum (5 folds where nobody says how many).
        estimator, guide, init, device, max_seconds: as for ``fit``, the same at every point.
        folds: of cross-validation over rows, or sequences; the same for every point. None: none.
        seed: every draw comes from it, at every point the same.
        restarts: of every fit, as for ``fit``.
        max_fits: the most fits to make without being asked again, those to folds among them.
        progress: True shows a bar; None one if stderr is a terminal.
        data_name: what the data are called, for the record.
        jobs: processes among which points and folds are divided, as for ``fit``; the selection is the same.
        checkpoints: a folder for what each fit keeps on the way and in the end, as for ``compare``.
        options: of the estimator; and arguments of model or function that are the same at every point.

    Raises:
        ZooError: a mistake in the arguments, or every point failed.
        KeyboardInterrupt: before anything was fitted; after that the selection comes back as far as it went.

    Example:
        >>> found = zoo.select("poisson_hmm", "earthquakes", grid={"num_states": range(1, 4)})
        >>> found.chosen, [round(candidate.fit.bic, 1) for candidate in found.candidates]
        ({'num_states': 2}, [788.5, 707.1, 708.5])
    """
    check_jobs("select", jobs)
    if criterion not in CRITERIA:
        raise unknown_name("criterion", criterion, CRITERIA)
    folds = check_folds(5 if folds is None and criterion == "cv" else folds)
    places = points(grid)
    build = Builder.of(model, places[0], options, guide)
    _check_options(estimator, options)
    many = len(places) * (1 + (folds or 0))
    if many > max_fits:
        raise ZooError(
            f"select: grid expected to ask for at most {max_fits} fits, got {many}. Take fewer values, or allow them: "
            f"max_fits={many}."
        )
    data_name = data_name or (Path(x).name if isinstance(x, (str, Path)) else "data")
    given: dict[str, Any] = {
        "estimator": estimator, "init": init, "restarts": restarts, "device": device, "max_seconds": max_seconds,
        **options,
    }  # fmt: skip
    run = _Run(build, x, seed, given, data_name, jobs, places, None if checkpoints is None else Path(checkpoints))
    run.read(places[0])
    run.check_words()
    candidates: list[Candidate] = []
    notes: list[str] = []
    stopped = False
    with fraction_shown("select", progress) as shown:
        done = 0

        def step() -> None:
            nonlocal done
            done += 1
            if shown is not None:
                shown(min(1.0, done / many))

        try:
            with spread(run.candidate, places, jobs) as tried:
                for each in tried:
                    candidates.append(run.arrived(each))
                    step()
                    if stopped := each.fit is not None and each.fit.status == "interrupted":
                        break
            if not stopped:
                notes = _again_where_low(candidates, run)
                for each in candidates:
                    run.look_at(each)
                if folds is not None:
                    _cross_validate([each for each in candidates if each.fit is not None], run, folds, step)
        except KeyboardInterrupt:
            if not any(each.fit is not None for each in candidates):
                raise
            stopped = True
    reasons = [each.reason for each in candidates if each.fit is None]
    if len(reasons) == len(candidates):
        raise ZooError(reasons[0])
    first = next(each.fit for each in candidates if each.fit is not None)
    found = Selection(first.model.label, data_name, first.num_data, candidates, criterion, folds, seed, run.data, notes)
    found.interrupted = stopped
    if not found.known:
        notes.append(f"nothing is chosen: no criterion without a likelihood. {found.without}")
    elif criterion not in found.known and "cv" in found.known:
        found.criterion = "cv"
        notes.append(f"no {criterion} without a likelihood: cv, of the bound, chooses")
    return found


@dataclass
class _Run:
    """What every fit of a selection has in common."""

    build: Builder
    x: Any
    seed: int
    options: dict[str, Any]
    data_name: str
    jobs: int = 1
    places: Sequence[Point] = ()
    checkpoints: Path | None = None
    data: Data = None

    def kept_in(self, point: Point, *more: Any) -> Path | None:
        """A folder for the checkpoints of one fit at a point, or None."""
        words = map(str, ("point", self.places.index(point), *more))
        return None if self.checkpoints is None else self.checkpoints / "-".join(words)

    def read(self, point: Point) -> None:
        """Read the data, if they are a path, for all processes."""
        if self.jobs != 1:
            with contextlib.suppress(Exception):  # the candidate says what is wrong
                self.x = self.build.made(point, self.x)[2]

    def check_words(self) -> None:
        """Refuse a word of the grid that no point can be made with: a number may ask too much of these data, and is
        told so in its row; a word that nobody knows is a mistake."""
        said = [{(name, value) for name, value in point.items() if isinstance(value, str)} for point in self.places]
        words, reasons = set().union(*said), dict[tuple[str, str], ZooError]()
        for point, each in zip(self.places, said, strict=True):
            asked = words & each
            if not asked:
                continue
            try:
                _, _, self.x = self.build.made(point, self.x)
                words -= asked
            except ZooError as error:
                reasons |= dict.fromkeys(asked, error)
            except Exception:  # whatever a program does at one point: its row says so
                words -= asked
        for word in sorted(words):
            raise reasons[word]

    def fit(self, point: Point, **more: Any) -> Fit:
        """One fit; the data are read at the first."""
        model, guide, self.x = self.build.made(point, self.x)
        own = self.kept_in(point, *([more["restarts"]] if more else []))
        options = {**self.options, **more, "out": own, "resume": own is not None}
        try:
            return fit(model, self.x, guide=guide, seed=self.seed, data_name=self.data_name, **options)
        except LikelihoodDecreased as error:
            if error.fit is None:
                raise
            made: Fit = error.fit
            return made

    def candidate(self, point: Point) -> Candidate:
        """A point's fit, or why there is none."""
        try:
            fitted = self.fit(point)
        except Exception as error:  # whatever a program does at one point: the others are tried
            return Candidate(point, reason=one_line(error))
        if self.jobs != 1:
            fitted.x = None  # they are where the results go
        reason = ""
        if fitted.status == "diverged" or fitted.degenerate:
            reason = fitted.notes[0] if fitted.notes else fitted.status
        return Candidate(point, fitted, reason)

    def arrived(self, each: Candidate) -> Candidate:
        """A candidate, from whichever process, with the data that were fitted."""
        if each.fit is not None:
            if each.fit.x is None:
                each.fit.x = plain(prepared(each.fit.model, self.x))
            self.data = each.fit.x if self.data is None else self.data
        return each

    def look_at(self, each: Candidate) -> None:
        """The posterior's entropy of what was fitted."""
        if each.fit is None or each.fit.log_likelihood is None:
            return
        try:
            each.entropy = posterior_entropy(each.fit.model, prepared(each.fit.model, self.x), self.seed)
        except Exception as error:  # a posterior that cannot be had costs no fit
            each.reason = each.reason or f"no icl: {one_line(error)}"


@dataclass
class _Fold:
    """Folds of several candidates; called with the numbers of both. After a fold that failed the others are let be."""

    run: _Run
    points: Sequence[Point]
    folds: int
    last: tuple[int, Folds] | None = None
    failed: set[int] = field(default_factory=set)

    def __call__(self, which: tuple[int, int]) -> FoldScore:
        i, fold = which
        if i in self.failed:
            return FoldScore(reason="let be")
        if self.last is None or self.last[0] != i:
            model, guide, x = self.run.build.made(self.points[i], self.run.x)
            self.last = i, Folds(model, guide, x, self.folds, self.run.seed, self.run.options)
        score = self.last[1].score(fold, self.run.kept_in(self.points[i], "fold", fold))
        if score.reason:
            self.failed.add(i)
        return score


def _cross_validate(fitted: Sequence[Candidate], run: _Run, folds: int, step: Callable[[], None]) -> None:
    """The score by cross-validation of every candidate that was fitted."""
    pairs = [(i, fold) for i in range(len(fitted)) for fold in range(folds)]
    scores: list[FoldScore] = []
    with spread(_Fold(run, [each.point for each in fitted], folds), pairs, run.jobs) as results:
        for (i, fold), score in zip(pairs, results, strict=True):
            scores.append(score)
            step()
            if fold == folds - 1:
                fitted[i].held_out = together(scores[-folds:])


def _check_options(estimator: str | None, options: Mapping[str, Any]) -> None:
    """Refuse what no fit would take, before the first one."""
    known = option_names() if estimator is None else option_names(estimator)
    for name in options:
        if name not in known:
            raise unknown_name("option", name, {*known, "max_fits"})


def _again_where_low(candidates: Sequence[Candidate], run: _Run) -> list[str]:
    """Fit again, from more starts, what ends below something that it holds as a special case; a line on each."""
    notes = []
    sound = [each for each in candidates if each.fit is not None and _sound(each.fit)]
    for each in sorted(sound, key=lambda c: c.fit.num_parameters if c.fit else 0):
        assert each.fit is not None
        low, floor = _below(each, sound, run.build)
        if floor is None:
            continue
        before, tried = each.fit, 0
        if run.options["restarts"] is None and run.options["max_seconds"] is None and _restarts_help(each.fit):
            for tried in ROUNDS:
                more = run.fit(each.point, restarts=tried, jobs=run.jobs)
                if more.status == "interrupted":
                    raise KeyboardInterrupt
                assert more.log_likelihood is not None
                assert each.fit.log_likelihood is not None
                if _sound(more) and more.log_likelihood > each.fit.log_likelihood:
                    each.fit = more
                low, floor = _below(each, sound, run.build)
                if floor is None:
                    break
        if floor is not None:
            notes.append(
                f"{told(each.point)} ends {low:.2f} nats below {told(floor.point)}, which it holds as a special case"
                f"{f', also by {tried} starts' if tried else ''}: its best fit is not found yet"
            )
        else:
            assert each.fit.log_likelihood is not None
            assert before.log_likelihood is not None
            gain = each.fit.log_likelihood - before.log_likelihood
            notes.append(f"{told(each.point)}: {tried} starts, as the usual ones ended {gain:.2f} nats lower")
    return notes


def _sound(this: Fit) -> bool:
    """Whether a likelihood can be held to that of a special case: a maximum of the likelihood alone."""
    if this.log_likelihood is None or this.degenerate or this.status == "diverged" or this.draws is not None:
        return False
    return float(this.model.log_prior().detach()) == 0.0


def _restarts_help(this: Fit) -> bool:
    return scout(find_estimator(this.estimator)()) is not None


def _below(each: Candidate, among: Iterable[Candidate], build: Builder) -> tuple[float, Candidate | None]:
    """By how many nats a fit ends below the highest of its special cases, and which that is; (0, None) where it does
    not."""
    mine = each.fit
    assert mine is not None
    assert mine.log_likelihood is not None
    low, floor = 0.0, None
    for other in among:
        theirs = other.fit
        if theirs is None or theirs.log_likelihood is None:
            continue
        if not holds(each.point, other.point, mine.model.config, build.sized):
            continue
        fall = theirs.log_likelihood - mine.log_likelihood
        slack = finest(theirs, theirs.log_likelihood) + finest(mine, mine.log_likelihood)
        if fall > max(low, slack):
            low, floor = fall, other
    return low, floor
