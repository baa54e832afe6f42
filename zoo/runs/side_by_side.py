"""The starts of a fit that are climbed at once, where estimator and model know how."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from zoo.automatic.enumeration import remembered
from zoo.components.questions import answers
from zoo.core.isolation import reseed, threads
from zoo.core.problem import Problem
from zoo.errors import LikelihoodDecreased, ZooError
from zoo.estimators.em import EM
from zoo.estimators.together import STAGE
from zoo.runs.one_start import run_several
from zoo.runs.prepare import starting
from zoo.runs.progress import fraction_shown
from zoo.runs.restarts import Restarts, Started

__all__ = ["start_together", "started"]


def start_together(each: Restarts, restarts: Sequence[int]) -> None:
    """Run these starts at once and leave what came of them with the others, ``ready``; nothing where they have to come
    one after the other: a function that is told every row of a run has them so. Inside of a fit, which is isolated."""
    estimator, problem, folder, resumed = each.estimator, each.problem, each.folder, each.resumed
    begun = resumed is not None and resumed.record["stage"] == STAGE
    done = folder is not None and all(folder.finished(restart) is not None for restart in restarts)
    alone = len(restarts) == 1 and (each.progress or not problem.model.copies_of_one)
    if done or (not begun and (alone or callable(each.progress))):
        return
    if not isinstance(estimator, EM) or not estimator.takes_copies(problem):
        return
    seeds = [each.seed_of(restart) for restart in restarts]
    checkpoints, shown = None if folder is None else folder.checkpoints, each.progress
    if callable(shown):
        shown = False
    with threads(estimator.elements(problem)), fraction_shown("starts", shown) as told:
        problems = list(map(_made, started(problem, each.init, restarts, seeds, each.spare)))
        reseed(each.seed)
        ends = run_several(estimator, problems, seeds, each.max_seconds, told, checkpoints, resumed if begun else None)
    for restart, seed, end in zip(restarts, seeds, ends, strict=True):
        fell = end if isinstance(end, LikelihoodDecreased) else None
        each.ready[restart] = Started(end.fit if isinstance(end, LikelihoodDecreased) else end, seed, True, fell)


def _made(start: Problem | ZooError) -> Problem:
    if isinstance(start, ZooError):
        raise start
    return start


def started(
    problem: Problem, init: str, restarts: Sequence[int], seeds: Sequence[int], spare: bool = False
) -> list[Problem | ZooError]:
    """The problem at each start, drawn from its own seed, or why there is none; what they ask for is done at once.

    Args:
        spare: see :func:`~zoo.runs.prepare.start`; of a single start.
    """
    steps = [starting(problem.model, problem.data, init, restart, spare) for restart in restarts]
    made: dict[int, Problem | ZooError] = {}
    waiting: dict[int, tuple[Any, torch.Tensor]] = {}  # what a start asks for, and where its generator stands

    def go_on(index: int, reached: Any) -> None:
        try:
            with remembered():
                asked = steps[index].send(reached)
        except StopIteration as end:
            made[index] = problem.of(end.value)
        except ZooError as error:
            made[index] = error
        else:
            waiting[index] = asked, torch.get_rng_state()

    for index, seed in enumerate(seeds):
        reseed(seed)
        go_on(index, None)
    while waiting:
        asked, waiting = waiting, {}
        found = answers([question for question, _ in asked.values()])
        for (index, (_, drawn)), reached in zip(asked.items(), found, strict=True):
            torch.set_rng_state(drawn)
            go_on(index, reached)
    return [made[index] for index in range(len(steps))]
