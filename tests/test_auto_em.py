"""EM read off a program: equal to the hand-written EM of every model, to peers, and to itself by another path."""

from __future__ import annotations

import importlib
import itertools
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.distributions import constraints

import zoo
from zoo.automatic.enumerated import enumerated
from zoo.automatic.enumeration import predicted_elements
from zoo.automatic.lookup import Finder, ParameterSpace, recorded
from zoo.automatic.plan import make_plan
from zoo.core.contract import LatentVariableModel, lacks, prepared
from zoo.core.functions import as_model
from zoo.core.memory import TABLE
from zoo.core.problem import Problem
from zoo.estimators.auto_em import AutoEM
from zoo.models import model_classes
from zoo.scores.evidence import enumerated_evidence


def instances():
    """Every model of the zoo that has a hand-written EM and discrete latents, with data from its ``tiny``."""
    for name, cls in sorted(model_classes().items()):
        model, x = importlib.import_module(cls.__module__).tiny()
        if lacks(model, "e_step", "m_step") is None and AutoEM().refuses(Problem(model, prepared(model, x))) is None:
            yield pytest.param(model, x, id=name)


def gap(a, b) -> float:
    return float(np.abs(np.array(a.history["objective"]) - np.array(b.history["objective"])).max())


@pytest.mark.parametrize(("model", "x"), list(instances()))
def test_it_is_the_hand_written_em_iteration_by_iteration(model, x):
    by_hand = zoo.fit(model, x, estimator="em", init="current", max_iter=8, tol=0)
    derived = zoo.fit(model, x, estimator="auto_em", init="current", max_iter=8, tol=0)
    assert gap(by_hand, derived) < 1e-9
    ours = dict(derived.model.named_parameters())
    for name, value in by_hand.model.named_parameters():
        a, b = value.detach(), ours[name].detach()
        if (model.constraint_of(name) or constraints.real) is constraints.simplex:
            a, b = a.softmax(-1), b.softmax(-1)
        both = a.isfinite()
        assert torch.allclose(a[both], b[both], atol=1e-8), name


SEQUENCES = torch.tensor([12, 7, 9, 5])


def series(d: int = 2) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 12, d, generator=g, dtype=torch.float64) + (torch.arange(12) % 3).double()[:, None]
    return {"x": x, "lengths": SEQUENCES}


@pytest.mark.parametrize(
    "options",
    [
        {"covariance_type": kind, "initial": start}
        for kind in ("full", "tied", "diag", "spherical")
        for start in ("free", "uniform")
    ]
    + [{"topology": "left_right", "covariance_type": "diag"}],
    ids=str,
)
def test_every_kind_of_gaussian_hmm(options):
    model = zoo.GaussianHMM(3, 2, **options)
    by_hand = zoo.fit(model, series(), estimator="em", max_iter=8, tol=0)
    derived = zoo.fit(model, series(), estimator="auto_em", max_iter=8, tol=0)
    assert gap(by_hand, derived) < 1e-9


def test_scikit_learn_agrees():
    from sklearn.mixture import GaussianMixture

    iris = zoo.load_data("iris")
    start = zoo.fit(zoo.GaussianMixture(3, 4), iris, max_iter=1, tol=0).model

    def model(x):
        weights = pyro.param("weights", start.weights.detach(), constraint=constraints.simplex)
        means = pyro.param("means", start.means.detach())
        cov = pyro.param("cov", start.covariances.detach(), constraint=constraints.positive_definite)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.MultivariateNormal(means[z], covariance_matrix=cov[z]), obs=x)

    fit = zoo.fit(model, iris, estimator="auto_em", max_iter=7, tol=0)
    peer = GaussianMixture(
        3,
        weights_init=start.weights.detach().numpy(),
        means_init=start.means.detach().numpy(),
        precisions_init=np.linalg.inv(start.covariances.detach().numpy()),
        reg_covar=0,
        max_iter=7,
        tol=0,
    )
    with pytest.warns(match="converge"):
        peer.fit(np.asarray(iris))
    values = {name: fit.model.get_parameter(f"param/{name}") for name in ("weights", "means", "cov")}
    assert torch.allclose(values["weights"].softmax(-1), torch.as_tensor(peer.weights_), atol=1e-9)
    assert torch.allclose(values["means"], torch.as_tensor(peer.means_), atol=1e-9)
    assert fit.log_likelihood == pytest.approx(peer.score(np.asarray(iris)) * 150, abs=1e-8)


