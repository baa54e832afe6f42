"""What networks of images are looked at for: what units of the first layer look at, what is made of spoilt data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.core.contract import lacks, prepared
from zoo.core.data import Data, num_data, take, tensors
from zoo.reporting.page import Array, array, image_shape
from zoo.reporting.samples import plot_sheet
from zoo.reporting.subjects import Fitted

__all__ = ["plot_filters", "plot_mended"]

#: Images across, and rows of filters.
ACROSS, ROWS = 10, 5


def plot_filters(fit: Fitted, path: str | Path, *, dark: bool = False) -> list[Path]:
    """Weights of units of the first layer as images, those of largest weights first; zero is grey.

    Returns:
        What was written: nothing where the model offers no ``filters``, or its data are no images.
    """
    if lacks(fit.model, "filters") is not None:
        return []
    weights = array(fit.model.filters())
    shape = image_shape(weights.shape[1])
    if shape is None:
        return []
    order = np.argsort(-(weights**2).sum(1), kind="stable")[: ACROSS * ROWS]
    images = weights[order].reshape(-1, *shape)
    reach = np.quantile(np.abs(images), 0.99, axis=(1, 2), keepdims=True) + 1e-12
    images = 0.5 + 0.5 * np.clip(images / reach, -1, 1)
    rows = [images[i : i + ACROSS] for i in range(0, len(images), ACROSS)]
    title = f"weights of {len(images)} of {len(weights)} units of the first layer, from negative (black) to positive"
    return [plot_sheet(rows, path, title=title, dark=dark)]


def plot_mended(fit: Fitted, x: Data, path: str | Path, *, dark: bool = False) -> list[Path]:
    """Data, the same spoilt, and what is made of that.

    Returns:
        What was written: nothing where the model offers no ``corrupt``, or its data are no images.
    """
    model: Any = fit.model
    if lacks(model, "corrupt", "reconstruct") is not None:
        return []
    chosen = torch.randperm(num_data(x), generator=torch.Generator().manual_seed(0))[: 2 * ACROSS]
    rows = prepared(model, take(x, chosen.to(tensors(x)[0].device)))
    shape = image_shape(rows.shape[-1])
    if shape is None:
        return []
    spoilt = model.corrupt(rows, seed=fit.seed)
    parts = [array(part).reshape(-1, *shape) for part in (rows, spoilt, model.reconstruct(spoilt))]
    low, high = float(parts[0].min()), float(parts[0].max())
    images = [_grey(part, low, high) for part in parts]
    sheet = [part[begin : begin + ACROSS] for begin in range(0, len(rows), ACROSS) for part in images]
    labels = ["data", "spoilt", "mended"] * (len(sheet) // 3)
    return [plot_sheet(sheet, path, labels=labels, bands=3, dark=dark)]


def _grey(images: Array, low: float, high: float) -> Array:
    """From 0 (the least of the data) to 1 (the greatest)."""
    found: Array = np.clip((images - low) / max(high - low, 1e-12), 0, 1)
    return found
