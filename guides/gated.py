"""The loops of a gated recurrent network along few long sequences, compiled where numba is at hand.

A step of few sequences is so little work that calls of torch take most of its time, a hundred times the arithmetic's.
"""

from __future__ import annotations

import functools
import importlib.util
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["backwards", "forwards", "suits"]

#: Sequences a step, on average, up to which the loops are faster than torch's products; steps that are worth it.
FEW_A_STEP, MANY_STEPS = 4, 256


def suits(given: Tensor, edges: Sequence[int]) -> bool:
    """Whether the loops can and should be taken for frames (..., F, 3 H) of these steps."""
    steps = len(edges) - 1
    fits = given.dtype == torch.float64 and given.device.type == "cpu" and edges[-1] <= FEW_A_STEP * steps
    return fits and steps >= MANY_STEPS and importlib.util.find_spec("numba") is not None


def forwards(
    given: Tensor, start: Tensor, w: Tensor, b: Tensor, edges: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``own`` W h_{t-1} + b (F, 3 H), gates (F, 2 H), what is new (F, H) and hidden states (F, H).

    Args:
        given: (F, 3 H), contiguous. start: (H,). w: (3 H, H). b: (3 H,). Several at once have a dimension before.
    """
    *several, size = start.shape
    own, gates = torch.empty_like(given), given.new_empty(*given.shape[:-1], 2 * size)
    new, hidden = (given.new_empty(*given.shape[:-1], size) for _ in range(2))
    _loops()[0](*_arrays(several, given, start, w.mT.contiguous(), b, own, gates, new, hidden), np.array(edges))
    return own, gates, new, hidden


def backwards(total: Tensor, slopes: Tensor, update: Tensor, w: Tensor, edges: Sequence[int]) -> tuple[Tensor, Tensor]:
    """What each frame's products take of the gradient, (F, 3, H), and what is left before the first, (H,).

    Args:
        total: (F, H), contiguous, the gradient of the hidden states, to which what comes from later steps is added.
        slopes: (F, 3, H), of each product in its own state. update: (F, H). w: (3 H, H). Several as above.
    """
    several = total.shape[:-2]
    grads, carried = torch.empty_like(slopes), total.new_zeros(*several, total.shape[-1])
    _loops()[1](*_arrays(several, total, slopes, update.contiguous(), w.contiguous(), grads, carried), np.array(edges))
    return grads, carried


def _arrays(several: Sequence[int], *parts: Tensor) -> list[Any]:
    """As arrays that share their memory, with a dimension for several."""
    return [part.detach().numpy() if several else part.detach().numpy()[None] for part in parts]


def _forwards(given: Any, start: Any, w: Any, b: Any, own: Any, gates: Any, new: Any, hidden: Any, edges: Any) -> None:
    size = start.shape[1]
    earlier = np.empty(size)
    for c in range(given.shape[0]):
        for t in range(len(edges) - 1):
            for f in range(edges[t], edges[t + 1]):
                for i in range(size):
                    earlier[i] = hidden[c, edges[t - 1] + f - edges[t], i] if t else start[c, i]
                row = own[c, f]
                for j in range(3 * size):
                    row[j] = b[c, j]
                whole = size - size % 8
                for i in range(0, whole, 8):  # eight at once, as loads and stores of the row decide
                    for j in range(3 * size):
                        row[j] += (
                            earlier[i] * w[c, i, j]
                            + earlier[i + 1] * w[c, i + 1, j]
                            + earlier[i + 2] * w[c, i + 2, j]
                            + earlier[i + 3] * w[c, i + 3, j]
                            + earlier[i + 4] * w[c, i + 4, j]
                            + earlier[i + 5] * w[c, i + 5, j]
                            + earlier[i + 6] * w[c, i + 6, j]
                            + earlier[i + 7] * w[c, i + 7, j]
                        )
                for i in range(whole, size):
                    for j in range(3 * size):
                        row[j] += earlier[i] * w[c, i, j]
                for j in range(2 * size):
                    gates[c, f, j] = 1.0 / (1.0 + math.exp(-given[c, f, j] - row[j]))
                for j in range(size):
                    v = math.tanh(given[c, f, 2 * size + j] + gates[c, f, j] * row[2 * size + j])
                    new[c, f, j] = v
                    hidden[c, f, j] = v + gates[c, f, size + j] * (earlier[j] - v)


def _backwards(total: Any, slopes: Any, update: Any, w: Any, grads: Any, carried: Any, edges: Any) -> None:
    size = total.shape[2]
    here = np.empty(size)
    for c in range(total.shape[0]):
        for t in range(len(edges) - 2, -1, -1):
            for f in range(edges[t], edges[t + 1]):
                for j in range(size):
                    here[j] = total[c, f, j] * update[c, f, j]
                for p in range(3):
                    for j in range(size):
                        grads[c, f, p, j] = total[c, f, j] * slopes[c, f, p, j]
                    for i in range(0, size - size % 4, 4):
                        g0, g1 = grads[c, f, p, i], grads[c, f, p, i + 1]
                        g2, g3 = grads[c, f, p, i + 2], grads[c, f, p, i + 3]
                        k = p * size + i
                        for j in range(size):
                            here[j] += g0 * w[c, k, j] + g1 * w[c, k + 1, j] + g2 * w[c, k + 2, j] + g3 * w[c, k + 3, j]
                    for i in range(size - size % 4, size):
                        for j in range(size):
                            here[j] += grads[c, f, p, i] * w[c, p * size + i, j]
                for j in range(size):
                    if t:
                        total[c, edges[t - 1] + f - edges[t], j] += here[j]
                    else:
                        carried[c, j] += here[j]


@functools.lru_cache(maxsize=1)
def _loops() -> tuple[Callable[..., None], Callable[..., None]]:
    """Both compiled; kept for other processes, where that can be."""
    import numba

    options: dict[str, Any] = {"nogil": True, "fastmath": {"contract", "reassoc"}, "error_model": "numpy"}
    try:
        loops = [numba.njit(cache=True, **options)(loop) for loop in (_forwards, _backwards)]
        for loop, axes in zip(loops, ((3, 2, 3, 2, 3, 3, 3, 3), (3, 4, 3, 3, 4, 2)), strict=True):
            loop(*(np.zeros((1,) * number) for number in axes), np.zeros(1, dtype=np.int64))  # compiled, and kept
    except Exception:  # nowhere to keep them, or what is kept is damaged
        loops = [numba.njit(**options)(loop) for loop in (_forwards, _backwards)]
    return loops[0], loops[1]
