"""The variational autoencoder: its fast path, its bounds against exact integrals, its likelihoods, its data."""

from __future__ import annotations

import copy
import importlib
import math
from typing import Any

import pyro
import pytest
import torch
from neural_oracles import finite_differences, grid_evidence, pyro_bound, traced_weights
from scipy import stats
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal

import zoo
from zoo.core.data import call
from zoo.core.problem import Problem
from zoo.densities.continuous_bernoulli import ContinuousBernoulli, log_normalizer
from zoo.errors import ZooError
from zoo.estimators.iwae import IWAE
from zoo.estimators.svi import SVI
from zoo.models.shared.likelihood import NOISE_FLOOR, Likelihood
from zoo.models.shared.pixels import noise_of
from zoo.models.vae import VAE, tiny

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "beta": {"beta": 4.0},
    "tanh": {"activation": "tanh", "hidden_dims": (5, 4)},
    "linear": {"hidden_dims": ()},
    "continuous": {"likelihood": "continuous_bernoulli"},
    "gaussian": {"likelihood": "gaussian"},
    "categorical": {"likelihood": "categorical", "num_values": 3},
    "two layers": {"num_layers": 2, "hidden_dims": (6,), "beta": 2.0},
    "planar": {"flow": "planar"},
    "iaf": {"flow": "iaf", "num_flows": 3},
}
SAMPLED = ("two layers", "planar", "iaf")
every_kind = pytest.mark.parametrize("kind", list(KINDS))


def make(kind: str, rows: int = 7, **more: Any) -> tuple[VAE, Tensor]:
    """A model in float64 with weights large enough to matter, and data it takes."""
    model = VAE(**{"num_features": 6, "latent_dim": 2, "hidden_dims": (5,), **KINDS[kind], **more}).double()
    generator = torch.Generator().manual_seed(1)
    draws = torch.rand(rows, model.num_features, generator=generator, dtype=torch.float64)
    if model.likelihood.kind == "gaussian":
        draws = 3 + 2 * draws
    elif model.likelihood.kind == "categorical":
        draws = (3 * draws).floor()
    elif model.likelihood.kind == "bernoulli":
        draws = draws.round()
    pyro.set_rng_seed(3)
    model.initialize(draws, "random")
    with torch.no_grad():
        for p in model.parameters():
            p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return model, draws


def widen(*encoders: Any) -> None:
    """Give guides tails that cover the posterior: weights are then bounded, and their averages can be trusted."""
    with torch.no_grad():
        for encoder in encoders:
            getattr(encoder, "base", encoder).raw_scale.bias += 1.5
            for p in getattr(encoder, "flows", torch.nn.Module()).parameters():
                p *= 0.3


def likelihood_on(model: VAE, x: Tensor) -> Any:
    def log_likelihood(z: Tensor) -> Tensor:
        with torch.no_grad():
            return model.likelihood.log_prob(model.decoder(z).unsqueeze(1), x)

    return log_likelihood


# --- the fast path is Pyro's path -------------------------------------------------------------------------------------


