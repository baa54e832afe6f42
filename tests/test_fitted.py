"""What a fit holds and tells: parameters by name as plain numbers, scores and probabilities a datum, joint draws."""

import itertools
import warnings

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from zoo.models import factor_analysis, gaussian_hmm, gaussian_mixture, gaussian_mixture_vae, vae, vrnn
from zoo.reporting import states as state_plots

NORMAL = torch.distributions.Normal


@pytest.fixture(scope="module")
def mixture():
    model, x = gaussian_mixture.tiny()
    return zoo.fit(model, x), x


@pytest.fixture(scope="module")
def chain():
    model, x = gaussian_hmm.tiny()
    return zoo.fit(model, x, max_iter=3), x


def two_kinds(x):
    weights = pyro.param("weights", torch.tensor([0.4, 0.6]), constraint=dist.constraints.simplex)
    locs = pyro.param("kind.locs", torch.tensor([-2.0, 2.0]))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(locs[z], scale), obs=x)


@pytest.fixture(scope="module")
def program_fit():
    x = torch.cat([torch.linspace(-3, -1, 8), torch.linspace(1, 3, 12)])
    return zoo.fit(two_kinds, x, estimator="eg", max_epochs=40), x


def test_attributes_of_a_fit_are_plain_numbers(mixture):
    model = mixture[0].model
    for name in ("weights", "means", "covariances", "scale_tril"):
        value = getattr(model, name)
        assert not value.requires_grad
        assert name in dir(model)
        np.testing.assert_array_equal(np.asarray(value), value.numpy())
    assert pd.DataFrame(model.means).shape == (2, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # numpy's, of the way torch wraps results
        assert np.round(model.means, 1).shape == (2, 2)
    before = model.means.clone()
    model.means[0] = 7.0  # a copy
    assert torch.equal(model.means, before)


def test_what_a_fitted_model_computes_is_still_differentiable(mixture):
    fit, x = mixture
    raw = [p for p in fit.model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(fit.model.log_marginal(x).sum(), raw, allow_unused=True)
    with fit_in_training(fit.model) as model:
        assert model.means.requires_grad
        assert model.covariances.requires_grad
        again = torch.autograd.grad(model.log_joint(x).logsumexp(-1).sum(), raw, allow_unused=True)
    assert sum(g is not None for g in gradients) == 3
    for one, other in zip(gradients, again, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)
    more = zoo.fit(fit.model, x, estimator="eg", init="current", max_epochs=5)
    assert abs(more.log_likelihood - fit.log_likelihood) < 0.1


class fit_in_training:
    def __init__(self, model):
        self.model = model

    def __enter__(self):
        return self.model.train()

    def __exit__(self, *exc):
        self.model.eval()


def test_methods_of_a_model_take_arrays(mixture, chain):
    model, x = mixture[0].model, mixture[1]
    with torch.no_grad():
        expected = model.log_marginal(x)
    for like in (x.numpy(), x.tolist(), pd.DataFrame(x.numpy().copy()), x.numpy().astype("float32")):
        found = model.log_marginal(like)
        assert not found.requires_grad
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.posterior(x.numpy()).probs, model.posterior(x).probs)
    with pytest.raises(zoo.ZooError, match=r"expected shape \(N, 2\), got \(1, 3\)"):
        model.log_marginal(np.zeros((1, 3)))
    hmm, data = chain[0].model, chain[1]
    arrays = {name: value.numpy() for name, value in data.items()}
    for found in (hmm.predict(arrays), hmm.predict(**arrays), hmm.viterbi(arrays)[0]):
        assert torch.equal(found, hmm.predict(**data))


def test_parameters_by_the_names_users_know(mixture, chain, program_fit, tmp_path):
    fit = mixture[0]
    assert list(fit.parameters) == ["weights", "means", "covariances"]
    assert set(chain[0].parameters) == {"initial_probs", "transition_probs", "means", "covariances"}
    for name, value in fit.parameters.items():
        assert isinstance(value, np.ndarray)
        np.testing.assert_array_equal(value, np.asarray(getattr(fit.model, name)))
    assert set(zoo.load(chain[0].save(tmp_path / "chain")).parameters) == set(chain[0].parameters)
    assert set(program_fit[0].parameters) == {"weights", "kind.locs", "scale"}
    assert abs(program_fit[0].parameters["weights"].sum() - 1) < 1e-6
    stationary = zoo.fit(zoo.GaussianHMM(2, 2, initial="stationary"), chain[1], max_iter=2)
    assert stationary.parameters["initial_probs"].shape == (2,)
    model, x = vae.tiny()
    assert "decoder.1.weight" in zoo.fit(model, x, estimator="svi", max_epochs=1).parameters


def test_a_guide_that_was_not_trained_has_no_parameters_to_tell(program_fit):
    trained = zoo.fit(two_kinds_known, program_fit[1], estimator="svi", max_epochs=2, warmup=0)
    assert set(trained.parameters) > {"locs"}
    assert set(zoo.fit(two_kinds_known, program_fit[1], estimator="eg", max_epochs=2).parameters) == {"locs"}


def two_kinds_known(x):
    locs = pyro.param("locs", torch.tensor([-2.0, 2.0]))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
        pyro.sample("x", dist.Normal(locs[z], 1.0), obs=x)


def test_one_score_a_row(mixture, chain, program_fit):
    fit, x = program_fit
    p = {name: torch.as_tensor(value) for name, value in fit.parameters.items()}
    each = p["weights"].log() + NORMAL(p["kind.locs"], p["scale"]).log_prob(x[:, None])
    torch.testing.assert_close(fit.score_samples(x), each.logsumexp(-1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fit.predict_proba(x), each.softmax(-1), rtol=1e-4, atol=1e-5)
    for some, data, rows in ((*mixture, 12), (*chain, 3)):
        scores = some.score_samples(data)
        assert scores.shape == (rows,)
        assert float(scores.sum()) == pytest.approx(some.score(data), abs=1e-9)
    assert chain[0].predict_proba(chain[1]).shape == (3, 4, 2)


def test_codes_and_paths_of_data(chain):
    model, x = factor_analysis.tiny()
    fit = zoo.fit(model, x, max_iter=5)
    loadings, mean, noise = (fit.parameters[n] for n in ("loadings", "mean", "noise_variance"))
    whole = loadings @ loadings.T + np.diag(noise)  # E[z | x] by the joint Gaussian of z and x
    expected = (x.numpy() - mean) @ np.linalg.solve(whole, loadings)
    np.testing.assert_allclose(fit.transform(x.numpy()), expected, rtol=1e-9)
    path, log_joint = chain[0].viterbi(chain[1])
    assert torch.equal(path, chain[0].predict(chain[1]))
    assert (log_joint <= chain[0].score_samples(chain[1])).all()
    for name, message in (("transform", "a continuous latent, got a discrete one"), ("forecast", "num_steps")):
        with pytest.raises(zoo.ZooError, match=message):
            getattr(chain[0], name)(chain[1], *[0] * (name == "forecast"))
    with pytest.raises(zoo.ZooError, match=r"viterbi: expected a model with a chain of states, but it has no viterbi"):
        fit.viterbi(x)


def test_codes_of_sequences_and_of_clusters():
    model, x = vrnn.tiny()
    fit = zoo.fit(model, x, estimator="svi", max_epochs=1)
    codes = fit.transform(x)
    assert codes.shape == (3, 4, 2)
    there = torch.arange(4) < x["lengths"][:, None]
    assert torch.equal(codes.isnan().any(-1), ~there)
    assert not there.all()
    assert torch.equal(codes[:, 1][there[:, 1]], fit.predict(x)["z_1"][there[:, 1]])
    model, x = gaussian_mixture_vae.tiny()
    fit = zoo.fit(model, x, estimator="svi", max_epochs=1)
    torch.testing.assert_close(fit.predict_proba(x).argmax(-1), fit.predict(x))
    assert fit.transform(x).shape == (8, 2)


def test_what_has_no_score_a_row_says_so():
    def shared(x):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z * pyro.param("shift", torch.tensor(1.0)), 1.0), obs=x)

    fit = zoo.fit(shared, torch.linspace(0, 1, 5), estimator="eg", max_epochs=2)
    with pytest.raises(zoo.ZooError, match=r"a sum over its data.*Take score"):
        fit.score_samples(torch.linspace(0, 1, 5))
    model, x = vae.tiny()
    fit = zoo.fit(model, x, estimator="svi", max_epochs=1)
    with pytest.raises(zoo.ZooError, match=r"score_samples: .* zoo.evaluate"):
        fit.score_samples(x)
    with pytest.raises(zoo.ZooError, match="predict_proba: expected a discrete latent"):
        fit.predict_proba(x)


