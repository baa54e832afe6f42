"""Models with a latent code of data that are no images: their codes, and the data beside as many draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.core.contract import lacks, prepared
from zoo.errors import ZooError
from zoo.reporting.latents import draw
from zoo.reporting.page import PALETTE, Array, Page, array, image_shape
from zoo.reporting.seen import names_along, visible
from zoo.reporting.subjects import Fitted

__all__ = ["has_codes", "plot_codes"]


def has_codes(model: Any) -> bool:
    """Whether a model has a guide, or means, of latents that nothing else of it says: no components, no chain."""
    return (model.has_guide or lacks(model, "posterior_means") is None) and lacks(model, "posterior") is not None


def plot_codes(fit: Fitted, x: Any, path: str | Path, *, dark: bool = False) -> Path:
    """The posterior means of the two units of the code that vary most, and below data and draws over two features.

    Raises:
        ZooError: the data are no table, or are images; the latents are no vector of numbers a datum, and there are no
            draws to set beside the data.
    """
    model = fit.model
    part, _ = visible(x)
    named = model.fields.named(prepared(model, part))
    shown = [named[name] for name in model.fields.observed if isinstance(named.get(name), Tensor)]
    if len(shown) != 1 or shown[0].dim() != 2:
        raise ZooError("plot_codes: expected a table of data, got another shape. Draw fit.sample(n).")
    rows = array(shown[0])
    if image_shape(rows.shape[1], len(np.unique(rows)) == 2) is not None:
        raise ZooError("plot_codes: expected data that are no images. Use plot_latents.")
    codes, drawn = _codes(fit, part), _drawn(fit, part, rows)
    if codes is None and drawn is None:
        raise ZooError("plot_codes: expected a code or draws, got neither of this model. Read fit.history.")
    page = Page(6.4, 4.0 * ((codes is not None) + (drawn is not None)), dark)
    axes = iter(page.axes((codes is not None) + (drawn is not None)))
    if codes is not None:
        _scattered(
            page, next(axes), [("", codes)], f"Codes of {len(codes)} data", [f"unit {i}" for i in range(codes.shape[1])]
        )
    if drawn is not None:
        names = names_along(model, "feature", rows.shape[1])
        if model.fields.given:
            names = [f"{model.fields.observed[0]}{i}" for i in range(rows.shape[1])]
        _scattered(page, next(axes), [("data", rows), ("draws", drawn)], "Data, and as many draws", names)
    return page.save(path)


def _codes(fit: Fitted, part: Any) -> Array | None:
    try:
        codes = array(fit.transform(part))
    except ZooError:
        return None
    return codes if codes.ndim == 2 and np.isfinite(codes).all() else None


def _drawn(fit: Fitted, part: Any, rows: Array) -> Array | None:
    try:
        drawn = array(draw(fit, len(rows), fit.seed, x=part if fit.model.fields.given else None))
    except ZooError:
        return None
    return drawn if drawn.shape == rows.shape else None


def _scattered(page: Page, ax: Any, parts: list[tuple[str, Array]], title: str, names: list[str]) -> None:
    """Groups of rows over the two columns of the first that vary most, or as bars over one."""
    first = parts[0][1]
    ax.grid(True, color=page.theme.grid, linewidth=0.7)
    ax.set_axisbelow(True)
    if first.shape[1] == 1:
        edges = np.histogram_bin_edges(
            np.concatenate([rows[:, 0] for _, rows in parts]), min(40, max(10, len(first) // 8))
        )
        for i, (label, rows) in enumerate(parts):
            ax.hist(rows[:, 0], bins=edges, color=PALETTE[i], alpha=0.6, label=label)
        page.label(ax, title, names[0], "data")
    else:
        a, b = sorted(np.argsort(-first.var(0), kind="stable")[:2].tolist())
        size = 22 if len(first) <= 300 else 10 if len(first) <= 1500 else 4
        for i, (label, rows) in enumerate(parts):
            ax.scatter(rows[:, a], rows[:, b], s=size, color=PALETTE[i], alpha=0.6, linewidths=0, label=label)
        where = "" if first.shape[1] == 2 else f": the 2 of {first.shape[1]} that vary most"
        page.label(ax, title + where, names[a], names[b])
    if len(parts) > 1:
        page.legend(ax, ax.get_legend_handles_labels()[0], below=True, ncols=2)
