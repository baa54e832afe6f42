"""Pictures of draws from a posterior over parameters: traces and pairs. As all pictures, without pyplot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from zoo.errors import ZooError, unknown_name
from zoo.reporting.page import Page, colour

__all__ = ["plot_draws"]

KINDS = ("trace", "pair")
#: Entries that one picture shows at most; sites are taken in order.
MAX_TRACES, MAX_PAIRS = 12, 6

Array: TypeAlias = np.ndarray[Any, Any]


class Draws(Protocol):
    """Draws of parameters, (chains, draws, ...) by site; see :class:`zoo.bayes.draws.Draws`."""

    values: dict[str, Any]
    stats: dict[str, Any]


def plot_draws(
    draws: Draws, path: str | Path, *, kind: str = "trace", sites: list[str] | None = None, dark: bool = False
) -> Path:
    """Draw "trace" (each chain's draws in turn, beside their histogram) or "pair" (two entries at a time).

    Divergent draws are marked. Entries that never vary are left out, and so is what does not fit.

    Raises:
        ZooError: another kind, or a site that the draws do not have.
    """
    if kind not in KINDS:
        raise unknown_name("plot: kind", kind, KINDS)
    for name in sites or ():
        if name not in draws.values:
            raise unknown_name("plot: site", name, draws.values)
    entries = _entries(draws, sites or list(draws.values))[: MAX_TRACES if kind == "trace" else MAX_PAIRS]
    if not entries:
        raise ZooError("plot: expected draws that vary, got constant ones. Draw more samples.")
    diverging = draws.stats.get("diverging")
    marks = None if diverging is None else diverging.cpu().numpy().astype(bool)
    return (_traces if kind == "trace" else _pairs)(entries, marks, dark).save(path)


def _entries(draws: Draws, sites: list[str]) -> list[tuple[str, Array]]:
    """Label and draws (chains, draws) of every entry that varies."""
    found = []
    for name in sites:
        value = draws.values[name].cpu().numpy()
        for index in np.ndindex(value.shape[2:]):
            one = value[(slice(None), slice(None), *index)]
            if np.ptp(one) > 1e-12 * np.abs(one).max():
                found.append((name + (f"[{', '.join(map(str, index))}]" if index else ""), one))
    return found


def _traces(entries: list[tuple[str, Array]], marks: Array | None, dark: bool) -> Page:
    page = Page(9, 1.5 * len(entries) + 0.4, dark)
    axes = page.axes(len(entries), 2, width_ratios=(3, 1))
    for (label, values), left, right in zip(entries, axes[::2], axes[1::2], strict=True):
        for chain, one in enumerate(values):
            left.plot(one, color=colour(chain), linewidth=0.5)
            right.hist(one, bins=40, density=True, histtype="step", color=colour(chain), orientation="horizontal")
            if marks is not None and marks[chain].any():
                where = marks[chain].nonzero()[0]
                left.plot(where, one[where], "x", color=page.theme.ink, markersize=4)
        named = label.replace("[", "\n[") if len(label) > 14 else label  # as long as a row is high
        page.label(left, y=named, x="draw (a colour a chain)" if left is axes[-2] else "")
        right.set_yticklabels([])
        right.set_xticks([])
    return page


def _pairs(entries: list[tuple[str, Array]], marks: Array | None, dark: bool) -> Page:
    size = len(entries)
    page = Page(1.9 * size + 0.6, 1.9 * size + 0.6, dark)
    axes = page.axes(size, size)
    for i, (row, vertical) in enumerate(entries):
        for j, (column, horizontal) in enumerate(entries):
            ax = axes[i * size + j]
            if i < j:
                ax.axis("off")
            elif i == j:
                ax.hist(horizontal.ravel(), bins=40, color=colour(0))
                ax.set_yticks([])
            else:
                ax.plot(horizontal.ravel(), vertical.ravel(), ".", markersize=1.5, alpha=0.3, color=colour(0))
                if marks is not None and marks.any():
                    ax.plot(horizontal[marks], vertical[marks], "x", markersize=4, color=colour(1))
            page.label(ax, x=column if i == size - 1 else "", y="" if j else row)
    return page
