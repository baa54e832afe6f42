"""What models of sequences of frames are looked at for: data, what the guide makes of them, what the model draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.core.contract import lacks, prepared
from zoo.core.data import take
from zoo.core.isolation import isolated
from zoo.errors import ZooError
from zoo.reporting.page import Array, Page, array, colour
from zoo.reporting.subjects import Fitted

__all__ = ["has_rolls", "plot_roll"]

#: With so many features a frame is drawn as lines, with more as an image.
LINES = 4


def has_rolls(model: Any) -> bool:
    """Whether a model is one of frames over time that it can reconstruct and draw."""
    return lacks(model, "reconstruct", "sample_like") is None


def plot_roll(fit: Fitted, x: Any, path: str | Path, *, item: int = 0, dark: bool = False) -> Path:
    """One sequence, its frames' means given latents of the guide, and below them a draw from the model as long.

    Features that are the same everywhere at either end (keys that nobody plays) are left out.

    Raises:
        ZooError: the model has no reconstruction of frames, or there is no such sequence.
    """
    model: Any = fit.model
    if not has_rolls(model):
        raise ZooError(f"plot_roll: expected a model of frames, got {type(model).__name__}. Use plot_components.")
    data = prepared(model, x)
    if not 0 <= item < len(data["x"]):
        raise ZooError(f"plot_roll: item expected from 0 to {len(data['x']) - 1}, got {item}.")
    data = take(data, slice(item, item + 1))
    length = int(data["lengths"][0])
    with isolated(fit.seed), torch.no_grad():
        parts = [data["x"], model.reconstruct(data), model.sample_like({**data, "x": data["x"][:, :length]}, 1)]
    shown = [array(part)[0, :length] for part in parts]
    first, last = _played(np.concatenate([shown[0], shown[2]]))
    page = Page(10.0, 7.0, dark)
    low, high = np.quantile(shown[0], [0.0, 1.0])
    titles = ("data", "reconstruction: the mean of each frame under the guide", "a draw from the model")
    axes = page.axes(3, 1, sharex=True)
    for ax, title, frames in zip(axes, titles, shown, strict=True):
        if frames.shape[1] <= LINES:
            for k, line in enumerate(frames.T):
                ax.plot(np.arange(length), line, color=colour(k), linewidth=1.3)
        else:
            ax.imshow(
                frames[:, first:last].T, aspect="auto", origin="lower", cmap="magma" if dark else "Greys", vmin=low,
                vmax=max(high, low + 1e-12), interpolation="nearest",
                extent=(-0.5, length - 0.5, first - 0.5, last - 0.5),
            )  # fmt: skip
        ax.locator_params(integer=True)
        page.label(ax, title, "step" if ax is axes[-1] else "", "value" if frames.shape[1] <= LINES else "feature")
    return page.save(path)


def _played(frames: Array) -> tuple[int, int]:
    """The first feature that varies over frames (T, D), and one after the last; all where none does."""
    varied = np.flatnonzero(np.ptp(frames, 0) > 0)
    return (int(varied[0]), int(varied[-1]) + 1) if len(varied) else (0, frames.shape[1])
