"""What energies of images are looked at for: where chains of Gibbs sampling go that begin at data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.core.contract import lacks, prepared
from zoo.core.data import Data, num_data, take, tensors
from zoo.reporting.page import array, image_shape
from zoo.reporting.samples import plot_sheet
from zoo.reporting.subjects import Fitted

__all__ = ["plot_chains"]

#: Chains side by side, and after how many sweeps they are looked at.
CHAINS, SWEEPS = 12, (1, 10, 100, 1000)


def plot_chains(fit: Fitted, x: Data, path: str | Path, *, dark: bool = False) -> list[Path]:
    """Some data, and below each the ends of a chain that begins there, after more and more sweeps.

    Returns:
        What was written: nothing where the model offers no ``gibbs``, or its data are no images.
    """
    model: Any = fit.model
    if lacks(model, "gibbs") is not None:
        return []
    shape = image_shape(model.num_features)
    if shape is None:
        return []
    chosen = torch.randperm(num_data(x), generator=torch.Generator().manual_seed(0))[:CHAINS]
    state = prepared(model, take(x, chosen.to(tensors(x)[0].device)))
    parts, before = [state], 0
    for sweeps in SWEEPS:
        state = model.gibbs(len(state), sweeps - before, fit.seed + before, state)
        parts.append(state)
        before = sweeps
    low, high = float(parts[0].min()), float(parts[0].max())
    images = [((array(part) - low) / max(high - low, 1e-12)).clip(0, 1).reshape(-1, *shape) for part in parts]
    labels = ["data", *(f"{sweeps} sweep{'s' * (sweeps > 1)}" for sweeps in SWEEPS)]
    return [plot_sheet(images, path, labels=labels, dark=dark)]