@pytest.mark.parametrize("particles", [1, 3])
@every_kind
def test_fast_bound_and_gradient_are_pyros(kind: str, particles: int) -> None:
    model, x = make(kind)
    parameters = list(model.parameters())
    pyro.set_rng_seed(5)
    ours = model.elbo_parts(x, particles)[0].sum()
    pyro.set_rng_seed(5)
    theirs = pyro_bound(model, x, kind not in SAMPLED, particles)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-12)
    for a, b in zip(*(torch.autograd.grad(v, parameters, allow_unused=True) for v in (ours, theirs)), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("particles", [1, 4])
@every_kind
def test_fast_weights_and_gradient_are_those_of_the_traced_programs(kind: str, particles: int) -> None:
    model, x = make(kind, beta=1.0)
    parameters = list(model.parameters())
    pyro.set_rng_seed(5)
    ours = model.log_weights(x, particles)
    pyro.set_rng_seed(5)
    theirs = traced_weights(model, x, particles)
    assert ours.shape == (particles, len(x))
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    sums = [v.logsumexp(0).sum() for v in (ours, theirs)]
    for a, b in zip(*(torch.autograd.grad(s, parameters, allow_unused=True) for s in sums), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def test_estimators_take_the_fast_path_and_it_is_theirs() -> None:
    model, x = make("plain")
    for estimator, reference in (
        (SVI(num_particles=2), lambda: pyro_bound(model, x, True, 2) / len(x)),
        (IWAE(num_particles=3), lambda: (traced_weights(model, x, 3).logsumexp(0) - math.log(3)).mean()),
    ):
        objective = estimator.objective(Problem(model, x))
        pyro.set_rng_seed(2)
        surrogate, bound, _ = objective(x)
        pyro.set_rng_seed(2)
        assert bound.item() == pytest.approx(reference().item(), rel=1e-12)
        assert surrogate.item() == pytest.approx(-bound.item(), rel=1e-12)
    parts = SVI().objective(Problem(model, x))
    _, value, pieces = parts(x)
    assert {name: t.shape for name, t in pieces.items()} == {"reconstruction": (), "kl": ()}
    assert value.item() == pytest.approx(float(pieces["reconstruction"] - pieces["kl"]), rel=1e-12)


def test_beta_weighs_the_kl_and_not_the_evidence() -> None:
    model, x = make("beta")
    plain = copy.deepcopy(model)
    plain.beta = 1.0
    bounds, weights = [], []
    for which in (model, plain):
        pyro.set_rng_seed(0)
        bound, parts = which.elbo_parts(x)
        bounds.append((bound, parts["kl"]))
        pyro.set_rng_seed(0)
        weights.append(which.log_weights(x, 3))
    torch.testing.assert_close(bounds[1][0] - bounds[0][0], 3 * bounds[0][1])
    assert float(bounds[0][1].min().detach()) > 0
    torch.testing.assert_close(*weights, rtol=0, atol=0)


@every_kind
def test_gradient_is_that_of_the_bound_under_common_random_numbers(kind: str) -> None:
    model, x = make(kind, activation="tanh")  # relu has corners, where a central difference is neither side's slope

    def value() -> Tensor:
        return model.elbo_parts(x, 2)[0].sum() + model.log_weights(x, 3).logsumexp(0).sum()

    named = list(model.named_parameters())
    pyro.set_rng_seed(0)
    grads = torch.autograd.grad(value(), [p for _, p in named], allow_unused=True)
    moved = 0
    for (name, parameter), grad in zip(named, grads, strict=True):
        for index, slope in finite_differences(value, parameter):
            ours = 0.0 if grad is None else float(grad.reshape(-1)[index])
            assert ours == pytest.approx(slope, rel=2e-5, abs=2e-5), name
            moved += abs(ours) > 1e-3
    assert moved > 10


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "gaussian", "continuous", "categorical", "planar", "iaf"])
@pytest.mark.parametrize("dims", [1, 2])
def test_bounds_stay_below_the_exact_evidence_and_rise_to_it(kind: str, dims: int) -> None:
    if dims == 1 and kind == "iaf":
        pytest.skip("an autoregressive flow of one dimension has nothing to regress on")
    model, x = make(kind, latent_dim=dims, rows=5)
    widen(model.encoder)
    exact = grid_evidence(likelihood_on(model, x), dims)
    with torch.no_grad():
        draws = torch.stack([model.elbo_parts(x, 500)[0] for _ in range(10)])
        elbo, se = draws.mean(0), draws.std(0) / math.sqrt(10)
        assert (elbo < exact + 4 * se).all()
        assert (exact - elbo).max() > 0.01, "a guide that is exact would make this test empty"
        means = []
        for k in (1, 5, 50):
            bounds = model.log_weights(x, 40_000).reshape(-1, k, len(x)).logsumexp(1) - math.log(k)
            means.append((bounds.mean(0), bounds.std(0) / math.sqrt(len(bounds))))
        for (low, low_se), (high, high_se) in zip(means, [*means[1:], (exact, torch.zeros(()))], strict=True):
            assert (low < high + 4 * (low_se + high_se)).all()
        # One weighted draw is the plain bound, estimated without its closed-form KL.
        assert ((means[0][0] - elbo).abs() < 4.5 * (means[0][1] + se)).all()
        many = model.log_weights(x, 200_000)
        share = (many - many.logsumexp(0)).softmax(0)
        error = (share.square().sum(0) - 1 / len(many)).clamp_min(1e-9).sqrt()
        assert ((many.logsumexp(0) - math.log(len(many)) - exact).abs() < 5 * error).all()


