"""After the fit as lean as in it: answers come piece by piece, and are those to all data at once."""

import importlib

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import zoo
from zoo.core import memory
from zoo.core.contract import prepared
from zoo.core.data import num_data, take, tensors
from zoo.densities.distributions import FEW, Selected

MODELS = [
    "gaussian_mixture", "poisson_mixture", "bernoulli_mixture", "factor_analysis", "ppca", "linear_vae",
    "gaussian_hmm", "categorical_hmm", "gaussian_mixture_hmm", "vae", "gaussian_mixture_vae", "categorical_vae",
    "conditional_vae",
]  # fmt: skip


class Largest(TorchDispatchMode):
    """Bytes of the largest tensor that is made."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [t.untyped_storage().nbytes() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
        self.bytes = max([self.bytes, *sizes])
        return out


def fitted(name, times):
    """A short fit of a model's smallest instance, and its data as often as asked."""
    model, x = importlib.import_module(f"zoo.models.{name}").tiny()
    estimator = "em" if hasattr(model, "e_step") else "gumbel" if name == "categorical_vae" else "svi"
    fit = zoo.fit(model, x, estimator=estimator, **({"max_iter": 3} if estimator == "em" else {"max_epochs": 2}))
    data = prepared(fit.model, x)
    return fit, take(data, torch.arange(num_data(data)).repeat(times))


def numbers(posterior):
    """A posterior's parameters, by whichever family."""
    if isinstance(posterior, dict):
        return [value for one in posterior.values() for value in numbers(one)]
    while isinstance(posterior, torch.distributions.Independent):
        posterior = posterior.base_dist
    names = ("probs", "logits") if hasattr(posterior, "logits") else ("loc", "scale_tril", "scale")
    return [getattr(posterior, name) for name in names if hasattr(posterior, name)]


def sampled(fit, x):
    """As many new data as there are in x, of a conditional model at its inputs."""
    given = fit.model.fields.given_of(x)
    return fit.sample(given=given) if given else fit.sample(num_data(x))


@pytest.mark.parametrize("name", MODELS)
def test_pieces_change_nothing(name, monkeypatch):
    fit, x = fitted(name, 3)
    answers = []
    for size in (memory.PIECE_NUMBERS, 64):
        monkeypatch.setattr(memory, "PIECE_NUMBERS", size)
        # The mixture VAE's q(z | x, c) follows from a draw of c.
        posterior = [] if name == "gaussian_mixture_vae" else numbers(fit.posterior(x))
        answers.append((fit.predict(x), *posterior, torch.as_tensor(fit.score(x) or 0.0)))
        assert num_data(sampled(fit, x)) == num_data(x)
    for whole, parts in zip(*answers, strict=True):
        assert whole.shape == parts.shape
        torch.testing.assert_close(parts.double(), whole.double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", MODELS)
def test_nothing_large_is_made_beside_the_answer(name, monkeypatch):
    fit, x = fitted(name, 200)
    monkeypatch.setattr(memory, "PIECE_NUMBERS", 256)
    data = max(t.untyped_storage().nbytes() for t in tensors(x))
    piece = 8 * 256 * memory.LARGE
    for answer in (fit.predict, fit.posterior, fit.score, lambda x: sampled(fit, x)):
        with Largest() as seen:
            result = answer(x)
        parts = numbers(result) if isinstance(result, torch.distributions.Distribution) else tensors(result)
        assert seen.bytes <= max([data, 2 * piece, *(t.untyped_storage().nbytes() for t in parts)])


@pytest.mark.parametrize("covariance_type", ["full", "diag"])
def test_a_mixture_never_holds_all_its_log_densities(covariance_type):
    model = zoo.GaussianMixture(24, 2, covariance_type=covariance_type)
    x = torch.randn(200_000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model.means = x[:24]
    whole = x.shape[0] * 24 * 8
    with torch.no_grad():
        with Largest() as seen:
            labels, scores = model.predict(x), model.log_marginal(x)
        assert seen.bytes < whole / 4
        few = x[:500]
        joint = torch.distributions.MultivariateNormal(model.means, model.covariances).log_prob(few[:, None])
        joint = joint + model.weights.log()
    assert torch.equal(labels[:500], joint.argmax(-1))
    torch.testing.assert_close(scores[:500], joint.logsumexp(-1), rtol=1e-12, atol=1e-12)


def test_equal_components_give_the_lowest_label_and_impossible_rows_the_weights():
    model = zoo.GaussianMixture(3, 1)
    model.means = torch.tensor([[1.0], [1.0], [-1.0]])
    model.weights = torch.tensor([0.4, 0.4, 0.2])
    x = torch.tensor([[1.0], [-1.0], [1e200]], dtype=torch.float64).repeat(40_000, 1)
    with torch.no_grad():
        assert model.predict(x)[:2].tolist() == [0, 2]
        assert model.log_marginal(x)[2] == -torch.inf
        torch.testing.assert_close(model.posterior(x).probs[2], model.weights.detach())


def test_many_draws_of_components_are_those_of_the_components():
    scale = torch.tensor([[1.0, 0.0], [0.5, 2.0]]).double()
    loc = torch.tensor([[0.0, 5.0], [3.0, -1.0], [10.0, 0.0]]).double()
    z = torch.arange(3).repeat(60_000)
    assert len(z) * 3 * 2 > FEW
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        many = zoo.core.contract.pyro.distributions.MultivariateNormal(loc, scale_tril=scale.expand(3, 2, 2))
        draws = Selected(many, z).sample()
    for k in range(3):
        mine = draws[z == k]
        assert (mine.mean(0) - loc[k]).abs().max() < 5 * 2.1 / len(mine) ** 0.5
        torch.testing.assert_close(mine.T.cov(), scale @ scale.T, rtol=0.05, atol=0.03)


@pytest.mark.parametrize("shape", [(1, 60_000), (50, 1200)])
def test_many_paths_follow_the_transitions(shape):
    model = zoo.CategoricalHMM(3, 3)
    model.initial_probs = torch.tensor([0.0, 1.0, 0.0])
    model.transition_probs = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5], [0.3, 0.0, 0.7]])
    model.emission_probs = torch.eye(3)
    assert shape[0] * shape[1] * 3 <= FEW < 10 * shape[0] * shape[1] * 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        states = model.sample(shape[0], 2 * shape[1])[..., 0].long().numpy()
    assert (states[:, 0] == 1).all()
    steps = np.zeros((3, 3))
    np.add.at(steps, (states[:, :-1].ravel(), states[:, 1:].ravel()), 1)
    np.testing.assert_allclose(steps / steps.sum(1, keepdims=True), model.transition_probs.detach(), atol=0.01)
    assert steps[0, 2] == steps[1, 0] == steps[2, 1] == 0


@pytest.mark.parametrize(
    "name", ["poisson_mixture", "bernoulli_mixture", "ppca", "vae", "conditional_vae", "categorical_vae"]
)
def test_models_see_a_piece_at_a_time(name, monkeypatch):
    fit, x = fitted(name, 200)
    monkeypatch.setattr(memory, "PIECE_NUMBERS", 256)
    seen = []
    for hook in ("component_log_prob", "_factors"):
        if hasattr(fit.model, hook):
            plain = getattr(type(fit.model), hook)
            monkeypatch.setattr(type(fit.model), hook, lambda self, x, f=plain: seen.append(len(x)) or f(self, x))
    for module in fit.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(max(inputs[0].shape)))
    for answer in (fit.predict, fit.posterior, fit.score):
        answer(x)
    assert 0 < max(seen) <= 256 < num_data(x)
