"""Priors of parameters in a user's program: counted as Pyro counts them, and a mode wherever they pull."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, init_to_value
from torch import Tensor
from torch.distributions import constraints, transform_to

import zoo
from zoo.automatic.counts import likeliest_rows
from zoo.core.data import call
from zoo.core.edges import NARROW, inset
from zoo.core.functions import as_model

X = torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0], dtype=torch.float64)


def joint_by_pyro(program, x, model) -> float:
    """ln p(x, θ) as Pyro itself counts it, at the parameters of a fit: TraceEnum_ELBO under AutoDelta."""
    values = {name: model.point(name).detach() for name in model.points}
    torch.set_default_dtype(torch.float64)
    try:
        with pyro.get_param_store().scope():
            exposed = poutine.block(program, expose=sorted(values))
            guide = AutoDelta(exposed, init_loc_fn=init_to_value(values=values))
            elbo = TraceEnum_ELBO(max_plate_nesting=3)
            return -float(call(lambda *a, **k: elbo.loss(config_enumerate(program), guide, *a, **k), x))
    finally:
        torch.set_default_dtype(torch.float32)


def mixture(x, weights, loc, scale):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(loc[z], scale), obs=x)


def published(x):
    """The mixture of Pyro's tutorial."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    mixture(x, weights, loc, scale)


def scaled(x):
    with poutine.scale(scale=3.0):
        weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([2.0, 3.0])))
        with poutine.scale(scale=torch.tensor(0.5)):
            loc = pyro.sample("loc", dist.Normal(torch.tensor([0.0, 10.0]), 2.0).to_event(1))
    mixture(x, weights, loc, 1.0)


def masked(x):
    with poutine.mask(mask=True):
        weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([2.0, 3.0])))
    with poutine.mask(mask=False):
        scale = pyro.sample("scale", dist.Gamma(2.0, 3.0))
    with pyro.plate("components", 2), poutine.mask(mask=torch.tensor([True, False])):
        loc = pyro.sample("loc", dist.Normal(3.0, 1.0))
    mixture(x, weights, loc, scale)


def masked_distributions(x):
    weights = pyro.sample("weights", dist.Beta(2.0, 3.0).mask(False))
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(3.0, 1.0).mask(torch.tensor([False, True])))
    mixture(x, torch.stack([weights, 1 - weights]), loc, 1.0)


def partly_observed(x):
    """The first location is known, the second is not."""
    known = torch.tensor([True, False])
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(3.0, 4.0), obs=torch.tensor([0.5, 0.0]), obs_mask=known)
    mixture(x, torch.ones(2) / 2, loc, 1.0)


def in_plates(x):
    """Two features; each has its own plate, and the prior stands in that."""
    features = pyro.plate("features", 2, dim=-2)
    with pyro.plate("components", 3, dim=-1):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.1))
    with features:
        bias = pyro.sample("bias", dist.Exponential(1.0).expand([2, 1]))
    with pyro.plate("data", len(x), dim=-1):
        z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
        with features:
            pyro.sample("x", dist.Poisson(rate[z] + bias), obs=torch.stack([x, x.flip(0)]))


def hierarchical(x):
    centre = pyro.sample("centre", dist.Normal(0.0, 10.0))
    spread = pyro.sample("spread", dist.HalfCauchy(1.0))

    def location():
        with poutine.scale(scale=2.0), pyro.plate("components", 2):
            return pyro.sample("loc", dist.Normal(centre, spread + 1))

    loc = location()
    mixture(x, torch.ones(2) / 2, loc, 1.0)


def of_a_latent(x):
    """A prior that depends on a latent: it stays inside the sum over it."""
    wide = pyro.sample("wide", dist.Bernoulli(0.3))
    loc = pyro.sample("loc", dist.Normal(0.0, torch.where(wide > 0, 10.0, 0.1)))
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    mixture(x, weights, torch.stack([loc, loc + 10]), 1.0)