def test_two_layers_reach_the_same_evidence_as_a_grid_over_both() -> None:
    model, x = make("two layers", latent_dim=1, rows=3)  # z1 in two dimensions, z2 in one
    widen(model.encoder, model.upper_encoder)
    line = torch.linspace(-7, 7, 61, dtype=torch.float64)
    with torch.no_grad():
        top = line.unsqueeze(-1)
        lower = torch.cartesian_prod(torch.linspace(-9, 9, 121).double(), torch.linspace(-9, 9, 121).double())
        between = model.upper_decoder(top).log_prob(lower.unsqueeze(1))  # (M, 61)
        prior = Normal(0.0, 1.0).log_prob(line)
        cell = math.log(float(line[1] - line[0])) + 2 * math.log(18 / 120)
        joint = (between + prior).logsumexp(-1, keepdim=True) + likelihood_on(model, x)(lower)
        exact = joint.logsumexp(0) + cell
        weights = model.log_weights(x, 200_000)
    found = weights.logsumexp(0) - math.log(200_000)
    torch.testing.assert_close(found, exact, rtol=0, atol=0.03)
    assert (weights.mean(0) < exact).all()


def test_one_datum_scores_as_in_a_batch() -> None:
    model, x = make("plain")
    whole = grid_evidence(likelihood_on(model, x), 2, num=101)
    for n in range(2):
        alone = grid_evidence(likelihood_on(model, x[n : n + 1]), 2, num=101)
        torch.testing.assert_close(alone, whole[n : n + 1], rtol=0, atol=1e-12)
    bound, parts = model.elbo_parts(x[:1], 4)
    assert bound.shape == parts["kl"].shape == (1,)
    torch.testing.assert_close(parts["kl"], model.elbo_parts(x)[1]["kl"][:1])
    fit = zoo.fit(model, x[:1], estimator="svi", max_epochs=5)
    assert math.isfinite(fit.elbo or math.nan)


# --- likelihoods ------------------------------------------------------------------------------------------------------


def test_likelihoods_score_as_torchs_distributions_do() -> None:
    torch.manual_seed(0)
    logits, x = torch.randn(3, 4, 6).double(), torch.rand(4, 6).double()
    binary, three = x.round(), (3 * x).floor()
    gaussian = Likelihood("gaussian", 6).double()
    gaussian.set_from(x)
    scale = x.std(0, correction=0) * (NOISE_FLOOR + math.log(2.0))
    cases = [
        (Likelihood("bernoulli", 6), logits, binary, Bernoulli(logits=logits).log_prob(binary)),
        (gaussian, logits, x, Normal(x.mean(0) + logits * x.std(0, correction=0), scale).log_prob(x)),
        (
            Likelihood("categorical", 6, 3),
            wide := torch.randn(3, 4, 18).double(),
            three,
            Categorical(logits=wide.reshape(3, 4, 6, 3)).log_prob(three),
        ),
        (
            Likelihood("continuous_bernoulli", 6),
            4 * logits,
            x,
            torch.distributions.ContinuousBernoulli(logits=4 * logits, lims=(0.4999, 0.5001)).log_prob(x),
        ),
    ]
    for likelihood, outputs, value, expected in cases:
        torch.testing.assert_close(likelihood.log_prob(outputs, value), expected.sum(-1), rtol=1e-7, atol=1e-7)
        assert likelihood(outputs).batch_shape == (3, 4)
        torch.testing.assert_close(likelihood(outputs).log_prob(value), expected.sum(-1), rtol=1e-7, atol=1e-7)


