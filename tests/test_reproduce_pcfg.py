"""The table of grammars: its baselines are what the trees say, and the recorded rows are those of the code."""

from __future__ import annotations

import pytest

import zoo
from zoo.data.parse_tree import parse_trees
from zoo.reproduce import find_table
from zoo.reproduce.pcfg import _beside, _binarized


def test_what_stands_beside_is_scored_by_hand() -> None:
    one = "(S (NP (DT a) (NN b)) (VP (VB c) (NP (DT d) (NN e))))"  # right-branching has two of its three brackets
    flat = "(S (DT a) (NN b) (VB c) (DT d) (NN e))"
    trees = parse_trees(one * 19 + flat)
    rows = {row["name"]: row["value"] for row in _beside(trees, seed=0)}
    assert rows["F1, right-branching"] == pytest.approx(100 * 2 * 2 * 19 / (3 * 20 + 3 * 19))
    assert rows["F1, left-branching"] == pytest.approx(100 * 2 * 1 * 19 / (3 * 20 + 3 * 19))
    assert rows["F1, best of binary trees"] == pytest.approx(100 * 2 * 3 * 19 / (3 * 20 + 3 * 19))
    assert rows["F1, supervised"] > rows["F1, right-branching"]
    assert all(name.startswith("F1, ") for name in rows)


def test_binary_trees_keep_all_brackets() -> None:
    (tree,) = parse_trees("(S (A a) (NP (B b) (C c) (D d)) (E e))")
    binary = _binarized(tree)
    assert binary.spans() >= tree.spans()
    assert all(len(node.children) == 2 for node, _, _ in binary.nodes() if not node.is_tag)
    assert zoo.bracketing([binary], [tree]).recall == 1.0


def test_the_table_is_found() -> None:
    assert find_table("pcfg").ABOUT.startswith("Grammars")
