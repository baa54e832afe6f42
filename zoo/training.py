"""The one loop of all gradient estimators: batches by index, a decaying rate, history, validation, checkpoints."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from zoo import program
from zoo.batch import Data, call, map_tensors, num_data
from zoo.checkpoint import Checkpoint, random_state, set_random_state
from zoo.errors import ZooError
from zoo.estimators.base import Objective, Outcome, Run, restore, snapshot
from zoo.isolation import forked_rng
from zoo.model import LatentVariableModel, prepared

__all__ = ["DECAYS", "HeldOut", "ScaledAdam", "Schedule", "train"]

FULL_BATCH_ROWS = 2048
MIN_STEPS = 3000
#: Steps between looks at the parameters; what a divergence can lose.
LOOK_EVERY = 100
#: Steps between waits for an accelerator, which runs ahead of us otherwise.
WAIT_EVERY = 50
DECAYS = ("cosine", "constant", "stages")
#: Burda et al. (2016), section 5: eight stages, the i-th of 3 ** i epochs at a rate lower by 10 ** (-i / 7).
STAGES = 8
STAGED_EPOCHS = (3**STAGES - 1) // 2


@dataclass(frozen=True)
class Schedule:
    """How long, how much at a time, how fast.

    Attributes:
        max_epochs: passes over the data; None takes enough for 3000 steps, at least one (for "stages" 3280 epochs).
        batch_size: rows a step; None takes all rows up to 2048, else 256.
        learning_rate: Adam's, at the start.
        decay: "cosine" falls to a hundredth along a cosine, "constant" stays, "stages" are those of Burda et al.
            (2016), section 5: eight, the i-th (from 0) of 3^i epochs at 10^(-i/7) of the rate, 3280 epochs in all;
            with ``max_epochs`` they keep their proportions.
    """

    max_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 0.02
    decay: str = "cosine"

    def resolve(self, rows: int) -> tuple[int, int]:
        """(epochs, batch size) for a number of rows."""
        batch = int(self.batch_size or (rows if rows <= FULL_BATCH_ROWS else 256))
        steps = math.ceil(rows / min(batch, rows))
        usual = STAGED_EPOCHS if self.decay == "stages" else math.ceil(MIN_STEPS / steps)
        return int(self.max_epochs or usual), batch

    def rate(self, fraction: float) -> float:
        """The rate when this fraction of all steps is done."""
        if self.decay == "cosine":
            return self.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2)
        return self.learning_rate * (10 ** (-stage(fraction) / 7) if self.decay == "stages" else 1.0)


def stage(fraction: float) -> int:
    """Which of the eight stages a fraction of the steps lies in, from 0."""
    epochs = fraction * STAGED_EPOCHS + 1e-6  # a boundary belongs to the later stage, whatever rounding says
    return next((i for i in range(STAGES) if epochs < (3 ** (i + 1) - 1) // 2), STAGES - 1)


class ScaledAdam:
    """torch's Adam on parameters measured in units of their own.

    A parameter p with unit s moves as p0 + s u with Adam on u: one learning rate then suits features in
    millimetres and in kilometres. In single precision, one number as the unit of a whole parameter only multiplies its
    rate, and Adam is fused; without units it is ``torch.optim.Adam``.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], scales: dict[int, Tensor], rate: float) -> None:
        self.scaled: list[tuple[nn.Parameter, Tensor, Tensor, Tensor]] = []
        groups: dict[float, list[Tensor]] = {}
        direct = []
        for p in parameters:
            scale = scales.get(id(p))
            if scale is None or (scale.dim() == 0 and p.dtype == torch.float32):
                groups.setdefault(1.0 if scale is None else float(scale), []).append(p)
                direct.append(p)
            else:
                shadow = torch.zeros_like(p, requires_grad=True)
                self.scaled.append((p, p.detach().clone(), scale.to(p), shadow))
        if self.scaled:
            groups.setdefault(1.0, []).extend(entry[3] for entry in self.scaled)
        self.parameters = direct + [entry[0] for entry in self.scaled]
        self.moved = [p for group in groups.values() for p in group]
        fused = all(p.dtype == torch.float32 and p.device.type in ("cpu", "cuda") for p in self.moved)
        self.factors = list(groups)
        self.adam = torch.optim.Adam(
            [{"params": group, "lr": rate * factor} for factor, group in groups.items()],
            lr=rate, fused=True if fused else None,
        )  # fmt: skip

    def set_rate(self, rate: float) -> None:
        for group, factor in zip(self.adam.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def step(self, clip_norm: float | None = None, careful: bool = False) -> None:
        """One step along the gradients, shortened first where they are longer than ``clip_norm``.

        Their length is the norm over all parameters of gradient times unit: of the gradient that Adam on u sees.

        Raises:
            RuntimeError: ``careful`` and the length to clip is not finite.
        """
        for p, _, scale, shadow in self.scaled:
            shadow.grad = None if p.grad is None else p.grad * scale
        if clip_norm is not None:
            length = self._length()
            if careful and not bool(length.isfinite()):
                raise RuntimeError(f"the norm of all gradients is non-finite ({float(length)}) and cannot be clipped")
            nn.utils.clip_grads_with_norm_(self.moved, clip_norm, length)
        self.adam.step()
        with torch.no_grad():
            for p, start, scale, shadow in self.scaled:
                torch.addcmul(start, scale, shadow.detach(), out=p.data)

    def _length(self) -> Tensor:
        """The norm of all gradients in their parameters' units, ()."""
        parts = []
        for group, factor in zip(self.adam.param_groups, self.factors, strict=True):
            grads = [p.grad for p in group["params"] if p.grad is not None]
            parts += [nn.utils.get_total_norm(grads) * factor] if grads else []
        return torch.linalg.vector_norm(torch.stack(parts)) if parts else torch.zeros(())

    def scaled_gradient(self) -> Tensor:
        """All gradients side by side, each entry times its parameter's unit, (P,)."""
        for p, _, scale, shadow in self.scaled:
            shadow.grad = None if p.grad is None else p.grad * scale
        parts = [
            (torch.zeros_like(p) if p.grad is None else p.grad * factor).flatten()
            for group, factor in zip(self.adam.param_groups, self.factors, strict=True)
            for p in group["params"]
        ]
        return torch.cat(parts) if parts else torch.zeros(1)

    def lost_in_noise(self) -> bool:
        """Whether Adam's running mean of the gradient is no longer than noise alone would make it.

        Independent gradients of mean zero and second moment v give a running mean of variance v (1 - β) / (1 + β).
        """
        signal, noise = torch.zeros(()), torch.zeros(())
        for group, factor in zip(self.adam.param_groups, self.factors, strict=True):
            beta, beta2 = group["betas"]
            for p in group["params"]:
                state = self.adam.state.get(p)
                if state:
                    steps = float(state["step"])
                    mean = state["exp_avg"] / (1 - beta**steps)
                    square = state["exp_avg_sq"] / (1 - beta2**steps)
                    signal = signal + factor**2 * (mean**2).sum().cpu()
                    noise = noise + factor**2 * (square * (1 - beta) / (1 + beta)).sum().cpu()
        return bool(signal <= 2 * noise)

    def unsound(self) -> Tensor:
        """Whether a parameter is NaN or a gradient's square overflowed, ()."""
        found = [p.detach().isnan().any() for p in self.parameters]
        found += [~s["exp_avg_sq"].isfinite().all() for s in self.adam.state.values() if "exp_avg_sq" in s]
        return torch.stack(found).any() if found else torch.tensor(False)

    def state(self) -> dict[str, Tensor]:
        """Everything that moves, by name."""
        found = {
            f"{i}/{name}": torch.as_tensor(value)
            for i, entry in self.adam.state_dict()["state"].items()
            for name, value in entry.items()
        }
        for i, (_, start, scale, shadow) in enumerate(self.scaled):
            found.update({f"scaled/{i}/start": start, f"scaled/{i}/scale": scale, f"scaled/{i}/shadow": shadow})
        return found

    def load(self, values: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave."""
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in values.items():
            first, _, rest = name.partition("/")
            if first == "scaled":
                i, _, what = rest.partition("/")
                _, start, scale, shadow = self.scaled[int(i)]
                with torch.no_grad():
                    {"start": start, "scale": scale, "shadow": shadow}[what].copy_(value)
            else:
                moments.setdefault(int(first), {})[rest] = value
        self.adam.load_state_dict({"state": moments, "param_groups": self.adam.state_dict()["param_groups"]})


class HeldOut:
    """Follows a score of held-out data and keeps the parameters where it was highest.

    Args:
        data: as the model takes them.
        score: the score of such data at the model's present parameters, total, nats; higher is better.
        patience: how many looks without a new best end a run.
        unit: what a look follows, a word for the note.
        kind: what the score is, words for the note.
    """

    def __init__(
        self,
        model: LatentVariableModel,
        data: Any,
        score: Callable[[Data], float | None],
        patience: int,
        unit: str = "iteration",
        kind: str = "log-likelihood",
    ) -> None:
        self.data, self.patience, self.unit, self.kind = prepared(model, data), patience, unit, kind
        self._score, self.rows = score, num_data(self.data)
        self.best, self.since, self.looks, self.best_at = -math.inf, 0, 0, 0
        self.last: float | None = None
        self.state: dict[str, Tensor] | None = None
        self.objective, self.notes = -math.inf, list[str]()

    def worse(
        self,
        state: Callable[[dict[str, Tensor] | None], dict[str, Tensor]],
        objective: float,
        notes: Sequence[str] = (),
    ) -> bool:
        """Take the score at the present parameters; True once it has not risen for ``patience`` looks.

        Args:
            state: gives the parameters' copy; it may write over the one it is handed.
        """
        self.looks += 1
        score = self._score(self.data)
        self.last = None if score is None else score / self.rows
        if score is not None and score > self.best:
            self.best, self.state, self.since, self.best_at = score, state(self.state), 0, self.looks
            self.objective, self.notes = objective, list(notes)
        else:
            self.since += 1
        return self.since >= self.patience

    @property
    def note(self) -> str:
        """Where the held-out data were served best."""
        return f"held-out {self.kind} highest, {self.best:.4f}, at {self.unit} {self.best_at}: kept"

    def record(self) -> dict[str, Any]:
        """What a checkpoint needs besides the kept parameters."""
        return {name: getattr(self, name) for name in ("best", "since", "looks", "best_at", "objective", "notes")}


@dataclass
class _Position:
    """Where a run is: what a checkpoint holds besides tensors."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    seen: float = 0.0
    bound: float = math.nan
    prior: float = 0.0
    best: float = -math.inf
    good_step: int = 0


def train(
    model: LatentVariableModel,
    objective: Objective,
    x: Data,
    run: Run,
    schedule: Schedule,
    *,
    names: Callable[[int], Iterable[str]] | Iterable[str] | None = None,
    on_fraction: Callable[[float], None] | None = None,
    tol: float = 1e-5,
    deterministic: bool = False,
    column: str = "elbo",
    record: bool = True,
    clip_norm: float | None = None,
    held_out: HeldOut | None = None,
) -> Outcome:
    """Climb ``objective`` by Adam on the named parameters, in place; go on from the run's checkpoint if it has one.

    Args:
        objective: batch to (surrogate, bound), per datum.
        names: which parameters move: all that require a gradient (None), some, or a function of the step.
        on_fraction: called with the fraction done before each step (annealing).
        tol: "converged" if the gradient is no longer than this, see ``_Loop._stationary``.
        deterministic: whether the objective is exact on the full batch; then the best parameters are kept.
        column: which column of the history the bound also is.
        record: whether to write history (a warm-up does not).
        clip_norm: the longest gradient to follow: the norm over all parameters of gradient times unit.
        held_out: data to choose the best parameters by, and to stop early; looked at once an epoch.

    Returns:
        Outcome with the last bound as objective.
    """
    loop = _Loop(
        model, objective, x, run, schedule, names, on_fraction, deterministic, column, record, clip_norm, held_out
    )
    return loop.climb(tol)


class _Loop:
    """One call of :func:`train`."""

    def __init__(
        self,
        model: LatentVariableModel,
        objective: Objective,
        x: Data,
        run: Run,
        schedule: Schedule,
        names: Callable[[int], Iterable[str]] | Iterable[str] | None,
        on_fraction: Callable[[float], None] | None,
        deterministic: bool,
        column: str,
        record: bool,
        clip_norm: float | None,
        held_out: HeldOut | None,
    ) -> None:
        self.model, self.objective, self.x, self.run, self.schedule = model, objective, x, run, schedule
        self.on_fraction, self.column, self.record = on_fraction, column, record
        self.clip_norm, self.held_out = clip_norm, held_out
        self.rows = num_data(x)
        self.epochs, self.batch_size = schedule.resolve(self.rows)
        self.full = self.batch_size >= self.rows
        self.total_steps = self.epochs * math.ceil(self.rows / self.batch_size)
        self.by_name = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.phase = names if callable(names) else None
        moving = list(self.by_name) if names is None or callable(names) else [n for n in names if n in self.by_name]
        scales = {id(self.by_name[n]): s for n, s in model.parameter_scales(x).items() if n in self.by_name}
        self.optimizer = ScaledAdam([self.by_name[n] for n in moving], scales, schedule.learning_rate)
        self.with_prior = record and model.log_prior().requires_grad
        self.keeps_best = deterministic and self.full and record and not self.with_prior and held_out is None
        self.device = next((p.device for p in self.by_name.values()), torch.device("cpu"))
        # On a processor a step's bound is at hand; an accelerator runs ahead, and is waited for now and then.
        self.waits = self.device.type == "cpu" or self.keeps_best
        self.at, self.batch = _Position(), x
        self.good: dict[str, Tensor] = snapshot(model)
        self.best_state: dict[str, Tensor] | None = None
        self.seen = self._zero(self.device)
        self.parts: Any = None
        self.sums: dict[str, Tensor] = {}
        self.saver, self.epoch_random = run.checkpoints, torch.get_rng_state()
        self.ticks = hasattr(run.callback, "tick" if record else "stage")

    def climb(self, tol: float) -> Outcome:
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
                    if not self.record and run.out_of_time and self.at.step < self.total_steps:
                        self._keep()
                        run.cut_short = True  # what follows is for now only: more time goes on from here
                        return self._warmed(status)
                batches = None
                if self._end_of_epoch():
                    status = "stalled"
                    break
                if self.record and run.out_of_time:
                    if self.at.epoch < self.epochs:
                        self._keep()
                    break
        except _Diverged:
            return self._diverged(notes, self._reason())
        except KeyboardInterrupt:
            status = "interrupted"
        if not self.record:
            return self._warmed(status)
        if status != "interrupted":
            if self.held_out is not None and self.held_out.state is not None:
                restore(self.model, self.held_out.state)
                return Outcome(status, self.held_out.objective, [*notes, self.held_out.note])
            if self.best_state is not None:
                restore(self.model, self.best_state)
        if status == "max_iter" and self._stationary(tol):
            status = "converged"
        return Outcome(status, self.at.best * self.rows if self.best_state is not None else _last(run), notes)

    def _stationary(self, tol: float) -> bool:
        """Whether the gradient says that there is nothing more to climb.

        The gradient of an exact objective, per datum and in units of each parameter's scale, is measured where the run
        ended, and must not be longer than ``tol``. A sampled one must be no longer than its own noise (both in Adam's
        running means), and the bound must not have moved over the last tenth by more than ``tol`` or its noise.
        """
        if self.full:
            before = snapshot(self.model)  # running statistics of a network move with every look
            try:
                with forked_rng(0):
                    first, second = self._gradient(), self._gradient()
            except (ValueError, RuntimeError):
                return False
            finally:
                restore(self.model, before)
            if torch.equal(first, second):
                return bool(first.norm() <= tol)
        return self._settled(tol) and self.optimizer.lost_in_noise()

    def _gradient(self) -> Tensor:
        """The gradient at the present parameters on all data, per datum, each entry times its unit."""
        self.optimizer.zero_grad()
        surrogate, _ = self.objective(self.x)
        if self.with_prior:
            surrogate = surrogate - self.model.log_prior() / self.rows
        surrogate.backward()
        flat = self.optimizer.scaled_gradient()
        self.optimizer.zero_grad()
        return flat

    def _settled(self, tol: float) -> bool:
        """Whether the objective's mean over the last twentieth of the rows is that of the twentieth before, per datum,
        within ``tol`` or two standard errors of the difference."""
        history = torch.tensor(self.run.history["objective"], dtype=torch.float64) / self.rows
        part = len(history) // 20
        if not part:
            return False
        late, earlier = history[-part:], history[-2 * part : -part]
        noise = 2 * float(((late.var() + earlier.var()) / part).sqrt()) if part > 1 else 0.0
        return abs(float(late.mean() - earlier.mean())) <= max(tol, noise)

    def _warmed(self, status: str) -> Outcome:
        """The end of a stage that writes no history: the run says what it did."""
        at, reached = self.at, float(self.at.bound) * self.rows
        self.run.warmup = {"steps": at.step, "seconds": self.run.seconds, "objective": reached}
        short = status == "max_iter" and at.step < self.total_steps
        note = f"max_seconds ended the guide's warm-up after {at.step} of {self.total_steps} steps"
        return Outcome(status, reached, [note] if short else [])

    def _notes(self) -> list[str]:
        asked = self.schedule.batch_size
        if not self.record or asked is None or asked <= self.rows:
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
        size = self.rows if index is None else len(index)
        fraction = at.step / self.total_steps
        optimizer.set_rate(self.schedule.rate(fraction))
        if self.on_fraction is not None:
            self.on_fraction(fraction)
        optimizer.zero_grad()
        surrogate, value = self.objective(batch)
        if self.waits:
            at.bound = float(value)
            if not (math.isfinite(at.bound) and math.isfinite(surrogate.item())):
                raise _Diverged
            at.seen += at.bound * size
        else:
            at.bound = value.detach()  # type: ignore[assignment]  # read when it is waited for
            self.seen.add_(value.detach(), alpha=size)
        if self.record:
            self._add_parts(size)
        if self.with_prior:  # spread over the data, as every datum's share of the objective
            prior = self.model.log_prior()
            surrogate = surrogate - prior / self.rows
            at.prior = float(prior.detach())
        if self.keeps_best and at.bound > at.best and at.step * 20 > self.total_steps * 19:
            at.best, self.best_state = at.bound, snapshot(self.model, self.best_state)
        surrogate.backward()
        if self.phase is not None:
            moving = set(self.phase(at.step))
            for name, p in self.by_name.items():
                if name not in moving:
                    p.grad = None
        optimizer.step(self.clip_norm, self.waits)
        at.step += 1
        at.batch += 1
        if at.step % LOOK_EVERY == 0:
            self._look()
        elif not self.waits and at.step % WAIT_EVERY == 0:
            self._wait()
        if self.ticks and at.step % 16 == 0:
            self.run.tick(at.step / self.total_steps, None if self.record else "warm-up")
        if self.saver is not None and not self.run.cut_short and self.saver.due():
            self._save()

    def _add_parts(self, size: int) -> None:
        if self.parts is None:  # whose they are is known once a batch has been seen
            self.parts = next((o for o in (self.objective, self.model) if hasattr(o, "parts")), False)
        if self.parts is False:
            return
        for name, part in self.parts.parts.items():
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
        if self.record:
            columns: dict[str, float | None] = {name: float(total) / self.rows for name, total in self.sums.items()}
            reached = at.seen + at.prior
            if self.held_out is not None:
                enough = self.held_out.worse(lambda into: snapshot(self.model, into), reached)
                columns["validation"] = self.held_out.last
            fraction = 1.0 if enough else at.epoch / self.epochs
            self.run.record(reached, fraction=fraction, **{self.column: at.seen}, **columns)
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
            raise _Diverged

    def _look(self) -> None:
        self._wait()
        if bool(self.optimizer.unsound()):
            raise _Diverged
        self.good, self.at.good_step = snapshot(self.model, self.good), self.at.step

    def _reason(self) -> str | None:
        return explain(self.model, self.objective, self.batch)

    def _diverged(self, notes: list[str], reason: str | None) -> Outcome:
        at, held = self.at, self.held_out
        where = f"step {at.step + 1}" if self.waits else f"about step {at.step + 1}"
        if not self.record:
            where += " of the warm-up"
        kept = f"the last good parameters, of step {at.good_step}, are kept"
        if held is not None and held.state is not None:
            restore(self.model, held.state)
            kept = f"the parameters that served the held-out data best, of {held.unit} {held.best_at}, are kept"
        else:
            restore(self.model, self.good)
        note = f"diverged at {where}: {reason or 'the objective became NaN or infinite'}; {kept}"
        return Outcome("diverged", _last(self.run), [*notes, f"{note}. Lower learning_rate, or set clip_norm"])

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
        }
        for prefix, group in groups.items():
            values.update({f"{prefix}/{name}": value for name, value in (group or {}).items()})
        record = {
            "stage": self._stage,
            "at": dataclasses.asdict(self.at),
            "history": self.run.history,
            "seconds": self.run.seconds,
            "warmup": self.run.warmup,
            "held_out": None if held is None else held.record(),
            "random": plain,
        }
        self.saver.save(record, values)

    @property
    def _stage(self) -> str:
        return "climb" if self.record else "warmup"

    def _resume(self) -> Sequence[Tensor | None] | None:
        """Take over a checkpoint of this stage, if there is one; the batches of an epoch that was cut short."""
        found = self.run.resume(self._stage)
        if found is None:
            return None
        self.at = _Position(**found.record["at"])
        restore(self.model, self._taken(found, "model"))
        self.good = self._taken(found, "good")
        self.best_state = self._taken(found, "best") or None
        self.optimizer.load(found.part("adam"))
        self.sums = {name: value.to(self.device) for name, value in found.part("parts").items()}
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


def select(x: Data, index: Tensor, rows: int) -> Data:
    """The rows ``index`` of every tensor that has as many rows as the data, side by side in memory."""
    return map_tensors(lambda t: t.index_select(0, index) if t.dim() and t.shape[0] == rows else t, x)


def _last(run: Run) -> float:
    history: list[Any] = run.history["objective"]
    return float(history[-1]) if history else -math.inf


class _Diverged(Exception):
    """A bound or a parameter is not finite."""


# --- what went wrong --------------------------------------------------------------------------------------------------


def explain(model: LatentVariableModel, objective: Objective, batch: Data) -> str | None:
    """Which parameter, site or gradient is not finite on a batch, a phrase; None where all of them are."""
    named = list(model.named_parameters())
    lost = [name for name, p in named if p.isnan().any()]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        return f"parameter {lost[0]!r}{more} became NaN, as its gradient was not finite"
    watch = _Watch()
    with torch.no_grad(), torch.random.fork_rng(devices=[]), pyro.validation_enabled(False):
        for _ in range(5):  # a rare draw may have been the cause
            watch.look(model, batch)
            if watch.found is not None:
                return watch.found
    moved = [(name, p) for name, p in named if p.requires_grad]
    try:
        surrogate, _ = objective(batch)
        grads = torch.autograd.grad(surrogate, [p for _, p in moved], allow_unused=True)
    except (ValueError, RuntimeError):
        return None
    for (name, _), grad in zip(moved, grads, strict=True):
        if grad is not None and not bool(grad.abs().max() < 1e18):  # its square overflows
            return f"the gradient of parameter {name!r} became {float(grad.abs().max()):.3g}"
    return None


class _Watch(Messenger):
    """Runs a model's programs and notes the first sample site that is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.found: str | None = None

    def look(self, model: LatentVariableModel, batch: Data) -> None:
        try:
            with self:
                drawn = (
                    poutine.trace(lambda: call(model.guide, batch)).get_trace() if program.has_guide(model) else None
                )
                run = poutine.replay(model.model, trace=drawn) if drawn is not None else model.model
                call(run, batch)
        except Exception:
            return  # whatever NaN did to the program; a mistake in it shows without us

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        fn = msg["fn"]
        while hasattr(fn, "base_dist"):
            fn = fn.base_dist
        for name in getattr(fn, "arg_constraints", {}) if self.found is None else ():
            value = fn.__dict__.get(name)
            if isinstance(value, Tensor) and value.isnan().any():
                self.found = f"the {name} of site {msg['name']!r} is nan"

    def _pyro_post_sample(self, msg: dict[str, Any]) -> None:
        if self.found is not None or type(msg["fn"]).__name__ == "_Subsample":
            return
        value, mask = msg["value"], msg["mask"]
        try:
            seen: dict[str, Tensor] = {"value": value, "log_prob": msg["fn"].log_prob(value)}
        except ValueError:
            self.found = f"site {msg['name']!r} cannot be scored: its value left the support"
            return
        if isinstance(mask, Tensor):
            seen["log_prob"] = seen["log_prob"].where(mask, torch.zeros_like(seen["log_prob"]))
        for what, tensor in seen.items():
            bad = ~tensor.isfinite()
            if mask is not False and bad.any() and not (what == "value" and msg["is_observed"]):
                self.found = f"the {what} of site {msg['name']!r} is {float(tensor[bad][0])}"
                return
