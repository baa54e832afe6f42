"""What chains of states over words are looked at for: sentences with the states under them, and each state's words."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from zoo.core.contract import lacks, prepared
from zoo.core.data import take
from zoo.errors import ZooError
from zoo.reporting.page import WIDTH, Page, array, colour
from zoo.reporting.subjects import Fitted

__all__ = ["has_words", "plot_words", "top_words"]

#: Sentences that are read, that are drawn, and new ones in the text; states and their words.
READ, DRAWN, NEW, STATES, WORDS = 2000, 8, 10, 24, 6
#: Characters of a sentence that is drawn.
WIDE = 76


def has_words(model: Any) -> bool:
    """Whether a model's latent is a chain of states that emit symbols with names."""
    named = model.schema is not None and model.schema.symbols is not None
    return named and lacks(model, "viterbi") is None and model.quantity("emission_probs") is not None


def top_words(model: Any, count: int = WORDS) -> list[list[str]]:
    """Of each state its most probable words, the first first."""
    symbols, probs = model.schema.symbols, array(model.emission_probs)
    order = np.argsort(-probs, -1, kind="stable")[:, :count]
    return [[symbols[v] for v in row if v < len(symbols) and p[v] > 0.005] for row, p in zip(order, probs, strict=True)]


def plot_words(fit: Fitted, x: Any, folder: str | Path, *, dark: bool = False) -> list[Path]:
    """``words.png``: the first sentences, each word in the colour of its most probable state, and the states' words;
    ``words.txt``: the same for all states, new sentences that the model makes, and the perplexity.

    Raises:
        ZooError: the model's latent is no chain of states over words.
    """
    if not has_words(fit.model):
        raise ZooError(
            f"plot_words: expected a chain of states fitted to text, got {type(fit.model).__name__}. Use plot_states."
        )
    whole: Any = prepared(fit.model, x)
    data = take(whole, slice(0, READ))
    paths = array(fit.predict(data)).astype(int)
    codes = array(data["x"]).astype(int).reshape(paths.shape)
    symbols = fit.model.schema.symbols
    read = [
        [(symbols[v], z) for v, z in zip(row, path, strict=True) if z >= 0]
        for row, path in zip(codes, paths, strict=True)
    ]
    states = len(fit.model.transition_probs)
    share = np.bincount(paths[paths >= 0], minlength=states) / max(1, int((paths >= 0).sum()))
    order = np.argsort(-share, kind="stable")
    words = top_words(fit.model)
    Path(folder).mkdir(parents=True, exist_ok=True)
    text = Path(folder) / "words.txt"
    lines = _text(fit, read, order, share, words)
    if fit.log_likelihood is not None:
        perplexity = math.exp(-fit.log_likelihood / fit.model.num_units(whole))
        lines = [f"perplexity of the data that it was fitted to: {perplexity:.4g}", "", *lines]
    text.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [text, _draw(read, order[:STATES], share, words, Path(folder) / "words.png", dark)]


def _text(fit: Fitted, read: Any, order: Any, share: Any, words: list[list[str]]) -> list[str]:
    lines = ["states, the most frequent first:"]
    lines += [f"{z:5d} {share[z]:6.1%}  {' '.join(words[z])}" for z in order]
    lines += ["", "sentences, each word with its most probable state:"]
    lines += [" ".join(f"{word}/{z}" for word, z in sentence) for sentence in read[:20]]
    drawn: Any = fit.sample(NEW, seed=0)
    new = drawn["x"] if isinstance(drawn, dict) else drawn
    codes = array(new).astype(int).reshape(len(new), -1)
    lengths = array(drawn["lengths"]).astype(int) if isinstance(drawn, dict) else [codes.shape[1]] * len(codes)
    symbols = fit.model.schema.symbols
    lines += ["", "sentences that the model makes:"]
    return lines + [" ".join(symbols[v] for v in row[:n]) for row, n in zip(codes, lengths, strict=True)]


def _draw(read: Any, order: Any, share: Any, words: list[list[str]], path: Path, dark: bool) -> Path:
    fitting = [s for s in read if sum(len(word) + 1 for word, _ in s) <= WIDE] or read
    longest = sorted(range(len(fitting)), key=lambda i: (-len(fitting[i]), i))[:DRAWN]
    shown = [fitting[i] for i in sorted(longest)]
    high, low = 0.45 * max(2, len(shown)) + 0.4, 0.2 * max(2, len(order)) + 0.4
    page = Page(WIDTH, high + low, dark)
    above, below = page.axes(2, 1, height_ratios=(high, low))
    page.label(above, "Sentences, each word with its most probable state")
    page.label(below, "The states' most probable words, and their share of the words")
    place = {int(z): i for i, z in enumerate(order)}  # colours by how frequent a state is
    for ax in (above, below):
        ax.axis("off")
    rows = max(2, len(shown))
    for i, sentence in enumerate(shown):
        at, y = 0.0, 1.0 - (i + 0.5) / rows
        for word, z in sentence:
            tint = colour(place[z]) if z in place else page.theme.quiet
            width = (len(word) + 1) / WIDE
            centre = at + (width - 1 / WIDE) / 2
            options = {"ha": "center", "color": tint, "family": "monospace", "parse_math": False}
            above.text(centre, y, word[:WIDE], va="bottom", fontsize=9.5, **options)
            above.text(centre, y, str(z), va="top", fontsize=7, **options)
            at += width
    for i, z in enumerate(order):
        y = 1.0 - (i + 0.5) / max(2, len(order))
        line = f"{int(z):4d} {share[z]:5.1%}  {' '.join(words[int(z)])}"
        below.text(
            0.0, y, line[:64], va="center", fontsize=8.5, family="monospace", color=colour(i), parse_math=False
        )  # fmt: skip
    for ax in (above, below):
        ax.set_xlim(0.0, 1.0)
        ax.set_ylim(0.0, 1.0)
    return page.save(path)
