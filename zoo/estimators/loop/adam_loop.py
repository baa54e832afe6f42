"""The loop of Adam: a step a batch, a decaying rate."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.core.data import mass
from zoo.core.isolation import forked_rng
from zoo.core.problem import Problem
from zoo.core.stage import Stage
from zoo.core.state import restore, snapshot
from zoo.estimators.base import Run
from zoo.estimators.loop.adam import ScaledAdam
from zoo.estimators.loop.loop import Loop, Watch
from zoo.estimators.loop.position import LOOK_EVERY, WAIT_EVERY, Diverged, select
from zoo.estimators.loop.recording import Recorder

__all__ = ["AdamLoop"]


class AdamLoop(Loop):
    """A climb by Adam."""

    kept_as = "adam"
    advice = "Lower learning_rate, or set clip_norm"

    def __init__(self, problem: Problem, stage: Stage, run: Run, watch: Watch) -> None:
        super().__init__(problem, stage, run, watch)
        self.optimizer = ScaledAdam(self.moving, self.scales, stage.schedule.learning_rate)
        #: The parameters to differentiate in, where they are not all: a warm-up needs no gradient of the model's.
        self.leaves = list(self.moving) if len(self.moving) < len(self.by_name) else None
        alone = self.ranks.size == 1 and not self.with_prior
        serves = alone and Recorder.serves(self.model, self.device, self.total_steps)
        self.recorder = Recorder(self.model, self.objective, self.moving) if serves else None

    def _carried(self) -> dict[str, Tensor]:
        return self.optimizer.state()

    def _take_over(self, carried: dict[str, Tensor]) -> None:
        self.optimizer.load(carried)

    def _step(self, index: Tensor | None) -> None:
        at, optimizer = self.at, self.optimizer
        batch = self.batch = self.x if index is None else select(self.x, index, self.rows)
        size = mass(batch)
        fraction = at.step / self.total_steps
        optimizer.set_rate(self.schedule.rate(fraction))
        if self.stage.recorded:
            self.objective.at(fraction)
        optimizer.zero_grad()
        repeated = self.recorder(batch) if self.recorder is not None else None
        surrogate, value, parts = repeated or self.objective(batch)
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
        if repeated is None:
            self._differentiate(surrogate)
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
        if self.run.due():
            self._save()

    def _differentiate(self, surrogate: Tensor) -> None:
        """Give the parameters their gradients; of a fit in several processes the mean of all of theirs."""
        if self.ranks.size == 1:
            surrogate.backward(inputs=self.leaves)
            return

        def own() -> list[Tensor | None]:
            surrogate.backward(inputs=self.leaves)
            return [p.grad for p in self.moving]

        for p, gradient in zip(self.moving, self.ranks.averaged(own, self.moving), strict=True):
            p.grad = gradient

    def _look(self) -> None:
        self._wait()
        if bool(self.optimizer.unsound()):
            raise Diverged
        self.good, self.at.good_step = snapshot(self.model, self.good), self.at.step

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
        self._differentiate(surrogate)
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