def test_continuous_bernoulli_integrates_to_one_and_keeps_its_digits() -> None:
    logits = torch.tensor([-30.0, -1.0, -0.1, -1e-3, 0.0, 1e-9, 1e-4, 0.0999, 0.1001, 2.0, 40.0], dtype=torch.float64)
    x = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    density = ContinuousBernoulli(logits=logits.unsqueeze(-1)).log_prob(x).exp()
    area = torch.trapezoid(density, x)
    torch.testing.assert_close(area, torch.ones_like(area), rtol=0, atol=1e-8)
    small = torch.linspace(-0.3, 0.3, 601, dtype=torch.float64)
    torch.testing.assert_close(log_normalizer(small.float()).double(), log_normalizer(small), rtol=0, atol=5e-7)
    free = small.clone().requires_grad_()
    grad = torch.autograd.grad(log_normalizer(free).sum(), free)[0]
    # d/dl ln(l / tanh(l/2)) = 1/l - 1/sinh(l), written without its cancellation as a series: l/6 - 7 l^3/360 + ...
    series = small / 6 - 7 * small**3 / 360 + 31 * small**5 / 15120
    torch.testing.assert_close(grad, series, rtol=0, atol=1e-7)
    assert log_normalizer(torch.zeros(1)).item() == pytest.approx(math.log(2))


def test_convolutions_take_the_shapes_of_the_fully_connected_networks() -> None:
    model = VAE(64, 3, (12,), architecture="conv").double()
    x = torch.rand(5, 64).round().double()
    assert model.decode(torch.randn(2, 5, 3).double()).shape == (2, 5, 64)
    pyro.set_rng_seed(1)
    ours = model.elbo_parts(x, 2)[0].sum()
    pyro.set_rng_seed(1)
    assert ours.item() == pytest.approx(pyro_bound(model, x, True, 2).item(), rel=1e-12)
    # A pixel far from another does not see it: the receptive field of two 4 x 4 kernels is 10 x 10.
    features = model.encoder.body.layers[:3]  # type: ignore[index, union-attr]
    moved = x.clone()
    moved[:, -1] = 1 - moved[:, -1]
    difference = (features(x.reshape(-1, 1, 8, 8)) - features(moved.reshape(-1, 1, 8, 8))).abs().sum((0, 1))
    assert difference[0, 0] == 0
    assert difference[-1, -1] > 0


# --- data -------------------------------------------------------------------------------------------------------------


def test_dynamic_pixels_are_drawn_anew_for_training_and_once_for_scores() -> None:
    model = VAE(4, 1, (3,), binarization="dynamic", white=16.0)
    x = torch.tensor([[0.0, 4.0, 12.0, 16.0]]).repeat(20_000, 1)
    x[:, 1:3] += 0.02 * torch.rand(20_000, 2) - 0.01  # no row is another's
    assert model.validate(x) is x
    torch.manual_seed(0)
    draws = model.resample(x)
    assert set(draws.unique().tolist()) == {0.0, 16.0}
    frequency = (draws / 16).mean(0)
    assert (frequency[[0, 3]] == torch.tensor([0.0, 1.0])).all()
    assert ((frequency[1:3] - torch.tensor([0.25, 0.75])).abs() < 0.015).all()
    assert not torch.equal(draws, model.resample(x))
    fixed = model.pixels(x)
    assert torch.equal(fixed, model.pixels(x)), "model and guide must see the same draw"
    assert set(fixed.unique().tolist()) == {0.0, 1.0}
    assert ((fixed.mean(0)[1:3] - torch.tensor([0.25, 0.75])).abs() < 0.015).all()
    assert torch.equal(model.pixels(draws), draws / 16), "what is binary stays as it is"
    seen: list[Tensor] = []
    model.elbo_parts = lambda x, num_particles: (seen.append(x), (x.sum(-1), {}))[1]  # type: ignore[method-assign]
    objective = SVI().objective(Problem(model, x[:3]))
    objective(x[:3])
    objective(x[:500])
    assert all(set(batch.unique().tolist()) <= {0.0, 16.0} for batch in seen)


