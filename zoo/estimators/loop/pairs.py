"""What a quasi-Newton method remembers: steps, and how the gradient changed along them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from zoo.estimators.loop.metric import Metric

__all__ = ["Pairs"]

#: A step whose gradient changed less along it than this share of its length says nothing of the curvature.
CURVED = 1e-10
#: Rows to begin with. Of a full memory, the oldest part of it that makes room at once: moving the rest costs.
FIRST, PART = 16, 8


class Pairs:
    """Steps s and changes y of the gradient, and the inverse Hessian that BFGS makes of them.

    Byrd, Nocedal & Schnabel (1994), Representations of quasi-Newton matrices, theorem 2.2: with columns s and y of S
    and Y, R the upper triangle of S^T Y and D its diagonal, H = γ B + [S, γ B Y] M [S, γ B Y]^T, where
    M = [[R^-T (D + γ Y^T B Y) R^-1, -R^-T], [-R^-1, 0]], B is a metric and γ = s^T y / y^T B y of the last pair. The
    inverse of R grows by a column a pair.

    Args:
        size: P, entries of a step. most: how many pairs are kept. metric: B.

    Attributes:
        steps, changes: (M, P) of the M kept, oldest first.
    """

    def __init__(self, size: int, most: int, metric: Metric | None = None) -> None:
        self.most, self.metric = most, metric or Metric()
        nothing = torch.zeros(0, size, dtype=torch.float64)
        self._make(nothing, nothing, nothing.new_zeros(0, 2), nothing.new_zeros(min(FIRST, most), 0))

    def _make(self, steps: Tensor, changes: Tensor, numbers: Tensor, inverse: Tensor) -> None:
        """Take over M pairs (M, P), of each s^T y and γ, and the first M columns of room for a triangle, (C, M)."""
        room, self._kept = inverse.shape
        self._steps, self._changes = (steps.new_empty(room, steps.shape[1]) for _ in range(2))
        # Square, of the same width after a checkpoint: how rows lie in memory moves the last digits of products.
        self._numbers, self._inverse = steps.new_empty(room, 2), steps.new_zeros(room, room)
        self._inverse[:, : self._kept] = inverse
        for mine, given in ((self._steps, steps), (self._changes, changes), (self._numbers, numbers)):
            mine[: self._kept] = given

    def __len__(self) -> int:
        return self._kept

    @property
    def steps(self) -> Tensor:
        return self._steps[: self._kept]

    @property
    def changes(self) -> Tensor:
        return self._changes[: self._kept]

    def add(self, step: Tensor, change: Tensor) -> bool:
        """Remember one more, if its curvature s^T y says anything; whether it did."""
        curvature, length, turned = torch.stack([step @ change, step @ step, change @ change]).tolist()
        measured = float(change @ self.metric.times(change)) if self.metric.places else turned
        if not curvature > CURVED * math.sqrt(length * turned):
            return False
        if self._kept == len(self._inverse):
            self._make_room()
        kept = self._kept
        column = self._inverse[:, kept]
        torch.mv(self._inverse[:kept, :kept], self.steps @ change, out=column[:kept]).mul_(-1 / curvature)
        column[kept].fill_(1 / curvature)
        self._steps[kept].copy_(step)
        self._changes[kept].copy_(change)
        self._numbers[kept].copy_(torch.tensor([curvature, curvature / measured], dtype=torch.float64))
        self._kept += 1
        return True

    def _make_room(self) -> None:
        room = len(self._inverse)
        gone = max(1, room // PART) if room == self.most else 0
        inverse = self._inverse.new_zeros(min(self.most, 2 * room), room - gone)
        inverse[: room - gone] = self._inverse[gone:, gone:]  # of a triangle's end the inverse is that of the inverse
        self._make(self._steps[gone:], self._changes[gone:], self._numbers[gone:], inverse)

    def times(self, gradient: Tensor) -> Tensor:
        """The inverse Hessian times a gradient, (P,): B times it where nothing is remembered."""
        kept = self._kept
        if not kept:
            return self.metric.times(gradient)
        steps, changes, triangle = self.steps, self.changes, self._inverse[:kept, :kept]
        first = triangle @ (steps @ gradient)
        moved = self.metric.times(gradient - first @ changes) * self._numbers[kept - 1, 1]
        return moved + ((self._numbers[:kept, 0] * first - changes @ moved) @ triangle) @ steps

    def state(self) -> dict[str, Tensor]:
        """Everything, by name."""
        kept = self._kept
        found = {"steps": self.steps, "changes": self.changes, "numbers": self._numbers[:kept]}
        metric = {f"metric/{name}": value for name, value in self.metric.state().items()}
        return {**found, "inverse": self._inverse[:, :kept], **metric}

    def load(self, values: dict[str, Tensor]) -> None:
        """Take over what :meth:`state` gave, or what an earlier version's did, which kept R ("products")."""
        steps, changes = values["steps"], values["changes"]
        metric = {n.removeprefix("metric/"): v.clone() for n, v in values.items() if n.startswith("metric/")}
        self.metric = Metric.of(metric)
        if "products" not in values:
            return self._make(steps, changes, values["numbers"], values["inverse"])
        products, kept = values["products"].triu(), len(steps)
        curvatures = products.diagonal()
        numbers = torch.stack([curvatures, curvatures / changes.square().sum(-1)], -1)
        inverse = products.new_zeros(max(kept, min(FIRST, self.most)), kept)
        one = torch.eye(kept, dtype=products.dtype)
        inverse[:kept] = torch.linalg.solve_triangular(products, one, upper=True)
        return self._make(steps, changes, numbers, inverse)
