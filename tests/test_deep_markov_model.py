"""The deep Markov model: the fast path is Pyro's, its evidence that of a filter, ragged batches are sequences alone."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from neural_oracles import finite_differences
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.nn.functional import pad

import zoo
from zoo.core.as_module import AsModule
from zoo.core.particles import particle_bound
from zoo.core.problem import Problem
from zoo.errors import ZooError
from zoo.estimators.svi import SVI
from zoo.models.deep_markov_model import DeepMarkovModel, tiny
from zoo.models.vrnn import VRNN

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rectified": {"cell": "rnn"},
    "flows": {"flow": "iaf", "num_flows": 2},
    "gaussian": {"likelihood": "gaussian"},
    "mixture": {"likelihood": "gaussian_mixture", "num_components": 2},
}
every_kind = pytest.mark.parametrize("kind", sorted(KINDS))


def make(kind: str = "plain", moved: float = 0.3) -> tuple[DeepMarkovModel, dict[str, Tensor]]:
    """A small model in float64 with every parameter moved, and ragged data in no order of length."""
    model = DeepMarkovModel(3, 2, 4, transition_dim=3, emission_dim=3, **KINDS[kind]).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p += moved * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    x = torch.randn(4, 5, 3, generator=generator, dtype=torch.float64)
    if model.likelihood.kind == "bernoulli":
        x = (x > 0).double()
    return model, model.validate({"x": x, "lengths": torch.tensor([2, 5, 1, 3])})


def pyro_bound(model: DeepMarkovModel, x: dict[str, Tensor], closed: bool, particles: int) -> Tensor:
    kind = TraceMeanField_ELBO if closed else Trace_ELBO
    loss = kind(num_particles=particles, vectorize_particles=particles > 1, max_plate_nesting=1)
    value: Tensor = -loss(AsModule(model, "model"), AsModule(model, "guide"))(**x)
    return value


def traced_weights(model: DeepMarkovModel, x: dict[str, Tensor], particles: int) -> Tensor:
    """ln p(x, z) - ln q(z | x), (K, N), by replaying the model's program on the guide's."""
    plate = pyro.plate("particles", particles, dim=-2)
    guide = poutine.trace(plate(model.guide)).get_trace(**x)
    joint = poutine.trace(poutine.replay(plate(model.model), guide)).get_trace(**x)
    total = torch.zeros(particles, len(x["x"]), dtype=torch.float64)
    for trace, sign in ((joint, 1), (guide, -1)):
        trace.compute_log_prob()
        for site in trace.nodes.values():
            if site["type"] == "sample" and "data" in [f.name for f in site["cond_indep_stack"]]:
                total = total + sign * site["log_prob"]
    return total


@pytest.mark.parametrize("particles", [1, 3])
@every_kind
def test_fast_bound_and_gradient_are_pyros(kind: str, particles: int) -> None:
    model, x = make(kind)
    moved = list(model.parameters())
    pyro.set_rng_seed(5)
    bound, parts = model.elbo_parts(**x, num_particles=particles)
    pyro.set_rng_seed(5)
    theirs = pyro_bound(model, x, kind != "flows", particles)
    assert bound.sum().item() == pytest.approx(theirs.item(), rel=1e-12)
    torch.testing.assert_close(parts["reconstruction"] - parts["kl"], bound)
    for a, b in zip(*(torch.autograd.grad(v, moved, allow_unused=True) for v in (bound.sum(), theirs)), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@every_kind
def test_fast_weights_and_gradient_are_those_of_the_traced_programs(kind: str) -> None:
    model, x = make(kind)
    moved = list(model.parameters())
    pyro.set_rng_seed(5)
    ours = model.log_weights(**x, num_particles=4)
    pyro.set_rng_seed(5)
    theirs = traced_weights(model, x, 4)
    assert ours.shape == (4, 4)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    sums = [v.logsumexp(0).sum() for v in (ours, theirs)]
    for a, b in zip(*(torch.autograd.grad(s, moved, allow_unused=True) for s in sums), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_estimators_take_the_fast_path() -> None:
    model, x = make()
    objective = SVI(num_particles=2, annealing=0).objective(Problem(model, x))
    pyro.set_rng_seed(2)
    _, value, parts = objective(x)
    pyro.set_rng_seed(2)
    assert value is not None
    assert value.item() == pytest.approx(pyro_bound(model, x, True, 2).item() / 4, rel=1e-12)
    assert set(parts) == {"reconstruction", "kl"}


@pytest.mark.parametrize("kind", ["plain", "flows"])
def test_gradient_is_that_of_the_bound_under_common_random_numbers(kind: str) -> None:
    model, x = make(kind)

    def value() -> Tensor:
        pyro.set_rng_seed(0)
        return (
            model.elbo_parts(**x, num_particles=2)[0].sum() + model.log_weights(**x, num_particles=3).logsumexp(0).sum()
        )

    named = list(model.named_parameters())
    felt = 0
    for (name, p), grad in zip(named, torch.autograd.grad(value(), [p for _, p in named]), strict=True):
        felt += bool(grad.abs().max() > 1e-6)
        for index, slope in finite_differences(value, p, entries=2):
            assert float(grad.flatten()[index]) == pytest.approx(slope, rel=2e-5, abs=2e-6), name
    assert felt > len(named) - 3  # a rectified layer of three units may be off


def widen(model: DeepMarkovModel) -> None:
    """Give the guide tails that cover the posterior: weights are then bounded, and their averages can be trusted."""
    with torch.no_grad():
        model.combiner.heads.bias[model.latent_dim :] += 1.5


def noise_free(model: DeepMarkovModel) -> None:
    """Next to no spread in the guide: what it says no longer depends on the draws, and can be compared."""
    with torch.no_grad():
        model.combiner.heads.bias[model.latent_dim :] = -60.0


def test_a_ragged_batch_is_its_sequences_alone_and_padding_is_inert() -> None:
    model, x = make()
    noise_free(model)
    whole, parts = model.elbo_parts(**x)
    alone = [
        model.elbo_parts(x["x"][n : n + 1, :length], torch.tensor([length]))
        for n, length in enumerate(x["lengths"].tolist())
    ]
    torch.testing.assert_close(whole, torch.cat([bound for bound, _ in alone]), rtol=0, atol=1e-3)
    for name in parts:
        torch.testing.assert_close(parts[name], torch.cat([each[name] for _, each in alone]), rtol=1e-4, atol=1e-3)
    spoilt = x["x"].clone()
    for row, length in zip(spoilt, x["lengths"].tolist(), strict=True):
        row[length:] = math.nan
    wide = pad(spoilt, (0, 0, 0, 3), value=math.nan)
    pyro.set_rng_seed(0)
    expected = model.elbo_parts(**x)[0]
    for changed in (spoilt, wide):
        pyro.set_rng_seed(0)
        assert torch.equal(model.elbo_parts(changed, x["lengths"])[0], expected)
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(model.elbo_parts(x["x"][order], x["lengths"][order])[0], whole[order], rtol=0, atol=1e-3)


def test_weights_and_particles_come_to_the_same_evidence() -> None:
    """Independent routes: plain importance sampling by the guide, and filters by the guide and by the prior."""
    model, x = make(moved=0.15)
    widen(model)
    x = {"x": x["x"][:, :2], "lengths": x["lengths"].clamp_max(2)}  # weights of long paths are too uneven to average
    draws = 100_000
    with torch.no_grad():
        pyro.set_rng_seed(0)
        each = model.log_weights(**x, num_particles=draws)
        weights = each.logsumexp(0) - math.log(draws)
        errors = (each - weights).exp().std(0) / draws**0.5
        assert errors.max() < 0.03
        for proposal, threshold in (("guide", 0.5), ("prior", 0.5), ("guide", 0.0)):
            bound = particle_bound(model, x, draws, threshold, proposal).bound
            assert ((bound - weights).abs() < 6 * errors + 0.005).all()


@pytest.mark.parametrize("kind", ["plain", "flows"])
def test_particles_that_are_never_resampled_are_the_guides_paths(kind: str) -> None:
    model, x = make(kind)
    x = {"x": x["x"], "lengths": torch.full((4,), 5)}
    pyro.set_rng_seed(3)
    bound = particle_bound(model, x, 3, threshold=0.0).bound
    pyro.set_rng_seed(3)
    weights = model.log_weights(**x, num_particles=3).logsumexp(0) - math.log(3)
    torch.testing.assert_close(bound, weights, rtol=1e-12, atol=1e-12)


def test_evidence_and_filter_are_those_of_a_grid() -> None:
    """L = 1 on a grid: forward recursion by quadrature, E[z_t | x_1..x_t] at every step."""
    model = DeepMarkovModel(2, 1, 3, transition_dim=3, emission_dim=3).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.4 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    widen(model)
    x = (torch.rand(1, 4, 2, generator=generator) > 0.5).double()
    grid = torch.linspace(-12, 12, 3001, dtype=torch.float64).unsqueeze(-1)
    step = float(grid[1] - grid[0])
    with torch.no_grad():
        emission = model.likelihood.log_prob(model.decoder(grid).unsqueeze(1), x[0])  # (G, T)
        loc, scale = model.transition(grid)
        kernel = torch.distributions.Normal(loc, scale).log_prob(grid.mT)  # from (rows) to (columns)
        now = torch.distributions.Normal(*model.transition(model.start)).log_prob(grid).squeeze(-1)
        means, evidence = [], 0.0
        for t in range(4):
            if t:
                now = (now.unsqueeze(-1) + kernel).logsumexp(0) + math.log(step)
            now = now + emission[:, t]
            total = now.logsumexp(0) + math.log(step)
            evidence += float(total)
            now = now - total
            means.append(float((now.exp() * grid.squeeze(-1)).sum() * step))
        pyro.set_rng_seed(0)
        whole = {"x": x, "lengths": torch.tensor([4])}
        bounds = [particle_bound(model, whole, 100_000, proposal=proposal).bound for proposal in ("guide", "prior")]
        filtered = model.filter(x, num_particles=100_000)
    assert [float(bound) for bound in bounds] == pytest.approx([evidence] * 2, abs=0.01)
    assert filtered[0, :, 0].tolist() == pytest.approx(means, abs=0.02)


def test_samples_and_forecasts_follow_the_chain() -> None:
    model, x = make()
    pyro.set_rng_seed(0)
    drawn = model.sample(4000, 3)
    assert drawn.shape == (4000, 3, 3)
    with torch.no_grad(), poutine.trace() as trace, pyro.plate("many", 4000, dim=-2):
        model.model(torch.zeros(1, 3, 3, dtype=torch.float64))
    probs = torch.stack([trace.trace.nodes[f"x_{t}"]["fn"].base_dist.probs.mean((0, 1)) for t in range(3)])
    torch.testing.assert_close(drawn.mean(0), probs, rtol=0, atol=0.04)
    ahead = model.forecast(x, 6, num_samples=7)
    assert ahead.shape == (7, 4, 6, 3)
    assert set(ahead.unique().tolist()) == {0.0, 1.0}


def test_it_learns_chords_beyond_independent_keys(tmp_path: Path) -> None:
    data = zoo.load_data("known_chords")
    assert isinstance(data, dict)
    x = {"x": data["x"][:80, :16], "lengths": data["lengths"][:80].clamp_max(16)}
    inside = torch.arange(16) < x["lengths"].unsqueeze(-1)
    rows = x["x"][inside]
    mean = rows.double().mean(0).clamp(1e-3, 1 - 1e-3)
    alone = float(torch.distributions.Bernoulli(mean).log_prob(rows.double()).sum(-1).mean())
    options: Any = {"estimator": "svi", "max_epochs": 40, "batch_size": 10, "learning_rate": 0.2}
    model = DeepMarkovModel(32, 8, 16, transition_dim=16, emission_dim=16)
    fit = zoo.fit(model, x, **options)
    assert fit.elbo is not None
    steps = int(x["lengths"].sum())
    assert fit.elbo / steps > alone + 1.5
    assert fit.history["elbo"] == fit.history["objective"]
    means = fit.model.reconstruct(x)
    wrong = [float((m - x["x"])[inside].abs().mean()) for m in (means, mean.expand_as(means))]
    assert wrong[0] < 0.65 * wrong[1]


def test_resuming_gives_the_same_bits(tmp_path: Path) -> None:
    """Annealed by the model's own share, cut off in the middle of the rise."""
    model, x = tiny()
    options: Any = {"estimator": "svi", "max_epochs": 20, "batch_size": 2, "seed": 3, "annealing": 0.8}
    whole = zoo.fit(model, x, **options)

    def stop(row: dict[str, Any], _: Any) -> None:
        rows.append(row)
        if len(rows) == 7:
            raise KeyboardInterrupt

    rows: list[Any] = []
    cut = zoo.fit(model, x, out=tmp_path / "r", checkpoint_every=3, progress=stop, **options)
    assert cut.status == "interrupted"
    torch.manual_seed(9)
    again = zoo.fit(model, x, out=tmp_path / "r", resume=True, **options)
    assert again.history["objective"] == whole.history["objective"]
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value)


