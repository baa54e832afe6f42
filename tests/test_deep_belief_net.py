"""Deep belief nets: the bound they are built for, and what they start."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.models.shared.belief_net import DeepBeliefNet, transposed

DOUBLE: Any = {"dtype": torch.float64}


def bits(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), **DOUBLE)


def machine(d: int, h: int, seed: int) -> zoo.RestrictedBoltzmannMachine:
    generator = torch.Generator().manual_seed(seed)
    model = zoo.RestrictedBoltzmannMachine(d, h).double()
    model.weights = torch.randn(d, h, generator=generator, **DOUBLE)
    model.visible_biases = torch.randn(d, generator=generator, **DOUBLE)
    model.hidden_biases = torch.randn(h, generator=generator, **DOUBLE)
    return model


def exact(first: Any, second: Any) -> tuple[Tensor, Tensor]:
    """ln p(x) and the bound of two machines, each (2^D,), state by state."""
    x, h = bits(first.num_features), bits(first.num_hidden)
    w, b, c = first.weights, first.visible_biases, first.hidden_biases
    given_x = torch.distributions.Bernoulli(logits=x @ w + c)
    log_q = torch.stack([given_x.log_prob(state).sum(1) for state in h], 1)
    given_h = torch.distributions.Bernoulli(logits=h @ w.T + b)
    log_x = torch.stack([given_h.log_prob(state).sum(1) for state in x])
    above = bits(second.num_hidden)
    table = (h @ second.weights) @ above.T + (h @ second.visible_biases)[:, None] + above @ second.hidden_biases
    log_h = table.logsumexp(1) - table.logsumexp((0, 1))
    both = log_x + log_h
    return both.logsumexp(1).detach(), (log_q.exp() * (both - log_q)).sum(1).detach()


def test_a_transposed_machine_on_top_leaves_the_bound() -> None:
    first = machine(4, 3, 0)
    log_p = first.log_marginal(bits(4)).detach()
    evidence, bound = exact(first, transposed(first))
    torch.testing.assert_close(bound, log_p, rtol=0, atol=1e-10)
    torch.testing.assert_close(evidence, log_p, rtol=0, atol=1e-10)
    evidence, bound = exact(first, machine(3, 2, 1))
    assert (bound <= evidence + 1e-12).all()
    assert (evidence - bound).max() > 0.01


def test_draws_give_the_bound() -> None:
    first, second = machine(4, 3, 0), machine(3, 2, 1)
    found = DeepBeliefNet([first, second]).log_weights(bits(4), 4000)
    _, bound = exact(first, second)
    assert ((found.mean(0) - bound).abs() < 5 * found.std(0) / 4000**0.5 + 1e-12).all()
    alone = DeepBeliefNet([first]).bound(bits(4), 1)
    torch.testing.assert_close(alone, first.log_marginal(bits(4)).detach(), rtol=0, atol=1e-10)
    # With the transposed machine on top the weights are 1 / q of the true posterior: no draw differs from another.
    torch.testing.assert_close(
        DeepBeliefNet([first, transposed(first)]).log_weights(bits(4), 3),
        first.log_marginal(bits(4)).detach().expand(3, -1), rtol=0, atol=1e-10,
    )  # fmt: skip


def test_networks_start_from_a_net() -> None:
    data = zoo.load_data("digits")[:800]
    net = zoo.deep_belief_net(data, [40, 12], max_epochs=40, learning_rate=0.1)
    arguments: Any = {"hidden_dims": [40, 12], "latent_dim": 6, "activation": "tanh", "binarization": "threshold"}
    vae = zoo.VAE.from_data(data, **arguments)
    once: Any = {"estimator": "svi", "max_epochs": 1, "learning_rate": 1e-9}
    drawn = zoo.fit(vae, data, **once)
    started = zoo.fit(net.start(vae, data), data, init="current", **once)
    assert started.elbo is not None
    assert drawn.elbo is not None
    assert started.elbo / len(data) > drawn.elbo / len(data) + 1
    assert net.bound(data, 10).mean() > -30
    labels = torch.arange(800) % 2
    classifier = zoo.StackedDenoisingAutoencoder.from_data(
        (data, labels), hidden_dims=[40, 12], pretraining_epochs=0, white=16.0
    )
    net.start(classifier, (data, labels))
    binary = 16.0 * (data > 8)
    torch.testing.assert_close(classifier.encode(binary).float(), net.codes(binary), rtol=0, atol=1e-5)


def test_what_cannot_be_is_told_in_one_line() -> None:
    x = (zoo.load_data("digits")[:60] > 8).float()
    net = DeepBeliefNet([zoo.RestrictedBoltzmannMachine(64, 8)])
    for act, message in (
        (lambda: DeepBeliefNet([]), "expected one machine of binary units or more"),
        (lambda: DeepBeliefNet([machine(4, 3, 0), machine(4, 3, 0)]), "on 3 hidden units expected as many visible"),
        (lambda: net.start(zoo.VAE(64, hidden_dims=(8,)), x), "activation='tanh'"),
        (lambda: net.start(zoo.VAE(64, hidden_dims=(9,), activation="tanh"), x), r"layer 0 expected shape \(9, 64\)"),
        (lambda: net.start(zoo.PPCA(2, 64), x), "take_layers"),
    ):
        with pytest.raises(zoo.ZooError, match=message) as caught:
            act()
        assert "\n" not in str(caught.value)
