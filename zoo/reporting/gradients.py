"""Bias and spread of estimators' gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from zoo.errors import ZooError
from zoo.reporting.page import WIDTH, Page, colour
from zoo.reporting.subjects import Compared

__all__ = ["plot_gradients"]


def plot_gradients(comparison: Compared, path: str | Path, *, dark: bool = False) -> Path:
    """Bias and spread of each estimator's gradient at the start and at the optimum, on a log scale.

    The grey bar under a bias is its noise floor, two Monte-Carlo standard errors: a bias inside it may be none.

    Raises:
        ZooError: the comparison measured no gradients.
    """
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if not comparison.gradients:
        raise ZooError("plot_gradients: expected measured gradients, got none. Compare with gradients=True.")
    points = list(dict.fromkeys(row.point for row in comparison.gradients))
    names = list(dict.fromkeys(row.estimator for row in comparison.gradients))
    colours = {name: colour(comparison.estimators.index(name)) for name in names}
    page = Page(WIDTH, 0.6 + len(points) * (0.9 + 0.36 * len(names)), dark)
    axes = page.axes(len(points), 1)
    scale = max([row.exact_norm for row in comparison.gradients] + [row.sd for row in comparison.gradients] + [1e-300])
    nothing = 1e-10 * scale  # what rounding leaves of a bias of zero
    seen = [v for r in comparison.gradients for v in (r.bias, r.sd, 2 * r.bias_se, r.exact_norm) if v > nothing] or [
        scale
    ]
    edge, top = min(seen) / 12, max(seen) * 3
    for ax, point in zip(axes, points, strict=True):
        rows = {row.estimator: row for row in comparison.gradients if row.point == point}
        for name, row in rows.items():
            y = names.index(name)
            floor = 2 * row.bias_se
            if floor > nothing:
                ax.barh(y, floor - edge, left=edge, height=0.62, color=page.theme.grid, zorder=1)
            for value, marker, size, dy in ((row.bias, "o", 7.5, 0.13), (row.sd, "|", 13, -0.13)):
                zero = value <= nothing
                ax.plot(
                    edge * 1.35 if zero else value, y - dy, marker="o" if zero and marker == "o" else marker,
                    markersize=size, color=colours[name], markeredgewidth=2.4 if marker == "|" else 1.2,
                    markerfacecolor="none" if zero else colours[name], zorder=4,
                )  # fmt: skip
                if zero:
                    ax.annotate(
                        "0", (edge * 1.35, y - dy), xytext=(8, 0), textcoords="offset points", va="center",
                        fontsize=8.5, color=page.theme.quiet,
                    )  # fmt: skip
            if row.bias > nothing and row.bias_se > 0:
                left = max(row.bias - row.bias_se, edge)
                ax.plot([left, row.bias + row.bias_se], [y - 0.13] * 2, color=colours[name], linewidth=1.4, zorder=3)
        norm = next(iter(rows.values())).exact_norm
        if norm > edge:
            ax.axvline(norm, color=page.theme.ink, linewidth=1.0, linestyle=(0, (4, 2)), zorder=2)
        ax.set_xscale("log")
        ax.set_xlim(edge, top)
        ax.set_ylim(len(names) - 0.5, -0.5)
        ax.set_yticks(range(len(names)), names)
        ax.tick_params(axis="y", labelcolor=page.theme.ink, labelsize=10, length=0)
        ax.grid(True, axis="x", color=page.theme.grid, linewidth=0.7)
        ax.set_axisbelow(True)
        title = {"start": "at the start", "optimum": "at the best optimum"}.get(point, point)
        page.label(ax, f"Gradient {title}", "per datum, in units of each parameter's scale")
    ink = page.theme.ink
    handles: list[Any] = [
        Line2D([], [], color=ink, marker="o", linestyle="", markersize=7, label="bias"),
        Line2D([], [], color=ink, marker="|", linestyle="", markersize=12, markeredgewidth=2.4, label="sd of a draw"),
        Patch(color=page.theme.grid, label="noise floor of the bias (2 se)"),
        Line2D([], [], color=ink, linestyle=(0, (4, 2)), linewidth=1.0, label="norm of the exact gradient"),
    ]
    page.legend(axes[0], handles, below=True, ncols=2)
    return page.save(path)