def roll(model: DeepMarkovModel, x: Any) -> None:
    zoo.fit(model, x, estimator="svi", max_epochs=1)


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.zeros(2, 4, 5), r"x expected shape \(N, T, 3\) or one .*, got \(2, 4, 5\)\. .*num_features=5"),
        ({"x": torch.zeros(2, 4, 3), "lengths": torch.tensor([4, 0])}, "lengths expected from 1 to 4, got 0"),
        ({"x": torch.zeros(9, 3), "lengths": torch.tensor([4, 4])}, "add up"),
        ({"x": torch.full((2, 4, 3), 0.5)}, "0 or 1 under a Bernoulli"),
        ({"x": torch.full((2, 4, 3), math.nan)}, "got NaN in sequence 0"),
    ],
)
def test_mistakes_in_data_are_one_line(x: Any, match: str) -> None:
    with pytest.raises(ZooError, match=match) as raised:
        roll(tiny()[0], x)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"flow": "radial"}, "flow"),
        ({"cell": "lstm"}, "cell"),
        ({"latent_dim": 0}, "latent_dim"),
        ({"likelihood": "poisson"}, "likelihood"),
        ({"num_components": 3}, "num_components expected likelihood='gaussian_mixture'"),
        ({"weight_decay": -1.0}, "weight_decay expected a number of at least 0, got -1"),
    ],
)
def test_mistakes_in_arguments_are_one_line(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ZooError, match=match) as raised:
        DeepMarkovModel(3, **arguments)
    assert "\n" not in str(raised.value)


def test_the_transition_begins_by_staying_where_it_is() -> None:
    model = copy.deepcopy(tiny()[0])
    z = torch.randn(5, 2)
    with torch.no_grad():
        for p in (model.transition.gate[-1].weight, model.transition.gate[-1].bias):
            p.zero_()
        model.transition.gate[-1].bias -= 30
        loc, scale = model.transition(z)
    torch.testing.assert_close(loc, z)
    assert (scale > 0).all()


@pytest.mark.parametrize("family", [DeepMarkovModel, VRNN])
def test_weight_decay_pulls_every_weight_and_no_bias(family: type[DeepMarkovModel | VRNN]) -> None:
    model = family(3, 2, 4, weight_decay=2.5)
    parameters = list(model.parameters())
    for p, pull in zip(parameters, torch.autograd.grad(model.log_prior(), parameters, allow_unused=True), strict=True):
        assert (pull is None) == (p.dim() < 2)
        if pull is not None:
            torch.testing.assert_close(pull, -2.5 * p)
    history = zoo.fit(model, tiny()[1], estimator="svi", max_epochs=1).history  # one step, at the start
    assert history["objective"][0] < history["elbo"][0] - 1
