"""Runs of EM from several starts at once: their E and M steps are one, each goes its own way and ends when it would.

What is out of the ordinary in one of them (a fall of the objective, a constraint that acts, numbers that are none) is
seen, and it goes on alone: the batch knows nothing but iterations that rise.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from zoo.core.copies import Copies
from zoo.core.data import call
from zoo.core.memory import SMALL
from zoo.core.problem import Problem
from zoo.core.state import restore
from zoo.core.statistics import Statistics
from zoo.errors import LikelihoodDecreased
from zoo.estimators.base import Outcome, Run
from zoo.estimators.climb import Climb
from zoo.estimators.em import EM

__all__ = ["run_together"]


def run_together(
    estimator: EM, problems: Sequence[Problem], runs: Sequence[Run], told: Callable[[float], None] | None = None
) -> list[Outcome | Exception]:
    """How each run ended, or what it raised; as if they had come one after the other, but for rounding.

    Args:
        problems: of copies of one model on the same data, each at its start.
        runs: their clocks and histories; each clock counts its own share of the work.
        told: is told which fraction of them has ended.
    """
    for run in runs:
        run.pause()
    climbs = [Climb(estimator, estimator.steps(p), p, run) for p, run in zip(problems, runs, strict=True)]
    interrupted = False

    def tell(before: int, ended: int) -> None:
        if told is not None:
            told((before + ended) / len(climbs))

    try:
        for part in _parts(estimator, problems):
            copies = _copies(problems[part])
            if copies is not None:
                with torch.no_grad():
                    _Batch(copies, climbs[part]).climb(functools.partial(tell, part.start))
    except KeyboardInterrupt:
        interrupted = True
    ends: list[Outcome | Exception] = []
    for climb in climbs:
        climb.run.go_on()
        try:
            if interrupted and not climb.done:
                climb.status, climb.done = "interrupted", True
            if climb.error is not None:
                raise climb.error
            ends.append(climb.outcome() if climb.done else estimator.finish(climb))
            interrupted = interrupted or climb.status == "interrupted"
        except (LikelihoodDecreased, RuntimeError, ValueError) as error:
            ends.append(error)
        climb.run.pause()
    return ends


def _parts(estimator: EM, problems: Sequence[Problem]) -> list[slice]:
    """Which of them to take at once: so many that the work of an iteration stays small; none where it is not."""
    first = problems[0]
    if not estimator.takes_copies(first):
        return []
    size = max(2, SMALL // (estimator.elements(first) * len(first.model.state_dict())))
    return [slice(begin, begin + size) for begin in range(0, len(problems), size)]


def _copies(problems: Sequence[Problem]) -> Copies | None:
    first = problems[0]
    models = [problem.model for problem in problems]
    made: Copies | None = call(functools.partial(first.model.copies, models=models), first.data)
    return made


class _Batch:
    """The runs that are climbed at once, in the order of their copies."""

    def __init__(self, copies: Copies, climbs: Sequence[Climb]) -> None:
        self.copies, self.active = copies, list(climbs)

    def climb(self, tell: Callable[[int], None]) -> None:
        """To the end of each, or to where it goes on alone; tells how many are there."""
        everyone = len(self.active)
        while self.active:
            tell(everyone - len(self.active))
            began, working = time.perf_counter(), self.active
            self._iteration()
            share = (time.perf_counter() - began) / len(working)
            for climb in working:
                climb.run.charge(share)

    def _iteration(self) -> None:
        state = self.copies.state()
        try:
            objectives, statistics = self.copies.e_step()
        except (RuntimeError, ValueError):
            return self._leave(state)
        values, known = objectives.tolist(), statistics["log_likelihood"].tolist()
        staying = []
        for index, climb in enumerate(self.active):
            if not climb.ordinary(values[index]):
                restore(climb.model, self.copies.state_of(state, index))
                continue
            climb.iteration += 1
            told = known[index] if climb.model.normalized else None
            climb.done = not climb.goes_on(values[index], told, self._whole(climb, state, index))
            if not climb.done:
                staying.append(index)
        if not staying:
            self.active = []
            return None
        if len(staying) < len(self.active):
            statistics = self.copies.kept(statistics, staying)
            self._keep(staying)
            state = self.copies.state()
        try:
            notes = self.copies.m_step(statistics)
        except (RuntimeError, ValueError):
            self._one_by_one(statistics, state)
            return self._leave()
        if notes:
            self._keep([i for i, told in enumerate(self._one_by_one(statistics, state)) if not told])
        return None

    def _one_by_one(self, statistics: Statistics, state: Any) -> list[bool]:
        """The M step of each model by itself; which of them has to go on alone."""
        alone = []
        for index, climb in enumerate(self.active):
            restore(climb.model, self.copies.state_of(state, index))
            try:
                climb.notes = climb.steps.m_step(self.copies.of_one(statistics, index))
            except torch.linalg.LinAlgError as error:
                climb.fail(error)
                climb.done = True
            except (RuntimeError, ValueError) as error:
                climb.error = error
            alone.append(bool(climb.notes) or climb.done or climb.error is not None)
        return alone

    def _whole(self, climb: Climb, state: Any, index: int) -> Callable[[], dict[str, Tensor]]:
        return lambda: {**climb.start, **self.copies.state_of(state, index)}

    def _leave(self, state: Any = None) -> None:
        """All go on alone, from a state where one is given."""
        for index, climb in enumerate(self.active if state is not None else ()):
            restore(climb.model, self.copies.state_of(state, index))
        self.active = []

    def _keep(self, which: Sequence[int]) -> None:
        self.active = [self.active[index] for index in which]
        if self.active:
            self.copies.keep(which)
