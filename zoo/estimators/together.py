"""Runs of EM from several starts at once: their E and M steps are one, each goes its own way and ends when it would.

What is out of the ordinary in one of them (a fall of the objective, a constraint that acts, numbers that are none) is
seen, and it goes on alone: the batch knows nothing but iterations that rise.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
from zoo.storage.checkpoint import Checkpoint, Checkpoints, random_state, set_random_state

__all__ = ["STAGE", "run_together"]

#: What checkpoints call it.
STAGE = "together"


def run_together(
    estimator: EM,
    problems: Sequence[Problem],
    runs: Sequence[Run],
    told: Callable[[float], None] | None = None,
    checkpoints: Checkpoints | None = None,
    resumed: Checkpoint | None = None,
    starts: Sequence[dict[str, Tensor]] | None = None,
) -> list[Outcome | Exception]:
    """How each run ended, or what it raised; as if they had come one after the other, but for rounding.

    Args:
        estimator: one that takes copies of these problems.
        problems: of copies of one model on the same data, each at its start.
        runs: their clocks and histories; each clock counts its own share of the work.
        told: is told which fraction of them has ended.
        checkpoints: where to write those of all of them, or None. resumed: the one to go on from, or None.
        starts: the tensors of each model, copied; None to have that done.
    """
    for run in runs:
        run.pause()
    places = [None] * len(runs) if starts is None else starts
    every = zip(problems, runs, places, strict=True)
    climbs = [Climb(estimator, estimator.steps(problem), problem, run, place) for problem, run, place in every]
    saved = Together(climbs, checkpoints)
    interrupted, begun = False, None if resumed is None else saved.take_over(resumed)

    def tell(before: int, ended: int) -> None:
        if told is not None:
            told((before + ended) / len(climbs))

    try:
        for part in _parts(estimator, problems):
            if begun is not None and part.start < begun.first:
                continue
            copies = _copies(problems[part])
            if copies is not None:
                batch = saved.batch = Batch(copies, climbs[part])
                if begun is not None and part.start == begun.first:
                    batch.go_on(begun)
                saved.first = part.start
                with torch.no_grad():
                    batch.climb(functools.partial(tell, part.start), saved)
    except KeyboardInterrupt:
        interrupted = True
    saved.first, saved.batch = len(climbs), None
    ends: list[Outcome | Exception] = []
    for climb in climbs:
        climb.run.go_on()
        try:
            if interrupted and not climb.done:
                climb.status, climb.done = "interrupted", True
            if climb.error is not None:
                raise climb.error
            ends.append(climb.outcome() if climb.done else estimator.finish(climb))
            climb.done = True
            interrupted = interrupted or climb.status == "interrupted"
        except (LikelihoodDecreased, RuntimeError, ValueError) as error:
            climb.error = error
            ends.append(error)
        climb.run.pause()
    return ends


def _parts(estimator: EM, problems: Sequence[Problem]) -> list[slice]:
    """Which of them to take at once: so many that the work of an iteration stays small."""
    first = problems[0]
    size = max(2, SMALL // (estimator.elements(first) * first.num_tensors))
    return [slice(begin, begin + size) for begin in range(0, len(problems), size)]


def _copies(problems: Sequence[Problem]) -> Copies | None:
    first = problems[0]
    models = [problem.model for problem in problems]
    made: Copies | None = call(functools.partial(first.model.copies, models=models), first.data)
    return made


class Batch:
    """The runs that are climbed at once, in the order of their copies."""

    def __init__(self, copies: Copies, climbs: Sequence[Climb]) -> None:
        self.copies, self.climbs, self.active = copies, climbs, list(climbs)

    def go_on(self, begun: Begun) -> None:
        """Go on from where a checkpoint was written."""
        self._keep(begun.active)
        self.copies.load(begun.copies)

    @property
    def indices(self) -> list[int]:
        """Which of its runs go on, by number."""
        return [index for index, climb in enumerate(self.climbs) if climb in self.active]

    def climb(self, tell: Callable[[int], None], saved: Together) -> None:
        """To the end of each, or to where it goes on alone; tells how many are there."""
        everyone = len(self.climbs)
        while self.active:
            tell(everyone - len(self.active))
            began, working = time.perf_counter(), self.active
            self._iteration(saved)
            share = (time.perf_counter() - began) / len(working)
            for climb in working:
                climb.run.charge(share)
            if self.active and saved.due():
                saved.save()

    def _iteration(self, saved: Together) -> None:
        state = self.copies.state()
        try:
            objectives, statistics = self.copies.e_step()
        except (RuntimeError, ValueError):
            return self._leave(state)
        totals = statistics["log_likelihood"]
        values = objectives.tolist()
        known = values if totals is objectives else totals.tolist()
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
            if len(self.climbs) == 1 and self.climbs[0].cut_off and not self.copies.m_step(statistics):
                saved.keep()
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


class Begun(NamedTuple):
    """Where a checkpoint was written: in the batch whose first run this is, with these runs of it still active, at
    these parameters of their copies."""

    first: int
    active: list[int]
    copies: dict[str, Tensor]


class Together:
    """The checkpoints of runs that are climbed at once: each holds all of them.

    Attributes:
        batch: what is under way, or None where each run goes on alone. first: the number of its first run.
    """

    def __init__(self, climbs: Sequence[Climb], checkpoints: Checkpoints | None) -> None:
        self.climbs, self.checkpoints, self.first = climbs, checkpoints, 0
        self.batch: Batch | None = None
        for climb in climbs:
            climb.run.checkpoints, climb.save = checkpoints, self.save

    def due(self) -> bool:
        """Count an iteration; whether a checkpoint is to be written."""
        return self.checkpoints is not None and self.checkpoints.due()

    def save(self) -> None:
        """Write a checkpoint, unless a run failed: the fit fails then."""
        assert self.checkpoints is not None
        if any(climb.error is not None for climb in self.climbs):
            return
        plain, values = random_state()
        each = [{**c.record(), "history": c.run.history, "seconds": c.run.seconds} for c in self.climbs]
        for index, climb in enumerate(self.climbs):
            for name, group in climb.groups().items():
                values.update({f"{index}/{name}/{key}": value for key, value in (group or {}).items()})
        active = [] if self.batch is None else self.batch.indices
        if self.batch is not None:
            values.update({f"copies/{name}": value for name, value in self.batch.copies.tensors().items()})
        record = {"stage": STAGE, "climbs": each, "first": self.first, "active": active, "random": plain}
        self.checkpoints.save({**record, "seconds": sum(climb.run.seconds for climb in self.climbs)}, values)

    def keep(self) -> None:
        """Write the checkpoint of a single run whose time is over, to go on from."""
        (only,) = self.climbs
        if self.checkpoints is not None:
            only.done = False
            self.save()
            self.checkpoints.unfinished = only.done = True

    def take_over(self, found: Checkpoint) -> Begun:
        """Go on from what :meth:`save` wrote."""
        record = found.record
        for index, (climb, own) in enumerate(zip(self.climbs, record["climbs"], strict=True)):
            climb.take_over(found, own, f"{index}/")
            climb.run.take_over(own)
        set_random_state(record["random"], found.tensors)
        return Begun(record["first"], record["active"], found.part("copies"))
