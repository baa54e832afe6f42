"""Guides that draw some latents of a program: the discrete ones that they leave out are summed out."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoGuideList, AutoNormal
from torch.distributions import constraints

import zoo
from zoo.core.problem import Problem
from zoo.core.program import look
from zoo.core.traces import draw, totals
from zoo.core.weighing import _together, log_weights
from zoo.scores.bounds import bound

X = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0])


def mixture(x):
    """Two normal components; weights and locations have priors, the scale is a parameter."""
    scale = pyro.param("scale", torch.tensor(1.5), constraint=constraints.positive)
    w = pyro.sample("w", dist.Dirichlet(2 * torch.ones(2)))
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(5.0, 10.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(torch.where(z > 0, b, a), scale), obs=x)


decorated = config_enumerate(mixture)


def listed(program):
    guide = AutoGuideList(program)
    guide.append(AutoDelta(poutine.block(program, expose=["w"])))
    guide.append(AutoNormal(poutine.block(program, expose=["a", "b"])))
    return guide


GUIDES = {
    "delta": lambda program: AutoDelta(poutine.block(program, hide=["z"])),
    "normal": lambda program: AutoNormal(poutine.block(program, expose=["w", "a", "b"])),
    "diagonal": lambda program: AutoDiagonalNormal(poutine.block(program, hide=["z"])),
    "list": listed,
}


def by_hand(x, w, a, b, scale):
    """ln p(x, w, a, b) with the labels summed out, written without Pyro's enumeration."""
    each = torch.stack([w[..., :1].log() + _normal(x, a, scale), w[..., 1:].log() + _normal(x, b, scale)])
    prior = dist.Dirichlet(2 * torch.ones(2)).log_prob(w) + dist.Normal(0.0, 10.0).log_prob(a)
    return each.logsumexp(0).sum(-1) + prior + dist.Normal(5.0, 10.0).log_prob(b)


def _normal(x, loc, scale):
    return dist.Normal(loc.unsqueeze(-1), scale).log_prob(x)


@pytest.mark.parametrize("program", [mixture, decorated], ids=["plain", "decorated"])
@pytest.mark.parametrize("name", GUIDES)
def test_svi_trains_scores_and_comes_back(name, program, tmp_path):
    make = GUIDES[name]
    fit = zoo.fit(program, X, estimator="svi", guide=make(program), warmup=0, max_epochs=40, learning_rate=0.1)
    assert fit.status in ("max_iter", "converged")
    assert fit.log_likelihood is None
    assert fit.elbo > fit.history["elbo"][0] - 1
    model = fit.model
    # Pyro's own loss at the same parameters, of the program as a user of Pyro would enumerate it.
    peer = TraceEnum_ELBO(max_plate_nesting=1)
    torch.manual_seed(3)
    losses = torch.tensor([-peer.loss(config_enumerate(model.model), model.guide, X) for _ in range(60)])
    error = math.hypot(float(losses.std()) / math.sqrt(60), fit.elbo_se)
    assert fit.elbo == pytest.approx(float(losses.mean()), abs=4 * error + 1e-4)
    loaded = zoo.load(fit.save(tmp_path / "fit"), program, make(program))
    torch.manual_seed(0)
    again = bound(Problem(model, X))
    torch.manual_seed(0)
    assert bound(Problem(loaded.model, X)) == again
    assert torch.equal(loaded.predict(X), fit.predict(X))


def test_labels_are_exact_at_the_guides_point():
    fit = zoo.fit(mixture, X, estimator="svi", guide=listed(mixture), warmup=0, max_epochs=60, learning_rate=0.2)
    with torch.no_grad(), pyro.get_param_store().scope():
        guide = fit.model._program(1)
        w, (a, b) = guide[0].median()["w"], (guide[1].median()[n] for n in ("a", "b"))
        scale = fit.model.get_parameter("param/scale").exp()
        joint = torch.stack([w[0].log() + _normal(X, a, scale), w[1].log() + _normal(X, b, scale)], -1)
    assert torch.allclose(fit.posterior(X).probs, joint.softmax(-1), atol=1e-5)
    assert torch.equal(fit.predict(X), joint.argmax(-1))
    # Other data than were fitted.
    more = torch.tensor([-3.0, 14.0])
    assert fit.predict(more).shape == (2,)


