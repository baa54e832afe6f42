"""Loops over the time of packed sequences, with their gradients.

What a step must wait for is done in a loop. The rest, above all the gradients of weights, is one product of matrices
before or after it: the cost is linear in the number of frames, which torch's recurrent networks on packed sequences
are not (each step's gradient there fills all frames with zeros).

Frames are those of a :class:`~guides.packing.Packing`: ``edges`` says where each step begins, and the sequences that
go on stand first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear, softplus

from guides import gated
from guides.packing import Packing

__all__ = ["SMALLEST", "moments", "recur", "recur_both_ways", "walk"]

#: Below this a standard deviation is of no use to a float32 network.
SMALLEST = 1e-5


def recur(network: nn.GRU | nn.RNN, x: Tensor, start: Tensor, packing: Packing) -> Tensor:
    """Hidden states (F, H) of a network of one layer along frames (F, D), from ``start`` (H,)."""
    parameters: Any = network
    given = linear(x, parameters.weight_ih_l0, parameters.bias_ih_l0)
    kind = _Gated if isinstance(network, nn.GRU) else _Rectified
    found: Tensor = kind.apply(given, start, parameters.weight_hh_l0, parameters.bias_hh_l0, packing.edges)
    return found


def recur_both_ways(network: nn.GRU, x: Tensor, packing: Packing) -> Tensor:
    """Hidden states (F, 2 H) of a two-way network of one layer along frames (F, D), both ways at once, from zero."""
    from_x, from_hidden, bias_of_x, bias = zip(*network.all_weights, strict=True)  # each forwards, then backwards
    given = torch.stack([*map(linear, (x, packing.mirrored(x)), from_x, bias_of_x)])
    start, w, b = x.new_zeros(2, network.hidden_size), torch.stack(from_hidden), torch.stack(bias)
    hidden: Tensor = _Gated.apply(given, start, w, b, packing.edges)
    return torch.cat([hidden[0], packing.mirrored(hidden[1])], -1)


def walk(given: Tensor, noise: Tensor, start: Tensor, first: nn.Linear, second: nn.Linear, packing: Packing) -> Any:
    """z_t = loc + scale noise_t, with (loc, scale) read off o_t = V (tanh(W z_{t-1} + b) + given_t) / 2 + c.

    Args:
        start: z_0, (L,). first: W and b, from L to H. second: V and c, from H to 2 L.

    Shapes:
        given: (F, H). noise: (F, S, L). Returns z (F, S, L) and o (F, S, 2 L).
    """
    return _Walk.apply(given, noise, start, first.weight, first.bias, second.weight, second.bias, packing.edges)


def moments(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, each (..., L), of what a layer put out, (..., 2 L)."""
    loc, raw = outputs.chunk(2, -1)
    return loc, softplus(raw) + SMALLEST


def _earlier(values: Tensor, start: Tensor, edges: Sequence[int]) -> Tensor:
    """What stands one step before each row of values (M, H); ``start`` (H,) before the first."""
    sizes = [last - first for first, last in pairwise(edges)]
    if sizes[0] == sizes[-1]:
        goes_on = [values.narrow(-2, 0, edges[-2])]
    else:
        goes_on = [values.narrow(-2, first, size) for first, size in zip(edges, sizes[1:], strict=False)]
    return torch.cat([start.unsqueeze(-2).expand(*start.shape[:-1], sizes[0], -1), *goes_on], -2)


class _Rectified(torch.autograd.Function):
    """h_t = relu(given_t + W h_{t-1} + b)."""

    @staticmethod
    def forward(ctx: Any, given: Tensor, start: Tensor, w: Tensor, b: Tensor, edges: Sequence[int]) -> Tensor:
        hidden, fixed, w_t = torch.empty_like(given), given + b, w.mT
        earlier = start.expand(edges[1], -1)
        for first, last in pairwise(edges):
            torch.addmm(fixed[first:last], earlier[: last - first], w_t, out=hidden[first:last]).relu_()
            earlier = hidden[first:last]
        ctx.save_for_backward(hidden, start, w)
        ctx.edges = edges
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, start, w = ctx.saved_tensors
        grads, on, carried = grad.clone(), (hidden > 0).to(grad), grad.new_zeros(0, len(w))
        for first, last in reversed([*pairwise(ctx.edges)]):
            grads[first : first + len(carried)] += carried
            grads[first:last] *= on[first:last]
            carried = grads[first:last] @ w
        return grads, carried.sum(0), grads.mT @ _earlier(hidden, start, ctx.edges), grads.sum(0), None


