"""Programs with scales, subsampled plates, impossible draws and overrides: what is climbed is what they say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions.kl import kl_divergence

import zoo
from zoo.core import traces, weighing
from zoo.core.contract import LatentVariableModel, lacks
from zoo.core.problem import Problem
from zoo.core.sites import sample_sites
from zoo.estimators.em import EM
from zoo.estimators.gumbel import Gumbel, GumbelObjective
from zoo.estimators.iwae import IWAE, iwae_surrogate, without_each
from zoo.estimators.reinforce import reinforce_surrogate
from zoo.estimators.rws import rws_surrogate
from zoo.estimators.svi import SVI
from zoo.models.vae import VAE

K = 3
X = torch.tensor([-0.7, 0.4, 1.9], dtype=torch.float64)
CENTRES = torch.tensor([-1.0, 0.5, 2.0], dtype=torch.float64)
Surrogate = Callable[..., tuple[Tensor, Tensor]]


class Scaled(LatentVariableModel):
    """z ~ Categorical(prior), x | z ~ N(centre z, 1); every site counts as often as the arguments say.

    Args:
        latent, observed: the scales of z (in model and guide) and of x.
        times: a plate of so many times the rows, of which the data are a subsample.
    """

    def __init__(self, latent: float = 1.0, observed: float = 1.0, times: int = 1, dead: bool = False) -> None:
        super().__init__()
        self.latent, self.observed, self.times = latent, observed, times
        self.prior_logits = torch.nn.Parameter(torch.tensor([0.2, -0.4, 0.3], dtype=torch.float64))
        self.guide_logits = torch.nn.Parameter(torch.tensor([0.5, 0.1, -0.6], dtype=torch.float64))
        self.impossible = torch.tensor([False, False, dead])

    def plate(self, x: Tensor) -> Any:
        return pyro.plate("data", self.times * len(x), subsample=torch.arange(len(x)))

    def log_prior_of_z(self) -> Tensor:
        return self.prior_logits.masked_fill(self.impossible, -torch.inf).log_softmax(-1)

    def model(self, x: Tensor) -> None:
        with self.plate(x):
            with poutine.scale(scale=self.latent):
                z = pyro.sample("z", dist.Categorical(logits=self.log_prior_of_z()))
            with poutine.scale(scale=self.observed):
                pyro.sample("x", dist.Normal(CENTRES[z], 1.0), obs=x)

    def guide(self, x: Tensor) -> None:
        with self.plate(x), poutine.scale(scale=self.latent):
            pyro.sample("z", dist.Categorical(logits=self.guide_logits))

    def terms(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ln p(z), ln p(x | z) and ln q(z | x), each (N, 3), without scales."""
        each = dist.Normal(CENTRES, 1.0).log_prob(x.unsqueeze(-1))
        return self.log_prior_of_z().expand_as(each), each, self.guide_logits.log_softmax(-1).expand_as(each)


def gradient(scalar: Tensor, model: Any) -> Tensor:
    parts = torch.autograd.grad(scalar, list(model.parameters()), allow_unused=True)
    given = zip(model.parameters(), parts, strict=True)
    return torch.cat([(torch.zeros_like(p) if g is None else g).flatten() for p, g in given])


def combinations(q: Tensor, k: int) -> Any:
    """Every combination of k draws, and its log-probability for each datum, (N,)."""
    for index in itertools.product(range(q.shape[-1]), repeat=k):
        yield list(index), q[:, list(index)].sum(-1)


class Given(Messenger):
    """Gives the latent z of each particle a value, in guide and model alike."""

    def __init__(self, index: list[int], rows: int) -> None:
        super().__init__()
        self.value = torch.tensor(index).unsqueeze(-1).expand(-1, rows)

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] == "z":
            msg["value"], msg["done"] = self.value, True


def expected(surrogate: Surrogate, model: Scaled, x: Tensor) -> tuple[Tensor, Tensor]:
    """The expectations of -∇ surrogate and of the bound over K draws; where all are impossible they count as 0."""
    grad, mean = torch.zeros(6, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for index, log_share in combinations(model.terms(x)[2], K):
        with Given(index, len(x)):
            loss, bound, _ = surrogate(model, x, K, 1)
        if bound.isfinite():
            share = float(log_share[0].detach().exp())  # the guide is the same for every datum
            grad, mean = grad - share * gradient(loss, model), mean + share * bound.detach()
    return grad, mean


def same(ours: Tensor, exact: Tensor) -> None:
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-11)
    assert exact.abs().max() > 1e-2