def test_reprs_are_short(mixture):
    fit, x = mixture
    assert len(repr(fit).splitlines()) <= 3
    assert fit.estimator in repr(fit)
    assert len(repr(zoo.compare(gaussian_mixture.tiny()[0], x, estimators=["em"], gradients=False)).splitlines()) <= 3


def test_exported_paths_are_joint_draws():
    model = zoo.CategoricalHMM(3, 3, topology="left_right")
    model.emission_probs = torch.full((3, 3), 1 / 3)
    x = torch.zeros(2, 5, 1).double()
    fit = zoo.fit(model, {"x": x, "lengths": torch.tensor([5, 3])}, init="current", max_iter=0)
    draws = np.asarray(fit.to_inference_data({"x": x, "lengths": torch.tensor([5, 3])}, 2000).posterior["z"])[0]
    assert draws.shape == (2000, 2, 5)
    assert (draws[:, 1, 3:] == -1).all()
    steps = np.diff(draws[:, 0], axis=1)
    assert steps.min() >= 0
    assert steps.max() <= 1
    # Against all paths of the first sequence, one by one; every symbol is as likely everywhere.
    chances = {}
    a = fit.model.transition_probs.numpy()
    for path in itertools.product(range(3), repeat=5):
        weight = float(path[0] == 0) * np.prod([a[i, j] for i, j in itertools.pairwise(path)])
        if weight:
            chances[path] = weight
    seen = {path: np.mean((draws[:, 0] == path).all(1)) for path in chances}
    for path, chance in chances.items():
        assert abs(seen[path] - chance) < 5 * (chance * (1 - chance) / 2000) ** 0.5 + 1e-9


def test_pictures_of_states_go_by_their_shares(tmp_path, monkeypatch):
    from zoo.reporting import components as plots

    model = zoo.PoissonHMM(2, 1)
    model.rates = torch.tensor([[1.0], [20.0]])
    model.transition_probs = torch.tensor([[0.95, 0.05], [0.45, 0.55]])
    x = torch.tensor([1.0, 0, 2, 1, 1, 0, 21, 18, 1, 2]).double().reshape(1, 10, 1)
    fit = zoo.fit(model, x, init="current", max_iter=0)
    drawn = {}
    monkeypatch.setattr(plots, "_histogram", lambda values, weights, *rest: drawn.update(weights=weights))
    plots.plot_components(fit, x, tmp_path / "a.png")
    np.testing.assert_allclose(drawn["weights"], [0.8, 0.2], atol=1e-3)
    assert state_plots.plot_states(fit, x, tmp_path / "states.png").is_file()
    with pytest.raises(zoo.ZooError, match="a chain of states"):
        state_plots.plot_states(zoo.fit(*gaussian_mixture.tiny(), max_iter=1), gaussian_mixture.tiny()[1], "b.png")
