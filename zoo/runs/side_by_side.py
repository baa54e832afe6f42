"""The starts of a fit that are climbed at once, where estimator and model know how."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.automatic.enumeration import remembered
from zoo.core.isolation import isolated, reseed, threads
from zoo.errors import LikelihoodDecreased
from zoo.estimators.em import EM
from zoo.runs.one_start import run_several
from zoo.runs.prepare import start
from zoo.runs.progress import fraction_shown
from zoo.runs.restarts import Restarts, Started

__all__ = ["start_together"]


def start_together(each: Restarts, restarts: Sequence[int]) -> None:
    """Run these starts at once and leave what came of them with the others, ``ready``; nothing where they have to come
    one after the other: a function that is told every row of a run has them so."""
    estimator, problem, folder = each.estimator, each.problem, each.folder
    new = [restart for restart in restarts if folder is None or folder.finished(restart) is None]
    alone = len(new) == 1 and (each.progress or not problem.model.copies_of_one)
    if not new or alone or each.resumed is not None or callable(each.progress):
        return
    if not isinstance(estimator, EM) or not estimator.takes_copies(problem):
        return
    seeds = [each.seed_of(restart) for restart in new]
    problems = []
    with isolated(each.seed), threads(estimator.elements(problem)):
        for restart, seed in zip(new, seeds, strict=True):
            with remembered():
                reseed(seed)
                problems.append(problem.of(start(problem.model, problem.data, each.init, restart)))
    with isolated(each.seed), threads(estimator.elements(problem)), fraction_shown("starts", each.progress) as told:
        ends = run_several(estimator, problems, seeds, each.max_seconds, told)
    for restart, seed, end in zip(new, seeds, ends, strict=True):
        fell = end if isinstance(end, LikelihoodDecreased) else None
        each.ready[restart] = Started(end.fit if isinstance(end, LikelihoodDecreased) else end, seed, True, fell)
