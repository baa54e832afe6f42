"""The HMM-VAE: states summed exactly under drawn codes, the Gaussian HMM it comes to, the chain in its guide."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, cast

import oracles
import pyro
import pytest
import torch
from neural_oracles import finite_differences
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from resuming import check_resumed
from torch import Tensor
from torch.distributions import MultivariateNormal

import zoo
from zoo.core import traces, weighing
from zoo.core.problem import Problem
from zoo.data.known_chain import MEANS, TRANSITIONS
from zoo.errors import ZooError
from zoo.models.gaussian_hmm import GaussianHMM
from zoo.models.hmm_vae import HMMVAE
from zoo.reporting.units import plot_units
from zoo.scores.bounds import elbo_module
from zoo.scores.clustering import normalized_mutual_information

Sequences = dict[str, Any]


def known_chain() -> tuple[Sequences, Tensor]:
    """The embedded sequences and their states."""
    x, states = zoo.load_data("known_chain", labels=True)
    assert isinstance(x, dict)
    return x, states


def make(states: str = "summed", covariance: str = "diag", likelihood: str = "gaussian") -> tuple[HMMVAE, Sequences]:
    """A model with every parameter moved, and ragged data, in float64."""
    model = HMMVAE(2, 3, 2, (4,), likelihood, states=states, covariance=covariance, hidden_dim=3).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.4 * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    x = torch.randn(3, 4, 3, generator=generator, dtype=torch.float64)
    if likelihood == "bernoulli":
        x = (x > 0).double()
    return model, model.validate({"x": x, "lengths": torch.tensor([4, 1, 3])})


def at_codes(model: HMMVAE, x: Sequences) -> tuple[Any, Tensor]:
    """The program with its codes at draws of the guide, and these (N, T, L)."""
    pyro.set_rng_seed(3)
    trace = poutine.trace(lambda: model.guide(**x)).get_trace()
    codes = {f"c_{t}": cast(Tensor, trace.nodes[f"c_{t}"]["value"]).detach() for t in range(x["x"].shape[1])}

    def program(x: Tensor, lengths: Tensor) -> None:
        n = len(x)
        which = {s: v if len(v) == n else v[row : row + 1] for s, v in codes.items() for row in [_row(x)]}
        poutine.condition(model.model, data=which)(x, lengths)

    whole = x["x"]

    def _row(x: Tensor) -> int:
        return next(i for i in range(len(whole)) if torch.equal(whole[i], x[0]))

    return program, torch.stack(list(codes.values()), 1)


# The discrete part -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_states_are_summed_as_brute_force_and_pyro_sum_them(likelihood: str) -> None:
    model, x = make(likelihood=likelihood)
    program, codes = at_codes(model, x)
    with torch.no_grad():
        brute = oracles.log_evidence(program, x)
        loss = TraceEnum_ELBO(max_plate_nesting=1).loss(config_enumerate(program), lambda *a, **k: None, **x)
        path = model.path_given(model.code_log_prob(codes), x["lengths"]).log_partition()
        there = torch.arange(4) < x["lengths"].unsqueeze(-1)
        decoded = model.likelihood(model.decoder(codes)).log_prob(x["x"])
        ours = path + (decoded * there).sum(-1)
    assert -loss == pytest.approx(float(brute.sum()), abs=1e-9)
    torch.testing.assert_close(ours, brute, rtol=0, atol=1e-9)


def test_expected_gradient_identity_of_the_chain_given_the_codes() -> None:
    model, x = make()
    program, codes = at_codes(model, x)
    parameters = [model.get_parameter(n) for n in ("initial_probs_unconstrained", "transition_probs_unconstrained")]
    parameters += [model.code_means, model.get_parameter("code_scale_tril_unconstrained")]
    ours = torch.autograd.grad(
        model.path_given(model.code_log_prob(codes), x["lengths"]).log_partition().sum(), parameters
    )
    expected = oracles.fisher_gradient(program, x, parameters)
    assert min(float(g.abs().max()) for g in expected) > 1e-3
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_paths_are_the_best_under_the_codes_guide(covariance: str) -> None:
    """Every path enumerated, with E_q ln N(c_t; m, S) = ln N(loc; m, S) - tr(S^-1 V) / 2 by inverses."""
    model, x = make(covariance=covariance)
    with torch.no_grad():
        loc, factor = model.encoder.moments(x["x"])
        spread = factor.square().diag_embed() if covariance == "diag" else factor @ factor.mT
        states = MultivariateNormal(model.code_means, model.code_scale_tril @ model.code_scale_tril.mT)
        traced = (torch.linalg.inv(states.covariance_matrix) @ spread.unsqueeze(-3)).diagonal(dim1=-2, dim2=-1).sum(-1)
        emission = states.log_prob(loc.unsqueeze(-2)) - 0.5 * traced
    best, probs = model.predict(**x), model.state_probs(**x)
    model.eval()  # its parameters are now plain numbers
    for n, length in enumerate(x["lengths"].tolist()):
        scores = {}
        for path in itertools.product(range(2), repeat=length):
            score = model.initial_probs[path[0]].log() + sum(emission[n, t, k] for t, k in enumerate(path))
            score = score + sum(model.transition_probs[i, j].log() for i, j in itertools.pairwise(path))
            scores[path] = float(score)
        assert tuple(best[n, :length].tolist()) == max(scores, key=lambda path: scores[path])
        assert (best[n, length:] == -1).all()
        assert (probs[n, length:] == 0).all()
        total = sum(math.exp(v) for v in scores.values())
        for t in range(length):
            share = sum(math.exp(v) for path, v in scores.items() if path[t] == 1) / total
            assert float(probs[n, t, 1]) == pytest.approx(share, abs=1e-9)


# Bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("states", ["summed", "amortized"])
@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_fast_bound_and_weights_are_the_programs(states: str, covariance: str) -> None:
    model, x = make(states, covariance)
    for particles in (1, 5):
        loss = elbo_module(Problem(model, x), particles)
        pyro.set_rng_seed(0)
        theirs = -loss(**x)
        pyro.set_rng_seed(0)
        bound, parts = model.elbo_parts(**x, num_particles=particles)
        assert bound.sum().item() == pytest.approx(theirs.item(), rel=1e-10)
        torch.testing.assert_close(bound, parts["reconstruction"] - parts["kl"])
    if states == "summed":
        pyro.set_rng_seed(0)
        drawn = traces.draw(model, x, 5, 1)
        log_joint, log_guide = weighing.joint_and_guide(*drawn, 3, 5, 1)
        pyro.set_rng_seed(0)
        torch.testing.assert_close(model.log_weights(**x, num_particles=5), log_joint - log_guide, rtol=0, atol=1e-9)


@pytest.mark.parametrize("states", ["summed", "amortized"])
def test_gradient_under_common_random_numbers(states: str) -> None:
    model, x = make(states, "full")

    def bound() -> Tensor:
        pyro.set_rng_seed(0)
        return model.elbo_parts(**x, num_particles=2)[0].sum()

    grads = torch.autograd.grad(bound(), list(model.parameters()))
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        for index, slope in finite_differences(bound, parameter, 2):
            assert float(grad.reshape(-1)[index]) == pytest.approx(slope, rel=2e-5, abs=2e-6)


def test_the_amortized_chain_loses_its_divergence_from_the_states_posterior() -> None:
    """Under the same codes: ln p(c) less the bound is KL(q(z | x) || p(z | c)), summed over paths one by one."""
    model, x = make("amortized")
    pyro.set_rng_seed(0)
    codes, _ = model.encoder.draw(*model.encoder.moments(x["x"]), _noise(x, 2))
    pyro.set_rng_seed(0)
    bound, _ = model.elbo_parts(**x)
    pyro.set_rng_seed(0)
    summed = model.log_weights(**x)[0]
    with torch.no_grad():
        first, steps = model.chain(**x)
        emission = MultivariateNormal(model.code_means, scale_tril=model.code_scale_tril).log_prob(codes.unsqueeze(-2))
        for n, length in enumerate(x["lengths"].tolist()):
            log_q, log_p = [], []
            for path in itertools.product(range(2), repeat=length):
                pairs = list(itertools.pairwise(path))
                log_q.append(first[n, path[0]] + sum(steps[n, t, i, j] for t, (i, j) in enumerate(pairs)))
                score = model.initial_probs[path[0]].log() + sum(model.transition_probs[i, j].log() for i, j in pairs)
                log_p.append(score + sum(emission[n, t, k] for t, k in enumerate(path)))
            q, p = torch.stack(log_q), torch.stack(log_p).log_softmax(0)
            divergence = float((q.exp() * (q - p)).sum())
            assert divergence > 1e-3
            assert (summed[n] - bound[n]).item() == pytest.approx(divergence, abs=1e-9)


def _noise(x: Sequences, latent_dim: int) -> Tensor:
    """The standard normal numbers that a bound of one draw takes, (N, T, L)."""
    n, t = x["x"].shape[:2]
    return torch.stack([torch.randn(1, n, latent_dim, dtype=torch.float64) for _ in range(t)], 2)[0]


@pytest.mark.parametrize("states", ["summed", "amortized"])
def test_a_ragged_batch_is_its_sequences_one_by_one_and_padding_is_inert(
    states: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = make(states)
    padded = {"x": torch.nn.functional.pad(x["x"], (0, 0, 0, 2)), "lengths": x["lengths"]}
    padded["x"][:, 4:] = 1e6
    pyro.set_rng_seed(0)
    plain = model.elbo_parts(**x)[0]
    pyro.set_rng_seed(0)
    assert torch.equal(plain, model.elbo_parts(**padded)[0])
    assert torch.equal(model.predict(**x), model.predict(**padded)[:, :4])
    monkeypatch.setattr(torch, "randn", lambda shape, **kind: torch.full(shape, 0.7, **kind))
    together = model.elbo_parts(**x)[0]
    for n, length in enumerate(x["lengths"].tolist()):
        alone = {"x": x["x"][n : n + 1, :length], "lengths": x["lengths"][n : n + 1]}
        torch.testing.assert_close(model.elbo_parts(**alone)[0][0], together[n], rtol=1e-12, atol=1e-12)
        assert torch.equal(model.predict(**alone)[0], model.predict(**x)[n, :length])


# The Gaussian HMM it comes to --------------------------------------------------------------------------------------


def linear(covariance: str, orthogonal: bool, noise: float) -> tuple[HMMVAE, GaussianHMM, Sequences]:
    """A Gaussian HMM of random parameters, data drawn from it, and the linear HMM-VAE that says the same."""
    generator = torch.Generator().manual_seed(5)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    exact = GaussianHMM(3, 4, "full")
    exact.transition_probs = 0.1 + 0.7 * torch.eye(3, dtype=torch.float64)
    exact.means = 2 * randn(3, 4)
    factors = 0.4 * randn(3, 4, 4)
    exact.covariances = factors @ factors.mT + 0.3 * torch.eye(4, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = exact.validate({"x": exact.sample(20, 30), "lengths": torch.arange(11, 31)})
    weight = torch.linalg.qr(randn(4, 4))[0] * torch.tensor([0.5, 1.0, 1.5, 2.0]).double()
    weight = weight if orthogonal else weight + 0.5 * randn(4, 4)
    offset, inverse = randn(4), torch.linalg.inv(weight)
    model = HMMVAE(3, 4, 4, (), noise_scale=noise, covariance=covariance).double()
    precision = weight.mT @ weight / noise**2
    with torch.no_grad():
        model.decoder.straighten(weight, offset)
        scale = precision.diagonal().rsqrt()  # the best diagonal for a Gaussian of this precision
        if covariance == "full":
            factor = torch.linalg.cholesky(torch.linalg.inv(precision))
            scale = factor.diagonal()
        model.encoder.straighten(inverse, -inverse @ offset, scale)
        if covariance == "full":
            row, column = torch.tril_indices(4, 4, -1)
            assert model.encoder.lower is not None
            model.encoder.lower.bias.copy_(factor[row, column] / scale[row])
        model.code_means.copy_((exact.means - offset) @ inverse.mT)
    model.initial_probs, model.transition_probs = exact.initial_probs, exact.transition_probs
    model.code_scale_tril = torch.linalg.cholesky(inverse @ exact.covariances @ inverse.mT)
    return model, exact, x


def gap(model: HMMVAE, exact: GaussianHMM, x: Sequences) -> float:
    """How far the bound lies below the Gaussian HMM's exact evidence, nats a frame."""
    torch.manual_seed(0)
    with torch.no_grad():
        lost = exact.log_marginal(**x) - model.elbo_parts(**x, num_particles=20)[0]
    return float(lost.sum() / x["lengths"].sum())


