"""What all loops of gradient estimators share: batches by index, history, validation, budgets, checkpoints."""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from zoo.core.data import at_hand, batches, count, num_data, passed, stream_of
from zoo.core.problem import Problem
from zoo.core.ranks import present
from zoo.core.stage import Stage
from zoo.core.state import restore, snapshot
from zoo.errors import ZooError
from zoo.estimators.base import Outcome, Run, Staged, Ticked, taken
from zoo.estimators.loop.diagnosis import explain
from zoo.estimators.loop.held_out import HeldOut
from zoo.estimators.loop.position import Diverged, Position, last_objective
from zoo.estimators.loop.shared_objective import SharedObjective, check_divides
from zoo.storage.checkpoint import set_random_state

__all__ = ["Loop", "Watch"]


@dataclass(frozen=True)
class Watch:
    """What a stage is watched by.

    Attributes:
        tol: "converged" if the gradient is no longer than this, see ``_stationary``.
        keeps_best: whether the best parameters of steps on all data are kept, where nothing else chooses.
        clip_norm: the longest gradient to follow: the norm over all parameters of gradient times unit.
        held_out: data to choose the best parameters by, and to stop early; looked at once an epoch.
    """

    tol: float = 1e-5
    keeps_best: bool = False
    clip_norm: float | None = None
    held_out: HeldOut | None = None


