"""What a run climbed, against time and iterations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import ZooError
from zoo.reporting.page import MARKERS, Array, Page, colour, floats
from zoo.reporting.subjects import Compared, Fitted
from zoo.reporting.text import size_text

__all__ = ["plot_comparison", "plot_history"]


def plot_comparison(comparison: Compared, path: str | Path, *, dark: bool = False) -> Path:
    """Log-likelihood (solid) and bound (dashed) against time: one colour an estimator, one thin line a seed.

    The frame is made for the part where estimators differ; early parts of a climb may lie below it.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    page = Page(8.6, 5.0, dark)
    (ax,) = page.axes()
    names = comparison.estimators
    curves: list[tuple[str, str, Array, Array]] = []
    ends: list[tuple[str, float, float]] = []
    for fit in comparison.fits:
        seconds = floats(fit.history["seconds"])
        for column in ("log_likelihood", "elbo", "bound", "denoising"):
            values = floats(fit.history.get(column, [None] * len(seconds)))
            seen = np.isfinite(values) & np.isfinite(seconds)
            if seen.any():
                times, seen_values = np.maximum(seconds[seen], 1e-4), values[seen]
                if column != "log_likelihood":
                    times, seen_values = _averaged(times, seen_values)
                curves.append((fit.label, column, times, seen_values))
        score = comparison.score(fit)
        if score is not None and math.isfinite(score):
            ends.append((fit.label, max(fit.seconds, 1e-4), score))
    low, high, cut = _frame(comparison, curves, [score for _, _, score in ends])
    best = comparison.best
    top = comparison.score(best)
    if top is not None and math.isfinite(top):
        ax.axhline(top, color=page.theme.quiet, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        said = f"best {comparison.score_kind} {top:.2f} ({best.label})"
        ax.annotate(
            said, (0.01, top), xycoords=("axes fraction", "data"),
            xytext=(0, 4), textcoords="offset points", fontsize=8.5, color=page.theme.quiet, va="bottom",
        )  # fmt: skip
    for name, column, seconds, values in curves:
        exact = column == "log_likelihood"
        style: Any = "-" if exact else (0, (4, 2))
        ax.plot(
            seconds, values, color=colour(names.index(name)), linestyle=style, linewidth=1.3,
            alpha=0.9 if exact else 0.65, zorder=3 if exact else 2,
        )  # fmt: skip
    for name, end, score in ends:
        i = names.index(name)
        inside = max(score, low)  # below the frame: on its lower edge
        ax.plot(
            end, inside, marker=MARKERS[i % len(MARKERS)], markersize=6.5, color=colour(i), zorder=5,
            markeredgecolor=page.theme.paper, markeredgewidth=0.8, clip_on=False,
        )  # fmt: skip
    ax.set_xscale("log")
    ax.set_ylim(low, high)
    ax.yaxis.set_major_locator(MaxNLocator(6))
    ax.ticklabel_format(axis="y", useOffset=False, style="plain")
    ax.grid(True, axis="y", color=page.theme.grid, linewidth=0.7)
    ax.set_axisbelow(True)
    if cut:
        ax.text(
            0.99, 0.02, "some curves begin below the frame", transform=ax.transAxes, ha="right", va="bottom",
            fontsize=8.5, color=page.theme.quiet,
        )  # fmt: skip
    seeds = len({fit.seed for fit in comparison.fits})
    many = f", {seeds} seeds" if seeds > 1 else ""
    page.label(
        ax,
        f"{comparison.model} on {comparison.data}: {size_text(comparison.num_data, comparison.best.num_units)}{many}",
        "seconds (log scale)",
        "total, nats",
    )
    handles = [
        Line2D([], [], color=colour(i), marker=MARKERS[i % len(MARKERS)], markersize=6, linewidth=1.6, label=name)
        for i, name in enumerate(names)
    ]
    kinds = {column for _, column, _, _ in curves}
    if "log_likelihood" in kinds:
        handles.append(Line2D([], [], color=page.theme.quiet, linewidth=1.4, label="exact log-likelihood"))
    if kinds & {"elbo", "bound"}:
        handles.append(
            Line2D([], [], color=page.theme.quiet, linewidth=1.4, linestyle=(0, (4, 2)), label="bound, averaged")
        )
    page.legend(ax, handles, below=True, ncols=min(len(handles), 7))
    return page.save(path)


def _averaged(seconds: Array, values: Array, spans: int = 120) -> tuple[Array, Array]:
    """A long curve as means over spans of equal length in log time: a bound of few draws is a cloud otherwise."""
    if len(values) <= spans:
        return seconds, values
    where = np.digitize(np.log(seconds), np.linspace(math.log(seconds[0]), math.log(seconds[-1]), spans + 1)[1:-1])
    _, where = np.unique(where, return_inverse=True)
    count = np.bincount(where)
    return np.bincount(where, seconds) / count, np.bincount(where, values) / count


def _frame(
    comparison: Compared, curves: list[tuple[str, str, Array, Array]], ends: list[float]
) -> tuple[float, float, bool]:
    """The limits in nats, and whether they cut a curve off.

    Gradient runs may begin thousands of nats below where they end, so the lower limit is a quantile of what a
    reader would see along the logarithmic time axis, with every end of a run in the frame unless it is far off.
    """
    if not ends:
        ends = [0.0]
    top = max([*ends, *(float(np.percentile(v[len(v) // 2 :], 99)) for *_, v in curves)])
    visible: list[Array] = []
    for *_, seconds, values in curves:
        grid = np.geomspace(seconds[0], max(seconds[-1], seconds[0] * 1.001), 60)
        visible.append(np.interp(np.log(grid), np.log(seconds), values))
    low = float(np.percentile(np.concatenate(visible), 10)) if visible else min(ends)
    typical = float(np.median(ends))
    reach = max(top - typical, top - low, 1e-3 * max(1.0, abs(top)))
    low = min(low, min((end for end in ends if top - end < 5 * reach), default=low))
    height = max(top - low, 1e-6 * max(1.0, abs(top)))
    low, high = low - 0.06 * height, top + 0.09 * height
    return low, high, any(float(values.min()) < low for *_, values in curves)


def plot_history(fit: Fitted, path: str | Path, *, dark: bool = False) -> Path:
    """A learning curve: what was climbed, a datum, against iterations or epochs; held-out data; parts of the bound.

    Raises:
        ZooError: a run of fewer than two iterations.
    """
    from matplotlib.ticker import MaxNLocator

    if fit.iterations < 2:
        raise ZooError(f"plot_history: expected at least two iterations to draw a line, got {fit.iterations}. Run on.")
    history = {name: floats(values) for name, values in fit.history.items()}
    parts = [name for name in ("reconstruction", "kl") if np.isfinite(history.get(name, np.empty(0))).any()]
    page = Page(6.4, 3.4 + 1.6 * bool(parts), dark)
    shape: dict[str, Any] = {"height_ratios": (2, 1)} if parts else {}
    axes = page.axes(2 if parts else 1, sharex=True, **shape)
    when = np.arange(1, fit.iterations + 1)
    curves = [(axes[0], "climbed", history["objective"] / fit.num_data)]
    unknown = not np.isfinite(history["objective"]).any()
    if unknown and "contrast" in history:  # nobody knows what is climbed: how far chains are from the data
        curves = [(axes[0], "mean energy of the chains less that of the data", history["contrast"])]
    curves += [(axes[0], "held out", history["validation"])] if "validation" in history else []
    signs = {"reconstruction": ("reconstruction, negative", -1), "kl": ("KL", 1)}
    curves += [(axes[1], signs[name][0], signs[name][1] * history[name]) for name in parts]
    for i, (ax, label, values) in enumerate(curves):
        ax.plot(when, values, color=colour(i), linewidth=1.4, label=label)
    first = curves[0][2][np.isfinite(curves[0][2])]
    if len(first) > 20 and not unknown:  # the first epochs of a network lie far below all others
        low, high = float(np.percentile(first, 3)), float(first.max())
        axes[0].set_ylim(low - 0.05 * (high - low) - 1e-9, high + 0.08 * (high - low) + 1e-9)
    for ax in axes:
        ax.grid(True, axis="y", color=page.theme.grid, linewidth=0.7)
        ax.set_axisbelow(True)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(ax.lines) > 1 or curves[0][1] != "climbed":
            page.legend(ax, ax.lines)
    unit = "epoch" if "max_epochs" in fit.options else "iteration"
    page.label(axes[0], f"{fit.label}, {size_text(fit.num_data, fit.num_units)}", "" if parts else unit, "nats a datum")
    if parts:
        page.label(axes[1], "", unit, "nats a datum")
    return page.save(path)
