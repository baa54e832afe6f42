"""The stochastic binary network: against sums over every value of every layer."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from neural_oracles import enumerated, flat, mean_gradient, traced_weights
from torch import Tensor
from torch.nn.functional import one_hot

import zoo
from zoo.core.problem import Problem
from zoo.errors import ZooError
from zoo.estimators import estimator_classes
from zoo.estimators.iwae import IWAE
from zoo.estimators.reinforce import Reinforce
from zoo.models.stochastic_binary_network import StochasticBinaryNetwork, halves, tiny
from zoo.scores.importance import importance_nll

Pair = tuple[Tensor, Tensor]
KINDS = {
    "bits": {},
    "bits, recognition": {"recognition": True},
    "categories, recognition": {"recognition": True, "num_categories": 3, "num_variables": (1, 2)},
}
every_kind = pytest.mark.parametrize("kind", list(KINDS))


def make(kind: str, rows: int = 3) -> tuple[StochasticBinaryNetwork, Pair, list[dict[str, Tensor]]]:
    """A model in float64, data, and every value of its layers."""
    options: dict[str, Any] = {"num_variables": (2, 2), "num_categories": 2, **KINDS[kind]}
    model = StochasticBinaryNetwork(3, 4, **options).double()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.6 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    x, y = (torch.rand(rows, size, generator=generator).round().double() for size in (3, 4))
    values = options["num_categories"]

    def layer(count: int) -> list[Tensor]:
        picks = [torch.tensor(pick) for pick in itertools.product(range(values), repeat=count)]
        return [pick.double() if values == 2 else one_hot(pick, values).double() for pick in picks]

    first, second = (layer(count) for count in options["num_variables"])
    return model, (x, y), [{"h1": a, "h2": b} for a in first for b in second]


def exact(model: Any, x: Any, codes: list[dict[str, Tensor]]) -> Pair:
    """(evidence, bound), each (N,)."""
    log_joint, log_guide = enumerated(model, x, codes)
    assert torch.allclose(log_guide.logsumexp(0), torch.zeros(1).double(), atol=1e-12), "the codes are all there are"
    return log_joint.logsumexp(0), (log_guide.exp() * (log_joint - log_guide)).sum(0)


@every_kind
def test_weights_are_those_of_the_traced_programs(kind: str) -> None:
    model, x, codes = make(kind)
    log_joint, log_guide = enumerated(model, x, codes)
    table = (log_joint - log_guide).detach()
    torch.manual_seed(0)
    ours, theirs = model.log_weights(*x, 20_000).detach(), traced_weights(model, x, 2000).detach()
    for found in (ours, theirs):
        assert float((found.unsqueeze(0) - table.unsqueeze(1)).abs().amin(0).max()) < 1e-10
    evidence = log_joint.logsumexp(0).detach()
    estimate = ours.logsumexp(0) - math.log(20_000)
    spread = (ours - estimate).exp().std(0) / math.sqrt(20_000)
    assert ((estimate - evidence).abs() < 4.5 * spread).all()


@every_kind
def test_score_function_gradients_are_unbiased(kind: str) -> None:
    model, x, codes = make(kind)
    parameters = list(model.parameters())
    _, bound = exact(model, x, codes)
    truth = flat(torch.autograd.grad(bound.mean(), parameters), parameters)
    assert float(truth.norm()) > 0.05
    many = tuple(t.repeat(60, 1) for t in x)
    torch.manual_seed(0)
    mean, se, bounds = mean_gradient(Reinforce().objective(Problem(model, x)), many, parameters, 60)
    assert float(((mean - truth) / se.clamp_min(1e-6)).abs().max()) < 5
    assert float(bounds.mean()) == pytest.approx(bound.mean().item(), abs=5 * float(bounds.std()) / math.sqrt(60))


@every_kind
def test_vimco_climbs_the_two_sample_bound(kind: str) -> None:
    model, x, codes = make(kind)
    parameters = list(model.parameters())
    log_joint, log_guide = enumerated(model, x, codes)
    weight = log_joint - log_guide
    pair = torch.logaddexp(weight.unsqueeze(0), weight.unsqueeze(1)) - math.log(2)
    bound = ((log_guide.unsqueeze(0) + log_guide.unsqueeze(1)).exp() * pair).sum((0, 1)).mean()
    truth = flat(torch.autograd.grad(bound, parameters), parameters)
    many = tuple(t.repeat(100, 1) for t in x)
    torch.manual_seed(0)
    mean, se, _ = mean_gradient(IWAE(num_particles=2).objective(Problem(model, x)), many, parameters, 60)
    assert float(((mean - truth) / se.clamp_min(1e-6)).abs().max()) < 5


@every_kind
def test_straight_through_scores_the_discrete_bound_of_two_layers(kind: str) -> None:
    model, x, codes = make(kind)
    _, bound = exact(model, x, codes)
    objective = estimator_classes()["st_gumbel"](num_particles=2000).objective(Problem(model, x))  # type: ignore[call-arg, attr-defined]
    torch.manual_seed(0)
    with torch.no_grad():
        values = torch.stack([objective(x)[1] for _ in range(10)])
    assert float(values.mean()) == pytest.approx(bound.mean().item(), abs=5 * float(values.std()) / math.sqrt(10))


def test_without_recognition_the_guide_is_the_network_itself() -> None:
    model, x, codes = make("bits")
    log_joint, _ = enumerated(model, x, codes)
    traced = traced_weights(model, x, 50).detach()
    assert float(traced.max()) < 0, "ln p(y | h) of bits: below zero always"
    assert (log_joint.logsumexp(0) < 0).all()
    assert not [n for n, _ in model.named_parameters() if "recogn" in n]


@pytest.mark.parametrize(
    "estimator",
    ["gumbel", "st_gumbel", "iwae", *(pytest.param(name, marks=pytest.mark.slow) for name in ("reinforce", "rws"))],
)
def test_estimators_learn_one_half_from_the_other(estimator: str) -> None:
    """Two kinds of picture whose halves agree: y given x is certain, y alone is not."""
    x = torch.eye(2).repeat(10, 3)
    model = StochasticBinaryNetwork(6, 6, (4, 4))
    epochs = 600 if estimator == "reinforce" else 200  # the noisiest gradient takes the longest
    fit = zoo.fit(model, (x, x.clone()), estimator=estimator, max_epochs=epochs, warmup=0, learning_rate=0.4)
    score = importance_nll(fit.model, (x, x), 200)
    assert score.nll < 0.5 * 6 * math.log(2)
    assert score.nll <= score.elbo


def test_halves_and_single_arrays() -> None:
    images = torch.arange(16.0).reshape(2, 8)
    upper, lower = halves(images)
    assert upper.tolist() == [[0, 1, 2, 3], [8, 9, 10, 11]]
    assert lower[0].tolist() == [4, 5, 6, 7]
    digits = zoo.load_data("digits")
    assert isinstance(digits, Tensor)
    model = StochasticBinaryNetwork.from_data(digits, num_variables=(5,))
    assert {k: model.config[k] for k in ("num_inputs", "num_features", "white", "binarization")} == {
        "num_inputs": 32,
        "num_features": 32,
        "white": 16.0,
        "binarization": "dynamic",
    }
    fit = zoo.fit(model, digits[:40], estimator="reinforce", max_epochs=2, warmup=0)
    assert fit.sample(given=digits[:3, :32]).shape == (3, 32)
    x, y = model.resample(**model.validate(digits[:40])).values()
    assert set(torch.cat([x, y]).unique().tolist()) == {0.0, 16.0}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: zoo.fit(tiny()[0], torch.zeros(3, 5), estimator="iwae"), r"whole images to cut, got one array"),
        (lambda: zoo.fit(tiny()[0], (torch.zeros(3, 3),) * 2, estimator="iwae"), r"expected shape \(N, 4\)"),
        (lambda: zoo.fit(tiny()[0], (torch.zeros(3, 3), torch.zeros(2, 4)), estimator="iwae"), "as many rows, got 3"),
        (lambda: zoo.fit(*tiny(), estimator="svi"), "site 'h1' has neither differentiable draws"),
        (lambda: halves(torch.zeros(2, 5)), "even number of pixels"),
        (lambda: StochasticBinaryNetwork(3, 4, ()), "at least one layer"),
    ],
)
def test_mistakes_are_one_line(call: Any, match: str) -> None:
    with pytest.raises(ZooError, match=match) as raised:
        call()
    assert "\n" not in str(raised.value)