# --- scales -----------------------------------------------------------------------------------------------------------

SCALES: dict[str, dict[str, Any]] = {
    "latent": {"latent": 4.0},
    "all": {"latent": 4.0, "observed": 4.0},
    "subsampled": {"times": 5},
    "subsampled latent": {"times": 5, "latent": 2.0},
    "observed": {"observed": 0.5},
}


@pytest.mark.parametrize("kind", SCALES)
def test_reinforce_is_unbiased_whatever_a_site_counts(kind: str) -> None:
    """E_q Σ (scaled ln p - scaled ln q), its gradient by enumeration; a draw's score has no scale."""
    model = Scaled(**SCALES[kind])
    prior, each, q = model.terms(X)
    values = model.times * (model.latent * (prior - q) + model.observed * each)
    exact = (q.exp() * values).sum(-1).mean()
    grad, bound = expected(reinforce_surrogate, model, X)
    same(grad, gradient(exact, model))
    same(bound, exact.detach())


@pytest.mark.parametrize("kind", SCALES)
def test_vimco_is_unbiased_whatever_a_datum_counts(kind: str) -> None:
    """A weight of the KL is no part of p or q; what all sites share multiplies a datum's bound."""
    model = Scaled(**SCALES[kind])
    grad, bound = expected(iwae_surrogate, model, X)
    same(grad, gradient(weighted(model), model))
    same(bound, weighted(model).detach())


def weighted(model: Scaled) -> Tensor:
    """c E ln mean_k p(x, z_k) / q(z_k | x), mean over data, summed over every combination of draws."""
    count, tempering = (model.observed, 1.0) if model.latent == model.observed else (1.0, model.observed)
    prior, each, q = model.terms(X)
    log_weight = prior + tempering * each - q
    total = torch.zeros(len(X), dtype=torch.float64)
    for index, log_share in combinations(q, K):
        total = total + log_share.exp() * (log_weight[:, index].logsumexp(-1) - math.log(K))
    return model.times * count * total.mean()


@pytest.mark.parametrize("kind", SCALES)
def test_rws_weighs_by_densities(kind: str) -> None:
    model = Scaled(**SCALES[kind])
    count, tempering = (model.observed, 1.0) if model.latent == model.observed else (1.0, model.observed)
    prior, each, q = model.terms(X)
    joint = prior + tempering * each
    total = torch.zeros(len(X), dtype=torch.float64)
    for index, log_share in combinations(q, K):
        weight = (joint - q)[:, index].softmax(-1)
        total = total + log_share.exp().detach() * (weight.detach() * (joint + q)[:, index]).sum(-1)
    grad, bound = expected(rws_surrogate, model, X)
    same(grad, gradient(model.times * count * total.mean(), model))
    same(bound, weighted(model).detach())


@pytest.mark.parametrize("name", ["data", "rows"])
def test_a_program_that_subsamples_its_own_data(name: str) -> None:
    """As many rows as were taken, each counted N / rows taken times: the ELBO's gradient is Pyro's."""
    x = torch.linspace(-1, 2, 40, dtype=torch.float64)

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(2, dtype=torch.float64))
        with pyro.plate(name, len(x), subsample_size=8) as index:
            z = pyro.sample("z", dist.Normal(loc[0], 1.0))
            pyro.sample("x", dist.Normal(loc[1] + z, 1.0), obs=x[index])

    def guide(x: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(0.8, dtype=torch.float64))
        with pyro.plate(name, len(x), subsample_size=8) as index:
            pyro.sample("z", dist.Normal(0.5 * x[index], scale))

    built = zoo.core.functions.as_model(model, guide)
    built.initialize(x, "current")
    for surrogate, k in ((iwae_surrogate, 1), (reinforce_surrogate, 3)):
        torch.manual_seed(1)
        loss, bound, _ = surrogate(built, x, k, 1)
        torch.manual_seed(1)
        pyros = Trace_ELBO(num_particles=k, vectorize_particles=k > 1, max_plate_nesting=1)
        theirs = pyros.differentiable_loss(built.model, built.guide, x) / len(x)
        torch.testing.assert_close(gradient(loss, built), gradient(theirs, built), rtol=1e-9, atol=1e-12)
        assert float(bound) == pytest.approx(-float(theirs.detach()), rel=1e-12)
    for surrogate in (iwae_surrogate, rws_surrogate):
        torch.manual_seed(1)
        bound = surrogate(built, x, 5, 1)[1]
        torch.manual_seed(1)
        q, p = (sample_sites(trace) for trace in traces.draw(built, x, 5, 1))
        z, taken = q["z"]["value"], p["x"]["value"]
        log_weight = p["z"]["fn"].log_prob(z) + p["x"]["fn"].log_prob(taken) - q["z"]["fn"].log_prob(z)
        assert log_weight.shape == (5, 8)
        assert float(bound) == pytest.approx(float((log_weight.logsumexp(0) - math.log(5)).mean().detach()), rel=1e-12)


