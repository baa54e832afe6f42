"""The mixture VAE: its label summed exactly, relaxed, and drawn; three gradients of one bound."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import torch
from neural_oracles import finite_differences, mean_gradient, traced_weights
from pyro.infer import TraceEnum_ELBO, config_enumerate
from torch import Tensor
from torch.distributions import Categorical, Normal, kl_divergence

import zoo
from zoo.core.as_module import AsModule
from zoo.core.problem import Problem
from zoo.errors import ZooError
from zoo.estimators import estimator_classes
from zoo.estimators.reinforce import Reinforce
from zoo.estimators.svi import SVI
from zoo.models.gaussian_mixture_vae import GaussianMixtureVAE, tiny
from zoo.scores.clustering import hungarian_accuracy


def make(rows: int = 3, latent: int = 2) -> tuple[GaussianMixtureVAE, Tensor]:
    model = GaussianMixtureVAE(3, 5, latent, (4,), activation="tanh").double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.4 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        model.encoder.raw_scale.bias += 1.0
    return model, torch.rand(rows, 5, generator=generator).round().double()


def evidence(model: GaussianMixtureVAE, x: Tensor) -> Tensor:
    """ln p(x) of each datum, (N,), by a grid over z in two dimensions and a sum over the label."""
    line = torch.linspace(-12, 12, 321, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    with torch.no_grad():
        prior = Normal(model.means, model.scales).log_prob(z.unsqueeze(1)).sum(-1).logsumexp(-1) - math.log(3)
        joint = model.likelihood.log_prob(model.decoder(z).unsqueeze(1), x) + prior.unsqueeze(-1)
    return joint.logsumexp(0) + 2 * math.log(float(line[1] - line[0]))


def pyros(model: GaussianMixtureVAE, x: Tensor, particles: int) -> Tensor:
    loss = TraceEnum_ELBO(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
    value: Tensor = -loss(AsModule(model, "model"), AsModule(model, "guide", config_enumerate))(x)
    return value


def test_fast_bound_is_the_enumerated_one_of_pyro() -> None:
    """Same draws of z: what is left between them is the KL over z, in closed form here and sampled there."""
    model, x = make()
    pyro.set_rng_seed(0)
    bound, parts = model.elbo_parts(x, 7)
    share = model.label_probs(x)
    pyro.set_rng_seed(0)
    theirs = pyros(model, x, 7)
    pyro.set_rng_seed(0)
    draws = torch.randn(3, 7, len(x), 2, dtype=torch.float64)
    difference = torch.zeros(())
    for c in range(3):
        corner = torch.eye(3).double()[c]
        q = Normal(*model._q(x, corner))
        p = Normal(model.means[c], model.scales[c])
        z = q.loc + q.scale * draws[c]
        sampled = (q.log_prob(z) - p.log_prob(z)).sum(-1).mean(0)
        difference = difference + (share[:, c] * (sampled - kl_divergence(q, p).sum(-1))).sum()
    assert (bound.sum() - difference).item() == pytest.approx(theirs.item(), rel=1e-12)
    assert abs(difference.item()) > 1e-3
    label = kl_divergence(Categorical(share), Categorical(logits=torch.zeros(3).double()))
    assert (parts["kl"] > label).all()
    torch.testing.assert_close(bound, parts["reconstruction"] - parts["kl"])


def test_bound_and_weights_against_a_grid() -> None:
    model, x = make()
    exact = evidence(model, x)
    with torch.no_grad():
        model.encoder.raw_scale.bias += 1.5  # tails that cover the posterior: the averages can be trusted
        model.classifier[-1].weight *= 0.5
        bound = model.elbo_parts(x, 4000)[0]
        assert (bound < exact).all()
        for weights in (model.log_weights(x, 100_000), traced_weights(model, x, 20_000)):
            share = (weights - weights.logsumexp(0)).softmax(0)
            error = share.square().sum(0).sqrt()
            found = weights.logsumexp(0) - math.log(len(weights))
            assert ((found - exact).abs() < 5 * error).all()
            assert float(error.max()) < 0.08
            spread = weights.std(0) / math.sqrt(len(weights))
            assert ((weights.mean(0) - bound).abs() < 5 * spread + 0.03).all()


def test_gradient_under_common_random_numbers() -> None:
    model, x = make()
    pyro.set_rng_seed(0)
    grads = torch.autograd.grad(model.elbo_parts(x, 2)[0].sum(), list(model.parameters()))
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        for index, slope in finite_differences(lambda: model.elbo_parts(x, 2)[0].sum(), parameter):
            assert float(grad.reshape(-1)[index]) == pytest.approx(slope, rel=2e-5, abs=2e-6)


def test_score_function_and_exact_sum_have_one_gradient() -> None:
    model, x = make()
    parameters = list(model.parameters())
    torch.manual_seed(0)
    many = x.repeat(200, 1)
    exact, exact_se, _ = mean_gradient(SVI().objective(Problem(model, x)), many, parameters, 40)
    drawn, drawn_se, _ = mean_gradient(Reinforce().objective(Problem(model, x)), many, parameters, 60)
    error = (exact_se.square() + drawn_se.square()).sqrt().clamp_min(1e-6)
    assert float(((drawn - exact) / error).abs().max()) < 5
    assert float(exact.norm()) > 0.1


def test_straight_through_labels_score_the_same_bound() -> None:
    model, x = make()
    objective = estimator_classes()["st_gumbel"](num_particles=4000).objective(Problem(model, x))  # type: ignore[call-arg, attr-defined]
    torch.manual_seed(0)
    with torch.no_grad():
        values = torch.stack([objective(x)[1] for _ in range(10)])
        exact = model.elbo_parts(x, 20_000)[0].mean()
    assert float(values.mean()) == pytest.approx(float(exact), abs=5 * float(values.std()) / math.sqrt(10) + 0.01)


@pytest.mark.parametrize("estimator", ["svi", "gumbel", pytest.param("reinforce", marks=pytest.mark.slow)])
def test_three_prototypes_are_found(estimator: str) -> None:
    torch.manual_seed(1)
    prototypes = torch.eye(3).repeat_interleave(8, 1)
    labels = torch.arange(3).repeat(40)
    x = torch.bernoulli(prototypes[labels] * 0.86 + 0.07)
    best, accuracy = -math.inf, 0.0
    for seed in range(3):  # some starts merge two of them, as mixtures do; the bound tells
        fit = zoo.fit(
            GaussianMixtureVAE(3, 24, 2, (16,)), x, estimator=estimator, seed=seed, max_epochs=150, batch_size=30,
            warmup=0, learning_rate=0.1,
        )  # fmt: skip
        assert fit.elbo is not None
        if fit.elbo > best:
            best, accuracy = fit.elbo, hungarian_accuracy(fit.predict(x), labels)
    alone = torch.distributions.Bernoulli(x.mean(0)).log_prob(x).sum().item()
    assert best > alone + 120 * 2
    if estimator == "svi":
        assert accuracy > 0.9


def test_one_component_and_one_datum() -> None:
    model = GaussianMixtureVAE(1, 5, 2, (4,)).double()
    x = torch.ones(1, 5).double()
    bound, parts = model.elbo_parts(x)
    assert bound.shape == parts["kl"].shape == (1,)
    assert model.label_probs(x).tolist() == [[1.0]]
    assert zoo.fit(model, x, estimator="svi", max_epochs=2, warmup=0).elbo is not None


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: GaussianMixtureVAE(0, 5), "num_components expected a whole number of at least 1, got 0"),
        (lambda: zoo.fit(tiny()[0], torch.rand(2, 6), estimator="svi"), "Pass binarization='dynamic'"),
    ],
)
def test_mistakes_are_one_line(call: Any, match: str) -> None:
    with pytest.raises(ZooError, match=match):
        call()
