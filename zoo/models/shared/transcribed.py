"""Sequences of frames and what they spell: checks of both, beside each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.core.data import Fields
from zoo.core.places import sequence_name
from zoo.core.sequences import inside
from zoo.errors import ZooError
from zoo.structures.decoding import frames_needed

__all__ = ["FIELDS", "frames", "symbols"]

#: Of a model of symbols given frames.
FIELDS = Fields(observed=("y", "target_lengths"), given=("x", "lengths"))


def frames(data: dict[str, Any], num_features: int, who: str) -> dict[str, Tensor]:
    """``x`` (N, T, D) and ``lengths`` (N,), by default all T, checked; zero beyond the lengths.

    Raises:
        ZooError: another shape, no frame, lengths that do not fit, what is not finite within them (which item).
    """
    x = data.get("x")
    if not isinstance(x, Tensor) or x.dim() != 3 or x.shape[-1] != num_features or 0 in x.shape:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ if x is not None else "no x"
        raise ZooError(
            f"{who}: x expected shape (N, T, {num_features}), frames of each sequence, got {got}. Stack them."
        )
    n, t = x.shape[:2]
    lengths = _whole(data.get("lengths"), "lengths", n, who)
    lengths = torch.full((n,), t, device=x.device) if lengths is None else lengths
    bad = (lengths < 1) | (lengths > t)
    if bad.any():
        raise ZooError(
            f"{who}: lengths expected from 1 to {t}, got {int(lengths[bad][0])} for {_item(bad)}. "
            "Correct it, or drop that sequence."
        )
    x = x.masked_fill(~inside(x, lengths).unsqueeze(-1), 0.0)
    wrong = ~x.isfinite().all(-1).all(-1)
    if wrong.any():
        raise ZooError(
            f"{who}: x expected finite numbers, got NaN or infinite ones in {_item(wrong)}. Drop or fill them."
        )
    return {"x": x, "lengths": lengths}


def symbols(data: dict[str, Any], lengths: Tensor, num_symbols: int, who: str) -> dict[str, Tensor]:
    """``y`` (N, U) and ``target_lengths`` (N,), by default up to the padding of zeros, checked; zero beyond these.

    Raises:
        ZooError: another shape, no symbols, a blank among them, or more than the frames can spell (which item).
    """
    y, n = data.get("y"), len(lengths)
    if not isinstance(y, Tensor) or y.dim() != 2 or len(y) != n:
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__ if y is not None else "no y"
        raise ZooError(
            f"{who}: y expected shape ({n}, U), symbols of each sequence padded with 0, got {got}. Pad them."
        )
    places = torch.arange(1, y.shape[1] + 1, device=y.device)
    sizes = _whole(data.get("target_lengths"), "target_lengths", n, who)
    if sizes is None:
        sizes = (places * (y != 0)).amax(-1, keepdim=True).reshape(n) if y.shape[1] else lengths * 0
    bad = (sizes < 0) | (sizes > y.shape[1])
    if bad.any():
        raise ZooError(
            f"{who}: target_lengths expected from 0 to {y.shape[1]}, got {int(sizes[bad][0])} for {_item(bad)}. "
            "Correct it, or pad y."
        )
    spelt = places <= sizes.unsqueeze(-1)
    blank = (y == 0) & spelt
    if blank.any():
        raise ZooError(
            f"{who}: y expected symbols from 1 to {num_symbols}, got 0, the blank, inside the target of "
            f"{_item(blank.any(-1))}. Leave blanks out: the model puts them in."
        )
    strange = spelt & ~((y >= 1) & (y <= num_symbols) & (y == y.round()))
    if strange.any():
        raise ZooError(
            f"{who}: y expected symbols from 1 to {num_symbols}, got {float(y[strange][0]):g} in "
            f"{_item(strange.any(-1))}. Recode it, or pass num_symbols to match."
        )
    y = y.masked_fill(~spelt, 0).to(torch.int64)
    need = frames_needed(y, sizes)
    long = need > lengths
    if long.any():
        raise ZooError(
            f"{who}: {_item(long)} expected at least {int(need[long][0])} frames for its {int(sizes[long][0])} symbols "
            f"(equal neighbours need a blank between), got {int(lengths[long][0])}. Drop it, or use a shorter step."
        )
    return {"y": y, "target_lengths": sizes}


def _whole(values: Any, name: str, n: int, who: str) -> Tensor | None:
    """Numbers (N,) as integers."""
    if values is None:
        return None
    if not isinstance(values, Tensor) or values.shape != (n,):
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ZooError(f"{who}: {name} expected shape ({n},), one a sequence, got {got}. Give one for each row of x.")
    bad = values != values.round()
    if bad.any():
        raise ZooError(
            f"{who}: {name} expected whole numbers, got {float(values[bad][0]):g} for {_item(bad)}. Round it."
        )
    return values.to(torch.int64)


def _item(bad: Tensor) -> str:
    """The first item for which ``bad`` (N,) is true."""
    return sequence_name(int(bad.nonzero()[0]))
