"""What models of strings of symbols are looked at for: when each symbol is said, by the posterior of the alignment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.contract import lacks, prepared
from zoo.core.data import call, take
from zoo.errors import ZooError
from zoo.reporting.page import WIDTH, Array, Page, array, colour
from zoo.reporting.subjects import Fitted
from zoo.structures import Alignment
from zoo.structures.decoding import spans

__all__ = ["has_alignments", "plot_alignment"]


def has_alignments(model: Any) -> bool:
    """Whether a model is one of symbols ``y`` given frames ``x``, with an exact posterior of their alignment."""
    return lacks(model, "structure") is None and "y" in model.fields.observed and "x" in model.fields.given


def plot_alignment(
    fit: Fitted, x: Any, path: str | Path, *, item: int = 0, image: Array | None = None, dark: bool = False
) -> Path:
    """The frames of one sequence, and below them the posterior of each symbol in each frame.

    The lines over the frames are the most probable alignment, from a symbol's first frame to its last.

    Args:
        image: (T, F), what to show in the place of the frames: a spectrogram, lowest frequency first.

    Raises:
        ZooError: the model has no alignments.
    """
    if not has_alignments(fit.model):
        raise ZooError(
            f"plot_alignment: expected a model of symbols given frames, got {type(fit.model).__name__}. "
            "Use plot_components."
        )
    data: Any = take(prepared(fit.model, x), slice(item, item + 1))
    length, size = int(data["lengths"][0]), int(data["target_lengths"][0])
    structure = call(fit.model.structure, data)
    assert isinstance(structure, Alignment)
    shares = array(structure.marginals().log_probs)[0, :length]
    symbols = data["y"][0, :size].tolist()
    places = spans(structure.argmax()[0], max(size, 1))[0].tolist()
    shown = array(data["x"])[0, :length] if image is None else image[:length]
    page = Page(WIDTH, 4.4, dark)
    above, below = page.axes(2, 1, sharex=True, height_ratios=(1.6, 1.0))
    low, high = np.quantile(shown, [0.02, 0.98])
    above.imshow(
        shown.T, aspect="auto", origin="lower", cmap="magma" if dark else "Greys", vmin=low, vmax=high,
        interpolation="nearest",
    )  # fmt: skip
    top = shown.shape[1]
    for symbol, (begin, end) in zip(symbols, places, strict=False):
        above.plot([begin - 0.5, end + 0.5], [top, top], color=colour(symbol), linewidth=4, clip_on=False)
        above.text(
            (begin + end) / 2,
            top + 0.02 * top,
            str(symbol),
            color=colour(symbol),
            ha="center",
            va="bottom",
            fontsize=11,
        )
    above.set_ylim(-0.5, 1.12 * top)
    below.fill_between(np.arange(length), shares[:, 0], color=page.theme.grid, linewidth=0, step="mid")
    for symbol in sorted(set(symbols)):
        below.plot(np.arange(length), shares[:, symbol], color=colour(symbol), linewidth=1.4, drawstyle="steps-mid")
    below.set_ylim(0, 1.02)
    page.label(above, f"y = {' '.join(map(str, symbols))}, when each symbol is said", "", "feature")
    page.label(below, "", "frame", "posterior (filled: blank)")
    return page.save(path)