def flat_and_odd(x):
    """Densities that are finite at the edge, or improper."""
    rate = pyro.sample("rate", dist.Uniform(0.0, torch.tensor([3.0, 20.0])).to_event(1))
    shift = pyro.sample("shift", dist.ImproperUniform(constraints.positive, (), ()))
    scale = pyro.sample("scale", dist.InverseGamma(1.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(rate[z.long()] + shift, scale), obs=x)


PROGRAMS = [
    published, scaled, masked, masked_distributions, partly_observed,
    in_plates, hierarchical, of_a_latent, flat_and_odd,
]  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_prior_counts_as_pyro_counts_it(program):
    fit = zoo.fit(program, X, estimator="auto_em", max_iter=3, tol=0, restarts=1)
    with torch.no_grad():
        joint = fit.log_likelihood + float(fit.model.log_prior())
    assert joint == pytest.approx(joint_by_pyro(program, X, fit.model), abs=1e-9)
    objective = fit.history["objective"]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(objective))
    assert all(math.isfinite(value) for value in objective)


@pytest.mark.parametrize("program", [program for program in PROGRAMS if program is not in_plates])
def test_the_mode_is_flat_or_at_an_edge(program):
    """The slope of Pyro's own joint at the fitted parameters, in free coordinates."""
    fit = zoo.fit(program, X, estimator="auto_em", tol=1e-12, restarts=1)
    assert fit.status in ("converged", "stalled")
    model = fit.model
    rise = model.log_prior() - zoo.scores.evidence.enumerated_evidence(model, X)(X)
    for slope in torch.autograd.grad(rise, list(model.parameters()), allow_unused=True):
        assert slope is None or slope.abs().max() < 1e-3


def test_the_tutorials_mixture_has_its_published_answer():
    fit = zoo.fit(published, X, estimator="auto_em", seed=1, restarts=1)
    order = fit.model.point("loc").argsort()
    assert fit.model.point("weights")[order].tolist() == pytest.approx([0.375, 0.625], abs=1e-3)
    assert fit.model.point("loc")[order].tolist() == pytest.approx([0.499, 10.984], abs=1e-3)
    assert fit.model.point("scale").item() == pytest.approx(0.65, abs=0.005)


# At the edge -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-2, 5), st.just(0.0), st.just(-0.5)), min_size=2, max_size=3),
    st.sampled_from([1e-3, 1e-2]),
)
def test_rows_are_the_likeliest_of_all_on_a_grid(counts, least):
    numbers = torch.tensor(counts, dtype=torch.float64)
    old = torch.full_like(numbers, 1 / len(counts))
    row = likeliest_rows(numbers, old, least)
    assert float(row.sum()) == pytest.approx(1)
    assert float(row.min()) >= least * (1 - 1e-9)
    steps = torch.linspace(0, 1, 201, dtype=torch.float64)
    if len(counts) == 2:
        grid = torch.stack([steps, 1 - steps], -1)
    else:
        a, b = torch.meshgrid(steps, steps, indexing="ij")
        grid = torch.stack([a, b, 1 - a - b], -1).reshape(-1, 3)
        grid = grid[grid[:, 2] >= -1e-12]
    grid = least + (1 - len(counts) * least) * grid.clamp_min(0)
    assert float((numbers * row.log()).sum()) >= float((numbers * grid.log()).sum(-1).max()) - 1e-9


def test_an_empty_row_stays_and_equal_pulls_keep_their_side():
    rows = likeliest_rows(
        torch.tensor([[0.0, 0.0], [-0.5, -0.5], [-0.5, -0.5]]),
        torch.tensor([[0.3, 0.7], [0.4, 0.6], [0.6, 0.4]]),
        0.01,
    )
    assert rows.flatten().tolist() == pytest.approx([0.3, 0.7, 0.01, 0.99, 0.99, 0.01])