def test_without_noise_a_linear_decoder_of_orthogonal_columns_is_the_gaussian_hmm() -> None:
    """Within 1e-2 nats a frame, and ever nearer as the noise falls."""
    gaps = [gap(*linear("diag", True, noise)) for noise in (0.1, 0.03, 0.01)]
    assert abs(gaps[0]) > abs(gaps[1]) > abs(gaps[2])
    assert abs(gaps[2]) < 1e-2
    assert abs(gap(*linear("full", False, 0.01))) < 1e-2  # any columns, where the guide's dimensions hang together


def test_a_diagonal_guide_keeps_its_gap_under_columns_that_are_not_orthogonal() -> None:
    """KL of the diagonal of the precision from the whole: half of ln of the product of its diagonal over its
    determinant."""
    model, exact, x = linear("diag", False, 0.003)
    weight = model.decoder.straight.weight.detach()
    precision = weight.mT @ weight
    kept = 0.5 * float(precision.diagonal().log().sum() - torch.logdet(precision))
    assert kept > 0.1
    assert gap(model, exact, x) == pytest.approx(kept, abs=2e-2)


# Fits ------------------------------------------------------------------------------------------------------------


def test_a_fit_unbends_what_a_gaussian_hmm_cuts_across() -> None:
    """The embedded data: their states lie on parabolas, and Gaussians of as many states say next to nothing of them."""
    x, states = known_chain()
    there = states >= 0
    straight = zoo.fit(zoo.GaussianHMM(3, 6, "full"), x, restarts=1)
    model = HMMVAE(3, 6, hidden_dims=(32, 32))
    fit = zoo.fit(model, x, estimator="svi", max_epochs=40, learning_rate=0.1)
    said = {name: f.predict(x) for name, f in (("straight", straight), ("bent", fit))}
    told = {name: normalized_mutual_information(path[there], states[there]) for name, path in said.items()}
    assert told["straight"] < 0.1
    assert told["bent"] > 0.8
    assert fit.elbo is not None
    assert straight.log_likelihood is not None
    assert fit.elbo > straight.log_likelihood + 0.3 * float(there.sum())
    drawn = fit.sample(300, seed=1)
    rows = x["x"][there]
    assert drawn.shape[1:] == x["x"].shape[1:]
    error = rows.std(0) * (10 / len(rows)) ** 0.5  # frames of a sequence hang together
    assert ((drawn.flatten(0, 1).mean(0) - rows.mean(0)).abs() < 5 * error).all()
    torch.testing.assert_close(drawn.flatten(0, 1).std(0), rows.std(0).to(drawn), rtol=0.15, atol=0.0)


