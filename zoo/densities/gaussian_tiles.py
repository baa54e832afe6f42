"""The E step of a Gaussian mixture and the sums for its M step in one compiled pass, a tile of rows at a time.

Sums over tiles are in float64, all within a tile is in float32 where that is asked for: half of the numbers and of the
time. It changes results as a change of every difference x - mu by a few parts in 10^8 would; responsibilities below
1e-28 are zero.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zoo.core.memory import PIECE_NUMBERS
from zoo.core.parallel import in_parallel, pieces
from zoo.densities.tile_kernels import compiled_tiles, tile_rows

__all__ = ["Sums", "sums"]

#: Features are padded by zeros to a multiple of it.
_BLOCK = 4
#: Slices of the data: their number depends on sizes alone, so that sums are the same whatever the number of threads,
#: and is large, so that a thread which comes late to its core is waited for no longer than a slice takes.
_MOST_SLICES, _FEWEST_SLICES, _LEAST_ROWS = 64, 4, 4096


@dataclass(frozen=True)
class Sums:
    """What the rows add up to, with r the responsibilities and a the points that second moments are taken about.

    Shapes:
        log_likelihood, objective: (). count: sum of r, (K,). first: sum of r (x - a), (K, D).
        second: sum of r (x - a)(x - a)^T, (K, D, D), or its diagonal, (K, D).
        left_out: ranges of rows, in none of the sums, where a density is no number above zero.
    """

    log_likelihood: Tensor
    objective: Tensor
    count: Tensor
    first: Tensor
    second: Tensor
    left_out: list[tuple[int, int]]


def sums(
    x: Tensor, dtype: torch.dtype, heights: Tensor, whitener: Tensor, means: Tensor, about: Tensor, hard: bool,
    counts: Tensor | None, labels: Tensor | None,
) -> Sums:  # fmt: skip
    """One pass over the rows.

    Args:
        x: (N, D), on the CPU. dtype: of the arithmetic within a tile, float64 or float32.
        heights: ln w_k N(mu_k; mu_k, Sigma_k), (K,).
        whitener: inverses of the Cholesky factors, (K, D, D), or of standard deviations, (K, D).
        means: (K, D), float64. about: (K, D), the points that moments are taken about, numbers of the dtype.
        hard: each row counts wholly for its most probable component, the first of equals.
        counts: (N,), how often each row counts. labels: (N,), each row's component, -1 where it is not known.
    """
    kernel = compiled_tiles()
    components, features = means.shape
    diagonal = whitener.dim() == 2
    tile = tile_rows(diagonal, torch.finfo(dtype).bits)
    size = -(-features // _BLOCK) * _BLOCK
    flat = whitener.unsqueeze(1) if diagonal else whitener
    height, width = (1, size) if diagonal else (size, size)
    # What the dtype leaves of the means is whitened beforehand: nothing, in float64.
    rest = (means.to(dtype).double() - means).unsqueeze(-1)
    rest = whitener * rest.squeeze(-1) if diagonal else (whitener @ rest).squeeze(-1)
    shift = float(heights.amax())  # so that float32 has digits for their differences alone
    shift = shift if math.isfinite(shift) else 0.0
    most = PIECE_NUMBERS // (components * width * height)
    tiles = pieces(-(-len(x) // tile), max(_FEWEST_SLICES, min(_MOST_SLICES, most)), _LEAST_ROWS // tile)
    parts = [(begin * tile, min(end * tile, len(x))) for begin, end in tiles]
    whole = (
        (heights.double() - shift).to(dtype).contiguous().numpy(),
        shift,
        _padded(flat, (components, height, width), dtype),
        *(_padded(values, (components, size), dtype) for values in (means, rest, about)),
    )
    rows = x.detach()

    def add(start: int, stop: int) -> tuple[Any, ...]:
        values = rows[start:stop].to(dtype).contiguous().numpy()
        beside = (
            np.zeros(0) if counts is None else counts[start:stop].double().contiguous().numpy(),
            np.zeros(0, dtype=np.int64) if labels is None else labels[start:stop].long().contiguous().numpy(),
        )
        found = (
            np.zeros(2),
            np.zeros(components),
            np.zeros((components, size)),
            np.zeros((components, height, width)),
            np.zeros(-(-(stop - start) // tile), dtype=np.bool_),
        )
        kernel(values, *beside, *whole, hard, *found)
        return found

    slices = in_parallel([functools.partial(add, *part) for part in parts], pure=True)
    total, each, first, second = (torch.from_numpy(sum(found[i] for found in slices)) for i in range(4))
    second = second[:, 0, :features] if diagonal else second[:, :features, :features].tril()
    if not diagonal:
        second = second + second.tril(-1).mT
    left_out = _ranges([found[4] for found in slices], parts, tile)
    return Sums(total[0], total[1], each, first[:, :features], second, left_out)


def _padded(values: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Any:
    """Values in a dtype, with zeros beyond them."""
    padded = torch.zeros(shape, dtype=dtype)
    padded[tuple(slice(size) for size in values.shape)] = values
    return padded.numpy()


def _ranges(odd: list[Any], parts: list[tuple[int, int]], rows: int) -> list[tuple[int, int]]:
    """The rows of marked tiles, neighbours joined."""
    ranges: list[tuple[int, int]] = []
    for marks, (start, stop) in zip(odd, parts, strict=True):
        for tile in np.flatnonzero(marks).tolist() if marks.any() else ():
            low, high = start + tile * rows, min(start + (tile + 1) * rows, stop)
            if ranges and ranges[-1][1] == low:
                low = ranges.pop()[0]
            ranges.append((low, high))
    return ranges
