"""Matching component labels: against another fit, or against true labels (the Hungarian method, Kuhn 1955)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from zoo.core.contract import lacks
from zoo.core.data import as_data
from zoo.core.matching import match
from zoo.errors import ZooError
from zoo.runs.result import Fit

__all__ = ["align"]


def align(fit: Fit, other: Any, x: Any = None) -> Fit:
    """A copy of ``fit`` with components renumbered to agree best with ``other``.

    Args:
        fit: the fit to relabel.
        other: another fit, matched on the data ``x`` if given (shared posterior mass), else on component
            parameters; or true labels, (N,) integers or strings, None where there is none, which need ``x``.
        x: the data that labels belong to, or that fits are matched on, as the model takes them.

    Raises:
        ZooError: the model has no components to renumber, or labels come without ``x``.

    Example:
        >>> x, species = zoo.load_data("iris", labels=True)
        >>> fit = zoo.align(zoo.fit("gaussian_mixture", x, num_components=3), species, x)
        >>> int((fit.predict(x) == species).sum())
        145
    """
    model = fit.model
    if lacks(model, "permute_components") is not None:
        raise ZooError(f"align: expected a model with components, got {type(model).__name__}.")
    k: int = model.num_components
    if isinstance(other, Fit) and x is None:
        if type(other.model) is not type(model) or other.model.num_components != k:
            raise ZooError(
                "align: expected fits of one model with as many components, got others. Pass x to match on data."
            )
        ours, theirs = model.align_features(), other.model.align_features()
        spread = torch.cat([ours, theirs]).std(0, correction=0).clamp_min(torch.finfo(ours.dtype).tiny)
        agreement = -torch.cdist(theirs / spread, ours / spread)
    else:
        if x is None:
            raise ZooError("align: true labels expected the data x they belong to, got none. Pass x=...")
        shares = fit.posterior(x).probs.detach()  # (N, K)
        theirs = other.posterior(x).probs.detach() if isinstance(other, Fit) else _one_hot(other, shares.shape[0])
        agreement = theirs.to(shares).T @ shares
    order = match(agreement, k)
    relabelled = copy.copy(fit)
    relabelled.model = copy.deepcopy(model)
    relabelled.model.permute_components(order)
    return relabelled


def _one_hot(labels: Any, rows: int) -> Tensor:
    values = as_data(list(labels) if isinstance(labels, tuple) else labels, symbols=True)
    if not isinstance(values, Tensor) or values.shape != (rows,):
        raise ZooError(f"align: labels expected shape ({rows},), got {tuple(getattr(values, 'shape', ()))}.")
    seen = ~values.isnan()
    shares = torch.nn.functional.one_hot(torch.unique(values[seen], return_inverse=True)[1]).double()
    spread = shares.new_zeros(rows, shares.shape[1])
    spread[seen] = shares
    return spread