@pytest.mark.parametrize(("how", "expected"), [("threshold", [0.0, 0.0, 16.0, 16.0]), ("static", None)])
def test_pixels_made_binary_once(how: str, expected: Any) -> None:
    model = VAE(4, 1, (3,), binarization=how, white=16.0)
    x = torch.tensor([[0.0, 8.0, 12.0, 16.0]]).repeat(500, 1)
    x[:, 1] -= 0.02 * torch.rand(500)
    once = model.validate(x)
    assert torch.equal(model.validate(once), once)
    assert set(once.unique().tolist()) == {0.0, 16.0}
    assert torch.equal(model.resample(once), once)
    if expected:
        assert once[0].tolist() == expected
    else:
        assert abs(float(once[:, 1].mean()) / 16 - 0.5) < 0.1
        assert once[:, 0].sum() == 0


@pytest.mark.parametrize("how", ["dynamic", "static"])
def test_an_image_has_its_own_fixed_draw(how: str) -> None:
    """Alone, in a batch, in another order: scores and labels may not depend on how the data are cut into pieces."""
    x = zoo.load_data("digits")[:300].float()
    model = VAE(64, 2, (5,), binarization=how, white=16.0)

    def drawn(rows: Tensor) -> Tensor:
        return model.pixels(model.validate(rows))

    whole, order = drawn(x), torch.randperm(300)
    assert torch.equal(drawn(x[order]), whole[order])
    assert torch.equal(torch.cat([drawn(row) for row in x.split(1)]), whole)
    grey = (x > 0) & (x < 16)
    assert float((whole[grey] - x[grey] / 16).mean()) == pytest.approx(0.0, abs=4 * 0.5 / math.sqrt(int(grey.sum())))


def test_fixed_noise_is_uniform_and_independent() -> None:
    """Between neighbours in a row, between rows that differ in one bit, between seeds."""
    x = torch.zeros(2000, 100)
    x[torch.arange(2000), torch.arange(2000) % 100] = 1.0 + torch.arange(2000) // 100
    noise = noise_of(x)
    assert 0 <= float(noise.min()) < 1e-4
    assert 1 - 1e-4 < float(noise.max()) < 1
    assert stats.kstest(noise.flatten().numpy(), "uniform").pvalue > 1e-3
    for pairs in (noise, noise.T):
        links = torch.corrcoef(pairs)
        off = links[~torch.eye(len(links), dtype=torch.bool)]
        assert float(off.std()) == pytest.approx(1 / math.sqrt(pairs.shape[1] - 1), rel=0.05)
    assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), noise_of(x, 1).flatten()]))[0, 1])) < 0.01


@pytest.mark.parametrize("logit", [-1000.0, -30.0, -0.5, 1e-4, 0.0, 3.0, 1000.0])
def test_continuous_bernoulli_draws_what_it_scores(logit: float) -> None:
    """Mean and draws against quadrature of the density, from almost black to almost white."""
    family = ContinuousBernoulli(torch.tensor(logit, dtype=torch.float64))
    grid = torch.cat([torch.linspace(0, 1, 400_001), torch.logspace(-7, 0, 40_001)]).double()
    grid = torch.cat([grid, 1 - grid]).sort().values
    density = family.log_prob(grid).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-5)
    mean = float(torch.trapezoid(density * grid, grid))
    assert float(family.mean) == pytest.approx(mean, rel=1e-4)
    torch.manual_seed(0)
    draws = family.rsample((20_000,))
    assert float(draws.mean()) == pytest.approx(mean, abs=4.5 * float(draws.std()) / math.sqrt(20_000))
    inside = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    cumulative = [float(torch.trapezoid(density[grid <= v], grid[grid <= v])) for v in family.icdf(inside)]
    assert cumulative == pytest.approx(inside.tolist(), abs=2e-3)
    assert torch.autograd.gradcheck(
        lambda logits: ContinuousBernoulli(logits).icdf(inside),
        torch.tensor(logit, dtype=torch.float64, requires_grad=True),
    )


