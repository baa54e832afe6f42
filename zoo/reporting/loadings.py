"""What factor models are looked at for: how features hang on factors, and where data lie in their plane."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.data import Data
from zoo.reporting.page import PALETTE, Array, Page, array, heat, image_shape, limits, ticks
from zoo.reporting.seen import names_along, posterior_means
from zoo.reporting.subjects import Fitted

__all__ = ["plot_loadings"]

#: Factors that are shown as images; features that have an arrow.
IMAGES, ARROWS = 9, 12


def plot_loadings(fit: Fitted, part: Data, rows: Array, path: str | Path, *, dark: bool = False) -> Path:
    """Loadings (D, L), each in units of its feature's standard deviation, and a biplot: posterior means of two factors
    with features as arrows, in the direction of these loadings and as long in one common scale (Gabriel 1971).

    Loadings of images are shown as images, each factor in its own scale, without arrows.

    Args:
        part: data, as the model takes them. rows: their feature vectors (M, D).
    """
    loadings = array(fit.model.quantity("loadings"))
    d, factors = loadings.shape
    shape, scores = image_shape(d), posterior_means(fit, part)
    names = names_along(fit.model, "feature", d, bare=True)
    scaled = loadings / np.maximum(np.nanstd(rows, 0), 1e-300)[:, None]
    if shape is not None:
        page = Page(10.0, 5.0, dark)
        first, second = page.halves(1, 2, width_ratios=(1.0, 1.1))
        _images(page, first, loadings, shape)
        right = second.subplots()
        page.dress(right)
    else:
        high = min(8.0, 1.2 + 0.24 * d)
        page = Page(6.4, high + 4.4, dark)
        left, right = (half.subplots() for half in page.halves(2, 1, height_ratios=(high, 4.4)))
        page.dress(left)
        page.dress(right)
        reach = max(1.0, float(np.abs(scaled).max()))
        heat(page, left, scaled, "RdBu_r", (-reach, reach), "loading / sd of the feature", vertical=True)
        ticks(left, 1, names)
        ticks(left, 0, [str(i) for i in range(factors)])
        page.label(left, "Loadings", "factor", "feature")
    if scores is None:
        right.set_axis_off()
        right.text(0.5, 0.5, "no posterior to draw", ha="center", color=page.theme.quiet)
    elif factors == 1:
        right.hist(scores[:, 0], bins=min(60, max(10, len(scores) // 10)), color=PALETTE[0])
        page.label(right, f"Posterior means of {len(scores)} data", "factor 0", "data")
    else:
        _biplot(page, right, scores[:, :2], None if shape is not None else scaled[:, :2], names)
    return page.save(path)


def _images(page: Page, half: Any, loadings: Array, shape: tuple[int, int]) -> None:
    shown = min(loadings.shape[1], IMAGES)
    columns = math.ceil(math.sqrt(shown))
    made = half.subplots(math.ceil(shown / columns), columns, squeeze=False)
    for i, ax in enumerate(made.flat):
        ax.set_axis_off()
        if i < shown:
            reach = float(np.abs(loadings[:, i]).max()) or 1.0
            ax.imshow(loadings[:, i].reshape(shape), cmap="RdBu_r", vmin=-reach, vmax=reach)
            ax.set_title(f"factor {i}", fontsize=9, color=page.theme.quiet, pad=3)
    half.suptitle(f"Loadings as images ({shown} of {loadings.shape[1]})", fontsize=11, color=page.theme.ink)


def _biplot(page: Page, ax: Any, scores: Array, scaled: Array | None, names: list[str]) -> None:
    size = 22 if len(scores) <= 300 else 10 if len(scores) <= 1500 else 4
    ax.axhline(0, color=page.theme.grid, linewidth=0.9, zorder=1)
    ax.axvline(0, color=page.theme.grid, linewidth=0.9, zorder=1)
    ax.scatter(scores[:, 0], scores[:, 1], s=size, color=PALETTE[0], alpha=0.65, linewidths=0, zorder=2)
    points = scores
    if scaled is not None:
        # Arrows as long as the data reach; the longest are drawn where there are many.
        length = np.hypot(scaled[:, 0], scaled[:, 1])
        unit = float(np.quantile(np.hypot(scores[:, 0], scores[:, 1]), 0.95)) / max(float(length.max()), 1e-300)
        ends = scaled * unit
        longest = np.argsort(-length, kind="stable")[:ARROWS]
        for j in longest:
            ax.annotate(
                "", ends[j], (0.0, 0.0), zorder=3,
                arrowprops={"arrowstyle": "-|>", "color": PALETTE[1], "linewidth": 1.4, "shrinkA": 0, "shrinkB": 0},
            )  # fmt: skip
        points = np.concatenate([scores, ends, _named(page, ax, scores, ends[longest], [names[j] for j in longest])])
    limits(ax, points)
    title = (
        f"Posterior means of {len(scores)} data"
        if scaled is None
        else f"Biplot: {len(scores)} data, and features as arrows"
    )
    page.label(ax, title, "factor 0", "factor 1")


def _named(page: Page, ax: Any, scores: Array, ends: Array, names: list[str]) -> Array:
    """Write names beside the ends of arrows, none over another; gives where they reach to, (M, 2)."""
    whole = np.ptp(np.concatenate([scores, ends]), 0)
    line, letter = 0.06 * whole[1], 0.018 * whole[0]  # in the picture's scale, with room to spare
    reached = []
    for side in (-1.0, 1.0):
        below = -math.inf
        on_side = [j for j in range(len(ends)) if math.copysign(1.0, ends[j, 0]) == side]
        for j in sorted(on_side, key=lambda j: float(ends[j, 1])):
            below = max(float(ends[j, 1]), below + line)
            name = ax.annotate(
                names[j], (ends[j, 0], below), (6 * side, 0), textcoords="offset points", fontsize=9,
                color=page.theme.ink, zorder=4, parse_math=False, ha="left" if side > 0 else "right", va="center",
                bbox={"facecolor": page.theme.paper, "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
            )  # fmt: skip
            name.set_in_layout(False)
            reached.append([ends[j, 0] + side * letter * len(names[j]), below])
    return np.array(reached)
