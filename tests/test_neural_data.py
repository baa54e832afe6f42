"""Networks and their data: several inputs at once, units of draws, fixed draws of grey pixels, dead units, pairs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from guides import AmortizedBits, AmortizedNormal
from guides.networks import MLP
from zoo.errors import ZooError
from zoo.models.conditional_vae import ConditionalVAE
from zoo.models.gaussian_mixture_vae import GaussianMixtureVAE
from zoo.models.vae import VAE
from zoo.scores.codes import active_units
from zoo.scores.importance import importance_nll


@pytest.mark.parametrize(
    "network", [MLP((7, 5, 2)), AmortizedNormal(7, 2, (5,)), AmortizedNormal(7, 2, ()), AmortizedBits(7, 2, (5,))]
)
def test_inputs_side_by_side_are_one_input(network: Any) -> None:
    """Broadcast against each other, standardised each by its own columns: the same as repeated and joined."""
    network = network.double()
    torch.manual_seed(0)
    x, z = torch.randn(6, 4).double(), torch.randn(3, 1, 3).double()
    if hasattr(network, "set_from"):
        network.set_from(5 + 3 * torch.randn(50, 7).double())

    def values(found: Any) -> list[Tensor]:
        return [found] if isinstance(found, Tensor) else [found.mean, found.variance]

    joined = torch.cat([x.expand(3, 6, 4), z.expand(3, 6, 3)], -1)
    for ours, whole in zip(values(network(x, z)), values(network(joined)), strict=True):
        torch.testing.assert_close(ours, whole)


def test_inputs_of_another_width_are_refused() -> None:
    with pytest.raises((RuntimeError, ValueError)):
        MLP((7, 2))(torch.zeros(1, 3), torch.zeros(1, 3))


@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli"])
def test_draws_are_in_the_units_of_the_data(likelihood: str) -> None:
    """What a fit draws can be fitted again."""
    x = zoo.load_data("digits")[:200]
    made = zoo.fit(VAE.from_data(x, latent_dim=2, hidden_dims=(8,), likelihood=likelihood), x, max_epochs=2)
    assert made.estimator == "svi", "the first that can serve, where nobody says"
    drawn = made.sample(300)
    assert isinstance(drawn, Tensor)
    assert 14 < float(drawn.max()) <= 16
    assert abs(float(drawn.mean() - x.mean())) < 1.5
    assert math.isfinite(importance_nll(made.model, drawn, 5).nll)


def test_scores_do_not_depend_on_how_the_data_are_cut() -> None:
    """And another seed is another draw of the grey pixels."""
    x = zoo.load_data("digits")[:120]
    model = VAE.from_data(x, latent_dim=2, hidden_dims=(8,))
    model.initialize(model.validate(x.float()), "random")
    whole, pieces = (importance_nll(model, x, 400, max_elements=size) for size in (10_000_000, 3000))
    assert abs(whole.nll - pieces.nll) < 5 * math.hypot(whole.se, pieces.se)
    assert float((whole.per_datum - pieces.per_datum).abs().max()) < 2
    other = importance_nll(model, x, 400, seed=1)
    assert float((whole.per_datum - other.per_datum).abs().max()) > 3
    found = [zoo.evaluate(model, x, num_samples=size).nll for size in (300, 3000)]
    assert found[0] == pytest.approx(found[1], abs=0.05)
    labels = GaussianMixtureVAE.from_data(x, num_components=3, hidden_dims=(8,))
    alone = torch.cat([labels.predict(row) for row in x.split(1)])
    assert torch.equal(labels.predict(x), alone)


@pytest.mark.parametrize("flow", ["planar", "iaf", None])
def test_a_unit_that_is_the_prior_is_not_active(flow: str | None) -> None:
    """However few draws its posterior mean is taken by: their noise has a variance of its own."""
    model = VAE(6, 4, (5,), flow=flow)
    network: Any = model.encoder if flow is None else model.encoder.base  # type: ignore[union-attr]
    with torch.no_grad():
        for parameter in model.encoder.parameters():  # a planar flow along no direction at all is 0 / 0
            parameter.fill_(0.1 if flow == "planar" else 0.0)
        for parameter in network.parameters():
            parameter.zero_()
        network.raw_scale.bias.fill_(math.log(math.e - 1))
    x = torch.rand(400, 6).round()
    assert active_units(model, x, num_samples=50).num_active == 0
    with torch.no_grad():
        network.loc.weight[0].fill_(3.0)
        network.body[0][1].weight.fill_(1.0)
    assert active_units(model, x, num_samples=50).active[0]


def test_a_model_without_latents_is_scored() -> None:
    x, y = torch.rand(30, 3).round(), torch.rand(30, 4).round()
    model = ConditionalVAE(3, 4, latent_dim=0, hidden_dims=(5,))
    found = zoo.evaluate(model, (x, y), num_samples=30)
    exact = model.likelihood.log_prob(model.outputs(x, None), y).sum().detach()
    assert found.importance_bound == pytest.approx(float(exact), rel=1e-5)
    assert found.active_units is None


def test_what_is_given_need_not_be_pixels() -> None:
    """A Bernoulli y of an x in any units, unless x is to be made binary too."""
    torch.manual_seed(0)
    x, y = 100 + 7 * torch.randn(40, 2), torch.rand(40, 3).round()
    made = zoo.fit(ConditionalVAE(2, 3, 1, (4,)), (x, y), estimator="svi", max_epochs=2)
    first: Any = made.model.prior.body[0][0]  # type: ignore[union-attr]
    torch.testing.assert_close(first.loc, x.mean(0))
    with pytest.raises(ZooError, match="x expected pixels from 0 to white = 1, as y has, got"):
        zoo.fit(ConditionalVAE(2, 3, 1, (4,), binarization="static"), (x, y), estimator="svi")


def test_centres_are_as_far_apart_in_any_number_of_dimensions() -> None:
    """With unit spread in 64 of them the nearest to the origin took all data of MNIST in the first epochs."""
    for size in (2, 64):
        model = GaussianMixtureVAE(4000, 4, size, (3,))
        for _ in range(2):
            assert float(model.means.detach().square().sum(-1).mean()) == pytest.approx(1, rel=0.1)
            model.reset_guide()


def test_what_cannot_be_explained_says_what_can_fit_it() -> None:
    with pytest.raises(ZooError, match=r"explain: site 'z' \(Normal\) is a continuous latent, .* Fit it by .*svi"):
        zoo.explain(VAE(6, 2, (5,)), torch.rand(8, 6).round())
