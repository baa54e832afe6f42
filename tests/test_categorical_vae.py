"""The VAE with a discrete code: against sums over all codes."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro
import pytest
import torch
from neural_oracles import enumerated, flat, mean_gradient, traced_weights
from torch import Tensor
from torch.nn.functional import one_hot

import zoo
from zoo.core.problem import Problem
from zoo.errors import ZooError
from zoo.estimators import estimator_classes
from zoo.estimators.gumbel import Gumbel
from zoo.estimators.iwae import IWAE
from zoo.estimators.reinforce import Reinforce
from zoo.models.categorical_vae import CategoricalVAE, tiny


def make(categories: int = 3, rows: int = 3) -> tuple[CategoricalVAE, Tensor, list[dict[str, Tensor]]]:
    """A model in float64, with hidden layers and a prior to learn where there are three categories; data; all codes."""
    three = categories == 3
    model = CategoricalVAE(5, 2, categories, (4,) if three else (), learned_prior=three).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.6 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    x = torch.rand(rows, 5, generator=generator).round().double()
    codes = []
    for pick in itertools.product(range(categories), repeat=2):
        value = torch.tensor(pick)
        codes.append({"z": value.double() if categories == 2 else one_hot(value, categories).double()})
    return model, x, codes


def exact(model: Any, x: Any, codes: list[dict[str, Tensor]]) -> tuple[Tensor, Tensor]:
    """(evidence, bound), each (N,)."""
    log_joint, log_guide = enumerated(model, x, codes)
    assert torch.allclose(log_guide.logsumexp(0), torch.zeros(1).double(), atol=1e-12), "the codes are all there are"
    return log_joint.logsumexp(0), (log_guide.exp() * (log_joint - log_guide)).sum(0)


@pytest.mark.parametrize("categories", [2, 3])
def test_weights_are_those_of_the_traced_programs(categories: int) -> None:
    model, x, codes = make(categories)
    torch.manual_seed(0)
    ours = model.log_weights(x, 20_000)
    assert not torch.equal(ours[0], ours[1])
    theirs = traced_weights(model, x, 4000)
    table = torch.stack([a - b for a, b in zip(*enumerated(model, x, codes), strict=True)])
    for found in (ours, theirs):  # every weight is one of the few that exist
        nearest = (found.unsqueeze(0) - table.unsqueeze(1)).abs().amin(0)
        assert nearest.max().item() < 1e-10
    evidence, _ = exact(model, x, codes)
    found = ours.logsumexp(0) - math.log(20_000)
    spread = (ours - found).exp().std(0) / math.sqrt(20_000)
    assert ((found - evidence).abs() < 4.5 * spread).all()


@pytest.mark.parametrize("categories", [2, 3])
def test_score_function_gradients_are_unbiased(categories: int) -> None:
    model, x, codes = make(categories)
    parameters = list(model.parameters())
    _, bound = exact(model, x, codes)
    truth = flat(torch.autograd.grad(bound.mean(), parameters), parameters)
    assert float(truth.norm()) > 0.1
    torch.manual_seed(0)
    mean, se, bounds = mean_gradient(Reinforce().objective(Problem(model, x)), x.repeat(50, 1), parameters, 60)
    # Some 70 entries: a bound of 5 errors on the largest is passed by chance all but once in 30 000 times.
    assert float(((mean - truth) / se.clamp_min(1e-6)).abs().max()) < 5
    assert float(bounds.mean()) == pytest.approx(bound.mean().item(), abs=5 * float(bounds.std()) / math.sqrt(60))


def test_vimco_climbs_the_two_sample_bound() -> None:
    model, x, codes = make()
    parameters = list(model.parameters())
    log_joint, log_guide = enumerated(model, x, codes)
    weight = log_joint - log_guide
    pair = torch.logaddexp(weight.unsqueeze(0), weight.unsqueeze(1)) - math.log(2)
    share = (log_guide.unsqueeze(0) + log_guide.unsqueeze(1)).exp()
    bound = (share * pair).sum((0, 1)).mean()
    truth = flat(torch.autograd.grad(bound, parameters), parameters)
    torch.manual_seed(0)
    many = x.repeat(200, 1)  # every copy has draws of its own
    mean, se, bounds = mean_gradient(IWAE(num_particles=2).objective(Problem(model, x)), many, parameters, 60)
    assert float(((mean - truth) / se.clamp_min(1e-6)).abs().max()) < 5
    assert float(bounds.mean()) == pytest.approx(bound.item(), abs=5 * float(bounds.std()) / math.sqrt(60))


@pytest.mark.parametrize("categories", [2, 3])
def test_straight_through_scores_the_discrete_bound(categories: int) -> None:
    """Corners forwards and the exact KL: in the mean the bound itself, for several variables at a site."""
    model, x, codes = make(categories)
    _, bound = exact(model, x, codes)
    objective = estimator_classes()["st_gumbel"](num_particles=2000).objective(Problem(model, x))  # type: ignore[call-arg, attr-defined]
    torch.manual_seed(0)
    with torch.no_grad():
        values = torch.stack([objective(x)[1] for _ in range(10)])
    assert float(values.mean()) == pytest.approx(bound.mean().item(), abs=5 * float(values.std()) / math.sqrt(10))


def test_relaxed_gradient_comes_to_the_discrete_one_as_the_temperature_falls() -> None:
    model, x, codes = make()
    parameters = [p for name, p in model.named_parameters() if "encoder" in name]
    _, bound = exact(model, x, codes)
    truth = flat(torch.autograd.grad(bound.mean(), parameters), parameters)
    away = []
    for temperature in (2.0, 0.2):
        objective = Gumbel(num_particles=4000, temperature=temperature).objective(Problem(model, x))
        torch.manual_seed(0)
        mean, _, _ = mean_gradient(objective, x, parameters, 20)
        away.append(float((mean - truth).norm() / truth.norm()))
    assert away[1] < 0.12
    assert away[1] < away[0] / 2


def test_one_temperature_serves_all_variables_and_falls_geometrically() -> None:
    model, x, _ = make()
    objective = Gumbel(temperature=1.0, final_temperature=0.25).objective(Problem(model, x))
    reached = []
    for fraction in (0.0, 0.5, 1.0):
        objective.at(fraction)  # type: ignore[attr-defined]
        reached.append(objective.temperature)  # type: ignore[attr-defined]
    assert reached == pytest.approx([1.0, 0.5, 0.25])


@pytest.mark.parametrize("estimator", ["gumbel", "st_gumbel", "reinforce", "iwae", "rws"])
def test_every_estimator_raises_the_exact_evidence(estimator: str) -> None:
    _, _, codes = make(rows=1)
    model = CategoricalVAE(20, 2, 3).double()
    x = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1]]).double().repeat(4, 4)
    alone = torch.distributions.Bernoulli(x.mean(0)).log_prob(x).sum().item()
    fit = zoo.fit(model, x, estimator=estimator, max_epochs=300, warmup=0, learning_rate=0.4)
    evidence, bound = exact(fit.model, x, codes)
    assert alone + 80 < evidence.sum().item() < -12 * math.log(3) + 1e-6  # three pictures, each a third of the data
    assert fit.elbo is not None
    assert fit.elbo_se is not None
    assert fit.elbo == pytest.approx(bound.sum().item(), abs=5 * fit.elbo_se + 1e-6)


def test_codes_and_pictures() -> None:
    model, x = tiny()
    assert model.predict(x).shape == (8, 2)
    assert int(model.predict(x).max()) <= 2
    fit = zoo.fit(model, x, estimator="gumbel", max_epochs=3, warmup=0)
    assert fit.sample(11).shape == (11, 6)
    one = zoo.fit(model, x[:1], estimator="iwae", max_epochs=2, warmup=0)
    assert one.elbo is not None


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: CategoricalVAE(4, 2, 1), "num_categories expected at least 2, got 1"),
        (lambda: zoo.fit(*tiny(), estimator="svi"), "site 'z' has neither differentiable draws nor few enough values"),
        (lambda: zoo.fit(*tiny(), estimator="iwae", num_particles=1), "at least 2 with discrete sites, got 1"),
        (lambda: zoo.fit(CategoricalVAE(4), torch.rand(2, 4), estimator="gumbel"), "Pass binarization='dynamic'"),
    ],
)
def test_mistakes_are_one_line(call: Any, match: str) -> None:
    pyro.set_rng_seed(0)
    with pytest.raises(ZooError, match=match) as raised:
        call()
    assert "\n" not in str(raised.value)