@pytest.mark.parametrize("surrogate", [iwae_surrogate, rws_surrogate])
def test_a_deterministic_site_does_not_tie_the_data_together(surrogate: Surrogate) -> None:
    class Told(Scaled):
        def model(self, x: Tensor) -> None:
            pyro.deterministic("share", self.log_prior_of_z().exp())
            super().model(x)

    found = []
    for kind in (Scaled, Told):
        torch.manual_seed(2)
        found.append(surrogate(kind(times=5), X, 20, 1)[1].detach())
    torch.testing.assert_close(*found, rtol=1e-12, atol=0)


def test_a_masked_draw_has_no_score() -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x)), poutine.scale(scale=3.0), poutine.mask(mask=x > 0):
            pyro.sample("z", dist.Categorical(logits=torch.tensor([0.5, 0.1, -0.6], dtype=torch.float64)))

    trace = poutine.trace(guide).get_trace(X)
    trace.compute_log_prob()
    site = trace.nodes["z"]
    itself = site["fn"].log_prob(site["value"])
    assert torch.equal(traces.own_log_prob(site), torch.where(X > 0, itself, 0.0))
    assert torch.equal(traces.scaled_log_prob(site), torch.where(X > 0, 3 * itself, 0.0))


# --- the KL's weight --------------------------------------------------------------------------------------------------


def beta_vae(beta: float) -> tuple[VAE, Tensor]:
    torch.manual_seed(0)
    model = VAE(num_features=6, latent_dim=2, hidden_dims=(5,), beta=beta).double()
    return model, torch.bernoulli(torch.full((8, 6), 0.4, dtype=torch.float64))


def test_importance_weights_know_no_beta() -> None:
    found = []
    for beta in (1.0, 4.0):
        model, x = beta_vae(beta)
        for surrogate in (rws_surrogate, iwae_surrogate):
            torch.manual_seed(3)
            loss, bound, _ = surrogate(model, x, 5, 1)
            found.append((bound.detach(), gradient(loss, model)))
        torch.manual_seed(3)
        hooked = (model.log_weights(x, 5).logsumexp(0) - math.log(5)).mean()
        torch.testing.assert_close(found[-2][0], hooked.detach())
    for (bound, grad), (other, of_other) in zip(found[:2], found[2:], strict=True):
        torch.testing.assert_close(bound, other)
        torch.testing.assert_close(grad, of_other)
        assert grad.abs().max() > 1e-3


def test_evaluation_of_a_scaled_program_knows_no_beta() -> None:
    """A VAE whose subclass writes its own model has the traced weights."""

    class Own(VAE):
        def model(self, x: Tensor) -> None:
            super().model(x)

    found = []
    for beta in (1.0, 4.0):
        plain, x = beta_vae(beta)
        own = Own(**plain.config).double()
        own.load_state_dict(plain.state_dict())
        torch.manual_seed(1)
        found.append(weighing.log_weights(own, x, 6))
    torch.testing.assert_close(*found)


def test_a_global_latent_keeps_the_data_s_count_inside() -> None:
    """c = 5 rows for each that was taken, and a latent's β = 3 besides: ln p(g) + 5 Σ (ln p(z) + ln p(x | z, g))."""

    def programs(observed: bool) -> Any:
        def run(x: Tensor) -> None:
            g = pyro.sample("g", dist.Normal(x.new_zeros(()), 2.0))
            with pyro.plate("data", 5 * len(x), subsample=torch.arange(len(x))):
                with poutine.scale(scale=3.0):
                    z = pyro.sample("z", dist.Normal(0.3 * x, 1.5))
                if observed:
                    pyro.sample("x", dist.Normal(g + z, 0.7), obs=x)

        return run

    q = poutine.trace(programs(False)).get_trace(X)
    p = poutine.trace(poutine.replay(programs(True), trace=q)).get_trace(X)
    q.compute_log_prob()
    p.compute_log_prob()
    log_joint, log_guide, count = weighing.densities(q, p, len(X), 1, 1)
    g, z = (dist.Normal(loc, s).log_prob(q.nodes[n]["value"]) for n, loc, s in (("g", 0.0, 2.0), ("z", 0.3 * X, 1.5)))
    x = dist.Normal(q.nodes["g"]["value"] + q.nodes["z"]["value"], 0.7).log_prob(X)
    assert count == 1.0
    assert float(log_joint) == pytest.approx(float(g + 5 * (z + x).sum()), rel=1e-9)
    assert float(log_guide) == pytest.approx(float(g + 5 * z.sum()), rel=1e-9)


