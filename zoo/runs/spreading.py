"""What a fit in several processes asks for before it begins."""

from __future__ import annotations

from typing import Any

import torch

from zoo.core.data import Data, num_data, take, tensors
from zoo.core.ranks import Ranks
from zoo.errors import ZooError
from zoo.estimators import estimator_classes
from zoo.estimators.base import Estimator
from zoo.storage.checkpoint import fingerprint

__all__ = ["check_spreads"]

#: Rows that are compared; all of them would have to be read.
COMPARED = 64


def check_spreads(ranks: Ranks, estimator: Estimator, data: Data, jobs: int, settings: dict[str, Any]) -> None:
    """Raise ZooError unless a fit can be divided among the ranks, and all of them were asked for the same one."""
    here = f"{ranks.size} processes of torch.distributed"
    if jobs != 1:
        raise ZooError(f"fit: jobs expected 1 under {here}, got {jobs}. Leave it out.")
    if not estimator.spreads:
        able = ", ".join(sorted(name for name, kind in estimator_classes().items() if kind.spreads))
        raise ZooError(f"{estimator.name} runs in one process, got {here}. Start one, or use one of {able}.")
    rows = num_data(data)
    if rows < ranks.size:
        raise ZooError(f"fit: expected at least a row for each of {here}, got {rows}. Start fewer.")
    some = torch.linspace(0, rows - 1, min(rows, COMPARED)).long()
    shapes = [tuple(tensor.shape) for tensor in tensors(data)]
    if not ranks.agree((estimator.name, settings, shapes, fingerprint(take(data, some)))):
        raise ZooError(
            f"fit: expected the same data and options in each of {here}, got others. Pass all rows to each; "
            "they are divided here."
        )
