"""How states follow each other: circles as large as states are frequent, arrows as wide as they are probable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from zoo.reporting.page import Array, Page, colour

__all__ = ["GRAPH_STATES", "draw_transitions"]

#: States that a graph shows at most: beyond them arrows hide each other, and a matrix says more.
GRAPH_STATES = 10
#: States up to which the arrows between them carry their probabilities.
NUMBERED = 4
#: Less probable transitions have no arrow: up to so many states, and with more.
FAINT, FAINT_AMONG_MANY = 0.01, 0.05
#: Radii of the rarest and of the most frequent state, which lie on a circle of radius one; points of a sure arrow.
SMALL, LARGE, WIDEST = 0.09, 0.3, 5.0
#: How far the loop of a state that stays goes out from its circle.
LOOP = 0.45
#: Room for loops and names, across and up.
MARGIN = np.array([1.45, 1.0])


def draw_transitions(page: Page, ax: Any, probs: Array, share: Array, names: Sequence[str]) -> None:
    """Draw the graph into axes.

    Args:
        probs: (K, K), from row to column.
        share: (K,), of the steps that each state takes: the areas of the circles.
        names: of the states, (K,).
    """
    from matplotlib.patches import Circle

    states = len(share)
    places, radii = _places(states), _radii(share, states).tolist()
    least = FAINT if states <= NUMBERED else FAINT_AMONG_MANY
    for i, j in np.ndindex(states, states):
        if probs[i, j] < least:
            continue
        if i == j:
            _loop(page, ax, places[i], radii[i], float(probs[i, i]), i)
        else:
            ends = places[i], places[j], radii[i], radii[j]
            _arrow(page, ax, ends, float(probs[i, j]), i, numbered=states <= NUMBERED)
    for i, (place, radius) in enumerate(zip(places, radii, strict=True)):
        ax.add_patch(Circle(place, radius, facecolor=colour(i), edgecolor=page.theme.paper, linewidth=1.5, zorder=3))
        _name(page, ax, place, radius, f"{names[i]}, {share[i]:.0%}\nstays {probs[i, i]:.2f}")
    ax.set_aspect("equal", adjustable="datalim")
    ax.margins(0)
    ax.update_datalim([places.min(0) - MARGIN, places.max(0) + MARGIN])
    ax.autoscale_view()
    ax.set_axis_off()


def _places(states: int) -> Array:
    """Around a circle: two beside each other, more from the top on, clockwise."""
    if states == 1:
        return np.zeros((1, 2))
    angles = (np.pi if states == 2 else np.pi / 2) - 2 * np.pi * np.arange(states) / states
    return np.stack([np.cos(angles), np.sin(angles)], -1)


def _radii(share: Array, states: int) -> Array:
    room = LARGE if states <= 2 else min(LARGE, 0.62 * math.sin(math.pi / states))
    return np.maximum(SMALL, room * np.sqrt(share / max(float(share.max()), 1e-12)))


def _outward(place: Array) -> Array:
    away = float(np.hypot(*place))
    return place / away if away > 0 else np.array([0.0, 1.0])


def _width(chance: float) -> float:
    return 0.7 + WIDEST * chance


def _curve(page: Page, ax: Any, points: Sequence[Array], chance: float, state: int) -> None:
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    codes = [Path.MOVETO, *[Path.CURVE3 if len(points) == 3 else Path.CURVE4] * (len(points) - 1)]
    width = _width(chance)
    ax.add_patch(
        FancyArrowPatch(
            path=Path(points, codes), arrowstyle="-|>,head_length=0.5,head_width=0.28", mutation_scale=7 + 1.3 * width,
            color=colour(state), linewidth=width, alpha=0.5 + 0.45 * chance, capstyle="butt", joinstyle="miter",
            zorder=2,
        )
    )  # fmt: skip


def _number(page: Page, ax: Any, at: Array, chance: float) -> None:
    from matplotlib.patheffects import withStroke

    ax.text(
        *at, f"{chance:.2f}".removeprefix("0"), ha="center", va="center", fontsize=9, color=page.theme.ink, zorder=4,
        path_effects=[withStroke(linewidth=2.5, foreground=page.theme.paper)],
    )  # fmt: skip


def _arrow(
    page: Page, ax: Any, ends: tuple[Array, Array, float, float], chance: float, state: int, *, numbered: bool
) -> None:
    """From one circle's edge to another's, bent to its left: the way back lies on the other side."""
    begin, end, own, other = ends
    across = np.array([begin[1] - end[1], end[0] - begin[0]])
    middle = (begin + end) / 2 + 0.2 * across
    start = begin + own * (middle - begin) / np.hypot(*(middle - begin))
    stop = end + (other + 0.02) * (middle - end) / np.hypot(*(middle - end))
    _curve(page, ax, [start, middle, stop], chance, state)
    if numbered:
        _number(page, ax, 0.49 * start + 0.42 * middle + 0.09 * stop, chance)  # the curve at three tenths


def _loop(page: Page, ax: Any, place: Array, radius: float, chance: float, state: int) -> None:
    """From a circle's outer edge back to it."""
    angle = math.atan2(*_outward(place)[::-1])

    def around(turn: float, far: float) -> Array:
        return place + far * np.array([math.cos(angle + turn), math.sin(angle + turn)])

    turn, tall = (0.7, 0.45) if radius > 0.15 else (0.9, 0.6)
    points = [around(turn, radius), around(tall, radius + LOOP), around(-tall, radius + LOOP), around(-turn, radius)]
    _curve(page, ax, points, chance, state)


def _name(page: Page, ax: Any, place: Array, radius: float, text: str) -> None:
    out = _outward(place)
    at = place + (radius + 0.9 * LOOP) * out
    side = "left" if out[0] > 0.2 else "right" if out[0] < -0.2 else "center"
    above = "bottom" if side == "center" and out[1] > 0 else "top" if side == "center" else "center"
    ax.text(
        *at, text, ha=side, va=above, fontsize=9, color=page.theme.ink, zorder=4, parse_math=False, linespacing=1.1
    )  # fmt: skip
