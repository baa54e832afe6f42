"""A stream at a model's door: its rows are checked as those of data in memory are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch

from zoo.core.data import Data, arguments, map_tensors
from zoo.core.memory import rows_at_once
from zoo.core.streams import Stream
from zoo.errors import ZooError

__all__ = ["admitted"]


@dataclass(frozen=True, eq=False)
class Door:
    """What a model does to rows that are taken: they get its dtype and its device, and are checked.

    Attributes:
        model: a :class:`zoo.core.contract.LatentVariableModel`.
        checks: whether rows are checked; not so where all have been, and checks change none.
    """

    model: Any
    given_alone: bool = False
    checks: bool = True

    def __call__(self, x: Data) -> Data:
        if self.checks:
            return self.model.adopt(x, self.given_alone)
        like = next(self.model.parameters(), torch.zeros((), dtype=self.model.dtype))
        return map_tensors(lambda t: t.to(like.device, like.dtype), x)


def admitted(model: Any, x: Stream, ahead: bool, given_alone: bool = False) -> Stream:
    """A stream whose rows are as a model takes them.

    Args:
        ahead: whether to look at all rows now, in one pass, which also takes their checksum; else at those that are
            taken, when they are.

    Raises:
        ZooError: as the model's, with the numbers that rows have among all; a program that is given its data whole.
    """
    if not model.splits:
        raise ZooError(
            f"{model.name} expected its data in memory, as a program of one's own is given them whole, got the "
            f"{len(x)} rows of {x.name}, which are read in pieces. Take some of them, x.take(slice(0, 10_000)), or "
            "write it as a zoo.LatentVariableModel."
        )
    strict, quick = (Door(model, given_alone, checks) for checks in (True, False))
    if not ahead:
        return x.then(strict)
    digest, unchanged = hashlib.sha256(), True
    for array in x.arrays:
        digest.update(f"{array.shape[1:]}{array.dtype}".encode())
    for begin, raw in x.raw_pieces(rows_at_once(x.row_numbers)):
        for values in raw:
            digest.update(values.tobytes())
        checked = x.then(strict).made(raw, begin)
        unchanged = unchanged and _same(checked, x.then(quick).made(raw, begin))
    return replace(x.then(quick if unchanged else strict), digest=digest.hexdigest()[:16])


def _same(x: Data, y: Data) -> bool:
    """Whether data are equal and stand in the same places."""
    alike = type(x) is type(y) and (not isinstance(x, dict) or list(x) == list(y))
    pairs = list(zip(arguments(x), arguments(y), strict=False))
    return alike and len(arguments(x)) == len(arguments(y)) and all(torch.equal(a, b) for a, b in pairs)
