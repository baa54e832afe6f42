"""The one loop of all gradient estimators: batches by index, a decaying rate, history, validation, checkpoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.core.data import count, mass, num_data
from zoo.core.isolation import forked_rng
from zoo.core.problem import Problem
from zoo.core.stage import Stage
from zoo.core.state import restore, snapshot
from zoo.errors import ZooError
from zoo.estimators.base import Outcome, Run, Staged, Ticked
from zoo.estimators.loop.adam import ScaledAdam
from zoo.estimators.loop.diagnosis import explain
from zoo.estimators.loop.held_out import HeldOut
from zoo.estimators.loop.position import LOOK_EVERY, WAIT_EVERY, Diverged, Position, last_objective, select
from zoo.storage.checkpoint import Checkpoint, random_state, set_random_state

__all__ = ["Watch", "train"]


@dataclass(frozen=True)
class Watch:
    """What a stage is watched by.

    Attributes:
        tol: "converged" if the gradient is no longer than this, see ``_Loop._stationary``.
        deterministic: whether the objective is exact on the full batch; then the best parameters are kept.
        clip_norm: the longest gradient to follow: the norm over all parameters of gradient times unit.
        held_out: data to choose the best parameters by, and to stop early; looked at once an epoch.
    """

    tol: float = 1e-5
    deterministic: bool = False
    clip_norm: float | None = None
    held_out: HeldOut | None = None


def train(problem: Problem, stage: Stage, run: Run, watch: Watch = Watch()) -> Outcome:
    """Go through a stage by Adam, in place; go on from the run's checkpoint if it was written in this stage.

    Returns:
        Outcome with the last value as objective.
    """
    return _Loop(problem, stage, run, watch).climb()


class _Loop:
    """One call of :func:`train`."""

    def __init__(self, problem: Problem, stage: Stage, run: Run, watch: Watch) -> None:
        model, x, schedule, moves = problem.model, problem.data, stage.schedule, stage.moves
        self.model, self.x, self.run, self.stage, self.watch = model, x, run, stage, watch
        self.objective, self.schedule, self.held_out = stage.objective, schedule, watch.held_out
        self.rows, self.count = num_data(x), count(x)
        self.epochs, self.batch_size = schedule.resolve(self.rows)
        self.full = self.batch_size >= self.rows
        self.total_steps = self.epochs * math.ceil(self.rows / self.batch_size)
        self.by_name = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.phase = moves if callable(moves) else None
        moving = list(self.by_name) if moves is None or callable(moves) else [n for n in moves if n in self.by_name]
        scales = {id(self.by_name[n]): s for n, s in model.parameter_scales(x).items() if n in self.by_name}
        self.optimizer = ScaledAdam([self.by_name[n] for n in moving], scales, schedule.learning_rate)
        self.with_prior = stage.recorded and model.log_prior().requires_grad
        exact = watch.deterministic and self.full and stage.recorded
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

    def climb(self) -> Outcome:
        run, status = self.run, "max_iter"
        notes = self._notes()
        batches = self._resume()
        try:
            while self.at.epoch < self.epochs:
                if batches is None:
                    batches = self._order()
                for index in batches[self.at.batch :]:
                    try:
                        self._step(index)
                    except (ValueError, RuntimeError) as error:  # what distributions and factorisations make of NaN
                        reason = None if isinstance(error, ZooError) or not self.at.step else self._reason()
                        if reason is None:
                            raise
                        return self._diverged(notes, reason)
                    if not self.stage.recorded and run.out_of_time and self.at.step < self.total_steps:
                        self._keep()
                        run.cut_short = True  # what follows is for now only: more time goes on from here
                        return self._warmed(status)
                batches = None
                if self._end_of_epoch():
                    status = "stalled"
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
                return Outcome(status, self.held_out.objective, [*notes, self.held_out.note])
            if self.best_state is not None:
                restore(self.model, self.best_state)
        if status == "max_iter" and self._stationary(self.watch.tol):
            status = "converged"
        return Outcome(status, self.at.best * self.count if self.best_state is not None else last_objective(run), notes)

    def _stationary(self, tol: float) -> bool:
        """Whether the gradient says that there is nothing more to climb.

        The gradient of an exact objective, per datum and in units of each parameter's scale, is measured where the run
        ended, and must not be longer than ``tol``. A sampled one must be no longer than its own noise (both in Adam's
        running means), and the bound must not have moved over the last tenth by more than ``tol`` or its noise.
        """
        settled = self._settled(tol) and self.optimizer.lost_in_noise()
        if not self.full:
            return settled
        before = snapshot(self.model)  # running statistics of a network move with every look
        try:
            with forked_rng(0):
                first = self._gradient()
                short = bool(first.norm() <= tol)
                return short if short == settled or torch.equal(first, self._gradient()) else settled
        except (ValueError, RuntimeError):
            return False
        finally:
            restore(self.model, before)

    def _gradient(self) -> Tensor:
        """The gradient at the present parameters on all data, per datum, each entry times its unit."""
        self.optimizer.zero_grad()
        surrogate = self.objective(self.x).surrogate
        if self.with_prior:
            surrogate = surrogate - self.model.log_prior() / self.count
        surrogate.backward()
        flat = self.optimizer.scaled_gradient()
        self.optimizer.zero_grad()
        return flat

    def _settled(self, tol: float) -> bool:
        """Whether the objective's mean over the last twentieth of the rows is that of the twentieth before, per datum,
        within ``tol`` or two standard errors of the difference."""
        if not self.at.known:
            return False
        history = torch.tensor(self.run.history["objective"], dtype=torch.float64) / self.count
        part = len(history) // 20
        if not part:
            return False
        late, earlier = history[-part:], history[-2 * part : -part]
        noise = 2 * float(((late.var() + earlier.var()) / part).sqrt()) if part > 1 else 0.0
        return abs(float(late.mean() - earlier.mean())) <= max(tol, noise)

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
        if self.saver is not None:
            self.epoch_random = torch.get_rng_state()  # the permutation can be drawn again from it
        return torch.randperm(self.rows).to(self.device).split(self.batch_size)

    def _step(self, index: Tensor | None) -> None:
        at, optimizer = self.at, self.optimizer
        batch = self.batch = self.x if index is None else select(self.x, index, self.rows)
        size = mass(batch)
        fraction = at.step / self.total_steps
        optimizer.set_rate(self.schedule.rate(fraction))
        if self.stage.recorded:
            self.objective.at(fraction)
        optimizer.zero_grad()
        surrogate, value, parts = self.objective(batch)
        if value is None:  # nobody knows it: the surrogate alone says whether all is well
            value = torch.where(surrogate.detach().isfinite(), 0.0, torch.nan)
            at.known = False
        if self.waits:
            at.bound = float(value)
            if not (math.isfinite(at.bound) and math.isfinite(surrogate.item())):
                raise Diverged
            at.seen += at.bound * size
        else:
            at.bound = value.detach()  # type: ignore[assignment]  # read when it is waited for
            self.seen.add_(value.detach(), alpha=size)
        if self.stage.recorded:
            self._add_parts(parts, size)
        if self.with_prior:  # spread over the data, as every datum's share of the objective
            prior = self.model.log_prior()
            surrogate = surrogate - prior / self.count
            at.prior = float(prior.detach())
        if self.keeps_best and at.bound > at.best and at.step * 20 > self.total_steps * 19:
            at.best, self.best_state = at.bound, snapshot(self.model, self.best_state)
        surrogate.backward()
        if self.phase is not None:
            moving = set(self.phase(at.step))
            for name, p in self.by_name.items():
                if name not in moving:
                    p.grad = None
        optimizer.step(self.watch.clip_norm, self.waits)
        at.step += 1
        at.batch += 1
        if at.step % LOOK_EVERY == 0:
            self._look()
        elif not self.waits and at.step % WAIT_EVERY == 0:
            self._wait()
        if self.ticks and at.step % 16 == 0:
            self.run.tick(at.step / self.total_steps, None if self.stage.recorded else self.stage.name)
        if self.saver is not None and not self.run.cut_short and self.saver.due():
            self._save()

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
            reached = at.seen + at.prior if at.known else math.nan
            if self.held_out is not None:
                enough = self.held_out.worse(lambda into: snapshot(self.model, into), reached)
                columns["validation"] = self.held_out.last
            fraction = 1.0 if enough else at.epoch / self.epochs
            columns[self.objective.column] = at.seen if at.known else None
            self.run.record(reached if at.known else None, fraction=fraction, **columns)
        at.seen = 0.0
        for total in (self.seen, *self.sums.values()):
            total.zero_()
        return enough

    def _wait(self) -> None:
        """Wait for an accelerator, and see whether the bounds since the epoch began are finite."""
        if self.waits:
            return
        self.at.seen, self.at.bound = float(self.seen), float(self.at.bound)
        if not math.isfinite(self.at.seen):
            raise Diverged

    def _look(self) -> None:
        self._wait()
        if bool(self.optimizer.unsound()):
            raise Diverged
        self.good, self.at.good_step = snapshot(self.model, self.good), self.at.step

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
        return Outcome("diverged", last_objective(self.run), [*notes, f"{note}. Lower learning_rate, or set clip_norm"])

    # --- checkpoints ---

    def _keep(self) -> None:
        """Write a checkpoint of a run whose time is over, to go on from."""
        if self.saver is not None and not self.run.cut_short:
            self._save()
            self.saver.unfinished = True

    def _save(self) -> None:
        assert self.saver is not None
        self._wait()
        plain, values = random_state()
        values["random/epoch"] = self.epoch_random
        held = self.held_out
        groups = {
            "model": self.model.state_dict(),
            "good": self.good,
            "best": self.best_state,
            "held": None if held is None else held.state,
            "adam": self.optimizer.state(),
            "parts": self.sums,
            "objective": self.objective.state(),
        }
        for prefix, group in groups.items():
            values.update({f"{prefix}/{name}": value for name, value in (group or {}).items()})
        record = {
            "stage": self.stage.name,
            "at": dataclasses.asdict(self.at),
            "history": self.run.history,
            "seconds": self.run.seconds,
            "warmup": self.run.warmup,
            "held_out": None if held is None else held.record(),
            "random": plain,
        }
        self.saver.save(record, values)

    def _resume(self) -> Sequence[Tensor | None] | None:
        """Take over a checkpoint of this stage, if there is one; the batches of an epoch that was cut short."""
        found = self.run.resume(self.stage.name)
        if found is None:
            return None
        self.at = Position(**found.record["at"])
        restore(self.model, self._taken(found, "model"))
        self.good = self._taken(found, "good")
        self.best_state = self._taken(found, "best") or None
        self.optimizer.load(found.part("adam"))
        self.sums = {name: value.to(self.device) for name, value in found.part("parts").items()}
        if carried := found.part("objective"):
            self.objective.load({name: value.to(self.device) for name, value in carried.items()})
        self.seen.fill_(self.at.seen)
        if self.held_out is not None:
            for name, value in found.record["held_out"].items():
                setattr(self.held_out, name, value)
            self.held_out.state = self._taken(found, "held") or None
        batches = None
        if self.at.batch:
            torch.set_rng_state(found.tensors["random/epoch"])
            batches = self._order()
        set_random_state(found.record["random"], found.tensors)
        return batches

    def _taken(self, found: Checkpoint, prefix: str) -> dict[str, Tensor]:
        """A part of a checkpoint that is a state of the model, on the model's device."""
        own, values = self.model.state_dict(), found.part(prefix)
        if values and {n: v.shape for n, v in own.items()} != {n: v.shape for n, v in values.items()}:
            raise ZooError("resume: the checkpoint expected other parameters than this model's. Use the model it had.")
        return {name: value.to(own[name].device) for name, value in values.items()}

    def _zero(self, device: torch.device) -> Tensor:
        return torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)


# --- what went wrong --------------------------------------------------------------------------------------------------