# --- impossible draws -------------------------------------------------------------------------------------------------


def some_alive(model: Scaled, x: Tensor, k: int) -> Any:
    """The combinations of draws of which at least one is possible, and their log-probabilities."""
    *_, q = model.terms(x)
    return [(i, share) for i, share in combinations(q, k) if any(not model.impossible[j] for j in i)]


def test_vimco_follows_the_possible_draws() -> None:
    """E [bound; some draw is possible]: its gradient, by enumeration, is the mean of finite surrogates."""
    model, x = Scaled(dead=True), X[1:2]
    prior, each, q = model.terms(x)
    exact = torch.zeros(1, dtype=torch.float64)
    for index, log_share in some_alive(model, x, K):
        exact = exact + log_share.exp() * ((prior + each - q)[:, index].logsumexp(-1) - math.log(K))
    grad, bound = expected(iwae_surrogate, model, x)
    same(grad, gradient(exact.sum(), model))
    same(bound, exact.sum().detach())


def test_rws_follows_the_possible_draws() -> None:
    model, x = Scaled(dead=True), X[1:2]
    prior, each, q = model.terms(x)
    joint, exact = prior + each, torch.zeros(1, dtype=torch.float64)
    for index, log_share in some_alive(model, x, K):
        weight = (joint - q)[:, index].softmax(-1).detach()
        alive = [i for i in range(K) if not model.impossible[index[i]]]
        climbed = (weight * (joint + q)[:, index])[:, alive].sum(-1)
        exact = exact + log_share.exp().detach() * climbed
    grad, _ = expected(rws_surrogate, model, x)
    same(grad, gradient(exact.sum(), model))


def test_baselines_by_hand() -> None:
    inf = math.inf
    w = torch.tensor([[1.0, 1.0, -inf], [2.0, -inf, -inf], [4.0, 3.0, 5.0]], dtype=torch.float64)
    log_mean = lambda *v: torch.tensor(v).double().logsumexp(0) - math.log(3)  # noqa: E731
    by_hand = [
        [log_mean(3.0, 2.0, 4.0), log_mean(-inf, -inf, 3.0), log_mean(-inf, -inf, 5.0)],
        [log_mean(1.0, 2.5, 4.0), log_mean(1.0, 2.0, 3.0), log_mean(-inf, -inf, 5.0)],
        [log_mean(1.0, 2.0, 1.5), log_mean(1.0, -inf, -inf), 0.0],
    ]
    torch.testing.assert_close(without_each(w), torch.tensor(by_hand, dtype=torch.float64))


@pytest.mark.parametrize("estimator", ["iwae", "rws"])
def test_a_prior_with_an_impossible_value_is_fitted(estimator: str) -> None:
    """The guide, uniform at first, learns that one value never occurs; the bound comes close to the evidence."""
    x = X.repeat(4)
    torch.manual_seed(0)
    fit = zoo.fit(
        Scaled(dead=True), x, estimator=estimator, num_particles=16, max_epochs=150, warmup=0, learning_rate=0.1
    )
    assert fit.status != "diverged", fit.notes
    probs = fit.model.guide_logits.detach().softmax(-1)
    assert float(probs[2]) < 0.05
    assert fit.log_likelihood is not None
    assert fit.history["objective"][-1] == pytest.approx(fit.log_likelihood, abs=1.0)


# --- relaxations ------------------------------------------------------------------------------------------------------


def test_gumbels_kl_has_the_scale_of_its_site() -> None:
    """With equal components the likelihood does not depend on z: what is left is exact at every draw."""
    x = X.unsqueeze(-1)
    prior, q = (torch.tensor(v, dtype=torch.float64) for v in ([0.5, 0.5], [0.8, 0.2]))
    pyros = {}
    for scale in (1.0, 4.0):

        def model(x: Tensor, scale: float = scale) -> None:
            with pyro.plate("data", len(x)):
                with poutine.scale(scale=scale):
                    z = pyro.sample("z", dist.Categorical(prior))
                both = dist.Normal(torch.ones(2, 1, dtype=torch.float64), 1.0).to_event(1)
                pyro.sample("x", zoo.Selected(both, z), obs=x)

        def guide(x: Tensor, scale: float = scale) -> None:
            with pyro.plate("data", len(x)), poutine.scale(scale=scale):
                pyro.sample("z", dist.Categorical(q))

        built = zoo.core.functions.as_model(model, guide)
        built.initialize(x, "current")
        pyros[scale] = float(GumbelObjective(Problem(built, x), 2, Gumbel())(x)[1])
    kl = float(kl_divergence(dist.Categorical(q), dist.Categorical(prior)))
    evidence = float(dist.Normal(1.0, 1.0).log_prob(X).mean())
    assert pyros[1.0] == pytest.approx(evidence - kl, rel=1e-12)
    assert pyros[4.0] == pytest.approx(evidence - 4 * kl, rel=1e-12)
    assert kl > 0.1


