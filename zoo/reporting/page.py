"""One figure: theme, axes, labels, colours.

Matplotlib is imported when a picture is asked for, and only its figure objects are used: no pyplot, so the caller's
backend, open figures and settings stay as they are."""

from __future__ import annotations

import io
import math
import tempfile
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from zoo.errors import ZooError
from zoo.storage.folders import written

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

__all__ = [
    "MARKERS",
    "PALETTE",
    "WIDTH",
    "Array",
    "Page",
    "Theme",
    "array",
    "as_figure",
    "colour",
    "colours_of",
    "figures",
    "floats",
    "heat",
    "image_shape",
    "limits",
    "rgb",
    "ticks",
    "write",
]


#: Okabe & Ito's colours, which colour-blind readers tell apart, then darker ones of Paul Tol's for long lists.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#7570B3", "#999933", "#44AA99")


MARKERS = "osD^vPX*<>"


Array = NDArray[np.float64]


#: Inches that a page is wide at most, and dots an inch. Type of 9 points, the smallest but for numbers in cells, is 8
#: pixels high on a screen that shows a page 400 pixels wide: what needs more room than a page has goes below.
WIDTH, DOTS = 6.4, 150


#: Letters of titles that have room over a quarter of a page.
SHORT = 20


@dataclass(frozen=True)
class Theme:
    ink: str
    quiet: str
    grid: str
    paper: str


_LIGHT = Theme("#1d2430", "#6b7482", "#e3e6ea", "#ffffff")


_DARK = Theme("#e6e9ee", "#98a2b0", "#343b46", "#171b21")


class Page:
    """One figure: axes in the theme's colours, saved at the end.

    A page wider than :data:`WIDTH` is made so much smaller, with as many dots: its type grows against it.
    """

    def __init__(self, width: float, height: float, dark: bool) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self.theme = _DARK if dark else _LIGHT
        self.scale = min(1.0, WIDTH / width)
        self.figure = Figure(
            figsize=(width * self.scale, height * self.scale), dpi=DOTS / self.scale, facecolor=self.theme.paper,
            layout="constrained",
        )  # fmt: skip
        FigureCanvasAgg(self.figure)
        self.titles: list[tuple[Any, Any]] = []

    def axes(self, rows: int = 1, columns: int = 1, **kwargs: Any) -> list[Any]:
        made = self.figure.subplots(rows, columns, squeeze=False, **kwargs)
        for ax in made.flat:
            self.dress(ax)
        return list(made.flat)

    def halves(self, rows: int, columns: int, **kwargs: Any) -> list[Any]:
        """Parts of the page whose axes are not aligned with those of others."""
        made = self.figure.subfigures(rows, columns, squeeze=False, **kwargs)
        for half in made.flat:
            half.set_facecolor(self.theme.paper)
        return list(made.flat)

    def dress(self, ax: Any) -> None:
        theme = self.theme
        ax.set_facecolor(theme.paper)
        ax.tick_params(colors=theme.quiet, labelcolor=theme.quiet, labelsize=9, length=3)
        for side, spine in ax.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.quiet)
            spine.set_linewidth(0.8)

    def label(self, ax: Any, title: str = "", x: str = "", y: str = "") -> None:
        # A data set's name is text, also where it has a dollar sign.
        if title:
            made = ax.set_title(title, loc="left", fontsize=11, color=self.theme.ink, pad=8, parse_math=False)
            self.titles.append((ax, made))
        ax.set_xlabel(x, fontsize=10, color=self.theme.ink, parse_math=False)
        ax.set_ylabel(y, fontsize=10, color=self.theme.ink, parse_math=False)

    def legend(self, ax: Any, handles: Sequence[Any], *, below: bool = False, ncols: int = 1) -> None:
        """What the marks mean; below all axes in at most ``ncols`` columns, as many as the page is wide enough for."""
        place: dict[str, Any] = {"loc": "outside lower center"} if below else {}
        for columns in range(ncols, 0, -1):
            made = (self.figure if below else ax).legend(
                handles=list(handles), fontsize=9, frameon=False, labelcolor=self.theme.ink, ncols=columns, **place
            )
            for text in made.get_texts():
                text.set_parse_math(False)
            if columns == 1 or made.get_window_extent().width <= self.figure.bbox.width:
                return
            made.remove()

    def save(self, path: str | Path) -> Path:
        """Write the figure; inside :func:`figures` it is handed over instead."""
        self._break_titles()
        kept = _KEPT.get()
        if kept is None:
            return write(self.figure, path)
        kept.append(self.figure)
        return Path(path)

    def _break_titles(self) -> None:
        """Titles longer than there is room above their axes go on in another line."""
        if max((len(title.get_text()) for _, title in self.titles), default=0) < SHORT:
            return
        self.figure.draw_without_rendering()
        boxes = [(title, title.get_window_extent(), ax.get_window_extent()) for ax, title in self.titles]
        for title, box, _ in boxes:
            beside = [o.x0 for _, t, o in boxes if o.x0 > box.x0 + 1 and t.y0 < box.y1 and t.y1 > box.y0]
            room = min([*beside, self.figure.bbox.x1]) - box.x0 - 4
            text = title.get_text()
            if box.width > room and "\n" not in text:
                title.set_text(textwrap.fill(text, max(12, int(len(text) * room / box.width))))