def test_sizes_and_pixels_are_read_off_the_data() -> None:
    digits = zoo.load_data("digits")
    assert isinstance(digits, Tensor)
    model = VAE.from_data(digits)
    assert {k: model.config[k] for k in ("num_features", "white", "binarization")} == {
        "num_features": 64,
        "white": 16.0,
        "binarization": "dynamic",
    }
    assert VAE.from_data((digits > 8).double()).config["binarization"] is None
    assert VAE.from_data(digits, likelihood="gaussian").config["white"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "x", "match"),
    [
        ({}, torch.full((2, 6), 0.5), r"pixels 0 or 1, got 0\.5 in rows 0, 1\. Pass binarization='dynamic', or likel"),
        ({}, torch.full((2, 6), 3.0), r"from 0 to white = 1, got 3 in rows 0, 1\. Pass white=3"),
        ({}, torch.zeros(2, 5), r"x expected shape \(N, 6\), got \(2, 5\)\. Pass num_features to match"),
        ({}, torch.full((1, 6), math.nan), "got NaN in row 0"),
        ({"likelihood": "categorical"}, torch.full((1, 6), 2.0), "whole numbers from 0 to 1, got 2 in row 0"),
        ({"likelihood": "bernouli"}, None, "Did you mean 'bernoulli'"),
        ({"likelihood": "gaussian", "binarization": "dynamic"}, None, "binarization expected likelihood='bernoulli'"),
        ({"architecture": "conv"}, None, "square image whose side is a multiple of 4, got 6 pixels"),
        ({"flow": "plannar"}, None, "Did you mean 'planar'"),
        ({"flow": "planar", "num_layers": 2}, None, "expected one layer"),
        ({"beta": 0.0}, None, "beta expected a positive number"),
        ({"num_layers": 3}, None, "num_layers '3' is not known"),
        ({"hidden_dims": "50,20"}, None, r"hidden_dims expected a list such as \[200, 100\], got '50,20'"),
        ({"hidden_dims": (0,)}, None, "hidden_dims expected a whole number of at least 1, got 0"),
        ({"latent_dim": 0}, None, "latent_dim expected a whole number of at least 1"),
    ],
)
def test_mistakes_are_one_line(arguments: dict[str, Any], x: Tensor | None, match: str) -> None:
    def attempt() -> None:
        model = VAE(**{"num_features": 6, "latent_dim": 2, "hidden_dims": (4,), **arguments})
        zoo.fit(model, x, estimator="svi")

    with pytest.raises(ZooError, match=match) as raised:
        attempt()
    assert "\n" not in str(raised.value)


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_kl_is_annealed_by_epochs_and_left_at_full_weight() -> None:
    model, x = make("beta")
    objective = SVI(max_epochs=10, anneal_epochs=4).objective(Problem(model, x))
    reached = []
    for epoch in range(10):
        objective.at(epoch / 10)
        torch.manual_seed(0)
        surrogate, _, parts = objective(x)
        reached.append(float((parts["reconstruction"] + surrogate.detach()) / parts["kl"]))
    assert reached == pytest.approx([4e-6, 1.0, 2.0, 3.0, *[4.0] * 6], rel=1e-4, abs=1e-4)
    for option in ("anneal_epochs", "annealing"):
        with pytest.raises(ZooError, match=f"PPCA has no KL weight to anneal. Leave {option} out"):
            zoo.fit(zoo.PPCA(1, 6), x, estimator="svi", **{option: 1})


@pytest.mark.parametrize("name", ["gaussian_mixture_vae", "conditional_vae"])
def test_whoever_offers_the_parts_of_its_bound_is_annealed(name: str) -> None:
    model, x = importlib.import_module(f"zoo.models.{name}").tiny()
    objective = SVI(max_epochs=4, anneal_epochs=2).objective(Problem(model, x))
    gradients = []
    for fraction in (0.25, 1.0):
        objective.at(fraction)
        torch.manual_seed(0)
        _, parts = call(model.elbo_parts, x)
        weight = min(1.0, 2 * fraction)
        torch.manual_seed(0)
        surrogate, value, _ = objective(x)
        expected = (parts["reconstruction"] - weight * parts["kl"]).mean()
        assert -surrogate.item() == pytest.approx(expected.item(), rel=1e-6)
        assert value.item() == pytest.approx((parts["reconstruction"] - parts["kl"]).mean().item(), rel=1e-6)
        moved = list(model.parameters())
        pairs = [torch.autograd.grad(v, moved, allow_unused=True) for v in (-surrogate, expected)]
        for ours, theirs in zip(*pairs, strict=True):
            assert (ours is None) == (theirs is None)
            if ours is not None:
                assert torch.allclose(ours, theirs, atol=1e-6)
        gradients.append(pairs[0])
    assert any(a is not None and not torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients, strict=True))
    fit = zoo.fit(model, x, estimator="svi", max_epochs=4, anneal_epochs=2)
    assert fit.history["elbo"] == fit.history["objective"]


