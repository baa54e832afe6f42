"""What each criterion says of sizes: a curve over the grid's numbers, one for each of its other settings."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any, TypeGuard

from zoo.reporting.page import MARKERS, Page, colour
from zoo.reporting.subjects import Selecting

__all__ = ["TITLES", "plot_selection"]

#: What tables and pictures call the criteria.
TITLES: dict[str, str] = {"bic": "BIC", "aic": "AIC", "icl": "ICL", "cv": "CV"}
#: Values from which a panel is made for the better ones, and how far beyond their median it reaches.
FEW, REACH = 8, 3.0


def plot_selection(selection: Selecting, path: str | Path, *, dark: bool = False) -> Path:
    """One panel a criterion, its best point ringed; hollow where a constraint acts at the fit, or it diverged."""
    from matplotlib.lines import Line2D

    across = _axis(selection)
    places = list(dict.fromkeys(_label(each.point[across]) for each in selection.candidates))
    numeric = all(_is_number(each.point[across]) for each in selection.candidates)
    lines: dict[str, list[Any]] = {}
    for each in selection.candidates:
        lines.setdefault(", ".join(_label(v) for n, v in each.point.items() if n != across), []).append(each)
    known = selection.known
    columns = min(2, len(known))
    rows = math.ceil(len(known) / columns)
    page = Page(4.3 * columns + 0.6, 3.1 * rows + 0.5, dark)
    axes = page.axes(rows, columns)
    for ax, name in zip(axes, known, strict=False):
        best = selection.chosen_by(name)
        for i, candidates in enumerate(lines.values()):
            shown = [each for each in candidates if _finite(each.value(name))]
            at = [each.point[across] if numeric else places.index(_label(each.point[across])) for each in shown]
            values = [each.value(name) for each in shown]
            ax.plot(at, values, color=colour(i), linewidth=1.4, zorder=2)
            if name == "cv":
                ax.errorbar(
                    at, values, [each.held_out.se or 0.0 for each in shown], fmt="none", ecolor=colour(i),
                    elinewidth=0.9, capsize=2, alpha=0.7, zorder=1,
                )  # fmt: skip
            for each, where, value in zip(shown, at, values, strict=True):
                hollow = each.fit.degenerate or each.fit.status == "diverged"
                ax.plot(
                    where, value, marker=MARKERS[i % len(MARKERS)], markersize=5.5, color=colour(i), zorder=3,
                    markerfacecolor=page.theme.paper if hollow else colour(i),
                )  # fmt: skip
                if each is best:
                    ax.plot(
                        where, value, marker="o", markersize=13, markerfacecolor="none", zorder=4,
                        markeredgecolor=page.theme.ink, markeredgewidth=1.3,
                    )  # fmt: skip
        _scale(ax, places, numeric)
        values = [value for each in selection.candidates if _finite(value := each.value(name))]
        if _framed(ax, values, name == "cv"):
            ax.text(
                0.99, 0.03 if name == "cv" else 0.97, "some beyond the frame", transform=ax.transAxes, fontsize=9,
                ha="right", va="bottom" if name == "cv" else "top", color=page.theme.quiet,
            )  # fmt: skip
        ax.grid(True, axis="y", color=page.theme.grid, linewidth=0.7)
        ax.set_axisbelow(True)
        better, unit = ("higher", "held-out nats a datum") if name == "cv" else ("lower", "")
        page.label(ax, f"{TITLES[name]}: {better} is better", across, unit)
    for ax in axes[len(known) :]:
        ax.set_visible(False)
    if len(lines) > 1:
        handles = [
            Line2D([], [], color=colour(i), marker=MARKERS[i % len(MARKERS)], markersize=6, linewidth=1.6, label=name)
            for i, name in enumerate(lines)
        ]
        page.legend(axes[0], handles, below=True, ncols=min(len(handles), 4))
    return page.save(path)


def _axis(selection: Selecting) -> str:
    """The name that runs across: the first with several numbers, else the first with several values."""
    several = [
        name for name in selection.names if len({_label(each.point[name]) for each in selection.candidates}) > 1
    ] or selection.names
    numbers = [name for name in several if all(_is_number(each.point[name]) for each in selection.candidates)]
    return (numbers or several)[0]


def _scale(ax: Any, places: list[str], numeric: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.ticklabel_format(axis="y", useOffset=False, style="plain")
    if not numeric:
        ax.set_xticks(range(len(places)), places)
        ax.set_xlim(-0.5, len(places) - 0.5)
    elif all(place.lstrip("-").isdecimal() for place in places):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.08)


def _framed(ax: Any, values: list[float], upward: bool) -> bool:
    """Where many are shown, make the limits for the better half: what is far off would press it flat. Whether they cut
    something off."""
    if len(values) < FEW:
        return False
    best, worst = (max(values), min(values)) if upward else (min(values), max(values))
    reach = REACH * (statistics.median(values) - best)
    cut = bool(reach) and abs(worst - best) > abs(reach)
    if cut:
        ax.set_ylim(*sorted((best - 0.08 * reach, best + reach)))
    return cut


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _label(value: Any) -> str:
    return str(getattr(value, "__name__", value))


def _finite(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)