def test_hmmlearn_agrees():
    hmmlearn = pytest.importorskip("hmmlearn.hmm")
    x = zoo.load_data("earthquakes").reshape(-1)

    def model(x):
        start = pyro.param("start", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
        steps = pyro.param("steps", torch.tensor([[0.8, 0.2], [0.3, 0.7]]), constraint=constraints.simplex)
        rate = pyro.param("rate", torch.tensor([12.0, 25.0]), constraint=constraints.positive)
        z = None
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z{t}", dist.Categorical(start if z is None else steps[z]))
            pyro.sample(f"x{t}", dist.Poisson(rate[z]), obs=x[t])

    fit = zoo.fit(model, x, estimator="auto_em", max_iter=5, tol=0)
    peer = hmmlearn.PoissonHMM(2, n_iter=5, tol=-math.inf, init_params="", params="stl", startprob_prior=1)
    peer.startprob_, peer.transmat_ = np.array([0.4, 0.6]), np.array([[0.8, 0.2], [0.3, 0.7]])
    peer.lambdas_ = np.array([[12.0], [25.0]])
    peer.lambdas_prior, peer.lambdas_weight = 0.0, 0.0
    peer.fit(x.numpy()[:, None].astype(int))
    assert fit.log_likelihood == pytest.approx(peer.score(x.numpy()[:, None].astype(int)), abs=1e-8)
    rate = fit.model.get_parameter("param/rate").exp()
    assert torch.allclose(rate, torch.as_tensor(peer.lambdas_[:, 0]), atol=1e-8)


# One program, two paths --------------------------------------------------------------------------------------------


def chain_program(x, lengths):
    n, t, d = x.shape
    start = pyro.param("start", torch.tensor([0.5, 0.3, 0.2]), constraint=constraints.simplex)
    steps = pyro.param("steps", torch.eye(3) * 0.4 + 0.2, constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([0.0, 1.0, 2.0])[:, None].expand(3, d).clone())
    scale = pyro.param("scale", torch.ones(3, d), constraint=constraints.positive)
    rate = pyro.param("rate", torch.tensor([1.0, 2.0, 3.0]), constraint=constraints.positive)
    with pyro.plate("data", n):
        z = None
        for i in pyro.markov(range(t)):
            with poutine.mask(mask=i < lengths):
                z = pyro.sample(f"z{i}", dist.Categorical(start if z is None else steps[z]))
                pyro.sample(f"x{i}", dist.Normal(loc[z], scale[z]).to_event(1), obs=x[:, i])
                pyro.sample(f"c{i}", dist.Poisson(rate[z]), obs=x[:, i, 0].abs().round())


@pytest.mark.parametrize("estimator_iterations", [6])
def test_the_recognised_chain_is_the_generic_path(estimator_iterations, monkeypatch):
    data = (series()["x"], SEQUENCES)
    model = as_model(chain_program)
    fast = zoo.fit(chain_program, data, estimator="auto_em", max_iter=estimator_iterations, tol=0)
    with torch.random.fork_rng(devices=[]):
        torch.set_default_dtype(torch.float64)
        try:
            model.initialize(data, "current")
            assert make_plan(model, data).chain is not None
        finally:
            torch.set_default_dtype(torch.float32)
    monkeypatch.setattr("zoo.automatic.plan.recognise", lambda *_: "told not to")
    slow = zoo.fit(chain_program, data, estimator="auto_em", max_iter=estimator_iterations, tol=0)
    assert gap(fast, slow) < 1e-9
    for (_, a), (_, b) in zip(fast.model.named_parameters(), slow.model.named_parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def changing_steps(x):
    steps = pyro.param("steps", torch.full((4, 2, 2), 0.5), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([0.0, 1.0]))
    z = 0
    for i in pyro.markov(range(4)):
        z = pyro.sample(f"z{i}", dist.Categorical(steps[i, z]))
        pyro.sample(f"x{i}", dist.Normal(loc[z], 1.0), obs=x[i])


def equal_but_not_one(x):
    a = pyro.param("a", torch.tensor([[0.7, 0.3], [0.3, 0.7]]), constraint=constraints.simplex)
    b = pyro.param("b", torch.tensor([[0.7, 0.3], [0.3, 0.7]]), constraint=constraints.simplex)
    loc = pyro.param("loc", torch.tensor([0.0, 1.0]))
    z = 0
    for i in pyro.markov(range(4)):
        z = pyro.sample(f"z{i}", dist.Categorical((a if i % 2 else b)[z]))
        pyro.sample(f"x{i}", dist.Normal(loc[z], 1.0), obs=x[i])


@pytest.mark.parametrize("program", [changing_steps, equal_but_not_one])
def test_a_chain_whose_table_changes_is_not_taken_for_one_that_does_not(program):
    """Two tables that happen to be equal at the start are two tables."""
    x = torch.tensor([0.1, 1.2, -0.3, 0.9], dtype=torch.float64)
    fit = zoo.fit(program, x, estimator="auto_em", max_iter=30)
    best = zoo.fit(program, x, estimator="eg", init="current", max_epochs=400)
    text = str(zoo.explain(program, x))
    assert "change with time" in text
    assert fit.log_likelihood >= best.log_likelihood - 1e-3
    assert list(np.diff(fit.history["objective"]) >= -1e-9) == [True] * (fit.iterations - 1)


# Priors ------------------------------------------------------------------------------------------------------------

COUNTS = torch.tensor([2, 3, 1, 4, 2, 18, 22, 19, 25, 3, 2, 20], dtype=torch.float64)


def with_priors(x):
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([2.0, 3.0])))
    with pyro.plate("components", 2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.1))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def normal_prior(x):
    loc = pyro.sample("loc", dist.Normal(torch.tensor([0.0, 10.0]), 3.0).to_event(1))
    p = pyro.sample("p", dist.Beta(3.0, 2.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(p))
        pyro.sample("x", dist.Normal(loc[z.long()], 4.0), obs=x)


def odd_prior(x):
    scale = pyro.sample("scale", dist.HalfCauchy(2.0))
    loc = pyro.param("loc", torch.tensor([0.0, 10.0]))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


@pytest.mark.parametrize("program", [with_priors, normal_prior, odd_prior])
def test_a_parameter_sampled_from_a_prior_is_estimated_at_its_mode(program):
    derived = zoo.fit(program, COUNTS, estimator="auto_em", tol=1e-12)
    rise = -enumerated_evidence(derived.model, COUNTS)(COUNTS) + derived.model.log_prior()
    assert float(rise.detach()) == pytest.approx(derived.history["objective"][-1], abs=1e-6)
    for slope in torch.autograd.grad(rise, list(derived.model.parameters())):  # Pyro's own sum is flat there
        assert slope.abs().max() < 1e-3
    assert any("mode under their priors" in note for note in derived.notes)
    # The evidence leaves the prior out, the objective does not.
    prior = derived.history["objective"][-1] - derived.log_likelihood
    with torch.no_grad():
        assert prior == pytest.approx(float(derived.model.log_prior()), abs=1e-6)


def test_a_dirichlet_prior_adds_its_pseudo_counts():
    """One step by hand: weights (counts + a - 1) / sum, rates (events + a - 1) / (exposure + b)."""
    fit = zoo.fit(with_priors, COUNTS, estimator="auto_em", max_iter=1, tol=0)
    first = zoo.fit(with_priors, COUNTS, estimator="auto_em", max_iter=0, tol=0).model
    weights = first.get_parameter("param/weights/mode").detach().softmax(-1)
    rate = first.get_parameter("param/rate/mode").detach().exp()
    r = (weights.log() + torch.distributions.Poisson(rate).log_prob(COUNTS[:, None])).softmax(-1)
    counts = r.sum(0) + torch.tensor([1.0, 2.0])
    assert torch.allclose(fit.model.get_parameter("param/weights/mode").softmax(-1), counts / counts.sum(), atol=1e-12)
    expected = (r.T @ COUNTS + 1) / (r.sum(0) + 0.1)
    assert torch.allclose(fit.model.get_parameter("param/rate/mode").exp(), expected, atol=1e-10)


# Explanations ------------------------------------------------------------------------------------------------------


def test_explain_names_every_site_and_update():
    text = str(zoo.explain(with_priors, COUNTS))
    for word in ("weights", "prior", "Dirichlet", "Poisson.rate", "conjugate prior", "latent", "observed", "mixture"):
        assert word in text
    found = zoo.explain(chain_program, (series()["x"], SEQUENCES))
    assert {u["parameter"] for u in found.to_dict()["updates"]} == {"start", "steps", "loc", "scale", "rate"}
    assert "12 sites" in str(found)
    assert "chain of 12 steps with 3 states" in found.e_step
    assert found.elements == 4 * 9
    assert found.to_dict()["elements"] == 36


def regression(x, y):
    a, b = pyro.param("a", torch.tensor([0.0, 1.0])), pyro.param("b", torch.zeros(2))
    scale = pyro.param("scale", torch.ones(2), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
        pyro.sample("y", dist.Normal(a[z] * x + b[z], scale[z]), obs=y)


def test_explain_says_what_is_numeric_and_why():
    x = torch.linspace(-1, 1, 20, dtype=torch.float64)
    found = {u.parameter: (u.how, u.why) for u in zoo.explain(regression, (x, 2 * x)).updates}
    assert "numeric" in found["param/a"][0]
    assert "loc of site 'y'" in found["param/a"][1]
    assert "closed form" in found["param/scale"][0]


def test_a_mixture_of_regressions_is_weighted_least_squares():
    """The location is no table, so Newton climbs; the function is quadratic, so one step is the exact maximum."""
    g = torch.Generator().manual_seed(1)
    x = torch.linspace(-2, 2, 40, dtype=torch.float64)
    y = torch.where(torch.arange(40) % 2 == 0, 2 * x + 1, -x) + 0.3 * torch.randn(40, generator=g, dtype=torch.float64)
    fit = zoo.fit(regression, (x, y), estimator="auto_em", max_iter=1, tol=0)
    a, b, s = torch.tensor([0.0, 1.0]), torch.zeros(2), torch.ones(2)
    r = torch.distributions.Normal(a * x[:, None] + b, s).log_prob(y[:, None]).softmax(-1)
    design = torch.stack([x, torch.ones_like(x)], 1)
    found = {name: fit.model.get_parameter(f"param/{name}").detach() for name in ("a", "b", "scale")}
    for k in range(2):
        w = r[:, k, None]
        beta = torch.linalg.solve(design.T @ (w * design), design.T @ (w * y[:, None]))[:, 0]
        assert float(found["a"][k]) == pytest.approx(float(beta[0]), abs=1e-7)
        assert float(found["b"][k]) == pytest.approx(float(beta[1]), abs=1e-7)
        rest = (r[:, k] * (y - design @ beta).square()).sum() / r[:, k].sum()
        assert float(found["scale"][k].exp()) == pytest.approx(float(rest.sqrt()), abs=1e-7)


# The parts ---------------------------------------------------------------------------------------------------------


def test_recording_leaves_pyro_as_it_was():
    before = {n: vars(getattr(dist, n)).get("expand") for n in ("Normal", "Categorical", "Poisson")}
    call = type(dist.Normal).__call__
    with recorded():
        made = dist.Categorical(torch.tensor([2.0, 6.0])).expand([3])
        assert made._written[1]["probs"].tolist() == [2.0, 6.0]
    assert type(dist.Normal).__call__ is call
    assert before == {n: vars(getattr(dist, n)).get("expand") for n in before}
    assert not hasattr(dist.Normal(0.0, 1.0), "_written")


class Two(LatentVariableModel):
    def __init__(self):
        super().__init__()
        self.p = torch.nn.Parameter(torch.tensor([0.3, -0.2, 1.5], dtype=torch.float64))
        self.q = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("argument", "view", "ids"),
    [
        (lambda p, q: p[torch.tensor([2, 0, 0])], "identity", [2, 0, 0]),
        (lambda p, q: q.exp()[:, 1], "exp", [4, 6]),
        (lambda p, q: torch.where(torch.tensor([True, False]), p[:2], q[0]), "identity", [0, 4]),
        (lambda p, q: torch.stack([p[0], torch.tensor(7.0, dtype=p.dtype)]), "identity", [0, -1]),
        (lambda p, q: q.log_softmax(-1), "log_softmax", [[3, 4], [5, 6]]),
    ],
)
def test_an_argument_is_found_among_the_parameters(argument, view, ids):
    model = Two()
    space = ParameterSpace(model, ["p", "q"])
    seen = []
    for seed in (1, 2):
        with space.elsewhere(seed), torch.no_grad():
            seen.append((space.views(), argument(model.p, model.q).clone()))
    lookup = Finder(seen[0][0], seen[1][0]).find(seen[0][1], seen[1][1])
    assert lookup.view == view
    assert lookup.ids.tolist() == ids
    assert torch.allclose(space.evaluate(lookup, space.vector()), argument(model.p, model.q).detach())
    assert model.p.tolist() == [0.3, -0.2, 1.5]


@pytest.mark.parametrize("argument", [lambda p, q: p[:2] + q[0], lambda p, q: 2 * p, lambda p, q: p.sum()])
def test_what_is_no_table_is_not_found(argument):
    model = Two()
    space = ParameterSpace(model, ["p", "q"])
    seen = []
    for seed in (1, 2):
        with space.elsewhere(seed), torch.no_grad():
            seen.append((space.views(), argument(model.p, model.q).clone()))
    assert Finder(seen[0][0], seen[1][0]).find(seen[0][1], seen[1][1]) is None


def causes(number):
    def model(x):
        p = pyro.param("p", torch.full((number,), 0.3), constraint=constraints.unit_interval)
        on = [pyro.sample(f"z{i}", dist.Bernoulli(p[i])) for i in range(number)]
        pyro.sample("x", dist.Poisson(0.1 + sum(on)), obs=x)

    return model


def test_the_cost_is_predicted_before_it_is_paid():
    small = as_model(causes(5))
    small.initialize(torch.tensor(2.0), "current")
    elements, _ = predicted_elements(small, torch.tensor(2.0), 0)
    run = enumerated(small, torch.tensor(2.0), 0)
    assert elements == 32
    assert elements == max(s["unscaled_log_prob"].numel() for s in run.sites.values())
    with pytest.raises(zoo.ZooError, match=rf"site 'x' expected at most {TABLE:,}.*got 1,073,741,824"):
        zoo.fit(causes(30), torch.tensor(2.0), estimator="auto_em")


def test_a_prior_outside_the_program_is_refused():
    with pytest.raises(zoo.ZooError, match="prior is not in its program"):
        zoo.fit(zoo.GaussianHMM(2, 2, concentration=2.0), series(), estimator="auto_em")


# Discrete posteriors -----------------------------------------------------------------------------------------------


def annealed(x):
    """Two latents a datum, one of them global: nothing that the zoo has."""
    p = pyro.param("p", torch.tensor([0.2, 0.5, 0.3]), constraint=constraints.simplex)
    g = pyro.sample("g", dist.Bernoulli(0.4))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(p))
        y = pyro.sample("y", dist.Bernoulli(0.2 + 0.2 * z))
        pyro.sample("x", dist.Normal(z + 2 * y + g, 1.0), obs=x)


