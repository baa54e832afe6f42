"""Does every factor of the data have a latent dimension to itself? The mutual information gap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.isolation import forked_rng
from zoo.core.memory import WEIGHTS
from zoo.errors import ZooError

__all__ = ["InformationGap", "mutual_information_gap"]


@dataclass(frozen=True)
class InformationGap:
    """What :func:`mutual_information_gap` found.

    Attributes:
        mig: the mean over factors of ``gaps``.
        gaps: (F,) the best dimension's share of a factor's entropy, less the second best's; in [0, 1] but for noise.
        information: (L, F), I(z_l; v_f) / H(v_f).
        best: (F,) the dimension that knows most of each factor.
    """

    mig: float
    gaps: Tensor
    information: Tensor
    best: Tensor


def mutual_information_gap(
    loc: Any, scale: Any, factors: Any, *, num_samples: int = 2000, seed: int = 0
) -> InformationGap:
    """The MIG of Chen, Li, Grosse & Duvenaud (2018), "Isolating sources of disentanglement", equation 6.

    I(z_l; v_f) = H(z_l) - H(z_l | v_f), the entropies of mixtures of the data's posteriors: of all data for q(z_l), of
    the data of one value of v_f for q(z_l | v_f). Each is minus the mean of its log-density over draws from itself; the
    densities are summed exactly. The data are taken as all there are, every combination of factors as often as in them.

    Args:
        loc: (N, L) means of q(z | x_n). scale: (N, L) standard deviations, positive.
        factors: (N, F) integers, or (N,) for one.
        num_samples: draws for each entropy.

    Raises:
        ZooError: shapes that do not match, fewer than two dimensions, a scale that is not positive, or a factor that
            never changes.
    """
    loc, scale = (torch.as_tensor(values).cpu().double() for values in (loc, scale))
    known = torch.as_tensor(factors).cpu().reshape(len(loc), -1) if len(loc) else torch.zeros(0, 1)
    if loc.dim() != 2 or loc.shape != scale.shape or loc.shape[1] < 2 or len(known) != len(loc):
        raise ZooError(
            f"mutual_information_gap: expected loc and scale (N, L), L at least 2, and factors of N rows, got "
            f"{tuple(loc.shape)}, {tuple(scale.shape)} and {tuple(known.shape)}. Match them."
        )
    if not (scale > 0).all():
        raise ZooError("mutual_information_gap: scale expected positive numbers, got some that are not. Add 1e-6.")
    columns = []
    with forked_rng(seed):
        whole = _entropy(loc, scale, num_samples)
        for f in range(known.shape[1]):
            values, counts = known[:, f].unique(return_counts=True)
            if len(values) < 2:
                raise ZooError(f"mutual_information_gap: factor {f} expected to vary, got one value. Leave it out.")
            share = counts.double() / len(loc)
            given = torch.stack(
                [_entropy(loc[rows], scale[rows], num_samples) for rows in (known[:, f] == v for v in values)]
            )
            entropy = -(share * share.log()).sum()
            columns.append((whole - (share.unsqueeze(-1) * given).sum(0)) / entropy)
    information = torch.stack(columns, -1)  # (L, F)
    top = information.topk(2, 0).values
    gaps = top[0] - top[1]
    return InformationGap(float(gaps.mean()), gaps, information, information.argmax(0))


def _entropy(loc: Tensor, scale: Tensor, num_samples: int) -> Tensor:
    """Entropy of each dimension's mixture over the rows, (L,) nats."""
    rows, size = loc.shape
    # Every row equally often, as far as that goes: less noise than rows drawn at random.
    repeats = math.ceil(num_samples / rows)
    pick = torch.cat([torch.randperm(rows) for _ in range(repeats)])[:num_samples]
    total = loc.new_zeros(size)
    for piece in pick.split(max(1, WEIGHTS // rows)):
        z = loc[piece] + scale[piece] * torch.randn(len(piece), size, dtype=loc.dtype)
        for dimension in range(size):
            standard = (z[:, dimension, None] - loc[:, dimension]) / scale[:, dimension]
            log_density = (-0.5 * standard.square() - scale[:, dimension].log()).logsumexp(-1)
            total[dimension] += log_density.sum()
    return 0.5 * math.log(2 * math.pi) + math.log(rows) - total / len(pick)
