"""Draws from a model, as images or points."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.data import Data
from zoo.reporting.page import _DARK, _LIGHT, PALETTE, WIDTH, Array, Page, colours_of, image_shape
from zoo.reporting.seen import visible

__all__ = ["plot_samples", "plot_sheet"]


#: Images that a picture of draws shows at most.
MAX_IMAGES = 400


def plot_samples(x: Data, path: str | Path, *, dark: bool = False, names: Sequence[str] | None = None) -> Path:
    """Draws from a model: images where a datum is a square of pixels, else a histogram, or two features as points.

    Args:
        names: of the features.
    """
    _, rows = visible(x)
    n, d = rows.shape
    called = names if names is not None and len(names) == d else [f"feature {i}" for i in range(d)]
    shape = image_shape(d, len(np.unique(rows)) == 2)
    if shape is not None:
        rows = rows[:MAX_IMAGES]
        low, high = rows.min(), rows.max()
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, max(high, low + 1e-12))
        images = ((rows - low) / (high - low)).reshape(-1, *shape)
        across = math.ceil(math.sqrt(len(images)))
        return plot_sheet([images[i : i + across] for i in range(0, len(images), across)], path, dark=dark)
    page = Page(6.4, 4.8, dark)
    (ax,) = page.axes()
    if d == 1:
        values = rows[:, 0]
        whole = bool((values == np.round(values)).all()) and np.ptp(values) <= 200
        bins: Any = np.arange(values.min(), values.max() + 2) - 0.5 if whole else min(60, max(10, n // 8))
        ax.hist(values, bins=bins, color=PALETTE[0], rwidth=0.9)
        page.label(ax, f"{n} draws", called[0], "draws")
    else:
        first, second = sorted(np.argsort(-rows.var(0), kind="stable")[:2].tolist())
        size = 22 if n <= 300 else 10 if n <= 1500 else 4
        ax.scatter(rows[:, first], rows[:, second], s=size, color=PALETTE[0], alpha=0.65, linewidths=0)
        ax.grid(True, color=page.theme.grid, linewidth=0.7)
        ax.set_axisbelow(True)
        where = "" if d == 2 else f": the 2 of {d} features that vary most"
        page.label(ax, f"{n} draws{where}", called[first], called[second])
    return page.save(path)


def plot_sheet(
    rows: Sequence[Array],
    path: str | Path,
    *,
    labels: Sequence[str] = (),
    tops: Sequence[str] = (),
    title: str = "",
    bands: int = 0,
    gap: int | None = None,
    dark: bool = False,
) -> Path:
    """Images in rows, white on black.

    Args:
        rows: of images, each (M, height, width), from 0 (black) to 1 (white); NaN is what is not known.
        labels: one a row, on its left. tops: over the first columns.
        bands: rows that belong together are so many, and stand apart from others; 0 for none.
        gap: pixels between images; None takes what suits their size.
    """
    from matplotlib.transforms import blended_transform_factory

    height, width = rows[0].shape[1:]
    gap = max(1, round(height / 14)) if gap is None else gap
    across, extra = max(len(row) for row in rows), (gap + height // 5) if bands else 0
    apart = [i // bands * extra if bands else 0 for i in range(len(rows))]
    size = (len(rows) * (height + gap) - gap + apart[-1], across * (width + gap) - gap)
    sheet = np.full(size, -1.0)
    tall, wide = height + gap, width + gap
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * tall + apart[i], j * wide
            sheet[top : top + height, left : left + width] = image
    theme = _DARK if dark else _LIGHT
    grey = np.nan_to_num(sheet, nan=0.0).clip(0, 1)
    colours = np.repeat(grey[..., None], 3, -1)
    colours[np.isnan(sheet)] = colours_of(theme.grid)
    colours[sheet == -1.0] = colours_of(theme.paper)
    edge, room = 0.06, 0.12 + 0.078 * max(map(len, labels)) if labels else 0.0
    inches = min(WIDTH - room - 2 * edge, max(3.6, 0.62 * across))
    title = textwrap.fill(title, int(inches / 0.066))
    head = 0.26 * bool(tops) + (0.12 + 0.15 * len(title.splitlines()) if title else 0.0)
    whole, tall_inches = inches + room + 2 * edge, inches * size[0] / size[1]
    high = tall_inches + head + 2 * edge
    page = Page(whole, high, dark)
    page.figure.set_layout_engine("none")  # what is written beside an axis that is off would find no room
    ax = page.figure.add_axes(((room + edge) / whole, edge / high, inches / whole, tall_inches / high))
    ax.set_axis_off()
    # Pixels as they are: with fewer dots than pixels a picture of many images would lose some of them.
    ax.imshow(colours, interpolation="nearest" if size[0] < 600 else "antialiased")
    left = blended_transform_factory(ax.transAxes, ax.transData)
    for i, text in enumerate(labels):
        middle = i * tall + apart[i] + height / 2 - 0.5
        ax.text(-0.012, middle, text, transform=left, ha="right", va="center", fontsize=9, color=theme.ink)
    above = blended_transform_factory(ax.transData, ax.transAxes)
    for j, text in enumerate(tops):
        ax.text(j * wide - 0.5, 1.01, text, transform=above, ha="left", va="bottom", fontsize=9, color=theme.ink)
    if title:
        ax.set_title(title, loc="left", fontsize=9, color=theme.quiet, pad=5, parse_math=False)
    return page.save(path)
