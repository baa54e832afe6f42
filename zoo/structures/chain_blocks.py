"""Long sequences cut into blocks: where, and the memory that a first pass over the blocks leaves to a second.

An iteration of EM cuts the same sequences as the one before, and finds its memory again: what a process gives back to
the system comes again page by page, cleared, which for a few megabytes takes about as long as to fill them.
"""

from __future__ import annotations

import functools
import itertools
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Blocks", "Group", "Room", "blocks_of", "groups_of", "leave", "take"]

#: Arrays that are written before they are read.
Room = tuple[Any, ...]

#: What nobody uses, the latest last. Taking and adding is atomic.
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


class Group(NamedTuple):
    """Blocks that stand side by side, and after them neighbours that lend what passes between groups.

    Shapes:
        rows, start, length: (M,), of each lane: its sequence, first step and steps; the longest first among blocks.
        before, after: (own,), the lanes of the blocks in front and behind, -1 at an end of a sequence.
    """

    rows: Any
    start: Any
    length: Any
    before: Any
    after: Any
    lanes: int  # at most


def groups_of(lengths: Any, steps: int, lanes: int) -> list[Group]:
    """Sequences of these lengths (N,) in blocks of about so many steps, so many lanes a group at most.

    A neighbour in front ends where the group begins, one behind begins where it ends; each has as many steps as the
    shortest block of the group, or all that there are.
    """
    return _groups(lengths.tobytes(), steps, lanes)


@functools.lru_cache(maxsize=8)
def _groups(lengths: bytes, steps: int, lanes: int) -> list[Group]:
    long = np.frombuffer(lengths, dtype=np.int64)
    number = np.maximum(long // steps, 1)
    if len(long) == 1 and number[0] > lanes:
        number[0] = round(number[0] / (lanes - 2)) * (lanes - 2)  # no lane stands empty
    rows = np.repeat(np.arange(len(long)), number)
    index = np.arange(len(rows)) - np.repeat(np.cumsum(number) - number, number)
    start = long[rows] * index // number[rows]
    stop = long[rows] * (index + 1) // number[rows]
    count = 1 if len(rows) <= lanes else -(-len(rows) // (lanes - 2))
    edges = np.arange(count + 1) * len(rows) // count
    return [_group(int(low), int(high), lanes, rows, start, stop, long) for low, high in itertools.pairwise(edges)]


def _group(low: int, high: int, most: int, rows: Any, start: Any, stop: Any, long: Any) -> Group:
    """Blocks low..high, of these sequences from these first to these last steps."""
    own = high - low
    order = low + np.argsort(-(stop - start)[low:high], kind="stable")
    lane = np.empty(own + 2, dtype=np.int64)  # of block low + i; then of the neighbours
    lane[order - low] = np.arange(own)
    lanes = [(rows[b], start[b], stop[b] - start[b]) for b in order]
    least = int((stop - start)[low:high].min())
    begins, ends = start == 0, stop == long[rows]
    before, after = lane[order - low - 1], lane[order - low + 1]
    if not begins[low]:
        before[lane[0]] = len(lanes)
        lanes.append((rows[low], max(start[low] - least, 0), min(least, start[low])))
    if not ends[high - 1]:
        after[lane[own - 1]] = len(lanes)
        lanes.append((rows[high], start[high], min(least, long[rows[high]] - start[high])))
    before[begins[order]], after[ends[order]] = -1, -1
    sequence, first, steps = np.array(lanes, dtype=np.int64).T.copy()
    return Group(sequence, first, steps, before, after, most)


def take(*shapes: tuple[int, ...]) -> Room:
    """Room of these shapes, to be filled; nobody else has it until it is left."""
    try:
        room = _free.pop()
    except IndexError:
        room = ()
    return room if tuple(part.shape for part in room) == shapes else tuple(map(np.empty, shapes))


def leave(*rooms: Room) -> None:
    """Rooms that are not read any more."""
    _free.extend(rooms)
    while sum(part.size for room in _free for part in room) > _MOST:
        del _free[:1]
