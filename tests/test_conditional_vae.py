"""The conditional VAE: its fast path, its bound against exact integrals, quadrants, the baseline without z."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import torch
from neural_oracles import finite_differences, pyro_bound, traced_weights
from torch import Tensor
from torch.distributions import Bernoulli

import zoo
from zoo.core.contract import lacks
from zoo.errors import ZooError
from zoo.models import conditional_vae, stochastic_binary_network
from zoo.models.conditional_vae import ConditionalVAE, quadrants, tiny
from zoo.scores.bounds import bound_parts
from zoo.scores.importance import importance_nll


def make(latent: int = 2, rows: int = 4, likelihood: str = "bernoulli") -> tuple[ConditionalVAE, tuple[Tensor, Tensor]]:
    model = ConditionalVAE(3, 5, latent, (4,), likelihood=likelihood, activation="tanh").double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.4 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    x, y = (torch.rand(rows, size, generator=generator).double() for size in (3, 5))
    return model, (x.round(), y.round()) if likelihood == "bernoulli" else (x, y)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("particles", [1, 3])
def test_fast_paths_are_pyros(particles: int, likelihood: str) -> None:
    model, data = make(likelihood=likelihood)
    parameters = list(model.parameters())
    pairs = [
        (lambda: model.elbo_parts(*data, particles)[0].sum(), lambda: pyro_bound(model, data, True, particles)),
        (lambda: model.log_weights(*data, particles).sum(), lambda: traced_weights(model, data, particles).sum()),
    ]
    for fast, slow in pairs:
        values = []
        for function in (fast, slow):
            pyro.set_rng_seed(4)
            values.append(function())
        assert values[0].item() == pytest.approx(values[1].item(), rel=1e-12)
        for a, b in zip(*(torch.autograd.grad(v, parameters) for v in values), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_gradient_under_common_random_numbers() -> None:
    model, data = make()
    pyro.set_rng_seed(0)
    grads = torch.autograd.grad(model.elbo_parts(*data, 2)[0].sum(), list(model.parameters()))
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        for index, slope in finite_differences(lambda: model.elbo_parts(*data, 2)[0].sum(), parameter):
            assert float(grad.reshape(-1)[index]) == pytest.approx(slope, rel=2e-5, abs=2e-6)


def test_bound_is_below_the_integral_over_the_learned_prior() -> None:
    model, (x, y) = make()
    line = torch.linspace(-9, 9, 301, dtype=torch.float64)
    z = torch.cartesian_prod(line, line).unsqueeze(1).expand(-1, len(x), -1)
    with torch.no_grad():
        model.encoder.raw_scale.bias += 1.5
        joint = model.likelihood.log_prob(model.outputs(x, z), y) + model.prior(x).log_prob(z)
        exact = joint.logsumexp(0) + 2 * math.log(float(line[1] - line[0]))
        bound = model.elbo_parts(x, y, 5000)[0]
        weights = model.log_weights(x, y, 100_000)
    assert (bound < exact).all()
    error = (weights - weights.logsumexp(0)).softmax(0).square().sum(0).sqrt()
    assert float(error.max()) < 0.05
    assert ((weights.logsumexp(0) - math.log(100_000) - exact).abs() < 5 * error).all()


def test_without_z_the_bound_is_the_likelihood() -> None:
    model, (x, y) = make(latent=0)
    direct = Bernoulli(logits=model.decoder(x)).log_prob(y).sum(-1)
    torch.testing.assert_close(model.elbo_parts(x, y)[0], direct)
    torch.testing.assert_close(model.log_weights(x, y, 3), direct.expand(3, -1))
    fit = zoo.fit(model, (x, y), estimator="svi", max_epochs=50, warmup=0)
    assert fit.elbo is not None
    assert fit.elbo > float(direct.sum().detach())
    assert model.complete(x, 2).shape == (2, 4, 5)
    assert importance_nll(model, (x, y), 10).nll == pytest.approx(-float(direct.detach().mean()), rel=1e-6)


@pytest.mark.parametrize(("given", "seen"), [(1, [8, 9, 12, 13]), (2, [0, 1, 4, 5, 8, 9, 12, 13])])
def test_quadrants(given: int, seen: list[int]) -> None:
    images = torch.arange(16.0).unsqueeze(0)
    x, y = quadrants(images, given)
    assert x[0].tolist() == seen
    assert sorted(x[0].tolist() + y[0].tolist()) == list(range(16))
    assert quadrants(images, 3)[1][0].tolist() == [10, 11, 14, 15]


def test_images_are_cut_and_pairs_may_be_a_dict() -> None:
    digits = zoo.load_data("digits")
    assert isinstance(digits, Tensor)
    model = ConditionalVAE.from_data(digits, latent_dim=2, hidden_dims=(8,))
    assert (model.config["num_inputs"], model.config["num_features"], model.config["white"]) == (16, 48, 16.0)
    x, y = model.validate(digits[:30]).values()
    torch.testing.assert_close(torch.cat([x, y], 1).sum(), digits[:30].sum())
    named = model.validate({"x": x, "y": y})
    assert torch.equal(named["x"], x)
    drawn = model.resample(x, y)
    assert set(torch.cat([*drawn.values()], 1).unique().tolist()) == {0.0, 16.0}
    fit = zoo.fit(model, digits[:30], estimator="svi", max_epochs=3, warmup=0)
    assert fit.sample(given=x[:5]).shape == (5, 48)
    with pytest.raises(ZooError, match="sample: expected given= of x, one row a draw"):
        fit.sample(4, given=x[:4])
    assert bound_parts(fit.model, digits[:30])["kl"] >= 0


def test_what_x_leaves_open_z_decides() -> None:
    """y is one of two pictures by a coin that x does not show: a mean over both is what a net without z can do."""
    generator = torch.Generator().manual_seed(0)
    coin = torch.randint(2, (200, 1), generator=generator)
    y = torch.where(coin == 1, torch.tensor([1.0, 1, 1, 0, 0, 0]), torch.tensor([0.0, 0, 0, 1, 1, 1]))
    x = torch.bernoulli(torch.full((200, 2), 0.5), generator=generator)
    scores = {}
    for latent in (0, 2):
        model = ConditionalVAE(2, 6, latent, (16,))
        fit = zoo.fit(model, (x, y), estimator="svi", max_epochs=60, batch_size=20, warmup=0, learning_rate=0.1)
        scores[latent] = importance_nll(fit.model, (x, y), 500).nll
    assert scores[0] > 6 * math.log(2) - 0.3
    assert scores[2] < math.log(2) + 0.5


def test_without_z_the_likelihood_is_known_and_with_it_withheld() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.bernoulli(torch.full((200, 2), 0.5), generator=generator)
    y = torch.bernoulli(0.1 + 0.8 * x[:, :1].expand(200, 3), generator=generator)
    plain = ConditionalVAE(2, 3, 0, (8,))
    assert lacks(plain, "log_marginal") is None
    assert lacks(ConditionalVAE(2, 3, 2, (8,)), "log_marginal") == "there is no exact sum over its code of 2 dimensions"
    assert lacks(ConditionalVAE(2, 3, 0, (8,), binarization="dynamic"), "log_marginal") is not None
    fit = zoo.fit(plain, (x, y), estimator="eg", max_epochs=600, learning_rate=0.1)
    with torch.no_grad():
        probs = fit.model.decoder(x).double().sigmoid()
    by_hand = torch.where(y == 1, probs, 1 - probs).log().sum()
    assert fit.log_likelihood == pytest.approx(float(by_hand), rel=1e-6)
    # What can be had at best: x_1 alone tells y, each bit by its own coin.
    shares = torch.stack([y[x[:, 0] == bit].double().mean(0) for bit in (0, 1)])[x[:, 0].long()]
    best = torch.where(y == 1, shares, 1 - shares).log().sum()
    assert best - 4 < fit.log_likelihood < best + 12
    assert fit.score_samples((x, y)).shape == (200,)
    with pytest.raises(ZooError, match="eg cannot fit this model: there is no exact sum over its code of 2 dimensions"):
        zoo.fit(ConditionalVAE(2, 3, 2, (8,)), (x, y), estimator="eg")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: zoo.fit(tiny()[0], torch.zeros(3, 9), estimator="svi"),
            r"expected a tuple \(x, y\), or whole images to cut, got one array",
        ),
        (lambda: zoo.fit(tiny()[0], (torch.zeros(3, 3), torch.zeros(3, 9)), estimator="svi"), r"expected shape \(N, 4"),
        (lambda: zoo.fit(tiny()[0], (torch.zeros(3, 3), torch.zeros(2, 4)), estimator="svi"), "as many rows"),
        (lambda: zoo.fit(tiny()[0], (torch.zeros(3, 3), torch.full((3, 4), 0.5)), estimator="svi"), "binarization="),
        (lambda: quadrants(torch.zeros(2, 15)), "side even"),
        (lambda: quadrants(torch.zeros(2, 16), 4), "given expected 1, 2 or 3, got 4"),
    ],
)
def test_mistakes_are_one_line(call: Any, match: str) -> None:
    with pytest.raises(ZooError, match=match) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kind", [conditional_vae, stochastic_binary_network])
def test_a_pair_that_weighs_nothing_is_not_seen(kind: Any) -> None:
    model, (given, target) = kind.tiny()
    weights = torch.ones(len(given))
    weights[-1] = 0.0
    other = torch.cat([target[:-1], target[:1]])
    both = [
        zoo.fit(model, (given, y), estimator="iwae", max_epochs=2, weights=weights, init="current").model.state_dict()
        for y in (target, other)
    ]
    assert all(torch.equal(value, both[1][name]) for name, value in both[0].items())
