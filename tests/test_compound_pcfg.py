"""Grammars of a Gaussian z: the programs and the fast paths say the same, and the bound is below the evidence."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro import poutine

import zoo
from zoo.models.compound_pcfg import CompoundPCFG, tiny
from zoo.models.pcfg import PCFG


def made() -> tuple[CompoundPCFG, dict[str, torch.Tensor]]:
    model, x = tiny()
    return model.double(), x


def given(model: CompoundPCFG, x: dict[str, torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """ln p(x | z) of each sentence, by a plain grammar of each one's own probabilities."""
    values = []
    for n, one in enumerate(z):
        root, rules, words = (t.detach().exp() for t in model.network(one))
        plain = PCFG(2, 2, 3)
        plain.root_probs, plain.rule_probs, plain.emission_probs = root, rules, words
        values.append(plain.log_marginal(x["x"][n : n + 1], x["lengths"][n : n + 1]).detach()[0])
    return torch.stack(values)


def test_the_program_is_each_sentences_own_grammar() -> None:
    model, x = made()
    z = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    trace = poutine.trace(poutine.condition(model.model, data={"z": z})).get_trace(**x)
    trace.compute_log_prob()
    torch.testing.assert_close(trace.nodes["x"]["log_prob"].detach(), given(model, x, z), rtol=0, atol=1e-9)


def test_the_fast_paths_are_the_programs() -> None:
    model, x = made()
    pyro.set_rng_seed(0)
    bound, parts = model.elbo_parts(**x, num_particles=4000)
    pyro.set_rng_seed(1)
    weights = model.log_weights(**x, num_particles=4000)
    torch.testing.assert_close(bound.detach(), weights.detach().mean(0), rtol=0, atol=0.1)
    torch.testing.assert_close(bound, parts["reconstruction"] - parts["kl"])
    guide = poutine.trace(model.guide).get_trace(**x)
    model_trace = poutine.trace(poutine.replay(model.model, trace=guide)).get_trace(**x)
    guide.compute_log_prob()
    model_trace.compute_log_prob()
    z, q = guide.nodes["z"]["value"], guide.nodes["z"]["fn"].base_dist
    noise = (z - q.loc) / q.scale
    ours = given(model, x, z.detach()) - 0.5 * (z.square() - noise.square()).sum(-1) + q.scale.log().sum(-1)
    theirs = model_trace.nodes["z"]["log_prob"] + model_trace.nodes["x"]["log_prob"] - guide.nodes["z"]["log_prob"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
    evidence = weights.logsumexp(0) - math.log(len(weights))
    assert bool((bound <= evidence + 0.05).all())


def test_padding_changes_nothing() -> None:
    model, x = made()
    loc, scale = model.encoder(x["x"], x["lengths"])
    padded = torch.cat([x["x"], torch.full((4, 2), 1)], 1)
    for ours, theirs in zip(model.encoder(padded, x["lengths"]), (loc, scale), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert model.parse({"x": padded, "lengths": x["lengths"]}) == model.parse(x)


@pytest.mark.parametrize("estimator", ["svi", "iwae"])
def test_its_estimators_climb(estimator: str) -> None:
    model, x = tiny()
    fit = zoo.fit(model, x, estimator=estimator, seed=0, max_epochs=40, warmup=0)
    history = fit.history["objective"]
    assert sum(history[-5:]) > sum(history[:5])
    assert fit.elbo is not None
    assert fit.log_likelihood is None
    drawn = fit.sample(3, seed=0)
    assert len(drawn["x"]) == 3
