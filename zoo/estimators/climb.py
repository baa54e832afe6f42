"""One run of EM as it goes: what the objective of an iteration says of it, and how it ends."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor

from zoo.core.contract import LatentVariableModel
from zoo.core.data import Data, count
from zoo.core.problem import Problem
from zoo.core.state import restore, snapshot
from zoo.errors import LikelihoodDecreased
from zoo.estimators.base import Outcome, Run, taken
from zoo.estimators.loop.held_out import HeldOut
from zoo.estimators.steps import ModelSteps, Steps, allowance, judged
from zoo.scores.evidence import log_density, summed, total_log_likelihood
from zoo.storage.checkpoint import Checkpoint, set_random_state

__all__ = ["Climb"]

#: What checkpoints call it.
STAGE = "em"
#: What of it a checkpoint holds as it is, and as lists of lines.
PLAIN = ("iteration", "last", "best_log_likelihood", "rounding", "status", "done")
LINES = ("notes", "kept_notes", "remarks")
#: A model's tensors, or what gives them when they are asked for.
State: TypeAlias = "dict[str, Tensor] | Callable[[], dict[str, Tensor]]"


class Options(Protocol):
    """What a run asks of its estimator: see :class:`zoo.estimators.em.EM`."""

    hard: ClassVar[bool]
    cause: ClassVar[str]

    @property
    def max_iter(self) -> int: ...
    @property
    def tol(self) -> float: ...
    @property
    def validation(self) -> Any: ...
    @property
    def patience(self) -> int: ...


class Climb:
    """A run of EM from where a model is.

    Args:
        start: the model's tensors, copied; None to have that done.

    Attributes:
        steps: E and M step of the model on its data.
        iteration: of the E step that is next, or was last, from 1 on; whoever takes it counts.
        last: the highest objective so far. rounding: the largest that was measured.
        notes: those of the last M step. kept_notes: those at the parameters kept. remarks: on how it ended.
        status: of the outcome, as far as it is known.
        start: the model's tensors where it began.
        done: whether no more steps are wanted. error: what a step raised.
        ended: the outcome, where nothing is to be put back.
        save: writes a checkpoint, after an M step.
    """

    def __init__(
        self, estimator: Options, steps: Steps, problem: Problem, run: Run, start: dict[str, Tensor] | None = None
    ) -> None:
        self.estimator, self.steps, self.model, self.run = estimator, steps, problem.model, run
        self.rows, self.units = count(problem.data), problem.model.num_units(problem.data)
        self.last, self.status, self.iteration = -math.inf, "max_iter", 0
        self.rounding = 0.0
        self.notes: Sequence[str] = ()
        self.done = False
        self.error: Exception | None = None
        self.ended: Outcome | None = None
        self.save: Callable[[], None] = self._save
        self.kept_notes: Sequence[str] = ()
        self.remarks: list[str] = []
        self.start = snapshot(self.model) if start is None else start
        self._best: State = self.start
        self.best_log_likelihood: float | None = None
        self._here: State = self.start
        self._held_out = None
        if estimator.validation is not None:
            score = functools.partial(_total_density, self.model)
            if self.model.normalized:
                score = functools.partial(total_log_likelihood, self.model)
            self._held_out = HeldOut(self.model, estimator.validation, score, int(estimator.patience))
        found = run.resume(STAGE)
        if found is not None:
            self.take_over(found, found.record)
            set_random_state(found.record["random"], found.tensors)

    def ordinary(self, objective: float) -> bool:
        """Whether an objective is finite and no lower than the last one but for what needs no second look."""
        fall = self.last - objective
        return math.isfinite(objective) and fall <= allowance(objective, self.rows)

    def goes_on(self, objective: float, log_likelihood: float | None, state: State) -> bool:
        """Take the objective of one more E step, nats; whether an M step is to follow.

        Args:
            log_likelihood: what the history tells; None where there is none.
            state: the model's parameters, at which it was taken.
        """
        estimator, tol = self.estimator, self.estimator.tol
        if math.isnan(objective) or objective == math.inf:
            restore(self.model, _now(self._best))
            why = f"the objective became {objective} at iteration {self.iteration}"
            self.ended = Outcome("diverged", self.last, [why])
            return False
        fall, free = self.last - objective, allowance(objective, self.rows)
        if fall > max(free, self.rounding):
            exact_fall, self.rounding = judged(self.steps, _now(self._here), fall)
            if exact_fall > self.rounding:
                restore(self.model, _now(self._best))
                raise LikelihoodDecreased(self.iteration, exact_fall, rounding=self.rounding, cause=estimator.cause)
            self.rounding = max(self.rounding, fall)
        if self.iteration > 1 and objective == self.last == -math.inf:
            note = "the data have probability zero at the starting point and stay there"
            self.ended = Outcome("diverged", self.last, [note], exact_q=not estimator.hard)
            return False
        self._here = state
        if fall <= free:
            self._best, self.kept_notes, self.best_log_likelihood = state, self.notes, log_likelihood
        elif tol > 0 and fall >= tol * self.units:
            self.status, within = "stalled", f"which is rounding (up to {self.rounding:.1g}, measured)"
            self.remarks = [f"iteration {self.iteration} lost {fall:.1g} nats, {within}, and was taken back"]
            return False
        self.last = max(objective, self.last)
        if self.iteration > estimator.max_iter:  # nothing but the objective of the last M step was wanted
            return False
        columns: dict[str, float | None] = {}
        if self._held_out is not None:
            if self._held_out.worse(lambda _: _now(state), self.last, self.kept_notes):
                self.status = "converged"
            columns = {"validation": self._held_out.last}
        self.run.record(objective, log_likelihood=log_likelihood, **columns)
        if tol > 0 and -fall < tol * self.units:
            self.status = "converged"
        elif tol > 0 and -fall < free / 64:
            self.status = "stalled"
        return self.status == "max_iter" and not self.run.out_of_time

    @property
    def cut_off(self) -> bool:
        """Whether nothing but the time ended it."""
        more = self.iteration <= self.estimator.max_iter and self.ended is None
        return self.status == "max_iter" and more and self.run.out_of_time

    def _save(self) -> None:
        self.run.save(STAGE, self.record(), self.groups())

    def record(self) -> dict[str, Any]:
        """The plain values of a checkpoint."""
        held, ended = self._held_out, self.ended
        return {
            **{name: getattr(self, name) for name in PLAIN},
            **{name: list(getattr(self, name)) for name in LINES},
            "ended": None if ended is None else dataclasses.asdict(ended),
            "held_out": None if held is None else held.record(),
        }

    def groups(self) -> dict[str, dict[str, Tensor] | None]:
        """The tensors of a checkpoint."""
        return {
            "model": self.model.state_dict(),
            "best": _now(self._best),
            "here": _now(self._here),
            "held": None if self._held_out is None else self._held_out.state,
        }

    def take_over(self, found: Checkpoint, record: dict[str, Any], prefix: str = "") -> None:
        """Go on from what :meth:`record` and :meth:`groups` gave."""
        model = self.model
        for name in (*PLAIN, *LINES):
            setattr(self, name, record[name])
        self.ended = None if record["ended"] is None else Outcome(**record["ended"])
        restore(model, taken(found, f"{prefix}model", model))
        self._best, self._here = (taken(found, f"{prefix}{name}", model) for name in ("best", "here"))
        if self._held_out is not None:
            self._held_out.take_over(record["held_out"], taken(found, f"{prefix}held", model))

    def present(self) -> dict[str, Tensor]:
        """The parameters of the last E step."""
        return _now(self._here)

    def fail(self, error: torch.linalg.LinAlgError) -> None:
        """End where a step found no numbers; a first one's error goes on to the caller."""
        if self.last == -math.inf:
            raise error
        self.status, why = "diverged", str(error).split(":")[0]
        self.remarks = [f"iteration {self.iteration} found no numbers ({why}), and was taken back"]

    def outcome(self) -> Outcome:
        """How the run ended; the model is put back to the best of it."""
        if self.ended is not None:
            return self.ended
        restore(self.model, _now(self._best))
        exact, held_out = not self.estimator.hard, self._held_out
        if held_out is not None and held_out.state is not None and self.status in ("converged", "stalled", "max_iter"):
            restore(self.model, held_out.state)
            notes = [*held_out.notes, held_out.note]
            return Outcome(self.status, held_out.objective, notes, bool(held_out.notes), None, exact_q=exact)
        elbo = None if exact else self.last - float(self.model.log_prior().detach())
        notes, known = [*self.kept_notes, *self.remarks], None
        if exact and isinstance(self.steps, ModelSteps):  # a program's own may differ from its exact sum by rounding
            known = self.best_log_likelihood
        degenerate = bool(self.kept_notes)
        return Outcome(self.status, self.last, notes, degenerate, elbo, exact_q=exact, log_likelihood=known)


def _now(state: State) -> dict[str, Tensor]:
    return state() if callable(state) else state


def _total_density(model: LatentVariableModel, x: Data) -> float | None:
    return summed(log_density(model, x), x)