def below_one(x):
    """Every kind of concentration below 1: rows above and below it, vectors, plates, rates."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([0.2, 2.0, 0.5])))
    with pyro.plate("components", 3):
        rate = pyro.sample("rate", dist.Gamma(0.5, torch.tensor([1.0, 0.1, 0.01])))
        p = pyro.sample("p", dist.Beta(0.1, 0.9))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)
        pyro.sample("y", dist.Bernoulli(p[z]), obs=(x > 20).to(x))


@pytest.mark.parametrize("seed", range(3))
def test_concentrations_below_one_end_at_the_edge(seed):
    x = torch.tensor([0.0, 0.0, 1.0, 3.0, 2.0, 10.0, 11.0, 12.0], dtype=torch.float64)
    fit = zoo.fit(below_one, x, estimator="auto_em", seed=seed, restarts=1)
    assert fit.status in ("converged", "stalled")
    assert fit.degenerate
    assert any(note.startswith("p: 3 of 3 entries are at the edge") for note in fit.notes)
    assert fit.model.point("p").max().item() == pytest.approx(NARROW, rel=1e-6)
    objective = fit.history["objective"]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(objective))
    assert objective[-1] == pytest.approx(joint_by_pyro(below_one, x, fit.model), abs=1e-8)


def test_gradients_end_where_em_does():
    def coin(x):
        p = pyro.sample("p", dist.Beta(torch.tensor([0.5, 0.1, 3.0]), 0.5).to_event(1))
        rate = pyro.sample("rate", dist.Gamma(0.5, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(p).to_event(1), obs=x)
            pyro.sample("n", dist.Poisson(rate), obs=torch.zeros(len(x)))

    x = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    by_em = zoo.fit(coin, x, estimator="auto_em", restarts=1)
    by_gradient = zoo.fit(coin, x, estimator="eg", max_epochs=500, learning_rate=0.15, restarts=1)
    assert by_em.model.point("p").tolist() == pytest.approx([1.5 / 2, NARROW, 4 / 4.5], abs=1e-6)
    assert by_gradient.history["objective"][-1] == pytest.approx(by_em.history["objective"][-1], abs=0.2)
    assert by_gradient.degenerate
    assert by_em.degenerate
    assert by_gradient.model.point("p").tolist() == pytest.approx(by_em.model.point("p").tolist(), abs=1e-3)


def test_a_collapsing_scale_is_kept_off_zero_and_said():
    def program(x):
        scale = pyro.sample("scale", dist.HalfCauchy(1.0).expand([2]).to_event(1))
        loc = pyro.param("loc", torch.tensor([0.0, 5.0]))
        mixture(x, torch.ones(2) / 2, loc, scale[torch.arange(2)].mean())

    def alone(x):
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        loc = pyro.param("loc", torch.tensor(0.3))
        pyro.sample("x", dist.Normal(loc, scale), obs=x)

    fit = zoo.fit(alone, torch.tensor(0.5, dtype=torch.float64), estimator="auto_em", restarts=1)
    assert fit.status in ("converged", "stalled")
    assert fit.degenerate
    assert fit.model.point("scale").item() == pytest.approx(1e-9, rel=0.5)
    assert any(note.startswith("scale: 1 of 1 entries are at the edge") for note in fit.notes)
    assert not zoo.fit(program, X, estimator="auto_em", restarts=1).degenerate


def test_a_prior_without_a_mode_is_refused_by_name():
    def singular(x):
        factor = pyro.sample("factor", dist.LKJCholesky(2, 0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), scale_tril=factor), obs=x)

    with pytest.raises(zoo.ZooError, match="site 'factor' expected a prior with a bounded density, got LKJCholesky"):
        zoo.fit(singular, torch.randn(5, 2, dtype=torch.float64), estimator="auto_em", restarts=1)


@pytest.mark.parametrize(
    ("support", "value"),
    [
        (constraints.simplex, [0.2, 0.3, 0.5]),
        (constraints.unit_interval, [0.2, 1e-5, 0.9]),
        (constraints.interval(-5.0, 10.0), [-4.9, 0.0, 9.9]),
        (constraints.positive, [1e-3, 2.0, 1e5]),
        (constraints.greater_than(3.0), [3.5, 4.0, 100.0]),
        (constraints.less_than(3.0), [2.5, -4.0, -100.0]),
    ],
)
def test_an_inset_is_its_support_off_the_edges(support, value):
    value = torch.tensor(value, dtype=torch.float64)
    target = inset(support, value)
    transform = transform_to(target)
    assert torch.allclose(transform(transform.inv(value)), value, rtol=1e-9)
    for far in (-200.0, 200.0):
        free = torch.tensor([far, 0.0, 0.0], dtype=torch.float64)
        reached = transform(free)
        assert target.check(reached).all()
        assert bool((target.distance(reached) >= 0.999 * torch.as_tensor(target.margin)).all())
    edge = torch.tensor([0.0, 0.0, 1.0]).double() if support is constraints.simplex else None
    if edge is not None:
        assert transform.inv(edge).isfinite().all()
        assert transform(transform.inv(edge)).tolist() == pytest.approx([NARROW, NARROW, 1 - 2 * NARROW], rel=1e-6)


def test_the_program_is_not_run_again_for_its_priors():
    runs = []

    def counted(x):
        runs.append(1)
        published(x)

    model = as_model(counted)
    with pyro.get_param_store().scope():
        model.initialize(X, "current")
    assert model._seen.value is None  # nor are the data kept
    before = len(runs)
    assert model.log_prior().requires_grad
    assert len(runs) == before


def test_priors_of_priors_are_had_without_the_rest_of_the_program():
    reached = []

    def counted(x):
        centre = pyro.sample("centre", dist.Normal(0.0, 1.0))
        loc = pyro.sample("loc", dist.Normal(centre, torch.ones(2)).to_event(1))
        reached.append(1)
        mixture(x, torch.ones(2) / 2, loc, 1.0)

    model = as_model(counted)
    model.initialize(X, "current")
    before = len(reached)
    values = [model.point(name) for name in ("centre", "loc")]
    expected = dist.Normal(0.0, 1.0).log_prob(values[0]) + dist.Normal(values[0], 1.0).log_prob(values[1]).sum()
    assert model.log_prior().item() == pytest.approx(float(expected.detach()))
    assert len(reached) == before


# Starts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_one_start_of_the_tutorials_mixture_suffices(seed):
    """A draw of the prior alone ends with all data in one component for half of the seeds."""
    fit = zoo.fit(published, X, estimator="auto_em", seed=seed, restarts=1)
    assert not fit.degenerate
    assert fit.log_likelihood == pytest.approx(-8.7699, abs=1e-3)


def test_a_start_finds_data_that_the_prior_knows_nothing_of():
    """Locations from N(0, 1000) for clusters of width 1 about 100, 106 and 112; rates whose prior says thousands."""
    g = torch.Generator().manual_seed(0)
    x = torch.cat([c + torch.randn(40, generator=g, dtype=torch.float64) for c in (100.0, 106.0, 112.0)])

    def far(x):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(3)))
        rate = pyro.param("slope", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("components", 3):
            loc = pyro.sample("loc", dist.Normal(0.0, 1000.0))
        mixture(x, weights, loc, rate)

    for seed in range(2):
        fit = zoo.fit(far, x, estimator="auto_em", seed=seed, restarts=1)
        assert not fit.degenerate
        assert sorted(fit.model.point("loc").tolist()) == pytest.approx([100.0, 106.0, 112.0], abs=0.5)


def test_a_start_comes_from_the_seed_and_leaves_other_parameters():
    def program(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
        loc = pyro.param("loc", torch.tensor([1.0, 7.0]))
        mixture(x, weights, loc, 1.0)

    x = torch.linspace(0.0, 3.0, 12, dtype=torch.float64)  # nearly one cluster: a few steps of EM do not decide
    first, again, other = (
        zoo.fit(program, x, estimator="auto_em", seed=s, max_iter=0, restarts=1).model for s in (0, 0, 1)
    )
    assert torch.equal(first.point("weights"), again.point("weights"))
    assert not torch.equal(first.point("weights"), other.point("weights"))
    assert first.get_parameter("param/loc").tolist() == [1.0, 7.0]
    by_gradient = zoo.fit(program, x, estimator="eg", seed=0, max_epochs=1, learning_rate=1e-9, restarts=1).model
    assert torch.allclose(by_gradient.point("weights"), first.point("weights"), atol=1e-6)


def test_a_fitted_program_goes_on_from_where_it_is():
    fit = zoo.fit(published, X, estimator="auto_em", seed=1, restarts=1)
    more = zoo.fit(fit.model, X, estimator="auto_em", seed=7, restarts=1, max_iter=1)
    assert more.history["objective"][0] == pytest.approx(fit.history["objective"][-1], abs=1e-6)


def test_explain_and_notes_say_which_prior_and_how_far_off_the_edge():
    text = str(zoo.explain(published, X))
    assert "weights" in text
    assert "kept 1e-06 of the support off the edge" in text
    assert "LogNormal" in text
    series = torch.randn(2, 10, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fit = zoo.fit(zoo.GaussianHMM(2, 1, prior_strength=1.0), series, estimator="em", max_iter=3)
    assert any("conjugate prior (concentration=1.0, prior_strength=1.0)" in note for note in fit.notes)
    plain = zoo.fit(zoo.GaussianHMM(2, 1), series, estimator="em", max_iter=3)
    assert not any("prior" in note for note in plain.notes)


# --- tables made of several parameters --------------------------------------------------------------------------------

APART = torch.tensor([1.0, 2, 0, 3, 1, 18, 22, 20, 25], dtype=torch.float64)


def rates_program(make: Any) -> Any:
    def program(x: Tensor) -> None:
        rates = make()
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", dist.Poisson(rates[z]), obs=x)

    return program


def test_data_of_a_table_made_of_two_parameters_count_once_beside_their_priors() -> None:
    """The two rates drawn apart and stacked are those drawn as one vector; by hand (19 + 7) / (20 + 5) = 1.04."""

    @rates_program
    def stacked() -> Tensor:
        return torch.stack([pyro.sample("a", dist.Gamma(20.0, 20.0)), pyro.sample("b", dist.Gamma(20.0, 2.0))])

    @rates_program
    def together() -> Tensor:
        return pyro.sample("r", dist.Gamma(torch.tensor([20.0, 20.0]), torch.tensor([20.0, 2.0])).to_event(1))

    apart, one = (zoo.fit(program, APART, estimator="auto_em", init="current") for program in (stacked, together))
    found = [float(apart.parameters[name]) for name in "ab"]
    assert found == pytest.approx(one.parameters["r"].tolist(), rel=1e-6)
    assert found[0] == pytest.approx(1.04, rel=1e-4)


def test_a_table_with_one_entry_that_climbs_climbs_as_a_whole() -> None:
    @rates_program
    def mixed() -> Tensor:
        return torch.stack([pyro.sample("a", dist.Gamma(20.0, 20.0)), pyro.sample("b", dist.LogNormal(2.0, 0.1))])

    assert "makes a table with b, which is updated numerically" in str(zoo.explain(mixed, APART))
    ours, gradient = (zoo.fit(mixed, APART, estimator=name) for name in ("auto_em", "eg"))
    for name in "ab":
        assert float(ours.parameters[name]) == pytest.approx(float(gradient.parameters[name]), rel=1e-3)
    assert 10 < float(ours.parameters["b"]) < 12  # the prior holds it back: the data alone have 21.25