def by_hand(x):
    """ln p(x, g, z, y) at every configuration: g, then (z, y) for each datum."""
    p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    table = {}
    for g, *rest in itertools.product(range(2), *[range(6)] * len(x)):
        total = math.log(0.4 if g else 0.6)
        for value, code in zip(x.tolist(), rest, strict=True):
            z, y = divmod(code, 2)
            q = 0.2 + 0.2 * z
            total += math.log(p[z]) + math.log(q if y else 1 - q)
            total += -0.5 * (value - z - 2 * y - g) ** 2 - 0.5 * math.log(2 * math.pi)
        table[(g, *rest)] = total
    return table


def test_posteriors_of_a_program_are_those_of_brute_force():
    x = torch.tensor([0.3, 3.1, 1.9], dtype=torch.float64)
    table = by_hand(x)
    log_evidence = float(torch.tensor(list(table.values()), dtype=torch.float64).logsumexp(0))
    weights = {k: math.exp(v - log_evidence) for k, v in table.items()}
    found = zoo.discrete_posterior(annealed, x)
    assert found.log_evidence == pytest.approx(log_evidence, abs=1e-9)
    g = sum(w for k, w in weights.items() if k[0] == 1)
    assert float(found.marginals["g"].probs[1]) == pytest.approx(g, abs=1e-9)
    for n in range(3):
        for z in range(3):
            expected = sum(w for k, w in weights.items() if k[1 + n] // 2 == z)
            assert float(found.marginals["z"].probs[n, z]) == pytest.approx(expected, abs=1e-9)
        expected = sum(w for k, w in weights.items() if k[1 + n] % 2 == 1)
        assert float(found.marginals["y"].probs[n, 1]) == pytest.approx(expected, abs=1e-9)
    entropy = -sum(w * math.log(w) for w in weights.values())
    assert found.joint_entropy == pytest.approx(entropy, abs=1e-9)
    best = max(table, key=table.get)
    mode = found.mode()
    assert (int(mode["g"]), [int(2 * a + b) for a, b in zip(mode["z"], mode["y"], strict=True)]) == (
        best[0],
        list(best[1:]),
    )
    draws = found.sample(4000, seed=3)
    assert draws["z"].shape == (4000, 3)
    joint = float(((draws["g"].reshape(-1) == 1) & (draws["z"][:, 1] == 1)).double().mean())
    expected = sum(w for k, w in weights.items() if k[0] == 1 and k[2] // 2 == 1)
    assert joint == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 4000))