@pytest.mark.parametrize("estimator", ["svi", "iwae", "rws"])
@pytest.mark.parametrize("init", ["principal", "random"])
def test_estimators_climb(estimator: str, init: str) -> None:
    x, _ = known_chain()
    x = {"x": x["x"][:12, :6], "lengths": x["lengths"][:12].clamp_max(6)}
    model = HMMVAE(2, 6, hidden_dims=(4,))
    fit = zoo.fit(model, x, estimator=estimator, init=init, max_epochs=12, learning_rate=0.2, batch_size=6)
    climbed = fit.history["objective"]
    assert climbed[-1] > climbed[0] + 0.5


def test_a_resumed_fit_is_the_uninterrupted_one(tmp_path: Path) -> None:
    model, x = HMMVAE(2, 3, 2, (4,)), make()[1]
    options: dict[str, Any] = {"estimator": "svi", "max_epochs": 6, "batch_size": 2, "seed": 3}
    check_resumed(model, x, tmp_path / "r", "elbo", **options)


def test_what_a_fit_says_of_its_states(tmp_path: Path) -> None:
    model, x = make()
    fit = zoo.fit(model, x, estimator="svi", max_epochs=1, init="current", learning_rate=1e-9)
    torch.testing.assert_close(fit.predict_proba(x), model.state_probs(**x), rtol=1e-4, atol=1e-4)
    means = fit.model.state_means()
    assert means.shape == (2, 3)
    torch.testing.assert_close(means, model.likelihood.mean(model.decoder(model.code_means)), rtol=1e-4, atol=1e-4)
    picture = plot_units(fit, x, tmp_path / "units.png")
    assert picture.stat().st_size > 10_000
    with pytest.raises(ZooError, match=r"offers state_means, got GaussianHMM\. Use plot_states"):
        plot_units(zoo.fit(GaussianHMM(2, 3), x, max_iter=1), x, tmp_path / "other.png")


