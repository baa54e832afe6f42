"""The table of grammars: its baselines are what the trees say, and the recorded rows are those of the code."""

from __future__ import annotations

from typing import Any

import pytest

import zoo
from zoo.core.contract import prepared
from zoo.data.parse_tree import parse_trees
from zoo.reproduce import find_table, pcfg
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


def some(name: str, symbols: bool = False) -> Any:
    x: Any = zoo.load_data("known_grammar", symbols=symbols)
    return {name: x[name][:40] for name in ("x", "lengths")}


def test_it_runs_at_toy_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its figures of held-out words are those that a fit's own parameters give the sentences left out of it."""
    fits: list[zoo.Fit] = []

    def kept(*args: Any, **options: Any) -> zoo.Fit:
        fits.append(zoo.fit(*args, **options))
        return fits[-1]

    setting = pcfg.Setting(nonterminals=2, preterminals=3, seeds=2, held_out=0.25, iterations=3, epochs=2)
    monkeypatch.setitem(pcfg.SETTINGS, "quick", setting)
    monkeypatch.setattr(pcfg, "fit", kept)
    monkeypatch.setattr(pcfg, "load_data", some)
    monkeypatch.setattr(pcfg, "load_trees", lambda name: zoo.load_trees("known_grammar")[:40])
    record = pcfg.run("quick", 0, lambda line: None)
    assert [row["seed"] for row in record["runs"]] == [0, 1] * 4
    x = some("known_grammar", True)
    codes = prepared(fits[0].model, x)
    words = int(x["lengths"].sum())
    assert fits[0].num_data == 30
    for fit, row in list(zip(fits, record["runs"], strict=True))[:6]:  # those with an exact likelihood
        total = float(fit.model.log_marginal(**codes).detach().double().sum())
        seen = row["nats"] * fit.num_units
        assert row["held_out"] * (words - fit.num_units) + seen == pytest.approx(-total, rel=1e-5)
    rows = {row["name"]: row for row in record["rows"]}
    both = [row["f1"] for row in record["runs"] if row["method"] == "PCFG by em"]
    assert rows["F1, PCFG by em"]["value"] == pytest.approx(sum(both) / 2)
    assert "a bound" in rows["nats a word held out, CompoundPCFG by svi"]["note"]


def test_the_table_is_found() -> None:
    assert find_table("pcfg").ABOUT.startswith("Grammars")
