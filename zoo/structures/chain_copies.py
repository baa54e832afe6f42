"""Forward and backward through chains of several models on the same few sequences: each model's start and steps."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.core.parallel import has_numba
from zoo.structures import chain, chain_logs, chain_states

__all__ = ["CopiesExpectations", "expectations_of_copies"]


class CopiesExpectations(NamedTuple):
    """Sums over the sequences, but for the last.

    Shapes:
        log_likelihood: (S,), nats. initial: (S, K). transition: (S, K, K). marginals: (S, N, T, K).
    """

    log_likelihood: Tensor
    initial: Tensor
    transition: Tensor
    marginals: Tensor


@torch.no_grad()
def expectations_of_copies(
    initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor
) -> CopiesExpectations:
    """:func:`zoo.structures.chain.expectations` of S models, whose calls cost more than their work on few steps.

    Args:
        initial: (S, K), log-weights of z_1. transition: (S, K, K). emission: (S, N, T, K), float64. lengths: (N,).

    Raises:
        ValueError: a sequence that is impossible, or whose numbers need logarithms.
    """
    if emission.device.type != "cpu" or not has_numba():
        return _one_by_one(initial, transition, emission, lengths)
    chain_states.compile_kernels()
    chain_logs.compile_kernels()
    copies, n, t, k = emission.shape
    peak = transition.amax((-2, -1), keepdim=True)
    steps = (transition.double() - peak).exp_().numpy()  # (S, K, K)
    shift = peak[..., 0].double().numpy()  # (S, 1)
    back = np.ascontiguousarray(steps.transpose(0, 2, 1))
    top = initial.amax(-1, keepdim=True)
    first, first_shift = (initial.double() - top).exp_().numpy(), top.double().numpy()
    emitted, many = emission.contiguous().numpy(), lengths.numpy()
    value, bad, opening = np.zeros((copies, n)), np.zeros((copies, n), dtype=np.bool_), np.zeros((copies, n, k))
    pairs, smooth = np.zeros((copies, 1, 1, k, k)), np.empty((copies, n, t, k))
    none = np.zeros((0, k))  # of no family: emissions are there
    for s in range(copies):
        chain_states.states_kernel(
            first[s : s + 1], first_shift[s], steps[s, None, None], back[s], shift[s, None], emitted[s], none, many,
            0, n, 0, False, True, True, value[s], bad[s], opening[s], pairs[s], smooth[s], none,
        )  # fmt: skip
        if (many != t).any():
            chain_logs.clear_kernel(smooth[s], many)
    if bad.any():
        raise ValueError("a chain that is impossible, or needs logarithms")
    return CopiesExpectations(
        torch.from_numpy(value).sum(1),
        torch.from_numpy(opening).sum(1),
        torch.from_numpy(pairs[:, 0, 0] * steps),
        torch.from_numpy(smooth),
    )


def _one_by_one(initial: Tensor, transition: Tensor, emission: Tensor, lengths: Tensor) -> CopiesExpectations:
    found = [chain.expectations(*each, lengths) for each in zip(initial, transition, emission, strict=True)]
    return CopiesExpectations(
        torch.stack([each.log_likelihood.sum() for each in found]),
        torch.stack([each.initial for each in found]),
        torch.stack([each.transition for each in found]),
        torch.stack([each.marginals for each in found]),
    )
