"""The one loop of all gradient estimators: batches by index, a decaying rate, history, budget, divergence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.batch import Data, num_data, take
from zoo.estimators.base import Objective, Outcome, Run, restore, snapshot
from zoo.model import LatentVariableModel

__all__ = ["ScaledAdam", "Schedule", "train"]

FULL_BATCH_ROWS = 2048
MIN_STEPS = 3000


@dataclass(frozen=True)
class Schedule:
    """How long, how much at a time, how fast.

    Attributes:
        max_epochs: passes over the data; None takes enough for 3000 steps, at least one.
        batch_size: rows a step; None takes all rows up to 2048, else 256.
        learning_rate: Adam's, at the start; it falls to a hundredth along a cosine.
    """

    max_epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 0.02

    def resolve(self, rows: int) -> tuple[int, int]:
        """(epochs, batch size) for a number of rows."""
        batch = int(self.batch_size or (rows if rows <= FULL_BATCH_ROWS else 256))
        steps = math.ceil(rows / min(batch, rows))
        return int(self.max_epochs or math.ceil(MIN_STEPS / steps)), batch

    def rate(self, fraction: float) -> float:
        return self.learning_rate * (0.01 + 0.99 * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2)


class ScaledAdam:
    """torch's Adam on parameters measured in units of their own.

    A parameter p with unit s moves as p0 + s u with Adam on u: one learning rate then suits features in
    millimetres and in kilometres. Without units it is ``torch.optim.Adam``.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], scales: dict[int, Tensor], rate: float) -> None:
        self.scaled: list[tuple[nn.Parameter, Tensor, Tensor, Tensor]] = []
        direct = []
        for p in parameters:
            if id(p) in scales:
                shadow = torch.zeros_like(p, requires_grad=True)
                self.scaled.append((p, p.detach().clone(), scales[id(p)].to(p), shadow))
            else:
                direct.append(p)
        self.parameters = direct + [entry[0] for entry in self.scaled]
        self.adam = torch.optim.Adam(direct + [entry[3] for entry in self.scaled], lr=rate)

    def set_rate(self, rate: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = rate

    def zero_grad(self) -> None:
        for p in self.parameters:
            p.grad = None

    def step(self) -> None:
        for p, _, scale, shadow in self.scaled:
            shadow.grad = None if p.grad is None else p.grad * scale
        self.adam.step()
        with torch.no_grad():
            for p, start, scale, shadow in self.scaled:
                torch.addcmul(start, scale, shadow.detach(), out=p.data)


def train(
    model: LatentVariableModel,
    objective: Objective,
    x: Data,
    run: Run,
    schedule: Schedule,
    *,
    names: Callable[[int], Iterable[str]] | Iterable[str] | None = None,
    on_fraction: Callable[[float], None] | None = None,
    tol: float = 1e-4,
    deterministic: bool = False,
    column: str = "elbo",
    record: bool = True,
) -> Outcome:
    """Climb ``objective`` by Adam on the named parameters, in place.

    Args:
        objective: batch to (surrogate, bound), per datum.
        names: which parameters move: all that require a gradient (None), some, or a function of the step.
        on_fraction: called with the fraction done before each step (annealing).
        tol: "converged" if the mean bound per datum moved less over the last tenth than this, nats.
        deterministic: whether the objective is exact on the full batch; then the best parameters are kept.
        column: which column of the history the bound also is.
        record: whether to write history (a warm-up does not).

    Returns:
        Outcome with the last bound as objective.
    """
    rows = num_data(x)
    epochs, batch_size = schedule.resolve(rows)
    full = batch_size >= rows
    by_name = {name: p for name, p in model.named_parameters() if p.requires_grad}
    phase = names if callable(names) else None
    static = list(by_name) if names is None or callable(names) else [n for n in names if n in by_name]
    scales = {id(by_name[n]): s for n, s in model.parameter_scales(x).items() if n in by_name}
    optimizer = ScaledAdam([by_name[n] for n in static], scales, schedule.learning_rate)
    steps_an_epoch = math.ceil(rows / batch_size)
    total_steps, step = epochs * steps_an_epoch, 0
    good, best, best_state = snapshot(model), -math.inf, None
    status, bound = "max_iter", math.nan
    with_prior, prior = record and model.log_prior().requires_grad, torch.zeros(())
    try:
        for epoch in range(epochs):
            seen = 0.0
            for index in [None] if full else torch.randperm(rows).split(batch_size):
                batch = x if index is None else take(x, index)
                fraction = step / total_steps
                optimizer.set_rate(schedule.rate(fraction))
                if on_fraction is not None:
                    on_fraction(fraction)
                optimizer.zero_grad()
                surrogate, value = objective(batch)
                bound = float(value)
                if not math.isfinite(bound) or not torch.isfinite(surrogate):
                    raise _Diverged(step)
                if with_prior:  # spread over the data, as every datum's share of the objective
                    prior = model.log_prior()
                    surrogate = surrogate - prior / rows
                if (
                    deterministic
                    and full
                    and record
                    and not with_prior
                    and bound > best
                    and step * 20 > total_steps * 19
                ):
                    best, best_state = bound, snapshot(model)
                surrogate.backward()
                if phase is not None:
                    moving = set(phase(step))
                    for name, p in by_name.items():
                        if name not in moving:
                            p.grad = None
                optimizer.step()
                seen += bound * (rows if index is None else len(index))
                step += 1
                if step % 100 == 0:
                    if any(bool(p.isnan().any()) for p in optimizer.parameters):
                        raise _Diverged(step)
                    good = snapshot(model)
            if record:
                run.record(seen + float(prior.detach()), fraction=(epoch + 1) / epochs, **{column: seen})
                if run.out_of_time:
                    break
    except _Diverged as problem:
        restore(model, good)
        note = f"the objective or a parameter became NaN or infinite at step {problem.step + 1}; the last good are kept"
        return Outcome("diverged", _last(run), [note])
    except KeyboardInterrupt:
        status = "interrupted"
    if best_state is not None and status != "interrupted":
        restore(model, best_state)
    if not record:
        return Outcome(status, bound * rows)
    history = run.history["objective"]
    part = max(1, len(history) // 20)
    if status == "max_iter" and len(history) >= 20:
        late = sum(history[-part:]) / part
        earlier = sum(history[-2 * part : -part]) / part
        if abs(late - earlier) < tol * rows:
            status = "converged"
    return Outcome(status, best * rows if best_state is not None else _last(run))


def _last(run: Run) -> float:
    history: list[Any] = run.history["objective"]
    return float(history[-1]) if history else -math.inf


class _Diverged(Exception):
    def __init__(self, step: int) -> None:
        self.step = step