def test_filter_forecast_and_reconstruction() -> None:
    """States far apart and next to no noise: filtered are those said so far, a forecast goes on by the transitions."""
    model = HMMVAE(2, 1, 1, (), noise_scale=1e-3).double()
    model.decoder.straighten(torch.ones(1, 1).double(), torch.zeros(1).double())
    model.encoder.straighten(torch.ones(1, 1).double(), torch.zeros(1).double(), torch.full((1,), 1e-3).double())
    model.transition_probs = torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    with torch.no_grad():
        model.code_means.copy_(torch.tensor([[-9.0], [9.0]]))
    x = {"x": torch.tensor([[[-9.0], [9.5], [-8.0]], [[9.0], [8.0], [0.0]]]), "lengths": torch.tensor([3, 2])}
    fit = zoo.fit(model, x, estimator="svi", init="current", max_epochs=1, learning_rate=1e-9)
    expected = torch.tensor([[[1.0, 0], [0, 1], [1, 0]], [[0, 1], [0, 1], [0, 0]]]).double()
    torch.testing.assert_close(fit.filter(x).double(), expected, rtol=0, atol=1e-6)
    drawn = fit.forecast(x, 2, num_samples=4000)
    assert drawn.shape == (4000, 2, 2, 1)
    high = (drawn[..., 0] > 0).double().mean(0)
    two = torch.tensor([[0.2, 0.2 * 0.6 + 0.8 * 0.2], [0.6, 0.6 * 0.6 + 0.4 * 0.2]]).double()
    torch.testing.assert_close(high, two, rtol=0, atol=0.04)
    there = torch.arange(3) < x["lengths"].unsqueeze(-1)
    again = fit.model.reconstruct(x)
    torch.testing.assert_close(again[there].double(), x["x"][there].double(), rtol=0, atol=0.01)
    assert not again[~there].any()


