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

#: What nobody uses: rooms of the last chain. Taking and adding is atomic.
_free: list[Room] = []
_MOST = 2**22  # numbers in all, 32 MB


class Blocks(NamedTuple):
    """Blocks of all sequences, one sequence after the other.

    Shapes:
        first, number: (N,), each sequence's first block, and how many it has.
        rows, index: (M,), of each block: its sequence, and which block it is there.
        order: (M,), the longest first.
        ordered: of each block in this order its sequence, first step and steps.
    """

    first: Any
    number: Any
    rows: Any
    index: Any
    order: Any
    ordered: tuple[Any, Any, Any]


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
    order = np.argsort(-length, kind="stable")
    return Blocks(first, number, rows, index, order, (rows[order], start[order], length[order]))


def take(steps: int, states: int, features: int, lanes: int) -> Room:
    """Room for one group of lanes, to be filled; nobody else has it until it is left."""
    shapes = (steps, states, lanes), (steps, lanes), (steps, features, lanes)
    try:
        room = _free.pop() if steps else None
    except IndexError:
        room = None
    if room is not None and room[0].shape == shapes[0] and room[2].shape == shapes[2]:
        return room
    return np.empty(shapes[0]), np.empty(shapes[1]), np.empty(shapes[2])


def leave(rooms: list[Room]) -> None:
    """Rooms that are not read any more."""
    if sum(part.size for room in rooms for part in room) <= _MOST:
        _free[:] = rooms
