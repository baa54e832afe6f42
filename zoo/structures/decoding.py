"""From log-probabilities of symbols in frames to a string of symbols, no target given (Graves et al. 2006, 3.2).

A path of one symbol a frame spells what is left of it when repetitions are merged and then blanks removed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import ZooError

__all__ = ["best_path", "frames_needed", "padded", "prefix_beam", "spans", "spelled"]


def spelled(paths: Tensor, blank: int = 0) -> Tensor:
    """What paths (..., T) spell, (..., T) padded with ``blank`` at the end; -1 beyond the end of a path."""
    symbols = torch.where(paths < 0, blank, paths)
    before = torch.nn.functional.pad(symbols[..., :-1], (1, 0), value=blank)
    spoken = (symbols != blank) & (symbols != before)
    place = torch.where(spoken, spoken.cumsum(-1) - 1, paths.shape[-1])  # what is not spoken goes beyond the end
    room = symbols.new_full((*symbols.shape[:-1], symbols.shape[-1] + 1), blank)
    return room.scatter(-1, place, symbols)[..., :-1].masked_fill(
        torch.arange(paths.shape[-1], device=paths.device) >= spoken.sum(-1, keepdim=True), blank
    )


def spans(paths: Tensor, num_symbols: int, blank: int = 0) -> Tensor:
    """First and last frame of each symbol that paths (N, T) spell, from 0, (N, num_symbols, 2); -1 where there is none.

    A symbol lasts as long as it is repeated.
    """
    symbols = torch.where(paths < 0, blank, paths)
    before = torch.nn.functional.pad(symbols[:, :-1], (1, 0), value=blank)
    after = torch.nn.functional.pad(symbols[:, 1:], (0, 1), value=blank)
    found = symbols.new_full((len(paths), num_symbols, 2), -1)
    for end, edge in enumerate(((symbols != before), (symbols != after))):
        row, frame = (edge & (symbols != blank)).nonzero(as_tuple=True)
        place = (edge & (symbols != blank)).cumsum(-1)[row, frame] - 1
        found[row, place, end] = frame
    return found


def frames_needed(targets: Tensor, target_lengths: Tensor) -> Tensor:
    """The least number of frames that targets (N, U) can be spelled in, (N,): equal neighbours need a blank between."""
    equal = targets[:, 1:] == targets[:, :-1]
    inside = torch.arange(equal.shape[1], device=targets.device) + 1 < target_lengths.unsqueeze(-1)
    return target_lengths + (equal & inside).sum(-1)


def padded(strings: Sequence[Sequence[int]], width: int | None = None) -> Tensor:
    """Strings as one tensor (N, U), padded with 0; U is at least 1, and ``width`` where that is given."""
    width = max([1, *map(len, strings)]) if width is None else width
    return torch.tensor([[*string, *[0] * (width - len(string))] for string in strings], dtype=torch.int64)


def best_path(log_probs: Tensor, lengths: Tensor, blank: int = 0) -> Tensor:
    """The most probable path (N, T) by log_probs (N, T, V + 1), -1 beyond a length; :func:`spelled` is its string."""
    beyond = torch.arange(log_probs.shape[1], device=log_probs.device) >= lengths.unsqueeze(-1)
    return log_probs.argmax(-1).masked_fill(beyond, -1)


def prefix_beam(log_probs: Tensor, lengths: Tensor, width: int, blank: int = 0) -> list[tuple[list[int], float]]:
    """The most probable string of each item, and the log-probability of those of its paths that were followed.

    The search goes frame by frame and keeps the ``width`` likeliest beginnings of strings, each with the weight of its
    paths that end in a blank, and in a symbol. With a width of all strings it is exact.

    Args:
        log_probs: (N, T, V + 1), nats. lengths: (N,).

    Raises:
        ZooError: a width below 1.
    """
    if width < 1:
        raise ZooError(f"prefix_beam: width expected at least 1, got {width}. Take 8, say.")
    items = log_probs.detach().to("cpu", torch.float64)
    return [_searched(item[:n].tolist(), width, blank) for item, n in zip(items, lengths.tolist(), strict=True)]


def _searched(frames: list[list[float]], width: int, blank: int) -> tuple[list[int], float]:
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for frame in frames:
        ahead: dict[tuple[int, ...], list[float]] = {}
        for prefix, (in_blank, in_symbol) in beams.items():
            total = _added(in_blank, in_symbol)
            here = ahead.setdefault(prefix, [-math.inf, -math.inf])
            here[0] = _added(here[0], total + frame[blank])
            if prefix:
                here[1] = _added(here[1], in_symbol + frame[prefix[-1]])
            for symbol, weight in enumerate(frame):
                if symbol == blank:
                    continue
                start = in_blank if prefix and symbol == prefix[-1] else total
                longer = ahead.setdefault((*prefix, symbol), [-math.inf, -math.inf])
                longer[1] = _added(longer[1], start + weight)
        kept = sorted(ahead.items(), key=lambda entry: -_added(*entry[1]))[:width]
        beams = {prefix: (weights[0], weights[1]) for prefix, weights in kept}
    prefix, weights = max(beams.items(), key=lambda entry: _added(*entry[1]))
    return list(prefix), _added(*weights)


def _added(a: float, b: float) -> float:
    """ln (e^a + e^b)."""
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))
