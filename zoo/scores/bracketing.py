"""How well parse trees bracket sentences: unlabelled F1 against known trees, and trees that know nothing beside.

The convention: brackets that cannot be wrong take no part, those of one word and of the whole sentence; labels are not
looked at, and a span counts once however many nodes have it. Klein & Manning (2002), "A generative constituent-context
model for improved grammar induction"; brackets of whole sentences, which others count, raise every figure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from zoo.data.parse_tree import ParseTree, Span, binary
from zoo.errors import ZooError

__all__ = ["Bracketing", "bracketing", "left_branching", "random_branching", "right_branching"]


class Bracketing(NamedTuple):
    """Agreement of brackets, as shares from 0 to 1; NaN where there is nothing to share.

    Attributes:
        precision, recall, f1: over all brackets of all sentences.
        sentence_f1: the mean over sentences of each one's own F1; those in which neither tree has a bracket take no
            part.
        num_sentences: how many were scored.
        left_out: the indices of sentences without a tree.
    """

    precision: float
    recall: float
    f1: float
    sentence_f1: float
    num_sentences: int
    left_out: tuple[int, ...]


def bracketing(trees: Sequence[ParseTree | None], gold: Sequence[ParseTree], whole: bool = False) -> Bracketing:
    """Unlabelled precision, recall and F1 of trees against known ones; see the module for the convention.

    Args:
        trees: one a sentence; None for one that could not be parsed, which is left out.
        gold: the known ones, over as many words each.
        whole: whether brackets of whole sentences count.

    Raises:
        ZooError: another number of trees, or of words in one.

    Example:
        >>> gold = zoo.parse_trees("(S (NP (D the) (N cat)) (VP (V sees) (N mice)))")
        >>> found = zoo.parse_trees("(S (NP (D the) (N cat)) (V sees) (N mice))")
        >>> score = zoo.bracketing(found, gold)
        >>> score.precision, score.recall, round(score.f1, 3)
        (1.0, 0.5, 0.667)
    """
    if len(trees) != len(gold):
        raise ZooError(f"bracketing: expected a tree for each of {len(gold)} sentences, got {len(trees)}. Give all.")
    common = ours = theirs = 0
    single: list[float] = []
    for i, (tree, known) in enumerate(zip(trees, gold, strict=True)):
        if tree is None:
            continue
        length = len(known.tags())
        if len(tree.tags()) != length:
            raise ZooError(
                f"bracketing: tree {i} expected over {length} words, got {len(tree.tags())}. Parse the same sentences."
            )
        a, b = (_brackets(t, length, whole) for t in (tree, known))
        both = len(a & b)
        common, ours, theirs = common + both, ours + len(a), theirs + len(b)
        if a or b:
            single.append(2 * both / (len(a) + len(b)))
    left_out = tuple(i for i, tree in enumerate(trees) if tree is None)
    return Bracketing(
        _share(common, ours),
        _share(common, theirs),
        _share(2 * common, ours + theirs),
        _share(sum(single), len(single)),
        len(gold) - len(left_out),
        left_out,
    )


def _brackets(tree: ParseTree, length: int, whole: bool) -> set[Span]:
    return {(a, b) for a, b in tree.spans() if 1 < b - a < length + whole}


def _share(part: float, of: float) -> float:
    return part / of if of else math.nan


def _tags(tree: ParseTree) -> list[ParseTree]:
    return [node for node, _, _ in tree.nodes() if node.is_tag]


def right_branching(tree: ParseTree) -> ParseTree:
    """Over the same words, the tree in which every left child is a word."""
    return binary(_tags(tree), lambda begin, end: begin + 1)


def left_branching(tree: ParseTree) -> ParseTree:
    """Over the same words, the tree in which every right child is a word."""
    return binary(_tags(tree), lambda begin, end: end - 1)


def random_branching(tree: ParseTree, generator: torch.Generator | None = None) -> ParseTree:
    """Over the same words, one of all binary trees, each as probable (there are Catalan's number of them)."""

    def split(begin: int, end: int) -> int:
        n = end - begin
        ways = [
            math.comb(2 * k - 2, k - 1) // k * (math.comb(2 * (n - k) - 2, n - k - 1) // (n - k)) for k in range(1, n)
        ]
        draw = float(torch.rand((), generator=generator, dtype=torch.float64)) * sum(ways)
        for k, number in enumerate(ways, 1):
            draw -= number
            if draw < 0:
                return begin + k
        return end - 1

    return binary(_tags(tree), split)
