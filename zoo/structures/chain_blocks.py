"""Long sequences cut into blocks: where, and the memory that a first pass over the blocks leaves to a second.

An iteration of EM cuts the same sequences as the one before, and finds its memory again: what a process gives back to
the system comes again page by page, cleared, which for a few megabytes takes about as long as to fill them.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Blocks", "Room", "blocks_of", "leave", "take"]

#: Emission weights (T, K, lanes), their shifts (T, lanes) and the data (T, D, lanes) of a group of lanes.
Room = tuple[Any, Any, Any]

#: Flat arrays that nobody uses: those of the last chain. Taking and adding is atomic.
_free: list[Any] = []
_MOST = 2**22  # numbers in all, 32 MB


class Blocks(NamedTuple):
    """Blocks of all sequences, one sequence after the other.

    Shapes:
        first, number: (N,), each sequence's first block, and how many it has.
        rows, index, start, length: (M,), of each block: its sequence, which block it is there, first step and steps.
        order: (M,), the longest first.
    """

    first: Any
    number: Any
    rows: Any
    index: Any
    start: Any
    length: Any
    order: Any


def blocks_of(lengths: Any, steps: int) -> Blocks:
    """Sequences of these lengths (N,) cut into blocks of about so many steps."""
    return _blocks(lengths.tobytes(), steps)


@functools.lru_cache(maxsize=8)
def _blocks(lengths: bytes, steps: int) -> Blocks:
    long = np.frombuffer(lengths, dtype=np.int64)
    number = -(-long // steps)
    rows = np.repeat(np.arange(len(long)), number)
    first = np.concatenate(([0], np.cumsum(number)[:-1]))
    index = np.arange(len(rows)) - np.repeat(first, number)
    size = np.repeat(-(-long // number), number)  # equal sizes, but for the last
    start = index * size
    length = np.minimum(size, long[rows] - start)
    return Blocks(first, number, rows, index, start, length, np.argsort(-length, kind="stable"))


def take(steps: int, states: int, features: int, lanes: int) -> Room:
    """Room for one group of lanes, to be filled; nobody else has it until it is left."""
    size = steps * lanes * (states + 1 + features)
    try:
        flat = _free.pop() if size else np.empty(0)
    except IndexError:
        flat = np.empty(size)
    if len(flat) != size:
        flat = np.empty(size)
    weights, shifts, seen = np.split(flat, [steps * lanes * states, steps * lanes * (states + 1)])
    return weights.reshape(steps, states, lanes), shifts.reshape(steps, lanes), seen.reshape(steps, features, lanes)


def leave(rooms: list[Room]) -> None:
    """Rooms that are not read any more."""
    flats = [room[0].base for room in rooms]
    if sum(map(len, flats)) <= _MOST:
        _free[:] = flats
