"""Which component of one fit goes with which of another: the Hungarian method (Kuhn 1955)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["match"]


def match(agreement: Tensor, num_components: int) -> Tensor:
    """``order`` such that our component ``order[j]`` goes with their ``j``; the unmatched follow in order.

    Args:
        agreement: (theirs, ours), larger is better.
    """
    from scipy.optimize import linear_sum_assignment  # takes as long to import as a small fit

    rows, columns = linear_sum_assignment(agreement.cpu().numpy(), maximize=True)
    taken = {int(r): int(c) for r, c in zip(rows, columns, strict=True) if r < num_components}
    rest = iter([c for c in range(num_components) if c not in taken.values()])
    return torch.tensor([taken[j] if j in taken else next(rest) for j in range(num_components)])
