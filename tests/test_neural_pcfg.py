"""Grammars made by a network: the same sums over trees, the gradient's chain, every parameter reached."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import zoo
from zoo.models.neural_pcfg import NeuralPCFG, tiny
from zoo.models.pcfg import PCFG


def as_plain(model: NeuralPCFG) -> PCFG:
    """The grammar with these probabilities as free parameters."""
    plain = PCFG(model.num_nonterminals, model.num_preterminals, model.num_symbols)
    plain.root_probs, plain.rule_probs, plain.emission_probs = (t.detach().exp() for t in model.tables())
    return plain


def test_it_is_the_grammar_that_its_network_makes() -> None:
    model, x = tiny()
    model = model.double()
    for table, shape in zip(model.tables(), ((2,), (2, 4, 4), (2, 3)), strict=True):
        assert table.shape == shape
        total = table.exp().flatten(1).sum(-1) if table.dim() > 1 else table.exp().sum()
        torch.testing.assert_close(total, torch.ones_like(total))
    torch.testing.assert_close(model.log_marginal(**x), as_plain(model).log_marginal(**x), rtol=0, atol=1e-9)


def test_the_gradient_is_the_posterior_expectation_of_the_networks_gradient() -> None:
    """∇ ln p(x) = Σ expected counts · ∇ ln probabilities, the counts those of EM on the plain grammar, to 1e-9."""
    model, x = tiny()
    model = model.double()
    weights = list(model.network.parameters())
    direct = torch.autograd.grad(model.log_marginal(**x).sum(), weights)
    counts = as_plain(model).e_step(**x)
    names = ("root_counts", "rule_counts", "emission_counts")
    expected: Tensor = sum((counts[n] * t).sum() for n, t in zip(names, model.tables(), strict=True))  # type: ignore[assignment]
    for ours, theirs in zip(direct, torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
        assert theirs.abs().max() > 1e-6


def test_eg_climbs() -> None:
    model, x = tiny()
    fit = zoo.fit(model, x, estimator="eg", seed=0, max_epochs=30)
    history = fit.history["log_likelihood"]
    assert history[-1] > history[0] + 0.1
    assert fit.log_likelihood == pytest.approx(float(fit.model.log_marginal(**x).detach().sum()), rel=1e-5)
    assert all(tree is not None for tree in fit.model.parse(x))
