"""Units coupled across two sides and not within: free energies, their derivatives and a Gibbs sweep, of many at once.

    F(u) = -(u' v + Σ_h ln(1 + exp(a_h))) + (u' W) λ,   a = (u - μ)' W + c

with W (D, H), shifts v (D,) and c (H,), offsets μ (D,) and λ (H,). Its derivative in W is μ p' - u (p - λ)', p =
sigmoid(a), so that any weighted sum of derivatives is one product of matrices: μ is one row more below the states.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from zoo.core.once import once

__all__ = ["Sides", "drawn_bits", "free_energies"]


class Sides(NamedTuple):
    """What stands between the two sides: W (D, H), v (D,), c (H,), μ (D,), λ (H,)."""

    weights: Tensor
    visible_shift: Tensor
    hidden_shift: Tensor
    visible_offset: Tensor
    hidden_offset: Tensor


def drawn_bits(logits: Tensor) -> Tensor:
    """Independent 0 or 1, each 1 with probability sigmoid(logit), by torch's generator; no gradient.

    A comparison of uniforms: a fraction of the time of ``torch.bernoulli``, which draws in double precision.
    """
    return _below(logits.sigmoid())


def _below(probs: Tensor) -> Tensor:
    u = torch.rand_like(probs)
    return torch.lt(u, probs, out=u)


def free_energies(x: Tensor, chains: Tensor, sides: Sides, sweep: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """F of data (N, D) and of chains (S, D), (N,) and (S,) nats, differentiable once; and chains one sweep on.

    Args:
        sweep: whether chains are moved, to (S, D), by hidden units given them and visible ones, 0 or 1, given those;
            else they come back as (0, D).
    """
    of_data, of_chains, moved = _FreeEnergies.apply(*sides, x, chains, sweep)
    return of_data, of_chains, moved


class _FreeEnergies(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, w: Tensor, v: Tensor, c: Tensor, mu: Tensor, offset: Tensor, x: Tensor, chains: Tensor, sweep: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.cat([x, chains, mu.unsqueeze(0)])
        table = rows @ w
        products, shift = table[:-1], c - table[-1]
        linear = rows[:-1] @ v - products @ offset
        inputs = products.add_(shift)
        value = -linear - softplus(inputs).sum(-1)
        moved = chains[:0]
        p = inputs.sigmoid_()
        if sweep:
            hidden = _below(p[len(x) :])
            moved = drawn_bits(torch.addmm(v, hidden.sub_(offset), w.mT))
        ctx.save_for_backward(rows, p, offset, w, v, c)
        ctx.mark_non_differentiable(moved)
        return value[: len(x)], value[len(x) :], moved

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        rows, p, offset, *inputs = ctx.saved_tensors
        g = torch.cat(grads[:2])
        of_hidden = g @ p
        factors = torch.cat([(offset - p).mul_(g.unsqueeze(-1)), of_hidden.unsqueeze(0)])
        found = rows.mT @ factors, -(g @ rows[:-1]), -of_hidden
        return (*once((g, *inputs), found), None, None, None, None, None)
