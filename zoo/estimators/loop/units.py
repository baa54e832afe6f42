"""Parameters as one vector, each measured in a unit of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.core.ranks import present

__all__ = ["Units"]


class Units:
    """All numbers of some parameters side by side, as u in p = start + scale u: zero where they are now.

    Attributes:
        size: P, how many there are.
        start, scale: (P,), float64 on the processor.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], scales: dict[int, Tensor]) -> None:
        self.parameters, self.sizes = parameters, [p.numel() for p in parameters]
        self.size = sum(self.sizes)
        self.start = flat(list(parameters))
        one = torch.ones(())
        self.scale = flat([scales.get(id(p), one).expand(p.shape) for p in parameters])

    @torch.no_grad()
    def put(self, u: Tensor) -> None:
        """Set the parameters to what u (P,) stands for."""
        values = torch.addcmul(self.start, self.scale, u).split(self.sizes)
        shaped = [value.view(p.shape) for p, value in zip(self.parameters, values, strict=True)]
        torch._foreach_copy_(list(self.parameters), shaped)

    def variables(self) -> Tensor:
        """The u (P,) that the parameters stand at."""
        return (flat(list(self.parameters)) - self.start) / self.scale

    def gradient(self, surrogate: Tensor) -> Tensor:
        """The derivatives of a number in u, (P,), float64."""
        grads = present().averaged(
            lambda: torch.autograd.grad(surrogate, self.parameters, allow_unused=True), self.parameters
        )
        kept = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, grads, strict=True)]
        return flat(kept) * self.scale


def flat(values: Sequence[Tensor]) -> Tensor:
    """Tensors side by side, (P,), float64 on the processor."""
    pieces = [v.detach().reshape(-1) for v in values]
    if len({v.device for v in pieces}) > 1:
        pieces = [v.cpu() for v in pieces]
    side_by_side = torch.cat(pieces) if pieces else torch.zeros(0)
    return side_by_side.to("cpu", torch.float64)