@pytest.mark.parametrize("states", ["summed", "amortized"])
def test_states_can_be_renumbered(states: str) -> None:
    model, x = make(states)
    other, _ = make(states)
    other.permute_components(torch.tensor([1, 0]))
    found = []
    for one in (model, other):
        pyro.set_rng_seed(0)
        found.append(one.elbo_parts(x["x"], x["lengths"])[0])
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    still: dict[str, Any] = {"estimator": "svi", "init": "current", "max_epochs": 1, "learning_rate": 1e-12}
    aligned = zoo.align(zoo.fit(other, x, **still), zoo.fit(model, x, **still)).model
    torch.testing.assert_close(aligned.code_means, model.code_means, rtol=1e-6, atol=1e-6)
    swapped = torch.where(model.predict(**x) < 0, -1, 1 - model.predict(**x))
    assert torch.equal(other.predict(**x), swapped)


def test_sequences_drawn_have_the_chain_and_the_codes_of_the_model() -> None:
    """With a straight decoder and next to no noise a frame is its code: means, spread and steps of states far apart."""
    model = HMMVAE(2, 1, 1, (), noise_scale=1e-3).double()
    model.decoder.straighten(torch.ones(1, 1).double(), torch.zeros(1).double())
    model.initial_probs, model.transition_probs = torch.tensor([0.7, 0.3]), torch.tensor([[0.8, 0.2], [0.4, 0.6]])
    model.code_scale_tril = torch.tensor([[[0.5]], [[1.0]]])
    with torch.no_grad():
        model.code_means.copy_(torch.tensor([[-9.0], [9.0]]))
    torch.manual_seed(0)
    x = model.sample(4000, 3)[..., 0]
    z = (x > 0).double()
    assert float(z[:, 0].mean()) == pytest.approx(0.3, abs=0.03)
    assert float(z[:, 1][z[:, 0] == 0].mean()) == pytest.approx(0.2, abs=0.03)
    assert float(z[:, 2][z[:, 1] == 1].mean()) == pytest.approx(0.6, abs=0.04)
    for state, (mean, scale) in enumerate([(-9.0, 0.5), (9.0, 1.0)]):
        own = x[z == state]
        assert float(own.mean()) == pytest.approx(mean, abs=0.05)
        assert float(own.std()) == pytest.approx(scale, rel=0.05)