class Loop(ABC):
    """One climb of a stage, in place; it goes on from the run's checkpoint if that was written in this stage."""

    #: What checkpoints call the state of what moves the parameters, and what helps a climb that diverged.
    kept_as: ClassVar[str]
    advice: ClassVar[str]

    def __init__(self, problem: Problem, stage: Stage, run: Run, watch: Watch) -> None:
        model, x, schedule, moves = problem.model, problem.data, stage.schedule, stage.moves
        self.model, self.x, self.run, self.stage, self.watch = model, x, run, stage, watch
        self.objective, self.schedule, self.held_out = stage.objective, schedule, watch.held_out
        self.ranks = present()
        if self.ranks.size > 1:
            check_divides(stage.objective, model, x, self.ranks)
            self.objective = SharedObjective(stage.objective, self.ranks)
        self.rows, self.count = num_data(x), count(x)
        self.epochs, self.batch_size = schedule.resolve(self.rows)
        self.full = self.batch_size >= self.rows and stream_of(x) is None
        self.total_steps = self.epochs * math.ceil(self.rows / self.batch_size)
        self.by_name = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.phase = moves if callable(moves) else None
        moving = list(self.by_name) if moves is None or callable(moves) else [n for n in moves if n in self.by_name]
        scales = {id(self.by_name[n]): s for n, s in model.parameter_scales(at_hand(x)).items() if n in self.by_name}
        self.moving, self.scales = [self.by_name[n] for n in moving], scales
        self.with_prior = stage.recorded and model.log_prior().requires_grad
        exact = watch.keeps_best and self.full and stage.recorded
        self.keeps_best = exact and not self.with_prior and watch.held_out is None
        self.device = next((p.device for p in self.by_name.values()), torch.device("cpu"))
        # On a processor a step's value is at hand; an accelerator runs ahead, and is waited for now and then.
        self.waits = self.device.type == "cpu" or self.keeps_best
        self.at, self.batch = Position(), x
        self.good: dict[str, Tensor] = snapshot(model)
        self.best_state: dict[str, Tensor] | None = None
        self.seen = self._zero(self.device)
        self.sums: dict[str, Tensor] = {}
        self.saver, self.epoch_random = run.checkpoints, torch.get_rng_state()
        self.ticks = isinstance(run.callback, Ticked if stage.recorded else Staged)

    @abstractmethod
    def _step(self, index: Tensor | None) -> None:
        """Take a step on these rows, or on all; what is followed and seen goes into ``at`` and ``sums``."""

    @abstractmethod
    def _carried(self) -> dict[str, Tensor]:
        """The state of what moves the parameters, by name, for a checkpoint."""

    @abstractmethod
    def _take_over(self, carried: dict[str, Tensor]) -> None:
        """Go on from what :meth:`_carried` gave; the parameters are there."""

    @abstractmethod
    def _stationary(self, tol: float) -> bool:
        """Whether the gradient says that there is nothing more to climb."""

    def climb(self) -> Outcome:
        """Go through the stage; the outcome has the last value as objective."""
        run, status = self.run, "max_iter"
        notes = self._notes()
        batches = self._resume()
        try:
            while self.at.epoch < self.epochs:
                if batches is None:
                    batches = self._order()
                for index in passed(batches[self.at.batch :], self.x, self.at.batch * self.batch_size):
                    try:
                        self._step(index)
                    except (ValueError, RuntimeError) as error:  # what distributions and factorisations make of NaN
                        reason = None if isinstance(error, ZooError) or not self.at.step else self._reason()
                        if reason is None:
                            raise
                        return self._diverged(notes, reason)
                    if self._cut_off():
                        self._keep()
                        run.cut_short = True  # what follows is for now only: more time goes on from here
                        return self._warmed(status)
                batches = None
                if self._end_of_epoch():
                    status = "stalled"
                    break
                if self.at.ended is not None:
                    status = self.at.ended
                    break
                if self.stage.recorded and run.out_of_time:
                    if self.at.epoch < self.epochs:
                        self._keep()
                    break
        except Diverged:
            return self._diverged(notes, self._reason())
        except KeyboardInterrupt:
            status = "interrupted"
        if not self.stage.recorded:
            return self._warmed(status)
        if status != "interrupted":
            if self.held_out is not None and self.held_out.state is not None:
                restore(self.model, self.held_out.state)
                status = "stalled" if status == "converged" else status  # the kept parameters may be others
                return Outcome(status, self.held_out.objective, [*notes, self.held_out.note])
            if self.best_state is not None:
                restore(self.model, self.best_state)
        if status == "max_iter" and self._stationary(self.watch.tol):
            status = "converged"
        return Outcome(status, self._total(), [*notes, *([self.at.word] if self.at.word else [])])

    def _total(self) -> float:
        """The objective at the parameters that are kept, total, nats."""
        return self.at.best * self.count if self.best_state is not None else last_objective(self.run)

    def _cut_off(self) -> bool:
        """Whether the time is over before a stage is done that writes no history."""
        left = self.at.step < self.total_steps and self.at.ended is None
        return not self.stage.recorded and self.run.out_of_time and left

    def _warmed(self, status: str) -> Outcome:
        """The end of a stage that writes no history: the run says what it did."""
        at, reached = self.at, float(self.at.bound) * self.count
        before = (self.run.warmup or {}).get("steps", 0)
        self.run.warmup = {"steps": before + at.step, "seconds": self.run.seconds, "objective": reached}
        short = status == "max_iter" and at.step < self.total_steps
        note = f"max_seconds ended the {self.stage.name} after {at.step} of {self.total_steps} steps"
        return Outcome(status, reached, [note] if short else [])

    def _notes(self) -> list[str]:
        asked = self.schedule.batch_size
        if not self.stage.recorded or asked is None or asked <= self.rows:
            return []
        return [f"batch_size={asked} is more than the {self.rows} data: all of them made one batch"]

    def _order(self) -> Sequence[Tensor | None]:
        if self.full:
            return [None]
        if self.ranks.size > 1:  # all draw the same order
            torch.set_rng_state(self.ranks.from_first(torch.get_rng_state))
        if self.saver is not None:
            self.epoch_random = torch.get_rng_state()  # the permutation can be drawn again from it
        return batches(self.x, self.batch_size, self.device)

    def _add_parts(self, parts: Mapping[str, Tensor], size: float) -> None:
        for name, part in parts.items():
            if name not in self.sums:
                if name in self.run.reserved:
                    raise ZooError(f"part {name!r} of an objective expected a name of its own. Choose another.")
                self.sums[name] = self._zero(part.device)
            self.sums[name].add_(part.detach(), alpha=size)

    def _end_of_epoch(self) -> bool:
        """Write the row; True if the held-out data say that it is enough."""
        at, enough = self.at, False
        self._wait()
        at.epoch, at.batch = at.epoch + 1, 0
        if self.stage.recorded:
            columns: dict[str, float | None] = {name: float(total) / self.count for name, total in self.sums.items()}
            columns.update(self._columns())
            reached = at.seen + at.prior if at.known else math.nan
            if self.held_out is not None:
                enough = self.held_out.worse(lambda into: snapshot(self.model, into), reached)
                columns["validation"] = self.held_out.last
            fraction = 1.0 if enough or self.at.ended is not None else self._fraction()
            columns[self.objective.column] = at.seen if at.known else None
            self.run.record(reached if at.known else None, fraction=fraction, **columns)
        at.seen = 0.0
        for total in (self.seen, *self.sums.values()):
            total.zero_()
        return enough

    def _columns(self) -> dict[str, float | None]:
        """Further columns of the row that an epoch writes."""
        return {}

    def _fraction(self) -> float | None:
        """How much of the climb is done, where that is known."""
        return self.at.epoch / self.epochs

    def _wait(self) -> None:
        """Wait for an accelerator, and see whether the bounds since the epoch began are finite."""
        if self.waits:
            return
        self.at.seen, self.at.bound = float(self.seen), float(self.at.bound)
        if not math.isfinite(self.at.seen):
            raise Diverged

    def _reason(self) -> str | None:
        return explain(self.model, self.objective, self.batch)

    def _diverged(self, notes: list[str], reason: str | None) -> Outcome:
        at, held = self.at, self.held_out
        where = f"step {at.step + 1}" if self.waits else f"about step {at.step + 1}"
        if not self.stage.recorded:
            where += f" of the {self.stage.name}"
        kept = f"the last good parameters, of step {at.good_step}, are kept"
        if held is not None and held.state is not None:
            restore(self.model, held.state)
            kept = f"the parameters that served the held-out data best, of {held.unit} {held.best_at}, are kept"
        else:
            restore(self.model, self.good)
        note = f"diverged at {where}: {reason or 'the objective became NaN or infinite'}; {kept}"
        return Outcome("diverged", last_objective(self.run), [*notes, f"{note}. {self.advice}"])

    # --- checkpoints ---

    def _keep(self) -> None:
        """Write a checkpoint of a run whose time is over, to go on from."""
        if self.saver is not None and not self.run.cut_short:
            self._save()
            self.saver.unfinished = True

    def _save(self) -> None:
        self._wait()
        held = self.held_out
        groups = {
            "random": {"epoch": self.epoch_random},
            "model": self.model.state_dict(),
            "good": self.good,
            "best": self.best_state,
            "held": None if held is None else held.state,
            self.kept_as: self._carried(),
            "parts": self.sums,
            "objective": self.objective.state(),
        }
        record = {"at": dataclasses.asdict(self.at), "held_out": None if held is None else held.record()}
        self.run.save(self.stage.name, record, groups)

    def _resume(self) -> Sequence[Tensor | None] | None:
        """Take over a checkpoint of this stage, if there is one; the batches of an epoch that was cut short."""
        found = self.run.resume(self.stage.name)
        if found is None:
            return None
        self.at = Position(**found.record["at"])
        restore(self.model, taken(found, "model", self.model))
        self.good = taken(found, "good", self.model)
        self.best_state = taken(found, "best", self.model) or None
        self._take_over(found.part(self.kept_as))
        self.sums = {name: value.to(self.device) for name, value in found.part("parts").items()}
        if carried := found.part("objective"):
            self.objective.load({name: value.to(self.device) for name, value in carried.items()})
        self.seen.fill_(self.at.seen)
        if self.held_out is not None:
            self.held_out.take_over(found.record["held_out"], taken(found, "held", self.model))
        batches = None
        if self.at.batch:
            torch.set_rng_state(found.tensors["random/epoch"])
            batches = self._order()
        set_random_state(found.record["random"], found.tensors)
        return batches

    def _zero(self, device: torch.device) -> Tensor:
        return torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