def test_posteriors_of_a_chain_are_the_models_own():
    model, x = importlib.import_module("zoo.models.poisson_hmm").tiny()
    found, own = zoo.discrete_posterior(model, x), model.posterior(**x)
    for t in range(x["x"].shape[1]):
        assert torch.allclose(found.marginals[f"z_{t}"].probs, own.probs[:, t], atol=1e-12)
    paths, _ = model.viterbi(x)
    mode = found.mode()
    for t in range(x["x"].shape[1]):
        there = paths[:, t] >= 0
        assert torch.equal(mode[f"z_{t}"][there], paths[:, t][there])
    assert found.joint_entropy == pytest.approx(float(model.posterior_entropy(x).sum()), abs=1e-10)


def test_a_fit_hands_back_its_posterior():
    fit = zoo.fit(with_priors, COUNTS, estimator="auto_em")
    posterior = fit.discrete_posterior(COUNTS)
    assert torch.equal(fit.posterior(COUNTS).probs, posterior.marginals["z"].probs)
    assert torch.equal(fit.predict(COUNTS), posterior.mode()["z"])
    assert posterior.log_evidence == pytest.approx(fit.log_likelihood)


def test_impossible_data_have_no_posterior():
    def model(x):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Uniform(0.0, 1.0 + z, validate_args=False), obs=x)

    with pytest.raises(zoo.ZooError, match="positive probability"):
        zoo.discrete_posterior(model, torch.tensor(5.0))


def test_a_site_under_a_guide_is_refused():
    def guide(x):
        logits = pyro.param("logits", torch.zeros(len(x), 2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Categorical(logits=logits))

    def program(x):
        rate = pyro.param("rate", torch.tensor([1.0, 15.0]), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)

    with pytest.raises(zoo.ZooError, match=r"site 'z' is under a guide.*Leave out the guide"):
        zoo.fit(program, COUNTS, estimator="auto_em", guide=guide)
    # Beside an estimator that needs the guide it is no mistake.
    made = zoo.compare(program, COUNTS, estimators=["auto_em", "svi"], guide=guide, max_epochs=20, gradients=False)
    assert [fit.estimator for fit in made.fits] == ["auto_em", "svi"]