# --- overrides --------------------------------------------------------------------------------------------------------


class Wide(VAE):
    """A VAE with a prior of its own, N(0, 10^2)."""

    def model(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), self.latent_dim), 10.0).to_event(1))
            pyro.sample("x", self.likelihood(self.decoder(z)), obs=x)


def test_an_overridden_program_is_what_is_climbed_and_scored() -> None:
    plain, x = beta_vae(1.0)
    wide = Wide(**plain.config).double()
    wide.load_state_dict(plain.state_dict())
    torch.manual_seed(1)
    q = wide.encode(x)
    z = q.sample((4000,))
    log_prior = dist.Normal(torch.zeros_like(z), 10.0).to_event(1).log_prob(z)
    log_weight = (wide.likelihood.log_prob(wide.decoder(z), x) + log_prior - q.log_prob(z)).detach()
    exact, error = log_weight.mean(), float(log_weight.mean(1).std()) / 4000**0.5
    assert abs(float(exact) - float(plain.log_weights(x, 500).mean().detach())) > 1
    seen = {
        "svi": SVI(num_particles=2000).objective(Problem(wide, x))(x)[1],
        "iwae": torch.stack([IWAE(num_particles=1).objective(Problem(wide, x))(x)[1] for _ in range(200)]).mean(),
        "weights": weighing.log_weights(wide, x, 2000).mean(),
        "evaluate": torch.tensor(zoo.evaluate(wide, x).elbo / len(x)),
    }
    for name, value in seen.items():
        assert float(value) == pytest.approx(float(exact), abs=10 * error + 0.1), name


class Abstract(LatentVariableModel):
    """A base class that leaves its model to subclasses, with a method written for all of theirs."""

    def guide(self, x: Tensor) -> None: ...

    def log_marginal(self, x: Tensor) -> Tensor: ...  # type: ignore[empty-body]


class Concrete(Abstract):
    def model(self, x: Tensor) -> None: ...

    def elbo(self, x: Tensor) -> Tensor: ...  # type: ignore[empty-body]


class OtherGuide(Concrete):
    def guide(self, x: Tensor) -> None: ...


class OtherModel(Concrete):
    def model(self, x: Tensor) -> None: ...


class OtherModelAndSum(OtherModel):
    def log_marginal(self, x: Tensor) -> Tensor: ...  # type: ignore[empty-body]


class Named(OtherModelAndSum):
    """Overrides nothing."""


class Mixed(zoo.PoissonMixture):
    def model(self, x: Tensor) -> None: ...


@pytest.mark.parametrize(
    ("model", "offers"),
    [
        (Abstract(), {"log_marginal"}),
        (Concrete(), {"log_marginal", "elbo"}),
        (OtherGuide(), {"log_marginal"}),
        (OtherModel(), {"log_marginal"}),  # of a base class that knows no model: written for any
        (OtherModelAndSum(), {"log_marginal"}),
        (Named(), {"log_marginal"}),
        (zoo.PoissonMixture(2, 1), {"log_marginal", "posterior", "e_step", "m_step", "predict"}),
        (Mixed(2, 1), {"m_step"}),
        (zoo.LinearVAE(4, 2), {"log_marginal", "posterior", "elbo"}),
        (Wide(4), set()),
        (VAE(4), {"elbo_parts", "log_weights"}),
    ],
)
def test_methods_of_another_program_do_not_count(model: LatentVariableModel, offers: set[str]) -> None:
    names = ("log_marginal", "posterior", "e_step", "m_step", "elbo", "elbo_parts", "log_weights", "predict")
    assert {name for name in names if lacks(model, name) is None} == offers


def test_em_says_that_its_steps_belong_to_another_program() -> None:
    assert EM().refuses(Problem(Mixed(2, 1), X)) == "its e_step is Mixture's, written for another model than its own"