@pytest.mark.parametrize("number", [1, 4])
def test_weights_have_the_labels_summed_out(number):
    """ln p(x, θ) of joint draws against the sum written by hand, and its gradient in the drawn values."""
    fit = zoo.fit(mixture, X, estimator="svi", guide=GUIDES["normal"](mixture), warmup=0, max_epochs=1)
    guide_trace, model_trace = draw(fit.model, X, number, 1)
    values = {n: guide_trace.nodes[n]["value"].reshape(number, *([2] if n == "w" else [])) for n in ("w", "a", "b")}
    expected = by_hand(X, scale=fit.model.get_parameter("param/scale").exp(), **values)
    got = totals(model_trace, len(X), number, 1).squeeze(-1)
    assert torch.allclose(got, expected, atol=1e-3)
    drawn = guide_trace.nodes["a"]["value"]
    slope, expected_slope = (torch.autograd.grad(t.sum(), drawn, retain_graph=True)[0] for t in (got, expected))
    assert torch.allclose(slope, expected_slope, atol=1e-4)


@pytest.mark.parametrize("estimator", ["iwae", "rws", "reinforce"])
def test_other_estimators_take_such_a_guide(estimator):
    fit = zoo.fit(mixture, X, estimator=estimator, guide=GUIDES["normal"](mixture), warmup=1, max_epochs=3)
    assert fit.status != "diverged"
    assert math.isfinite(fit.elbo)
    assert zoo.evaluate(fit, X, num_samples=30).importance_bound >= fit.elbo - 10 * fit.elbo_se


def test_gumbel_needs_the_label_in_the_guide():
    with pytest.raises(zoo.ZooError, match=r"gumbel cannot fit this model: its guide leaves out the discrete site 'z'"):
        zoo.fit(mixture, X, estimator="gumbel", guide=GUIDES["delta"](mixture), max_epochs=1)


def test_a_guide_may_leave_out_one_label_of_two():
    """A discrete program, a guide over one of its latents: the bound has the other one summed out, every latent is
    answered for, exactly."""
    p = torch.tensor([[0.1, 0.6], [0.5, 0.9]])
    prior = torch.tensor([0.3, 0.7])

    def program(x):
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("rows", len(x)):
            a = pyro.sample("a", dist.Categorical(prior))
            b = pyro.sample("b", dist.Categorical(prior))
            pyro.sample("x", dist.Bernoulli(logits=p[a, b].logit() + shift), obs=x)

    def guide(x):
        logits = pyro.param("logits", torch.tensor([0.2, -0.4]))
        with pyro.plate("rows", len(x)):
            pyro.sample("a", dist.Categorical(logits=logits))

    x = torch.tensor([0.0, 1.0, 1.0])
    fit = zoo.fit(program, x, estimator="svi", guide=guide, warmup=0, max_epochs=1, learning_rate=1e-9)
    q = torch.tensor([0.2, -0.4]).softmax(-1)
    likelihood = torch.where(x[:, None, None] > 0, p, 1 - p)
    seen = prior.log() + (likelihood * prior).sum(-1).log()  # (rows, a)
    assert fit.elbo == pytest.approx(float((q * (seen - q.log())).sum()), abs=1e-4)
    joint = (likelihood * prior[:, None] * prior).flatten(1)
    assert torch.allclose(
        fit.posterior(x)["b"].probs, joint.reshape(3, 2, 2).sum(1) / joint.sum(-1)[:, None], atol=1e-5
    )
    best = joint.argmax(-1)
    labels = fit.predict(x)
    assert torch.equal(labels["a"], best // 2)
    assert torch.equal(labels["b"], best % 2)
    assert log_weights(fit.model, x, 3).shape == (3, 3)


def test_a_table_indexed_from_the_left_is_drawn_one_by_one():
    """``loc[z]`` takes a draw for an entry of the table where draws are made together: two of them, two entries and two
    data do not even fail. The bound is Pyro's own all the same."""

    def program(x):
        scale = pyro.param("scale", torch.tensor(1.5), constraint=constraints.positive)
        with pyro.plate("components", 2):
            loc = pyro.sample("loc", dist.Normal(torch.tensor([0.0, 5.0]), 3.0))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(loc[z], scale), obs=x)

    guide = AutoNormal(poutine.block(program, hide=["z"]))
    for x in (X, X[:2]):
        fit = zoo.fit(program, x, estimator="svi", guide=guide, warmup=0, max_epochs=2)
        assert not fit.notes
        peer = TraceEnum_ELBO(max_plate_nesting=1)
        torch.manual_seed(3)
        losses = torch.tensor([-peer.loss(config_enumerate(fit.model.model), fit.model.guide, x) for _ in range(100)])
        error = math.hypot(float(losses.std()) / 10, fit.elbo_se)
        assert fit.elbo == pytest.approx(float(losses.mean()), abs=4 * error)
        assert _together(fit.model, x, 2, look(fit.model, x)) is None
        assert fit.predict(x).shape == x.shape
    fit = zoo.fit(mixture, X, estimator="svi", guide=GUIDES["normal"](mixture), max_epochs=1)
    assert _together(fit.model, X, 2, look(fit.model, X)) is not None