_KEPT: ContextVar[list[Figure] | None] = ContextVar("figures", default=None)


@contextmanager
def figures() -> Iterator[list[Figure]]:
    """The figures of the pages that are saved inside, in their order; no picture is written."""
    kept: list[Figure] = []
    token = _KEPT.set(kept)
    try:
        yield kept
    finally:
        _KEPT.reset(token)


def as_figure(draw: Callable[[Path], object], path: str | Path | None = None) -> Figure:
    """The first page that ``draw`` saves, as a figure that a notebook shows; written where there is a path.

    Args:
        draw: told a folder to draw into; nothing is written there.
        path: .png, .svg or .pdf.

    Raises:
        ZooError: there is no page.
    """
    with tempfile.TemporaryDirectory() as folder, figures() as drawn:
        draw(Path(folder))
    if not drawn:
        raise ZooError("picture expected something to draw, got nothing")
    figure = drawn[0]
    if path is not None:
        write(figure, path)
    vars(figure)["_repr_png_"] = partial(shown, figure)  # no pyplot: the notebook is told how to show it
    return figure


def shown(figure: Figure) -> tuple[bytes, dict[str, int]]:
    """A figure as the bytes of a .png and how wide a notebook shows it, in pixels: a hundred an inch."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi="figure", facecolor=figure.get_facecolor())
    return picture.getvalue(), {"width": round(100 * figure.get_figwidth())}


def write(figure: Figure, path: str | Path) -> Path:
    """Save a figure as it is.

    Raises:
        ZooError: a kind of file that Matplotlib does not write.
    """
    path = Path(path)
    if path.suffix.lstrip(".").lower() not in figure.canvas.get_supported_filetypes():
        raise ZooError(f"picture expected a name ending in .png, .svg or .pdf, got {path.name!r}. Rename it.")
    with written(path) as file:
        figure.savefig(file, dpi="figure", facecolor=figure.get_facecolor())
    return path


def array(value: Tensor) -> Array:
    return np.asarray(value.detach().cpu().double().numpy())


def floats(values: Sequence[float | None]) -> Array:
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


def colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]


def rgb(count: int) -> Array:
    return np.array([colours_of(colour(k)) for k in range(count)])


def colours_of(name: str) -> Array:
    return np.array([int(name[i : i + 2], 16) / 255 for i in (1, 3, 5)])


def limits(ax: Any, points: Array) -> None:
    """Show the data with a margin; an ellipse may leave the frame, data do not."""
    low, high = points.min(0), points.max(0)
    margin = 0.12 * np.maximum(high - low, 1e-9 * np.maximum(1.0, np.abs(high)))
    ax.set_xlim(low[0] - margin[0], high[0] + margin[0])
    ax.set_ylim(low[1] - margin[1], high[1] + margin[1])


def heat(
    page: Page, ax: Any, values: Array, cmap: str, limits: tuple[float | None, float | None], name: str, *,
    annotate: bool = True, vertical: bool = False,
) -> None:  # fmt: skip
    image = ax.imshow(values, aspect="auto", cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = page.figure.colorbar(image, ax=ax, pad=0.02, shrink=0.9, aspect=30 if vertical else 16)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, colors=page.theme.quiet, length=2)
    bar.set_label(name, fontsize=9, color=page.theme.quiet)
    if not annotate or values.shape[0] > 16 or values.shape[1] > 12:
        return
    for i, j in np.ndindex(*values.shape):
        r, g, b, _ = image.cmap(image.norm(values[i, j]))
        ink = "#111111" if 0.299 * r + 0.587 * g + 0.114 * b > 0.55 else "#f5f5f5"
        ax.text(j, i, f"{values[i, j]:.3g}", ha="center", va="center", fontsize=8, color=ink)


def ticks(ax: Any, axis: int, names: list[str]) -> None:
    every = max(1, math.ceil(len(names) / 30))
    at = list(range(0, len(names), every))
    shown = [names[i] for i in at]
    if axis:
        ax.set_yticks(at, shown, parse_math=False)
    else:
        slanted = (
            {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, shown), default=0) > 5 else {}
        )
        ax.set_xticks(at, shown, parse_math=False, **slanted)


#: Features from which square vectors are shown as images, of two values and of any.
FEW_FEATURES, IMAGE_FEATURES = 25, 64


def image_shape(num_features: int, two_values: bool = False) -> tuple[int, int] | None:
    """(height, width) of the image that a datum of so many numbers is taken for; None where it is taken for none.

    Args:
        two_values: whether each is one of two: smaller squares are images then.
    """
    side = math.isqrt(num_features)
    if side * side == num_features and num_features >= (FEW_FEATURES if two_values else IMAGE_FEATURES):
        return side, side
    return (28, 20) if num_features == 560 else None  # Frey's faces
