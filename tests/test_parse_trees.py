"""Bracketed trees, the sentences they come with, and scores of brackets."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.data import known_grammar
from zoo.data._treebank import stripped
from zoo.data.parse_tree import ParseTree, binary, parse_trees
from zoo.scores.bracketing import bracketing, left_branching, random_branching, right_branching

CAT = "(S (NP (DT the) (NN cat)) (VP (VBD saw) (NP (PRP me))))"


def test_brackets_come_out_as_they_went_in() -> None:
    (tree,) = parse_trees(CAT)
    assert str(tree) == CAT
    assert tree.words() == ("the", "cat", "saw", "me")
    assert tree.tags() == ("DT", "NN", "VBD", "PRP")
    assert tree.spans() == {(0, 1), (1, 2), (2, 3), (3, 4), (0, 2), (2, 4), (0, 4)}
    spread = CAT.replace(" (", "\n  (").replace("))", ") )")
    assert parse_trees(f"( {spread} )\n{CAT}") == [tree, tree]
    assert tree.draw().splitlines() == [
        "S", "├── NP", "│   ├── DT the", "│   └── NN cat",
        "└── VP", "    ├── VBD saw", "    └── NP", "        └── PRP me",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("(S (NN a))\n(S (NN b)\n", "the bracket that line 2 opens is never closed"),
        ("(S (NN a))\n\n(NN b))\n", "line 3 closes a bracket that none opens"),
        ("(S (NN a))\nb\n", "line 2 expected '(', got 'b'"),
        ("(S (NN a)\n())", "line 2 expected a word or brackets"),
        ("(S\n(NP the (NN cat)))", "line 2 expected either one word or brackets below 'NP'"),
    ],
)
def test_what_is_no_tree_is_refused_by_its_line(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "bank.mrg"
    path.write_text(text)
    with pytest.raises(zoo.ZooError, match=r"bank\.mrg: ") as caught:
        zoo.load_trees(path)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_deep_trees_need_no_deep_stack() -> None:
    tree = binary([ParseTree("N", (str(i),)) for i in range(5000)], lambda begin, end: begin + 1)
    assert parse_trees(str(tree))[0].tags() == ("N",) * 5000
    assert len(tree.draw().splitlines()) == 9999


def test_treebanks_lose_traces_punctuation_and_function_tags(tmp_path: Path) -> None:
    text = "( (S (NP-SBJ-1 (-NONE- *)) (VP=2 (MD will) (NP|X (CD 7) ($ $))) (PRN (-LRB- -LRB-)) (. .)))"
    (tree,) = parse_trees(text)
    assert str(stripped(tree)) == "(S (VP (MD will) (NP|X (CD 7))))"
    path = tmp_path / "bank.mrg"
    path.write_text(text + CAT + "(X (. .))")
    data = zoo.load_data(path)
    assert data["x"].tolist() == [["MD", "CD", None, None], ["DT", "NN", "VBD", "PRP"]]
    assert data["lengths"].tolist() == [2, 4]
    assert [len(t.tags()) for t in zoo.load_trees(path)] == [2, 4]


def test_sentences_are_read_line_by_line_only_where_asked(tmp_path: Path) -> None:
    path = tmp_path / "sentences.txt"
    path.write_text("the cat sat\n\nshe saw the dog\n")
    data = zoo.load_data(path, sentences=True)
    assert data["x"].tolist() == [["the", "cat", "sat", None], ["she", "saw", "the", "dog"]]
    assert data["lengths"].tolist() == [3, 4]
    table = tmp_path / "table.txt"
    table.write_text("1 2\n3 4\n")
    torch.testing.assert_close(zoo.load_data(table), torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64))
    path.write_text("\n \n")
    with pytest.raises(zoo.ZooError, match="only blank lines"):
        zoo.load_data(path, sentences=True)
    with pytest.raises(zoo.ZooError, match="expected none of columns"):
        zoo.load_data(table, sentences=True, columns=[0])


def test_the_treebank_sample_is_short_sentences_of_tags() -> None:
    try:
        text = zoo.load_data("treebank10", symbols=True)
    except zoo.ZooError as error:
        pytest.skip(str(error))
    codes, trees = zoo.load_data("treebank10"), zoo.load_trees("treebank10")
    assert len(trees) == len(text["x"]) == 555  # counted independently of this reader
    assert int(codes["lengths"].max()) == 10
    symbols = sorted({s for row in text["x"] for s in row if s is not None})
    for row, words, tree, length in zip(codes["x"].tolist(), text["x"], trees, codes["lengths"].tolist(), strict=True):
        assert tuple(words[:length]) == tree.tags() == tuple(symbols[code] for code in row[:length])
        assert not any(row[length:])
        assert (0, length) in tree.spans()
    assert len(zoo.load_trees("treebank20")) == 2036


def test_a_missing_treebank_says_what_comes_without_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    monkeypatch.setenv("ZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo.data._fetch._retrieve", lambda *a: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(zoo.ZooError, match=r"treebank/treebank.zip\. 'known_grammar' is of the same kind") as caught:
        zoo.load_data("treebank10")
    assert "\n" not in str(caught.value)
    with pytest.raises(zoo.ZooError, match="'iris' has no parse trees, expected one of known_grammar, treebank10"):
        zoo.load_trees("iris")


def test_the_known_grammar_has_the_entropy_that_is_said() -> None:
    """Against the mean of -ln p over drawn trees, computed symbol by symbol from the rules as they are written."""
    entropy, length = known_grammar.sentence_entropy()
    trees = known_grammar.known_trees(number=10_000, seed=5)
    costs = np.array([_cost(tree) for tree in trees])
    assert costs.mean() == pytest.approx(entropy, abs=4 * costs.std() / len(costs) ** 0.5)
    lengths = np.array([len(tree.tags()) for tree in trees])
    assert lengths.mean() == pytest.approx(length, abs=4 * lengths.std() / len(lengths) ** 0.5)
    assert entropy / length == pytest.approx(1.6947, abs=1e-4)
    assert zoo.load_trees("known_grammar") == known_grammar.known_trees()
    for array in known_grammar.tables():
        np.testing.assert_allclose(array.reshape(len(array), -1).sum(-1) if array.ndim > 1 else array.sum(), 1.0)


def _cost(tree: ParseTree) -> float:
    total = 0.0
    for node, _, _ in tree.nodes():
        if node.is_tag:
            total -= math.log(known_grammar._WORDS[node.label][str(node.children[0])])
        else:
            left, right = node.children
            assert isinstance(left, ParseTree)
            assert isinstance(right, ParseTree)
            total -= math.log(known_grammar._RULES[node.label][left.label, right.label])
    return total


def test_brackets_are_scored_by_hand() -> None:
    (gold,) = parse_trees("(S (NP (DT a) (NN b)) (VP (VB c) (NP (DT d) (NN e))))")  # inside: (0, 2), (2, 5), (3, 5)
    (tree,) = parse_trees("(X (DT a) (X (NN b) (X (VB c) (X (DT d) (NN e)))))")  # inside: (1, 5), (2, 5), (3, 5)
    score = bracketing([tree, None], [gold, gold])
    assert score == (2 / 3, 2 / 3, 2 / 3, 2 / 3, 1, (1,))
    assert bracketing([tree], [gold], whole=True).f1 == 3 / 4
    (flat,) = parse_trees("(S (DT a) (NN b) (VB c) (DT d) (NN e))")
    score = bracketing([tree, flat], [gold, gold])
    assert (score.precision, score.recall, score.f1) == (2 / 3, 2 / 6, 4 / 9)
    assert score.sentence_f1 == 1 / 3
    assert math.isnan(bracketing([flat], [flat]).f1)
    with pytest.raises(zoo.ZooError, match="tree 0 expected over 5 words, got 4"):
        bracketing(parse_trees(CAT), [gold])
    with pytest.raises(zoo.ZooError, match="for each of 2 sentences, got 1"):
        bracketing([tree], [gold, gold])


def test_trees_that_know_nothing() -> None:
    (tree,) = parse_trees("(S (A a) (B b) (C c) (D d))")
    assert str(right_branching(tree)) == "(X (A a) (X (B b) (X (C c) (D d))))"
    assert str(left_branching(tree)) == "(X (X (X (A a) (B b)) (C c)) (D d))"
    generator = torch.Generator().manual_seed(0)
    counts = Counter(str(random_branching(tree, generator)) for _ in range(5000))
    assert len(counts) == 5  # all binary trees over four words
    assert all(abs(count - 1000) < 5 * (5000 * 0.2 * 0.8) ** 0.5 for count in counts.values())
    assert all(a != b for a, b in itertools.pairwise(sorted(counts)))
