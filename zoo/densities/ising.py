"""Units of two values under symmetric couplings: energies, the sum over all their states, and sweeps through them.

    p(s) = exp(-E(s)) / Z,    E(s) = -(s' W s / 2 + b' s),    each s_i is ``low`` or ``high``

W is symmetric with a zero diagonal. An inverse temperature is a factor of W and b, which the caller puts there. MacKay
(2003), Information Theory, Inference, and Learning Algorithms, chapters 31, 33 and 43.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.core.once import once
from zoo.core.parallel import compiled, has_numba, in_parallel, pieces

__all__ = [
    "MOST_UNITS",
    "Units",
    "all_states",
    "colours",
    "draws",
    "energy",
    "log_partition",
    "mean_field",
    "moments",
    "picked",
    "sweep",
]

#: The most units whose 2^n states are summed one by one: sixteen million states, a second or two.
MOST_UNITS = 24
#: States of the units that stand side by side in one table, and rows of it at a time.
SIDE_UNITS = 12
ROWS = 256
#: Colours up to which a sweep goes colour by colour, each at once; beyond, unit by unit in a compiled loop.
FEW_COLOURS = 8
#: Products of a unit with a coupling below which a second thread is not worth while.
PIECE = 1 << 19


class Units(NamedTuple):
    """What is to be summed or drawn: W (n, n), b (n,), and the two values."""

    couplings: Tensor
    biases: Tensor
    low: float = -1.0
    high: float = 1.0


def energy(state: Tensor, units: Units) -> Tensor:
    """E(s) of states (..., n), nats, (...,)."""
    return -(0.5 * ((state @ units.couplings) * state).sum(-1) + state @ units.biases)


def all_states(num_units: int, low: float, high: float, like: Tensor) -> Tensor:
    """Every state of some units, (2^n, n); the first unit changes slowest."""
    codes = torch.arange(2**num_units, device=like.device).unsqueeze(-1)
    bits = (codes >> torch.arange(num_units - 1, -1, -1, device=like.device)) & 1
    return low + (high - low) * bits.to(like.dtype)


# The exact sum -------------------------------------------------------------------------------------------------------


class _Halves(NamedTuple):
    """Units in two sets, a and b: their states, energies within each, and couplings between."""

    a: Tensor
    b: Tensor
    within_a: Tensor
    within_b: Tensor
    between: Tensor

    @classmethod
    def of(cls, units: Units) -> _Halves:
        w, bias, low, high = units
        p = max(0, len(bias) - SIDE_UNITS)
        a, b = all_states(p, low, high, w), all_states(len(bias) - p, low, high, w)
        return cls(
            a,
            b,
            -energy(a, Units(w[:p, :p], bias[:p])),
            -energy(b, Units(w[p:, p:], bias[p:])),
            w[:p, p:],
        )

    def table(self, rows: slice) -> Tensor:
        """-E of some states of a, each with all of b."""
        return self.within_a[rows].unsqueeze(-1) + self.within_b + (self.a[rows] @ self.between) @ self.b.mT


def moments(units: Units) -> tuple[Tensor, Tensor, Tensor]:
    """ln Z (), E[s] (n,) and E[s s'] (n, n), by the sum over all 2^n states, in bounded memory; no graph is kept.

    A state is one of the last twelve units beside one of the others: their energies are a matrix product, and so are
    the moments.
    """
    halves = _Halves.of(Units(units.couplings.detach().double(), units.biases.detach().double(), *units[2:]))
    a, b = halves.a, halves.b
    p, top = a.shape[1], torch.tensor(-torch.inf, dtype=a.dtype, device=a.device)
    mass_b, cross = b.new_zeros(len(b)), b.new_zeros(p, len(b))
    first, second = a.new_zeros(p), a.new_zeros(p, p)
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        table = halves.table(rows)
        new = torch.maximum(top, table.max())
        shrink = (top - new).exp()
        for total in (mass_b, cross, first, second):
            total *= shrink
        top, weight, some = new, (table - new).exp_(), a[rows]
        mass_a = weight.sum(1)
        mass_b += weight.sum(0)
        cross += some.mT @ weight
        first += some.mT @ mass_a
        second += (some * mass_a.unsqueeze(-1)).mT @ some
    total = mass_b.sum()
    apart = (b * mass_b.unsqueeze(-1)).mT @ b
    corner = cross @ b
    pairs = torch.cat([torch.cat([second, corner], 1), torch.cat([corner.mT, apart], 1)])
    return top + total.log(), torch.cat([first, b.mT @ mass_b]) / total, pairs / total


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, couplings: Tensor, biases: Tensor, low: float, high: float) -> Tensor:
        value, mean, pairs = moments(Units(couplings, biases, low, high))
        ctx.save_for_backward((0.5 * pairs).fill_diagonal_(0.0).to(couplings), mean.to(biases), couplings, biases)
        return value.to(biases)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        pairs, mean, *inputs = ctx.saved_tensors
        return (*once((*grads, *inputs), (grads[0] * pairs, grads[0] * mean)), None, None)


def log_partition(units: Units) -> Tensor:
    """ln Z, nats, (), of at most :data:`MOST_UNITS` units; its gradient is the moments, and of more than twelve units
    it has no second derivatives."""
    if len(units.biases) <= SIDE_UNITS:
        return (-energy(all_states(len(units.biases), units.low, units.high, units.biases), units)).logsumexp(0)
    value: Tensor = _LogPartition.apply(*units)
    return value


def draws(units: Units, num: int) -> Tensor:
    """Independent exact draws, (num, n), of at most :data:`MOST_UNITS` units, by torch's generator."""
    halves = _Halves.of(Units(units.couplings.detach().double(), units.biases.detach().double(), *units[2:]))
    a, b = halves.a, halves.b
    parts = [slice(start, start + ROWS) for start in range(0, len(a), ROWS)]
    mass_a = torch.cat([halves.table(rows).logsumexp(1) for rows in parts]).softmax(0)
    which = picked(mass_a, num)
    state = a.new_empty(num, a.shape[1] + b.shape[1])
    for drawn in torch.arange(num, device=a.device).split(ROWS):
        own = which[drawn]
        table = halves.within_b + (a[own] @ halves.between) @ halves.b.mT
        second = torch.multinomial(table.softmax(1), 1).squeeze(1)
        state[drawn] = torch.cat([a[own], b[second]], 1)
    return state.to(units.biases.dtype)


def picked(probs: Tensor, num: int) -> Tensor:
    """Independent draws from probabilities (M,), (num,): by their running sum, as multinomial tables are bounded."""
    ends = probs.cumsum(0)
    u = torch.rand(num, dtype=probs.dtype, device=probs.device) * ends[-1]
    return torch.searchsorted(ends, u).clamp_max(len(probs) - 1)


# Sweeps --------------------------------------------------------------------------------------------------------------


def colours(couplings: Tensor) -> list[Tensor]:
    """Sets of units without couplings among each other, of the first colour that suits each in turn; all units are in
    one of them."""
    linked = (couplings.detach() != 0).cpu()
    colour = torch.full((len(linked),), -1)
    for unit in range(len(linked)):
        taken = set(colour[linked[unit]].tolist())
        colour[unit] = next(c for c in range(len(linked) + 1) if c not in taken)
    return [(colour == c).nonzero().flatten().to(couplings.device) for c in range(int(colour.max()) + 1)]


def sweep(state: Tensor, units: Units, which: Tensor | None = None, blocks: list[Tensor] | None = None) -> Tensor:
    """Every unit in turn drawn given all others (Gibbs sampling), which leaves p in place; by torch's generator.

    Args:
        state: (S, n), chains.
        which: the units to draw, their numbers; None for all. The others stay as they are.
        blocks: sets of units without couplings among each other, to be drawn at once (:func:`colours`).
    """
    u = torch.rand(state.shape, dtype=state.dtype, device=state.device)
    return _through(state, units, u, which, blocks)


def _through(
    state: Tensor, units: Units, u: Tensor | None, which: Tensor | None = None, blocks: list[Tensor] | None = None
) -> Tensor:
    """Every unit in turn: drawn by uniform numbers (S, n), or set to its mean where there are none."""
    w, b, low, high = units
    w, b = w.detach().to(state), b.detach().to(state)
    state = state.clone(memory_format=torch.contiguous_format)
    order = torch.arange(len(b), device=state.device) if which is None else which
    if blocks is not None and len(blocks) <= FEW_COLOURS:
        chosen = set(order.tolist())
        sets = [block for block in blocks if len(block) and set(block.tolist()) <= chosen]
        if sum(map(len, sets)) == len(chosen):
            for block in sets:
                field = (high - low) * (state @ w[:, block] + b[block])
                state[:, block] = _new(field, None if u is None else u[:, block], low, high)
            return state
    if state.device.type == "cpu" and has_numba():
        arrays = [t.contiguous().numpy() for t in (w, b, state.new_empty(0, 0) if u is None else u, order)]
        kernel, target, least = _kernel(), state.numpy(), max(8, PIECE // len(b) ** 2)
        work = [
            functools.partial(kernel, target, *arrays, low, high, u is None, *part)
            for part in pieces(len(state), 16, least)
        ]
        in_parallel(work)
        return state
    for i in order.tolist():
        field = (high - low) * (state @ w[:, i] + b[i])
        state[:, i] = _new(field, None if u is None else u[:, i], low, high)
    return state


def _new(field: Tensor, u: Tensor | None, low: float, high: float) -> Tensor:
    if u is None:
        return low + (high - low) * field.sigmoid()
    return torch.where(u < field.sigmoid(), high, low).to(field.dtype)


def _pass(
    state: Any, w: Any, b: Any, u: Any, order: Any, low: float, high: float, mean: bool, start: int, stop: int
) -> None:
    units = len(b)
    for s in range(start, stop):
        row = state[s]
        for i in order:
            field = b[i]
            for j in range(units):
                field += w[i, j] * row[j]
            field *= high - low
            p = 1.0 / (1.0 + np.exp(-field))
            if mean:
                row[i] = low + (high - low) * p
            elif u[s, i] < p:
                row[i] = high
            else:
                row[i] = low


@functools.cache
def _kernel() -> Any:
    compiled(globals(), ["_pass"])
    return _pass


# The mean field ------------------------------------------------------------------------------------------------------


def mean_field(units: Units, num_starts: int = 20, max_iter: int = 500, tol: float = 1e-9) -> tuple[Tensor, Tensor]:
    """The best factorised q found, its means (n,), and the bound E_q[-E] + H(q) <= ln Z, nats, ().

    Coordinate ascent: each q_i is set to the best given the others, so that the bound never falls (MacKay 2003, section
    33.2). From several starts drawn by torch's generator; the best is kept. It is a bound at whatever q it stops.
    """
    w, b, low, high = units
    w, b = w.detach().double(), b.detach().double()
    exact = Units(w, b, low, high)
    state = low + (high - low) * torch.rand(num_starts, len(b), dtype=w.dtype, device=w.device)
    best = torch.full((num_starts,), -torch.inf, dtype=w.dtype, device=w.device)
    for _ in range(max_iter):
        state = _through(state, exact, None)
        p = (state - low) / (high - low)
        value = -energy(state, exact) - (torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)).sum(-1)
        if bool((value - best < tol).all()):
            break
        best = value
    top = int(value.argmax())
    return state[top].to(units.biases.dtype), value[top].to(units.biases.dtype)
