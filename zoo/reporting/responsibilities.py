"""Which component each datum belongs to, by its posterior."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import ZooError
from zoo.reporting.page import Page, heat, ticks
from zoo.reporting.seen import responsibilities, visible
from zoo.reporting.subjects import Fitted

__all__ = ["plot_responsibilities"]


def plot_responsibilities(fit: Fitted, x: Any, path: str | Path, *, dark: bool = False) -> Path:
    """p(z = k | x_n) as a heat map, data sorted by their most probable component and how sure it is.

    Raises:
        ZooError: the posterior is not one discrete variable a datum.
    """
    part, _ = visible(x)
    resp = responsibilities(fit, part)
    if resp is None:
        raise ZooError(
            "plot_responsibilities: expected one discrete latent a datum, got another posterior. Use plot_components."
        )
    n, k = resp.shape
    label = resp.argmax(1)
    order = np.lexsort((-resp.max(1), label))
    page = Page(8.6, min(9.0, 1.9 + 0.42 * k), dark)
    (ax,) = page.axes()
    heat(page, ax, resp[order].T, "viridis" if dark else "Blues", (0.0, 1.0), "probability", annotate=False)
    ticks(ax, 1, [f"component {i}" for i in range(k)])
    for edge in np.cumsum(np.bincount(label, minlength=k))[:-1]:
        if 0 < edge < n:
            ax.axvline(edge - 0.5, color=page.theme.quiet, linewidth=0.7, linestyle=(0, (2, 2)))
    unsure = float((resp.max(1) < 0.9).mean())
    page.label(
        ax, f"Responsibilities: {unsure:.0%} of {n} data have no component above 90%", "data, sorted by component"
    )
    return page.save(path)