class _Gated(torch.autograd.Function):
    """torch's GRU: r, u = sigmoid(..), n = tanh(given_n + r (W_n h_{t-1} + b_n)), h_t = (1 - u) n + u h_{t-1}.

    Several at once have a dimension before all others.
    """

    @staticmethod
    def forward(ctx: Any, given: Tensor, start: Tensor, w: Tensor, b: Tensor, edges: Sequence[int]) -> Tensor:
        size, w_t, product = start.shape[-1], w.mT, torch.addmm if w.dim() == 2 else torch.baddbmm
        given = given.contiguous()
        ctx.edges, ctx.looped = edges, gated.suits(given, edges)
        if ctx.looped:
            own, gates, new, hidden = gated.forwards(given, start, w, b, edges)
            ctx.save_for_backward(own.narrow(-1, 2 * size, size), gates, new, hidden, start, w)
            return hidden
        own, gates = torch.empty_like(given), given.new_empty(*given.shape[:-1], 2 * size)
        new, hidden = (given.new_empty(*given.shape[:-1], size) for _ in range(2))
        sizes = [last - first for first, last in pairwise(edges)]
        b, earlier = b.unsqueeze(-2), start.unsqueeze(-2).expand(*start.shape[:-1], sizes[0], size)
        steps = (t.split(sizes, -2) for t in (given, own, gates, new, hidden))
        for given_t, own_t, gates_t, new_t, hidden_t in zip(*steps, strict=True):
            earlier = earlier.narrow(-2, 0, hidden_t.shape[-2])
            product(b, earlier, w_t, out=own_t)
            torch.add(given_t.narrow(-1, 0, 2 * size), own_t.narrow(-1, 0, 2 * size), out=gates_t).sigmoid_()
            reset, update = gates_t.chunk(2, -1)
            last = given_t.narrow(-1, 2 * size, size), own_t.narrow(-1, 2 * size, size)
            torch.addcmul(last[0], reset, last[1], out=new_t).tanh_()
            torch.lerp(new_t, earlier, update, out=hidden_t)
            earlier = hidden_t
        ctx.save_for_backward(own.narrow(-1, 2 * size, size), gates, new, hidden, start, w)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        own, gates, new, hidden, start, w = ctx.saved_tensors
        product = torch.addmm if w.dim() == 2 else torch.baddbmm
        sizes = [last - first for first, last in pairwise(ctx.edges)]
        reset, update = gates.chunk(2, -1)
        before = _earlier(hidden, start, ctx.edges)
        of_new = (1 - update) * (1 - new.square())
        slopes = torch.cat(
            [of_new * own * reset * (1 - reset), (before - new) * update * (1 - update), of_new * reset], -1
        ).unflatten(-1, (3, -1))  # of the three products W h + b in h_t
        total = grad.clone(memory_format=torch.contiguous_format)
        if ctx.looped:
            grads, carried = gated.backwards(total, slopes, update, w, ctx.edges)
            return _Gated.shared(grads.flatten(-2), total, of_new, before, carried)
        grads = torch.empty_like(slopes)
        carried = total.narrow(-2, 0, 0)
        steps = (t.split(sizes, -2) for t in (total, update))
        inner = zip(*steps, *(t.split(sizes, -3) for t in (slopes, grads)), strict=True)
        for total_t, update_t, slopes_t, grads_t in reversed([*inner]):
            total_t.narrow(-2, 0, carried.shape[-2]).add_(carried)
            torch.mul(total_t.unsqueeze(-2), slopes_t, out=grads_t)
            carried = product(total_t * update_t, grads_t.flatten(-2), w)
        return _Gated.shared(grads.flatten(-2), total, of_new, before, carried.sum(-2))

    @staticmethod
    def shared(
        grads: Tensor, total: Tensor, of_new: Tensor, before: Tensor, of_start: Tensor
    ) -> tuple[Tensor | None, ...]:
        """Gradients of all arguments, from those of the three products in each frame."""
        of_given = torch.cat([grads[..., : 2 * before.shape[-1]], total * of_new], -1)
        return of_given, of_start, grads.mT @ before, grads.sum(-2), None


class _Walk(torch.autograd.Function):
    """:func:`walk`."""

    @staticmethod
    def forward(
        ctx: Any,
        given: Tensor,
        noise: Tensor,
        start: Tensor,
        w: Tensor,
        b: Tensor,
        v: Tensor,
        c: Tensor,
        edges: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        frames, draws, size = noise.shape
        edges, noise = [edge * draws for edge in edges], noise.reshape(frames * draws, size)
        given = given if draws == 1 else given.repeat_interleave(draws, 0)
        hidden, both = torch.empty_like(given), torch.empty_like(given)
        outputs, z = noise.new_empty(len(noise), 2 * size), torch.empty_like(noise)
        earlier, w_t, v_t = start.expand(edges[1], size), w.mT, 0.5 * v.mT
        for first, last in pairwise(edges):
            here = slice(first, last)
            torch.addmm(b, earlier[: last - first], w_t, out=hidden[here]).tanh_()
            torch.add(hidden[here], given[here], out=both[here])
            torch.addmm(c, both[here], v_t, out=outputs[here])
            loc, scale = moments(outputs[here])
            torch.addcmul(loc, scale, noise[here], out=z[here])
            earlier = z[here]
        ctx.save_for_backward(noise, start, w, v, hidden, both, outputs, z)
        ctx.edges, ctx.draws = edges, draws
        return z.view(frames, draws, size), outputs.view(frames, draws, 2 * size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_z: Tensor, of_outputs: Tensor) -> tuple[Tensor | None, ...]:
        noise, start, w, v, hidden, both, outputs, z = ctx.saved_tensors
        edges, draws, size = ctx.edges, ctx.draws, noise.shape[-1]
        total, grads = of_z.reshape(noise.shape).clone(), of_outputs.reshape(outputs.shape).clone()
        steep = noise * outputs[:, size:].sigmoid()  # slope of z in what the scale is the softplus of
        slopes, half = 1 - hidden.square(), 0.5 * v
        of_both, inner = torch.empty_like(hidden), torch.empty_like(hidden)
        carried = noise.new_zeros(0, size)
        for first, last in reversed([*pairwise(edges)]):
            here = slice(first, last)
            total[first : first + len(carried)] += carried
            grads[here, :size] += total[here]
            grads[here, size:].addcmul_(total[here], steep[here])
            torch.mm(grads[here], half, out=of_both[here])
            torch.mul(of_both[here], slopes[here], out=inner[here])
            carried = inner[here] @ w
        return (
            of_both if draws == 1 else of_both.view(-1, draws, len(w)).sum(1),
            None,
            carried.sum(0),
            inner.mT @ _earlier(z, start, edges),
            inner.sum(0),
            0.5 * (grads.mT @ both),
            grads.sum(0),
            None,
        )
