"""Sums over trees at sizes beyond enumeration: all passes beside logarithms, which share no code with them."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from zoo.structures import Tree, tree_draws, tree_logs, tree_problem
from zoo.structures.tree_problem import TreeProblem

LENGTHS = [13, 2, 11, 1, 12]


def make(own: bool = False, backend: str | None = None, seed: int = 0, possible: float = 1.0) -> Tree:
    """Enough nonterminals, words and spans to cross every block that the passes are cut into."""
    generator = torch.Generator().manual_seed(seed)
    n, a, p = len(LENGTHS), 9, 4
    shape = (n, a, a + p, a + p) if own else (a, a + p, a + p)
    root, rules = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((a,), shape))
    words = torch.randn(n, max(LENGTHS), p, generator=generator, dtype=torch.float64)
    rules[torch.rand(shape, generator=generator) > possible] = -math.inf
    for i, length in enumerate(LENGTHS):
        words[i, length:] = math.nan
    return Tree(root, rules, words, torch.tensor(LENGTHS), backend)


def by_logarithms(tree: Tree, n: int) -> tuple[Tensor, list[Tensor]]:
    """The log-partition of one sentence and its gradient, by differentiating logarithms."""
    potentials = tree.root, tree.rules if tree.rules.dim() == 3 else tree.rules[n], tree.preterminals[n, : LENGTHS[n]]
    leaves = [t.clone().requires_grad_() for t in potentials]
    root, rules, words = (leaf.unsqueeze(0) for leaf in leaves)
    value = tree_logs.log_partition(root, rules, words, torch.tensor(LENGTHS[n : n + 1]))
    return value.detach(), list(torch.autograd.grad(value.sum(), leaves))


@pytest.mark.parametrize(("own", "backend"), [(o, b) for o in (False, True) for b in ("numba", "torch", "sparse")][:-1])
def test_values_and_counts_are_those_of_logarithms(own: bool, backend: str) -> None:
    tree = make(own, backend)
    weights = torch.tensor([0.5, 2.0, 1.0, 1.0, 0.25]).double()
    found = tree.expected(weights)
    rules = torch.zeros_like(tree.rules)
    for n, length in enumerate(LENGTHS):
        if length == 1:
            assert found.value[n] == -math.inf
            assert not found.preterminals[n].any()
            continue
        value, (_, counts, words) = by_logarithms(tree, n)
        torch.testing.assert_close(found.value[n : n + 1], value, rtol=1e-13, atol=0)
        torch.testing.assert_close(found.preterminals[n, :length], weights[n] * words, rtol=0, atol=1e-12)
        assert not found.preterminals[n, length:].any()
        if own:
            rules[n] = weights[n] * counts
        else:
            rules += weights[n] * counts
    torch.testing.assert_close(found.rules, rules, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pieces", [False, True])
def test_one_inside_pass_serves_value_and_gradient_where_it_fits(pieces: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what does not fit at once is the same, in pieces."""
    expected = make().marginals()
    calls = []
    tree = make()
    inside = tree._problem.passes.inside
    monkeypatch.setattr(tree._problem.passes, "inside", lambda *a: calls.append(1) or inside(*a))
    if pieces:
        monkeypatch.setattr(tree_problem, "rows_at_once", lambda numbers, times=1: 2)
    leaves = [t.clone().requires_grad_() for t in tree._tensors()]
    tree = dataclasses.replace(tree, **dict(zip(Tree.potentials, leaves, strict=True)))
    value = tree.log_partition()
    value[torch.tensor(LENGTHS) > 1].sum().backward()
    assert len(calls) == (6 if pieces else 1)
    for leaf, counts in zip(leaves, expected._tensors(), strict=True):
        torch.testing.assert_close(leaf.grad, counts, rtol=0, atol=1e-12)


@pytest.mark.parametrize("own", [False, True])
def test_covariances_of_imaginary_steps_are_those_of_logarithms(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no item goes by logarithms itself."""
    problem, other = make(own)._problem, make(not own, seed=1)._problem
    expected = [problem._slow_covariances(n, other.scores) for n in (0, 2, 4)]
    monkeypatch.setattr(TreeProblem, "_slow_covariances", lambda *a: pytest.fail("by logarithms"))
    _, found = problem.moments(other, gradient=True)
    for name, whole, items in zip(Tree.potentials, found, zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(whole[[0, 2, 4]], torch.stack(items), rtol=1e-11, atol=1e-13, msg=name)


@pytest.mark.parametrize("own", [False, True])
def test_draws_from_scaled_sums_are_those_by_logarithms(own: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same random numbers give the same trees, longest sentences first; only one way goes by logarithms."""
    tree = make(own)
    possible = [0, 4, 2, 1]
    tree = dataclasses.replace(
        tree,
        rules=tree.rules[possible] if own else tree.rules,
        preterminals=tree.preterminals[possible],
        lengths=torch.tensor([LENGTHS[n] for n in possible]),
    )
    _, arguments = next(tree._problem.pieces())
    root, rules, words, lengths = arguments
    generator = torch.Generator().manual_seed(5)
    expected = tree_draws.from_logs(root, rules, tree_logs.log_chart(rules, words), lengths, 20, generator, 10_000)
    monkeypatch.setattr(tree_logs, "log_chart", lambda *a: pytest.fail("by logarithms"))
    for room in (1_000, 10**7):
        monkeypatch.setattr("zoo.structures.tree.PIECE_NUMBERS", room)
        assert torch.equal(tree.sample(20, torch.Generator().manual_seed(5)), expected)
    assert tree.score(expected).isfinite().all()


def test_a_grammar_of_few_rules_is_summed_over_their_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the sums are the same, of values, counts, and counts item by item."""
    monkeypatch.setattr(tree_problem, "SPARSE", 0.2)
    few, dense = make(possible=0.15), make(possible=0.15, backend="numba")
    assert few._problem.passes.__name__.endswith("tree_sparse")
    assert make(possible=0.5)._problem.passes is make(own=True, possible=0.15)._problem.passes is dense._problem.passes
    assert few.value().isfinite().sum() > 2
    for by_item in (False, True):
        for found, expected in zip(few.expected(by_item=by_item), dense.expected(by_item=by_item), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert torch.equal(few.minimum_risk(), dense.minimum_risk())
