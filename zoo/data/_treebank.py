"""Treebanks as unlabelled-grammar work takes them: the tags of short sentences, and their trees.

The convention, that of Klein & Manning (2002), "A generative constituent-context model for improved grammar
induction": empty categories (``-NONE-``), punctuation and currency signs are dropped, and phrases that are empty then;
sentences are counted after that. Function tags and indices of labels (``NP-SBJ-1``, ``NP=2``) are stripped.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from zoo.core.arrays import check_padding
from zoo.data._loaded import Loaded
from zoo.data.parse_tree import ParseTree, parse_trees
from zoo.errors import ZooError

__all__ = ["DROPPED", "read_mrg", "sentences", "stripped", "treebank_trees"]

#: Tags of what takes no part in a tree: empty categories, punctuation, currency signs.
DROPPED = frozenset(["-NONE-", ",", ".", ":", "``", "''", "-LRB-", "-RRB-", "$", "#"])


def stripped(tree: ParseTree) -> ParseTree | None:
    """The tree by the convention of this file; None where nothing is left of it."""
    return tree.relabelled(_plain, lambda tag: tag.label not in DROPPED)


def _plain(label: str) -> str:
    return label if label.startswith("-") else label.split("-")[0].split("=")[0]


def read_mrg(path: Path) -> list[ParseTree]:
    """The trees of a file in brackets, by the convention of this file.

    Raises:
        ZooError: it is no text, its brackets do not match, or it holds no tree.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ZooError(f"{path.name}: expected text in UTF-8, got other bytes. Convert it.") from None
    trees = [kept for tree in parse_trees(text, path.name) if (kept := stripped(tree)) is not None]
    if not trees:
        raise ZooError(f"{path.name}: expected trees in brackets, got none. Check what wrote it.")
    return trees


@functools.lru_cache(maxsize=2)
def _all_trees(path: Path) -> tuple[ParseTree, ...]:
    trees: list[ParseTree] = []
    with zipfile.ZipFile(path) as archive:
        for name in sorted(n for n in archive.namelist() if n.endswith(".mrg")):
            trees += parse_trees(archive.read(name).decode("latin-1"), name)
    return tuple(kept for tree in trees if (kept := stripped(tree)) is not None)


def treebank_trees(longest: int) -> Callable[[Mapping[str, Path]], list[ParseTree]]:
    """A reader of the treebank sample's trees of at most so many words."""

    def read(paths: Mapping[str, Path]) -> list[ParseTree]:
        return [tree for tree in _all_trees(paths["x"]) if len(tree.tags()) <= longest]

    return read


def sentences(rows: Sequence[Sequence[str]], source: str) -> Loaded:
    """Sentences of symbols as one padded array of text, None beyond a length."""
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    check_padding(source, len(rows), int(lengths.max()), 1, int(lengths.sum()))
    x = np.full((len(rows), int(lengths.max())), None, dtype=object)
    for padded, row in zip(x, rows, strict=True):
        padded[: len(row)] = row
    return Loaded(x, lengths=lengths)