def test_annealing_by_share_is_that_by_epochs_and_a_model_may_name_its_own() -> None:
    model, x = make("plain")
    fits = [
        zoo.fit(model, x, max_epochs=8, batch_size=3, **options)
        for options in ({"annealing": 0.5}, {"anneal_epochs": 4}, {"annealing": 0.5, "annealing_start": 0.3}, {})
    ]
    ends = [torch.cat([p.detach().flatten() for p in fit.model.parameters()]) for fit in fits]
    assert torch.equal(ends[0], ends[1])
    assert not torch.allclose(ends[0], ends[2], atol=1e-4)
    assert not torch.allclose(ends[0], ends[3], atol=1e-4)
    model.annealing, model.annealing_start = 0.5, 0.3
    own, off = (zoo.fit(model, x, max_epochs=8, batch_size=3, **options) for options in ({}, {"annealing": 0}))
    for fit, end in ((own, ends[2]), (off, ends[3])):
        assert torch.equal(torch.cat([p.detach().flatten() for p in fit.model.parameters()]), end)


def test_the_history_of_an_annealed_climb_has_the_bound_at_full_weight() -> None:
    """A rate that moves nothing: every row is the same bound, whatever the weight, but for the draws."""
    model, x = make("beta")
    still = {"learning_rate": 1e-12, "max_epochs": 30, "init": "current", "batch_size": len(x)}
    plain, annealed = (zoo.fit(model, x, **still, annealing=share) for share in (0, 1))
    assert plain.history["objective"] == pytest.approx(annealed.history["objective"], rel=1e-6)
    assert len(set(plain.history["objective"])) > 20


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"annealing": 1.5}, "annealing expected a share from 0 to 1, got 1.5"),
        ({"annealing_start": "low"}, "annealing_start expected a (number|share)"),
        ({"annealing": 0.2, "anneal_epochs": 3}, "expected annealing or anneal_epochs, got both"),
    ],
)
def test_mistakes_of_annealing_are_one_line(options: dict[str, Any], match: str) -> None:
    model, x = make("plain")
    with pytest.raises(ZooError, match=match) as raised:
        zoo.fit(model, x, **options)
    assert "\n" not in str(raised.value)


def test_a_rate_of_002_is_adams_1e3() -> None:
    model, x = make("plain")
    fit = zoo.fit(model, x, estimator="svi", init="current", max_epochs=1, warmup=0)
    steps = [(a - b).detach().abs().max() for a, b in zip(fit.model.parameters(), model.parameters(), strict=True)]
    assert float(torch.stack(steps).max()) == pytest.approx(1e-3, rel=1e-3)


def test_digits_are_learned_beyond_independent_pixels() -> None:
    digits = zoo.load_data("digits")
    assert isinstance(digits, Tensor)
    x = (digits[:300] > 8).float()
    mean = x.mean(0).clamp(1e-4, 1 - 1e-4)
    alone = float(Bernoulli(mean).log_prob(x).sum(-1).mean())
    fit = zoo.fit(VAE(64, 6, (64,)), x, estimator="svi", max_epochs=150, batch_size=25, warmup=0)
    assert fit.elbo is not None
    assert fit.elbo / 300 > alone + 3
    assert fit.predict(x).shape == (300, 6)
    drawn = fit.sample(50)
    assert drawn.shape == (50, 64)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}


def test_tiny_is_from_its_own_prior() -> None:
    model, x = tiny()
    assert torch.equal(model.validate(x), x)
    assert x.dtype == torch.float32
