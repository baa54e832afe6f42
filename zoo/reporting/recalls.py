"""What a memory makes of states near what it stored: how far away they still lead back; one of them on its way.

By what a model offers (``recall``), not by its class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from zoo.core.contract import lacks, prepared
from zoo.core.isolation import isolated
from zoo.errors import ZooError
from zoo.reporting.film import Film, gif
from zoo.reporting.page import PALETTE, Array, Page, array, image_shape
from zoo.reporting.samples import plot_sheet
from zoo.reporting.subjects import Fitted
from zoo.scores.recall import flipped, recall_errors

__all__ = ["animate_recall", "has_recalls", "plot_basins", "plot_recalls"]

#: Patterns that a sheet of images shows, and that basins are measured of; the shares of units that a sheet turns.
SHOWN, MEASURED, TURNED = 10, 100, (0.1, 0.2, 0.3, 0.4)
#: Inches of an animation's height.
INCHES = 3.2


def has_recalls(model: Any) -> bool:
    """Whether a model is a memory."""
    return lacks(model, "recall") is None


def plot_recalls(fit: Fitted, x: Any, folder: str | Path, *, dark: bool = False) -> list[Path]:
    """Write the pictures of a memory into a folder.

    basins.png  how much comes back from states with a share of their units turned
    recall.png  of images: what was stored, and beside it such states and what they lead to

    Returns:
        What was written.
    """
    folder, x = Path(folder), prepared(fit.model, x)
    made = [plot_basins({fit.model.label: fit.model}, x, folder / "basins.png", dark=dark)]
    if image_shape(x.shape[1], True) is not None and bool((x.abs() == 1).all()):
        made.append(_sheet(fit.model, x[:SHOWN], folder / "recall.png", dark))
    return made


def plot_basins(memories: dict[str, Any], x: Any, path: str | Path, *, starts: int = 50, dark: bool = False) -> Path:
    """For each memory, by the share of a pattern's units that are turned: how many states lead back to the pattern.

    Args:
        memories: models by the names to call them. x: the patterns that they store, (M, D).
    """
    page = Page(6.4, 4.2, dark)
    (ax,) = page.axes()
    handles = []
    for i, (name, model) in enumerate(memories.items()):
        patterns = prepared(model, x)[:MEASURED]
        turned = np.unique(np.round(np.linspace(0, 0.5, 26) * patterns.shape[1])) / patterns.shape[1]
        with isolated(0):
            back = [float((recall_errors(model, patterns, float(s), starts) == 0).double().mean()) for s in turned]
        handles += ax.plot(turned, back, color=PALETTE[i % len(PALETTE)], marker="o", markersize=3.5, label=name)
    ax.set_ylim(-0.03, 1.03)
    ax.grid(True, color=page.theme.grid, linewidth=0.7)
    page.label(ax, "How many states lead back to the pattern", "share of the pattern's units that are turned", "share")
    if len(handles) > 1:
        page.legend(ax, handles)
    return page.save(path)


def _sheet(model: Any, x: Tensor, path: Path, dark: bool) -> Path:
    """A row a pattern: itself, then states near it, each with what it leads to."""
    with isolated(0):
        columns = [x]
        for share in TURNED:
            near = flipped(x, share)
            columns += [near, model.recall(near)]
    shape = image_shape(x.shape[1], True)
    assert shape is not None
    rows = list(np.stack([_image(c, shape) for c in columns], 1))
    tops = ["stored", *(text for share in TURNED for text in (f"{share:.0%}", "leads to"))]
    return plot_sheet(rows, path, tops=tops, dark=dark)


def animate_recall(model: Any, states: list[Tensor], path: str | Path, *, updates: str = "asynchronous") -> Path:
    """States on their way through a memory side by side, as a .gif, with their energies under them.

    Args:
        states: each (D,), of images. updates: as the memory's ``recall`` takes it.

    Raises:
        ZooError: a file of another kind, or states that are no images.
    """
    path, shape = gif(path), image_shape(len(states[0]), True)
    if shape is None:
        raise ZooError(f"animation expected states that are images, got {len(states[0])} units. Use plot_basins.")
    ways = [model.steps(state, updates) for state in states]
    energies = [array(model.energy(way)) for way in ways]
    frames = max(map(len, ways))
    page = Page(INCHES * len(ways) / 2 + 0.6, INCHES, False)
    axes = page.axes(2, len(ways), height_ratios=(1.4, 1.0))
    images, lines = [], []
    low, high = min(e.min() for e in energies), max(e.max() for e in energies)
    for top, ax, way, energy in zip(axes, axes[len(ways) :], ways, energies, strict=False):
        top.set_axis_off()
        images.append(top.imshow(_image(way[0], shape), cmap="gray", vmin=0, vmax=1))
        ax.set(xlim=(-0.5, frames - 0.5), ylim=(low - 0.05 * (high - low), high + 0.05 * (high - low)))
        lines.append(ax.plot([0], energy[:1], color=PALETTE[0], marker="o", markersize=3)[0])
        ax.xaxis.get_major_locator().set_params(integer=True)
        page.label(ax, "", "moves", "energy" if ax is axes[len(ways)] else "")
    film = Film(page, path)
    for frame in range(frames):
        for image, line, way, energy in zip(images, lines, ways, energies, strict=True):
            at = min(frame, len(way) - 1)
            image.set_data(_image(way[at], shape))
            line.set_data(np.arange(at + 1), energy[: at + 1])
        film.take()
    return film.save()


def _image(states: Tensor, shape: tuple[int, int]) -> Array:
    """States (..., D) as images: 1 dark, -1 a little darker than the paper, so that edges are seen."""
    return np.asarray(0.47 - 0.42 * array(states).reshape(*states.shape[:-1], *shape))
