"""Hessians of auto_em's Newton steps: several rows by one pass back, or one by one where a pass knows no batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.automatic import newton


class Cosine(torch.autograd.Function):
    """A function whose pass back leaves torch, so that it knows no batches."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.cos()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return torch.from_numpy(-np.sin(ctx.saved_tensors[0].detach().numpy()) * g.numpy())


class Sine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g * Cosine.apply(ctx.saved_tensors[0])


@pytest.mark.parametrize("sine", [torch.sin, Sine.apply])
def test_a_hessian_is_the_one_written_out(sine: Callable[[Tensor], Tensor]) -> None:
    """Of sum sin(x a) e^b + sum a^3 b, in a of 20 numbers and b, more than are taken at once."""
    torch.manual_seed(0)
    x = torch.randn(7, 4, 5, dtype=torch.float64)
    a = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    found = newton._derivatives([a, b], lambda: (sine(x * a) * b.exp()).sum() + (a**3).sum() * b)
    assert found is not None
    value, gradient, hessian = found
    x, a, grown = x.reshape(7, 20), a.detach().reshape(20), b.detach().exp()
    waves = (x * a).sin().sum() * grown
    assert value == pytest.approx(float(waves + (a**3).sum() * 0.3), rel=1e-13)
    cross = (x * (x * a).cos()).sum(0) * grown
    expected = torch.zeros(21, 21, dtype=torch.float64)
    expected[:20, :20] = torch.diag(-(x.square() * (x * a).sin()).sum(0) * grown + 6 * a * 0.3)
    expected[:20, 20] = expected[20, :20] = cross + 3 * a**2
    expected[20, 20] = waves
    assert (gradient - torch.cat([cross + 3 * a**2 * 0.3, (waves + (a**3).sum())[None]])).abs().max() < 1e-12
    assert (hessian - expected).abs().max() < 1e-12
    assert hessian.shape[0] > newton.BATCH


def test_a_linear_function_has_no_curvature() -> None:
    p = torch.ones(3, dtype=torch.float64, requires_grad=True)
    found = newton._derivatives([p], lambda: 2.0 * p.sum())
    assert found is not None
    assert found[1].tolist() == [2.0] * 3
    assert found[2].tolist() == [[0.0] * 3] * 3
