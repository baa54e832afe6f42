"""Tours on a map, and how a mean field comes to one.

By what a model offers (``relax``), not by its class. Cities are put where their coordinates are, or else where their
distances are kept best in the plane (classical scaling, Torgerson 1952).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.core.contract import lacks, prepared
from zoo.data.tsplib import CITIES, load_cities
from zoo.errors import ZooError
from zoo.reporting.film import Film
from zoo.reporting.page import PALETTE, Array, Page, array, colours_of, limits
from zoo.reporting.subjects import Fitted

__all__ = ["animate_tour", "has_tours", "places", "plot_maps", "plot_relaxation", "plot_tour", "plot_tours"]

#: Pictures of an animation, milliseconds each; links less probable are not drawn.
FRAMES, FRAME, FAINT = 40, 120, 0.02


def has_tours(model: Any) -> bool:
    """Whether a model relaxes to tours."""
    return lacks(model, "relax", "predict") is None


def places(distances: Array) -> Array:
    """Points (n, 2) in the plane whose distances are near those given."""
    n = len(distances)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-0.5 * centre @ np.square(distances) @ centre)
    return np.asarray(vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0.0)))


def plot_tours(fit: Fitted, x: Any, folder: str | Path, name: str = "", *, dark: bool = False) -> Path:
    """Write tour.png, the first problem's tour on its map, into a folder.

    Args:
        name: what the data are called: of named problems the coordinates are known.
    """
    distances, points = _map(fit, x, name)
    return plot_tour(fit.predict(x)[0], distances, Path(folder) / "tour.png", points, dark=dark)


def plot_relaxation(fit: Fitted, x: Any, folder: str | Path, name: str = "") -> Path:
    """Write relaxation.gif into a folder: how one start of Potts neurons is cooled; see :func:`plot_tours`."""
    return animate_tour(fit.model.steps(x, FRAMES), _map(fit, x, name)[1], Path(folder) / "relaxation.gif")


def _map(fit: Fitted, x: Any, name: str) -> tuple[Tensor, Array]:
    distances: Tensor = prepared(fit.model, x)[0]
    known = load_cities(name).coordinates if name in CITIES else None
    return distances, places(array(distances)) if known is None else known


def plot_tour(
    tour: Tensor, distances: Tensor, path: str | Path, points: Array | None = None, *, dark: bool = False
) -> Path:
    """A tour on a map, its length above it; the cities alone where it is none.

    Args:
        tour: (n,), cities in the order of the visit, or -1. distances: (n, n). points: (n, 2), None by distances.
    """
    return plot_maps({"": (array(distances), points, tour.cpu().numpy())}, path, dark=dark)


def plot_maps(tours: dict[str, tuple[Array, Array | None, Any]], path: str | Path, *, dark: bool = False) -> Path:
    """Tours side by side.

    Args:
        tours: by name, distances (n, n), points (n, 2) or None, and the tour (n,).
    """
    columns = min(3, len(tours))
    count = -(-len(tours) // columns)
    page = Page(2.0 + 4.0 * columns, 1.0 + 4.0 * count, dark)
    axes = page.axes(count, columns)
    for ax, (name, (distances, known, tour)) in zip(axes, tours.items(), strict=False):
        points = places(distances) if known is None else known
        title = "no tour: a position is taken twice"
        if min(tour) >= 0:
            route = [*tour, tour[0]]
            ax.plot(*points[route].T, color=PALETTE[0], linewidth=1.6, zorder=1)
            title = f"{len(tour)} cities, length {distances[route[:-1], route[1:]].sum():g}"
        _cities(page, ax, points)
        page.label(ax, f"{name}: {title}" if name else title[0].upper() + title[1:])
    for ax in axes[len(tours) :]:
        ax.set_axis_off()
    return page.save(path)


def animate_tour(steps: Tensor, points: Array, path: str | Path) -> Path:
    """How a mean field comes to a tour, as a .gif: on the left q of each city, on the right links by their probability.

    Args:
        steps: q on the way, (F, n, n). points: (n, 2), where the cities are.

    Raises:
        ZooError: a file of another kind, or no steps.
    """
    if not len(steps):
        raise ZooError("animation expected steps on the way, got none. Pass model.steps(distances).")
    q = array(steps)
    ahead = np.einsum("fai,fbi->fab", q, np.roll(q, -1, -1))
    first, second = np.triu_indices(len(points), 1)
    links = np.minimum((ahead + ahead.swapaxes(1, 2))[:, first, second], 1.0)
    # Cities in the order of the tour that comes out, so that it is seen to grow from nothing.
    order = q[-1].argmax(-1).argsort(kind="stable")
    page = Page(9.6, 4.6, False)
    left, right = page.axes(1, 2)
    image = left.imshow(q[0, order], cmap="Blues", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    page.label(left, "Where each city is in the tour", "position", "city, in the order of the last picture")
    from matplotlib.collections import LineCollection

    lines = LineCollection(list(np.stack([points[first], points[second]], 1)), linewidths=1.6, zorder=1)
    right.add_collection(lines)
    _cities(page, right, points)
    page.label(right, "Links, the darker the more probable")
    film = Film(page, path)
    for frame in range(len(q)):
        image.set_data(q[frame, order])
        shown = np.where(links[frame] < FAINT, 0.0, links[frame])
        lines.set_color([(*colours_of(PALETTE[0]), alpha) for alpha in shown])
        film.take()
    return film.save(FRAME)


def _cities(page: Page, ax: Any, points: Array) -> None:
    ax.scatter(*points.T, s=26, color=page.theme.ink, zorder=2)
    limits(ax, points)
    ax.set_aspect("equal")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
