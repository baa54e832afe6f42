"""torch's Adam for a few small parameters: their moments lie side by side, and move in a few calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["FlatAdam"]


class FlatAdam:
    """``torch.optim.Adam`` on parameters in double precision on a processor, bit for bit.

    Where a step is short, torch's takes a fifth of it: a dozen calls a parameter, and what watches over them. Here the
    moments of all parameters are one tensor each.

    Attributes:
        param_groups: one, as torch's optimizers have them: its "lr" may be set.
    """

    def __init__(self, parameters: Sequence[Tensor], rate: float, eps: float = 1e-8) -> None:
        self.parameters, self.eps = list(parameters), eps
        self.param_groups: list[dict[str, Any]] = [{"params": self.parameters, "lr": rate, "betas": (0.9, 0.999)}]
        self.steps = [0] * len(self.parameters)
        self._flat = torch.zeros(3, sum(p.numel() for p in self.parameters), dtype=torch.float64)
        #: Of each parameter, its moments and what the step is divided by.
        self._mean, self._square, self._below = (self._views(row) for row in self._flat)

    @staticmethod
    def serves(parameters: Sequence[Tensor]) -> bool:
        """Whether there are parameters, all in double precision on a processor."""
        return bool(parameters) and all(p.dtype == torch.float64 and p.device.type == "cpu" for p in parameters)

    def _views(self, row: Tensor) -> list[Tensor]:
        pieces = row.split([p.numel() for p in self.parameters])
        return [piece.view(p.shape) for piece, p in zip(pieces, self.parameters, strict=True)]

    @torch.no_grad()
    def step(self) -> None:
        """One step along the gradients; a parameter without one stays, and its moments too."""
        moved = [i for i, p in enumerate(self.parameters) if p.grad is not None]
        grads: list[Any] = [self.parameters[i].grad for i in moved]
        counts = {self.steps[i] for i in moved}
        for i in moved:
            self.steps[i] += 1
        if len(moved) == len(self.parameters) and len(counts) == 1:
            grad = torch.cat([g.reshape(-1) for g in grads])
            mean, square, below = self._flat
            size = self._weigh(mean, square, below, grad, self.steps[0])
            torch._foreach_addcdiv_(self.parameters, self._mean, self._below, value=-size)
            return
        for i, grad in zip(moved, grads, strict=True):
            size = self._weigh(self._mean[i], self._square[i], self._below[i], grad, self.steps[i])
            self.parameters[i].addcdiv_(self._mean[i], self._below[i], value=-size)

    def _weigh(self, mean: Tensor, square: Tensor, below: Tensor, grad: Tensor, step: int) -> float:
        """Take a gradient into the moments; the size of the step, and below it what each entry is divided by."""
        (group,) = self.param_groups
        beta, beta2 = group["betas"]
        mean.lerp_(grad, 1 - beta)
        square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        torch.sqrt(square, out=below).div_((1 - beta2**step) ** 0.5).add_(self.eps)
        size: float = group["lr"] / (1 - beta**step)
        return size

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """As torch's: by parameter that has moved, "step", "exp_avg" and "exp_avg_sq"."""
        return {self.parameters[i]: entry for i, entry in self.state_dict()["state"].items()}

    def state_dict(self) -> dict[str, Any]:
        """As torch's: "state" by the parameter's number, and "param_groups"."""
        state = {
            i: {"step": torch.tensor(float(step)), "exp_avg": self._mean[i], "exp_avg_sq": self._square[i]}
            for i, step in enumerate(self.steps)
            if step
        }
        return {"state": state, "param_groups": self.param_groups}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict`, or torch's, gave."""
        for i, entry in values["state"].items():
            self.steps[i] = int(entry["step"])
            self._mean[i].copy_(entry["exp_avg"])
            self._square[i].copy_(entry["exp_avg_sq"])
