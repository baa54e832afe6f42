"""What states stand for, to look at: a sequence by its states, the same as its states have it, and each state's mean.

By what a model offers (``state_means``, ``predict``), not by its class.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.contract import lacks, prepared
from zoo.errors import ZooError
from zoo.reporting.page import Array, Page, array, colour, ticks
from zoo.reporting.subjects import Fitted

__all__ = ["has_units", "plot_units"]

#: Sequences among which the one with most states is taken, and steps of it that are shown.
LOOKED_AT, SHOWN = 50, 300


def has_units(model: Any) -> bool:
    """Whether a model can say what a frame is expected to be in each state."""
    return lacks(model, "state_means", "predict") is None


def plot_units(
    fit: Fitted,
    x: Any,
    path: str | Path,
    *,
    item: int | None = None,
    image: Callable[[Array], Array] | None = None,
    dark: bool = False,
) -> Path:
    """A sequence with its states above it, each of its frames as its state's mean, and the means of all states.

    Args:
        item: which sequence; None takes of the first ones that in which most states occur.
        image: makes of rows (M, D) what is shown of them, (M, F): a spectrogram, lowest frequency first; None shows
            the features, each in units of its own deviation.

    Raises:
        ZooError: the model does not say what its states stand for.
    """
    if not has_units(fit.model):
        raise ZooError(
            f"plot_units: expected a model that offers state_means, got {type(fit.model).__name__}. Use plot_states."
        )
    data: Any = prepared(fit.model, x)
    few = {name: value[: LOOKED_AT if item is None else item + 1] for name, value in data.items()}
    paths = array(fit.predict(few)).astype(int)
    kinds = [len(np.unique(route[route >= 0])) for route in paths]
    chosen = int(np.argmax(kinds)) if item is None else item
    length = min(int(data["lengths"][chosen]), SHOWN)
    route, frames = paths[chosen, :length], array(data["x"])[chosen, :length]
    means = array(fit.model.state_means())
    if image is None:
        rows = array(few["x"])[paths >= 0]
        shown = [(v - rows.mean(0)) / np.maximum(rows.std(0), 1e-12) for v in (frames, means[route], means)]
    else:
        shown = [image(v) for v in (frames, means[route], means)]
    page = Page(10.5, 7.0, dark)
    axes = page.axes(3, 1, height_ratios=(1.15, 1.0, 1.0))
    low, high = np.quantile(shown[0], [0.02, 0.98])
    for ax, part in zip(axes, shown, strict=True):
        ax.imshow(
            part.T, aspect="auto", origin="lower", cmap="magma" if dark else "Greys", vmin=low, vmax=high,
            interpolation="nearest",
        )  # fmt: skip
    top = shown[0].shape[1]
    edges = np.flatnonzero(np.diff(route)) + 1
    for begin, end in zip([0, *edges], [*edges, length], strict=True):
        state = int(route[begin])
        axes[0].plot([begin - 0.5, end - 0.5], [top, top], color=colour(state), linewidth=5, solid_capstyle="butt")
        if end - begin >= max(2, length // 40):
            axes[0].text(
                (begin + end - 1) / 2, 1.04 * top, str(state), color=colour(state), ha="center", va="bottom", fontsize=9
            )  # fmt: skip
    axes[0].set_ylim(-0.5, 1.16 * top)
    names = "band" if image is not None else "feature"
    page.label(axes[0], f"Sequence {chosen} and its most probable states", "", names)
    page.label(axes[1], "The same frames, each as its state's mean is decoded", "step", names)
    page.label(axes[2], "What each state's mean is decoded to", "state", names)
    if len(means) <= 40:
        ticks(axes[2], 0, [str(i) for i in range(len(means))])
        for tick in axes[2].get_xticklabels():
            tick.set_color(colour(int(tick.get_text())))
    return page.save(path)
