"""Units of two values going down in energy: one after another, or all at once, to the value of the lower energy.

A unit that moves alone, under symmetric couplings with a zero diagonal, takes the energy down, so that such a descent
ends (Hopfield 1982, "Neural networks and physical systems with emergent collective computational abilities"). All at
once they end in one state or swing between two (Goles-Chacc, Fogelman-Soulié & Pellegrin 1985, "Decreasing energy
functions as a tool for studying threshold networks").
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zoo.core.parallel import compiled, has_numba, in_parallel, pieces
from zoo.densities.ising import Units

__all__ = ["Descent", "descend", "move_at_once"]

#: A field is taken for zero, and its unit stays, below so many roundings of the sum of its couplings' sizes.
ROUNDINGS = 64
#: States below which a second thread is not worth while.
LEAST_STATES = 8


class Descent(NamedTuple):
    """Where states have come to, (..., n), and whether each is stable: no unit would move, (...,)."""

    state: Tensor
    stable: Tensor


def descend(state: Tensor, units: Units, order: Tensor | None = None, max_sweeps: int = 1000) -> Descent:
    """Every unit in turn to the value of the lower energy given all others, again and again until none moves; where
    both values are alike it stays.

    The field at every unit is kept beside the state and changes only when a unit moves: a sweep without a move costs n.

    Args:
        state: (..., n). order: the units that move, in their turn, numbers; None takes all from the first to the last.
    """
    w, b, low, high = _detached(units, state)
    shape, state = state.shape, state.reshape(-1, len(b)).clone(memory_format=torch.contiguous_format)
    order = torch.arange(len(b), device=state.device) if order is None else order
    margin, field = _margin(units, state), torch.addmm(b, state, w)
    last = torch.zeros(len(state), dtype=torch.long, device=state.device)
    if state.device.type == "cpu" and has_numba():
        arrays = [t.contiguous().numpy() for t in (state, field, w, margin, order, last)]
        kernel = _kernel()
        in_parallel(
            [
                functools.partial(kernel, *arrays, low, high, max_sweeps, *part)
                for part in pieces(len(state), 16, LEAST_STATES)
            ]
        )
    else:
        for _ in range(max_sweeps):
            last.zero_()
            for i in order.tolist():
                step = _toward(state[:, i], field[:, i], margin[i], low, high) - state[:, i]
                state[:, i] += step
                field += step.unsqueeze(-1) * w[i]
                last += step != 0
            if not bool(last.any()):
                break
    return Descent(state.reshape(shape), (last == 0).reshape(shape[:-1]))


def move_at_once(state: Tensor, units: Units, max_steps: int = 1000) -> Descent:
    """All units at once to the value that their field has, again and again, until a state comes back: it is stable, or
    one of two that follow each other for ever."""
    w, b, low, high = _detached(units, state)
    shape, state = state.shape, state.reshape(-1, len(b))
    margin, before = _margin(units, state), torch.full_like(state, torch.nan)
    stable = torch.zeros(len(state), dtype=torch.bool, device=state.device)
    going, state = torch.arange(len(state), device=state.device), state.clone()
    for _ in range(max_steps):
        now = state[going]
        new = _toward(now, torch.addmm(b, now, w), margin, low, high)
        still, swings = (new == now).all(-1), (new == before[going]).all(-1)
        stable[going[still]] = True
        before[going], state[going] = now, new
        going = going[~(still | swings)]
        if not len(going):
            break
    return Descent(state.reshape(shape), stable.reshape(shape[:-1]))


def _detached(units: Units, like: Tensor) -> Units:
    return Units(units.couplings.detach().to(like), units.biases.detach().to(like), units.low, units.high)


def _margin(units: Units, like: Tensor) -> Tensor:
    """Up to where a field at each unit may be rounding, (n,)."""
    w, b, low, high = _detached(units, like)
    return ROUNDINGS * torch.finfo(like.dtype).eps * (w.abs().sum(1) * max(abs(low), abs(high)) + b.abs())


def _toward(old: Tensor, field: Tensor, margin: Tensor, low: float, high: float) -> Tensor:
    return torch.where(field.abs() <= margin, old, torch.where(field > 0, high, low).to(old.dtype))


def _descent(
    state: Any, field: Any, w: Any, margin: Any, order: Any, last: Any, low: float, high: float, sweeps: int,
    start: int, stop: int,
) -> None:  # fmt: skip
    for s in range(start, stop):
        row, h = state[s], field[s]
        for _ in range(sweeps):
            moves = 0
            for i in order:
                new = row[i]
                if h[i] > margin[i]:
                    new = high
                elif h[i] < -margin[i]:
                    new = low
                if new != row[i]:
                    step = new - row[i]
                    row[i] = new
                    moves += 1
                    for j in range(len(h)):
                        h[j] += step * w[i, j]
            last[s] = moves
            if moves == 0:
                break


@functools.cache
def _kernel() -> Any:
    compiled(globals(), ["_descent"])
    return _descent
