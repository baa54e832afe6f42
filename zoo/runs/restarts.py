"""One start of a fit after the other, each from its own seed: what any process can do by itself."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from zoo.automatic.enumeration import remembered
from zoo.core.isolation import isolated, threads
from zoo.core.problem import Problem
from zoo.errors import LikelihoodDecreased
from zoo.estimators.base import Callback, Estimator
from zoo.runs.identity import derived_seed
from zoo.runs.load import load
from zoo.runs.one_start import run_one
from zoo.runs.prepare import start
from zoo.runs.result import Fit
from zoo.storage.checkpoint import Checkpoint, RunFolder

__all__ = ["Restarts", "Started"]


class Started(NamedTuple):
    """What came of a start: its fit, its seed, whether it was run now, EM's complaint where the objective fell."""

    fit: Fit
    seed: int
    new: bool
    failure: LikelihoodDecreased | None


@dataclass
class Restarts:
    """What the starts of a fit have in common; called with the number of one, it makes and runs it.

    Attributes:
        folder: where checkpoints and finished starts are, or None. resumed: the checkpoint to go on from, or None.
        side_by_side: whether other starts run meanwhile: each then has checkpoints of its own.
        spare: whether there is but one start, which need not copy the problem's model.
        ready: what came of starts that were climbed at once, by their numbers.
    """

    estimator: Estimator
    problem: Problem
    init: str
    seed: int
    max_seconds: float | None = None
    progress: bool | Callback | None = False
    track: int = 0
    folder: RunFolder | None = None
    resumed: Checkpoint | None = None
    side_by_side: bool = False
    spare: bool = False
    ready: dict[int, Started] = field(default_factory=dict)

    def seed_of(self, restart: int) -> int:
        """What every draw of a start comes from."""
        return self.seed if restart == 0 else derived_seed(self.seed, restart)

    def __call__(self, restart: int) -> Started:
        if restart in self.ready:
            return self.ready.pop(restart)
        seed = self.seed_of(restart)
        done = None if self.folder is None else self.folder.finished(restart)
        failure = None
        known = remembered() if self.side_by_side else nullcontext()  # else that of all starts
        with isolated(seed), known, threads(self.estimator.elements(self.problem)):
            candidate = start(self.problem.model, self.problem.data, self.init, restart, spare=self.spare)
            problem = self.problem.of(candidate)
            try:
                this = self._run(problem, restart, seed) if done is None else load(done, candidate)
            except LikelihoodDecreased as error:
                failure, this = error, error.fit
        return Started(this, seed, done is None, failure)

    def _run(self, problem: Problem, restart: int, seed: int) -> Fit:
        checkpoints, resumed = None, None
        if self.folder is not None:
            checkpoints = self.folder.checkpoints
            resumed = self.folder.checkpoints.furthest(restart, self.resumed)
            if self.side_by_side:
                checkpoints = checkpoints.apart(restart)
            checkpoints.restart = restart
        return run_one(self.estimator, problem, seed, self.max_seconds, self.progress, self.track, checkpoints, resumed)