def test_the_embedded_chain_is_what_it_says() -> None:
    x, states = known_chain()
    there = states >= 0
    assert torch.equal(there.sum(1), x["lengths"])
    assert x["x"].shape == (200, 30, 6)
    steps = torch.zeros(3, 3)
    for path, length in zip(states.tolist(), x["lengths"].tolist(), strict=True):
        for i, j in itertools.pairwise(path[:length]):
            steps[i, j] += 1
    shares = steps / steps.sum(1, keepdim=True)
    torch.testing.assert_close(shares, torch.tensor(TRANSITIONS).float(), rtol=0, atol=0.03)
    first, second = x["x"][there][:, :2].T  # a, and b + (a^2 - 1) / 4
    codes = second - 0.25 * (first.square() - 1)
    for state, mean in enumerate(MEANS[:, 1]):
        assert float(codes[states[there] == state].mean()) == pytest.approx(mean, abs=0.03)


def test_more_codes_than_features_and_a_constant_feature() -> None:
    x = torch.randn(5, 6, 2, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, torch.full((5, 6, 1), 3.0)], -1)
    fit = zoo.fit(HMMVAE(2, 3, 5, (4,)), x, estimator="svi", max_epochs=3)
    assert fit.elbo is not None
    assert math.isfinite(fit.elbo)


# Bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: HMMVAE(0, 3), "num_states expected"),
        (lambda: HMMVAE(2, 3, hidden_dims=cast(Any, 7)), "hidden_dims expected a list"),
        (lambda: HMMVAE(2, 3, states="sumed"), "states.*'summed'"),
        (lambda: HMMVAE(2, 3, covariance="tied"), "covariance.*diag"),
        (lambda: HMMVAE(2, 3, likelihood="gaussian_mixture"), "likelihood.*gaussian"),
        (lambda: HMMVAE(2, 3, noise_scale=0.0), "noise_scale expected a number above 0"),
        (lambda: HMMVAE(2, 3, noise_scale=1.0, likelihood="bernoulli"), "noise_scale expected"),
        (lambda: zoo.fit(HMMVAE(2, 3), torch.zeros(2, 4, 5)), r"x expected shape \(N, T, 3\)"),
        (lambda: zoo.fit(HMMVAE(2, 3), {"x": torch.zeros(2, 4, 3), "lengths": torch.tensor([4, 0])}), "from 1 to 4"),
        (lambda: zoo.fit(HMMVAE(2, 3), torch.full((2, 4, 3), math.nan)), "finite numbers, got NaN in sequence 0"),
        (lambda: zoo.fit(HMMVAE(2, 3, likelihood="bernoulli"), torch.full((2, 4, 3), 0.5)), "0 or 1"),
        (lambda: zoo.fit(HMMVAE(2, 3), torch.randn(2, 4, 3), init="kmeans"), "principal"),
    ],
)
def test_bad_input(call: Any, words: str) -> None:
    with pytest.raises(ZooError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
