"""What grammars are looked at for: the trees of some sentences, as text and as a picture, and the rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zoo.core.contract import lacks, prepared
from zoo.core.data import take
from zoo.data.parse_tree import ParseTree
from zoo.errors import ZooError
from zoo.reporting.page import Page, colour
from zoo.reporting.subjects import Fitted

__all__ = ["draw_trees", "has_trees", "plot_trees"]

#: Sentences in the text, and in the picture.
TEXT, DRAWN = 20, 4


def has_trees(model: Any) -> bool:
    """Whether a model parses sentences."""
    return lacks(model, "parse") is None


def plot_trees(fit: Fitted, x: Any, folder: str | Path, *, dark: bool = False) -> list[Path]:
    """Parses the first sentences: ``trees.txt`` with the grammar's rules below them, and ``trees.png``.

    Raises:
        ZooError: the model parses no sentences, or can make none of these.
    """
    if not has_trees(fit.model):
        raise ZooError(f"plot_trees: expected a model that parses, got {type(fit.model).__name__}.")
    data = take(prepared(fit.model, x), slice(0, TEXT))
    trees = [tree for tree in fit.model.parse(data) if tree is not None]
    if not trees:
        raise ZooError(f"plot_trees: expected sentences that the grammar can make, got none in the first {TEXT}.")
    text = Path(folder) / "trees.txt"
    text.write_text("\n\n".join(tree.draw() for tree in trees) + "\n\n" + fit.model.grammar() + "\n", encoding="utf-8")
    shown = sorted(trees, key=lambda tree: abs(len(tree.words()) - 8))[:DRAWN]
    return [text, draw_trees(shown, Path(folder) / "trees.png", dark=dark)]


def draw_trees(trees: Sequence[ParseTree], path: str | Path, *, dark: bool = False) -> Path:
    """Trees one below another: words below, each phrase above the middle of its parts."""
    longest = max(len(tree.words()) for tree in trees)
    page = Page(max(4.0, 0.75 * longest), len(trees) * max(2.5, 0.42 * longest), dark)
    for ax, tree in zip(page.axes(len(trees), 1), trees, strict=True):
        ax.axis("off")
        _draw(page, ax, tree)
    return page.save(path)


def _draw(page: Page, ax: Any, tree: ParseTree) -> None:
    places: dict[int, tuple[float, float]] = {}  # by node, the middle of its parts and its height
    for node, begin, _ in tree.nodes():
        if node.is_tag:
            at = (float(begin), 0.0)
            ax.text(begin, -0.75, str(node.children[0]), color=page.theme.ink, ha="center", va="top", fontsize=9)
            ax.plot([begin, begin], [-0.65, -0.3], color=page.theme.grid, linewidth=1.0)
        else:
            below = [places[id(child)] for child in node.children]
            at = ((below[0][0] + below[-1][0]) / 2, max(y for _, y in below) + 1.0)
            for x, y in below:
                ax.plot([at[0], x], [at[1], y], color=page.theme.quiet, linewidth=0.9, zorder=1)
        places[id(node)] = at
        tint = page.theme.quiet if node.is_tag else colour(sum(map(ord, node.label)))
        box = {"facecolor": page.theme.paper, "edgecolor": "none", "pad": 1.2}
        ax.text(*at, node.label, color=tint, ha="center", va="center", fontsize=9, bbox=box, parse_math=False)
    ax.set_xlim(-0.6, len(tree.words()) - 0.4)
    ax.set_ylim(-1.6, max(y for _, y in places.values()) + 0.6)
