"""Derivatives that are taken once: what is written by hand raises where it would be silently wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["once"]


def once(inputs: Sequence[Tensor], found: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """First derivatives, found in the backward pass of a function of some inputs, as what cannot be differentiated
    again; as they are where no graph is made."""
    if not torch.is_grad_enabled():  # no create_graph
        return tuple(found)
    passed: tuple[Tensor | None, ...] = _Once.apply(len(inputs), *inputs, *found)
    return passed


class _Once(torch.autograd.Function):
    """Passes first derivatives on as functions of all inputs, and raises when they are differentiated.

    torch's ``once_differentiable`` would leave them constants where the loss is linear in the value: a gradient
    penalty would then be silently wrong.
    """

    @staticmethod
    def forward(ctx: Any, inputs: int, *arguments: Tensor | None) -> tuple[Tensor | None, ...]:
        return tuple(None if g is None else g.view_as(g) for g in arguments[inputs:])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "log_partition can be differentiated once only, and so can what stands beside it; for second derivatives "
            "use torch.logsumexp step by step, or finite differences of the gradient."
        )
