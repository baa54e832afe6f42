"""What every model of the zoo promises. Models are discovered; each is tried on its own ``tiny()``."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import itertools
import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor
from torch.distributions.kl import kl_divergence

import zoo
from zoo.core import program, weighing
from zoo.core.contract import LatentVariableModel, lacks, prepared
from zoo.core.data import call, map_tensors, num_data, take
from zoo.core.problem import Problem
from zoo.estimators import estimator_classes
from zoo.models import model_classes
from zoo.models.shared.hidden_markov import HiddenMarkov
from zoo.models.shared.mixture import Mixture
from zoo.runs.prepare import serving

ROOT = Path(__file__).parents[1]
SMALL = {"max_iter": 3, "max_epochs": 3, "warmup": 2, "num_samples": 20, "num_warmup": 20, "num_chains": 1}

every_model = pytest.mark.parametrize("name", sorted(model_classes()))
every_estimator = pytest.mark.parametrize("estimator", sorted(estimator_classes()))


def instance(name: str) -> tuple[Any, Any]:
    """A model's ``tiny()`` in float64, and its data as ``fit`` would hand them over."""
    module = importlib.import_module(model_classes()[name].__module__)
    model, x = module.tiny()
    model = model.double()
    return model, map_tensors(lambda t: t.double() if t.is_floating_point() else t, prepared(model, x))


def discrete(model: LatentVariableModel, x: Any) -> None:
    """Skip unless the model's latents can be summed over, value by value."""
    sites = program.latent_sites(model, x)
    if not sites:
        pytest.skip("the program sums its latents itself; its own test holds it to an oracle")
    if not all(site.discrete for site in sites):
        pytest.skip("a continuous latent: the model's own test holds it to a closed form")


def needs(model: LatentVariableModel, *methods: str) -> None:
    missing = [m for m in methods if lacks(model, m) is not None]
    if missing:
        pytest.skip(f"{type(model).__name__} offers no {missing[0]}")


def theta(model: LatentVariableModel, x: Any) -> list[Tensor]:
    return [model.get_parameter(name) for name in program.look(model, x).theta]


def options_of(estimator: str) -> dict[str, Any]:
    """Small settings for whichever of these options the estimator has."""
    own = {f.name for f in dataclasses.fields(estimator_classes()[estimator])}
    return {k: v for k, v in SMALL.items() if k in own}


def leaves(statistics: zoo.Statistics) -> dict[str, Tensor]:
    """Every tensor inside a set of statistics, by a dotted name."""
    found: dict[str, Tensor] = {}
    for name, value in statistics.items():
        if dataclasses.is_dataclass(value):
            found |= {f"{name}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)}
        else:
            found[name] = torch.as_tensor(value, dtype=torch.float64)
    return found


def assert_statistics_equal(a: zoo.Statistics, b: zoo.Statistics, tolerance: float = 1e-9) -> None:
    ours, theirs = leaves(a), leaves(b)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.allclose(value, theirs[name], rtol=tolerance, atol=tolerance), (name, value, theirs[name])


def same(a: LatentVariableModel, b: LatentVariableModel) -> bool:
    """Whether two models hold bit-for-bit the same tensors."""
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def world() -> tuple[Any, ...]:
    """Everything of the caller's that a fit may not touch."""
    numpys: Any = np.random.get_state()  # noqa: NPY002 - the generator that users share
    return (
        torch.get_rng_state().tolist(),
        numpys[1].tolist(),
        numpys[2],
        random.getstate(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.distributions.Distribution._validate_args,
        pyro.settings.get("module_local_params"),
        pyro.settings.get("validate_distributions_pyro"),
        sorted(pyro.get_param_store().keys()),
    )


@every_model
def test_a_model_comes_with_tiny_a_test_and_an_example(name: str) -> None:
    cls = model_classes()[name]
    model, x = sys.modules[cls.__module__].tiny()
    assert type(model) is cls
    assert num_data(x) >= 1
    assert (ROOT / "tests" / f"test_{name}.py").is_file(), f"write tests/test_{name}.py"
    assert (ROOT / "examples" / f"{name}.py").is_file(), f"write examples/{name}.py"
    assert cls.reference, "say where the model is described"
    assert getattr(zoo, cls.__name__) is cls


@every_model
def test_shapes(name: str) -> None:
    model, x = instance(name)
    rows = num_data(x)
    if lacks(model, "log_marginal") is None:
        value = call(model.log_marginal, x)
        assert value.shape == (rows,)
        assert value.isfinite().all()
    if lacks(model, "posterior") is None:
        assert call(model.posterior, x).batch_shape[:1] == (rows,)
    if model.has_guide:
        assert weighing.log_weights(model, x, 3).shape in ((3, rows), (3, 1))


@every_model
def test_evidence_is_the_sum_over_all_assignments(name: str) -> None:
    model, x = instance(name)
    discrete(model, x)
    with torch.no_grad():
        brute = oracles.log_evidence(model.model, x)
        elbo = TraceEnum_ELBO(strict_enumeration_warning=False)
        enumerated = -call(partial(elbo.loss, config_enumerate(model.model), lambda *a, **k: None), x)
        assert enumerated == pytest.approx(float(brute.sum()), abs=1e-9)
        if lacks(model, "log_marginal") is None:
            torch.testing.assert_close(call(model.log_marginal, x), brute, rtol=0, atol=1e-9)


@every_model
def test_posterior_is_the_brute_force_posterior(name: str) -> None:
    model, x = instance(name)
    discrete(model, x)
    needs(model, "posterior")
    exact = call(model.posterior, x)
    sites = program.latent_sites(model, x)
    if len(sites) != 1 or not isinstance(exact, dist.Categorical) or exact.probs.dim() != 2:
        pytest.skip("more than one latent a datum: the model's own test checks its marginals")
    for n, shares in enumerate(oracles.posterior(model.model, x)):
        brute = torch.tensor([share for _, share in shares], dtype=torch.float64)
        torch.testing.assert_close(exact.probs[n].detach(), brute, rtol=0, atol=1e-9)


@every_model
def test_expected_gradient_identity(name: str) -> None:
    """∇ ln p(x) = E_{p(z|x)} ∇ ln p(x, z): the exact E step is a gradient."""
    model, x = instance(name)
    discrete(model, x)
    needs(model, "log_marginal")
    parameters = theta(model, x)
    assert parameters
    direct = torch.autograd.grad(call(model.log_marginal, x).sum(), parameters, allow_unused=True)
    expected = oracles.fisher_gradient(model.model, x, parameters)
    assert any(g.abs().max() > 1e-3 for g in expected), "a vanishing gradient would compare equal to anything"
    for ours, theirs in zip(direct, expected, strict=True):
        torch.testing.assert_close(torch.zeros_like(theirs) if ours is None else ours, theirs, rtol=1e-9, atol=1e-9)


@every_model
def test_expected_counts_are_sums_of_brute_force_posteriors(name: str) -> None:
    model, x = instance(name)
    if not isinstance(model, Mixture):
        pytest.skip("not a mixture: the model's own test checks its statistics")
    brute = torch.zeros(model.num_components, dtype=torch.float64)
    for shares in oracles.posterior(model.model, x):
        for z, share in shares:
            brute[int(next(iter(z.values())))] += share
    torch.testing.assert_close(call(model.e_step, x)["counts"], brute, rtol=0, atol=1e-9)


def perturbed(model: Any, size: float = 0.3) -> Any:
    """A copy with every parameter moved, so that nothing sits at an optimum."""
    moved = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in moved.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return moved


@every_model
def test_an_em_step_climbs(name: str) -> None:
    model, x = instance(name)
    needs(model, "e_step", "m_step", "log_marginal")
    model = perturbed(model)
    reached = []
    for _ in range(4):
        statistics = call(model.e_step, x)
        total = float(call(model.log_marginal, x).sum().detach())
        assert float(statistics["log_likelihood"]) == pytest.approx(total, abs=1e-9 * max(1.0, abs(total)))
        reached.append(float(statistics["log_likelihood"] + model.log_prior().detach()))
        model.m_step(statistics)
    assert reached[1] > reached[0] + 1e-6
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(reached))


@every_model
def test_the_gradient_vanishes_where_em_stops(name: str) -> None:
    """EM's fixed points are the stationary points of ln p(x), so both M steps agree on what they solve."""
    model, x = instance(name)
    needs(model, "e_step", "m_step", "log_marginal")
    # On many sentences a grammar's EM takes thousands of steps; on its few its prior keeps every rule in use.
    own = lacks(model, "parse") is None
    if not own and (isinstance(x, Tensor) or lacks(model, "sample_like") is None):
        x = zoo.fit(model, x, estimator="em", init="current", max_iter=1).sample(200, seed=1)
        x = prepared(model, model.validate(x))
    fit = zoo.fit(model, x, estimator="em", init="current", accelerate="squarem", tol=1e-15, max_iter=3000)
    if fit.degenerate:
        pytest.skip("a constraint acts at this optimum, where the gradient need not vanish")
    assert fit.status in ("converged", "stalled")
    free = theta(fit.model, x)
    objective = call(fit.model.log_marginal, x).sum() + fit.model.log_prior()
    for grad in torch.autograd.grad(objective, free, allow_unused=True):
        assert grad is None or float(grad.abs().max()) < 1e-6 * num_data(x)


def one_site(model: LatentVariableModel, x: Any) -> str:
    """The only latent site's name; skips where there are more."""
    sites = program.latent_sites(model, x)
    if len(sites) != 1 or not sites[0].local:
        pytest.skip("not one latent a datum: the model's own test checks its bound")
    return sites[0].name


@every_model
def test_with_the_exact_posterior_every_draw_gives_the_evidence(name: str) -> None:
    model, x = instance(name)
    needs(model, "log_marginal", "posterior")
    site = one_site(model, x)
    exact = call(model.posterior, x)
    if exact.batch_shape != (num_data(x),):
        pytest.skip("the posterior is not one distribution a datum")

    def guide(*args: Any, **kwargs: Any) -> None:
        with pyro.plate("data", num_data(x)):
            pyro.sample(site, exact)

    evidence = float(call(model.log_marginal, x).sum().detach())
    for seed in range(5):
        pyro.set_rng_seed(seed)
        loss = call(partial(Trace_ELBO().loss, model.model, guide), x)
        assert -loss == pytest.approx(evidence, abs=1e-9 * max(1.0, abs(evidence)))


@every_model
def test_the_two_forms_of_the_objective_agree(name: str) -> None:
    """E_q ln p(x, z) + H(q) = ln p(x) - KL(q || p(z | x)), at the untrained guide, without sampling."""
    model, x = instance(name)
    needs(model, "log_marginal", "posterior")
    if not model.has_guide:
        pytest.skip("no guide")
    site = one_site(model, x)
    with torch.no_grad():
        q: Any = pyro.poutine.trace(lambda: call(model.guide, x)).get_trace().nodes[site]["fn"]
        exact = call(model.posterior, x)
        if q.has_enumerate_support:
            energy = torch.zeros(num_data(x), dtype=torch.float64)
            for n in range(num_data(x)):
                datum = oracles.row(x, n)
                for z in oracles.assignments(model.model, datum):
                    share = q.probs[n, int(z[site])]
                    energy[n] += share * oracles.joint(model.model, datum, z)
            energy = energy.sum()
        elif isinstance(exact, dist.MultivariateNormal):
            energy = oracles.quadratic_expectation(
                lambda z: oracles.joint(model.model, x, {site: z}), q.mean, q.covariance_matrix
            )
        else:
            pytest.skip("no exact expectation under this guide")
        first = energy + q.entropy().sum()
        second = call(model.log_marginal, x).sum() - kl_divergence(q, exact).sum()
    assert float(first) == pytest.approx(float(second), rel=1e-9)
    assert float(kl_divergence(q, exact).sum()) > 1e-6, "at a tight guide both forms are trivially equal"


@every_model
def test_an_exact_sum_tells_the_parameters_of_the_program(name: str) -> None:
    model, x = instance(name)
    if lacks(model, "log_marginal") is None:
        assert Problem(model, x).theta == program.look(model, x).theta


@every_model
def test_statistics_of_halves_add_to_the_whole(name: str) -> None:
    model, x = instance(name)
    needs(model, "e_step")
    half = num_data(x) // 2
    first, second = (call(model.e_step, take(x, part)) for part in (slice(None, half), slice(half, None)))
    assert_statistics_equal(first + second, call(model.e_step, x))
    assert_statistics_equal((first + second) * 0.5, call(model.e_step, x) * 0.5)


@every_model
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_statistics_add_in_any_order(name: str, data: st.DataObject) -> None:
    model, x = instance(name)
    needs(model, "e_step")
    rows = num_data(x)
    if rows < 3:
        pytest.skip("fewer than three data")
    order = data.draw(st.permutations(range(rows)))
    a, b = sorted(data.draw(st.lists(st.integers(1, rows - 1), min_size=2, max_size=2, unique=True)))
    pieces = [call(model.e_step, take(x, torch.tensor(part))) for part in (order[:a], order[a:b], order[b:])]
    i, j, k = data.draw(st.permutations(range(3)))
    whole = call(model.e_step, x)
    assert_statistics_equal((pieces[i] + pieces[j]) + pieces[k], whole)
    assert_statistics_equal(pieces[i] + (pieces[j] + pieces[k]), whole)


@every_model
def test_hard_counts_are_whole_numbers(name: str) -> None:
    model, x = instance(name)
    needs(model, "e_step")
    try:
        statistics = call(partial(model.e_step, hard=True), x)
    except TypeError:
        pytest.skip("no hard E step")
    found = leaves(statistics)
    # An inner latent (an emission that is itself a mixture) is summed out, not chosen: its counts have another shape.
    inner = found["counts"].shape if "counts" in found else None
    counts = {n: v for n, v in found.items() if "count" in n and inner in (None, v.shape)}
    counts |= {n: v for n, v in found.items() if n in ("starts", "steps")}
    assert counts
    for value in counts.values():
        torch.testing.assert_close(value, value.round(), rtol=0, atol=0)
    assert float(statistics["objective"]) <= float(statistics["log_likelihood"]) + 1e-12


@every_model
def test_data_stand_alone(name: str) -> None:
    """A batch scores as its rows do one by one, stacked twice as each twice, in any order."""
    model, x = instance(name)
    needs(model, "log_marginal")
    rows = num_data(x)
    with torch.no_grad():
        whole = call(model.log_marginal, x)
        alone = torch.cat([call(model.log_marginal, oracles.row(x, n)) for n in range(rows)])
        order = torch.randperm(rows).repeat(2)
        shuffled = call(model.log_marginal, take(x, order))
    torch.testing.assert_close(alone, whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(shuffled, whole[order], rtol=0, atol=1e-10)


@every_model
def test_a_dead_component_takes_no_part(name: str) -> None:
    model, x = instance(name)
    if not isinstance(model, Mixture):
        pytest.skip("not a mixture")
    model.weights = torch.eye(model.num_components)[0]
    value = model.log_marginal(x)
    torch.testing.assert_close(value, model.component_log_prob(x)[:, 0], rtol=0, atol=1e-12)
    grads = torch.autograd.grad(value.sum(), theta(model, x), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in grads)
    statistics = call(model.e_step, x)
    model.m_step(statistics)
    assert not any(v.isnan().any() for v in model.state_dict().values())
    torch.testing.assert_close(model.log_marginal(x).isnan(), torch.zeros(num_data(x), dtype=torch.bool))


@every_model
def test_one_datum_and_one_component(name: str) -> None:
    model, x = instance(name)
    single = oracles.row(x, 0)
    sizes = {k: 1 for k in ("num_components", "num_states") if k in model.config}
    if sizes and isinstance(model, Mixture):
        one = type(model)(**{**model.config, **sizes})
        torch.testing.assert_close(one.log_marginal(x), one.component_log_prob(x)[:, 0], rtol=0, atol=1e-12)
        fit = zoo.fit(one, single, estimator="em", max_iter=5)
        assert fit.log_likelihood is not None
        assert np.isfinite(fit.log_likelihood)
    if sizes and isinstance(model, HiddenMarkov):
        lone = type(model)(**{**model.config, **sizes})
        steps = [lone.component_log_prob(s[:n]).sum() for s, n in zip(x["x"], x["lengths"].tolist(), strict=True)]
        torch.testing.assert_close(call(lone.log_marginal, x), torch.stack(steps), rtol=0, atol=1e-12)
    if lacks(model, "log_marginal") is None:
        assert call(model.log_marginal, single).shape == (1,)


def quick(name: str, x: Any, model: Any, **options: Any) -> zoo.Fit:
    """A short fit by the first estimator that serves, one with a guide where there is one."""
    able = serving(Problem(model, x))
    chosen = next(e for e in ("svi", "iwae", "eg", "em", *able) if e in able)
    return zoo.fit(model, x, estimator=chosen, **{**options_of(chosen), **options})


@every_model
def test_save_and_load(name: str, tmp_path: Path) -> None:
    model, x = instance(name)
    fit = quick(name, x, model)
    fit.save(tmp_path / "a")
    files = list((tmp_path / "a").rglob("*"))
    assert files
    assert not [f for f in files if f.read_bytes()[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")]
    again = zoo.load(tmp_path / "a")
    assert same(fit.model, again.model)
    assert again.history == fit.history
    assert (again.log_likelihood, again.elbo, again.status) == (fit.log_likelihood, fit.elbo, fit.status)
    if lacks(model, "log_marginal") is None:
        assert torch.equal(call(again.model.log_marginal, x), call(fit.model.log_marginal, x))


@every_model
def test_a_deep_copy_is_equal_and_apart(name: str) -> None:
    model, x = instance(name)
    if lacks(model, "log_marginal") is None:
        call(model.log_marginal, x).sum().backward()
    twin = copy.deepcopy(model)
    assert same(model, twin)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for p in twin.parameters():
            p += 1
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@every_model
def test_constructing_leaves_random_numbers_alone(name: str) -> None:
    model, _ = instance(name)
    before = world()
    twins = [type(model)(**model.config) for _ in range(2)]
    assert world() == before
    assert same(*twins)


@every_model
def test_running_a_program_leaves_the_store_empty(name: str) -> None:
    model, x = instance(name)
    call(model.model, x)
    if model.has_guide:
        call(model.guide, x)
    assert not list(pyro.get_param_store().keys())


#: NumPyro's programs are compiled for half a minute each; test_nuts.py runs some, test_bayes.py compares each joint.
SLOW_FITS = {(name, "nuts") for name in ("factor_analysis", "gaussian_hmm", "gaussian_mixture", "poisson_hmm")}


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        pytest.param(name, estimator, marks=[pytest.mark.slow] * ((name, estimator) in SLOW_FITS))
        for name in sorted(model_classes())
        for estimator in sorted(estimator_classes())
    ],
)
def test_every_estimator_fits_or_says_why_not(name: str, estimator: str) -> None:
    model, x = instance(name)
    kept, data = copy.deepcopy(model), copy.deepcopy(x)
    able = serving(Problem(model, x))
    before = world()
    if estimator not in able:
        with pytest.raises(zoo.ZooError, match=f"{estimator} cannot fit this model: ") as caught:
            zoo.fit(model, x, estimator=estimator)
        assert all(other in str(caught.value) for other in able)
    else:
        fit = zoo.fit(model, x, estimator=estimator, **options_of(estimator))
        assert fit.status in ("converged", "stalled", "max_iter")
        scores = [s for s in (fit.log_likelihood, fit.elbo) if s is not None]
        if not model.normalized:  # what is climbed is no likelihood, nor a bound on one
            scores += [fit.history["objective"][-1]]
        assert scores
        assert all(np.isfinite(s) for s in scores)
        assert not same(fit.model, model), "nothing was fitted"
    assert world() == before
    assert same(model, kept)
    torch.testing.assert_close(x, data, rtol=0, atol=0)


@every_model
def test_compare_leaves_nothing_behind(name: str) -> None:
    model, x = instance(name)
    kept, serve = copy.deepcopy(model), serving(Problem(model, x))
    able = [e for e in serve if e in ("em", "eg", "svi", "iwae")][:2] or serve[:1]
    before = world()
    comparison = zoo.compare(
        model, x, estimators=able, gradients=False, options={e: options_of(e) for e in able}, seeds=2
    )
    assert world() == before
    assert same(model, kept)
    assert [(fit.estimator, fit.seed) for fit in comparison.fits] == [(e, seed) for e in able for seed in (0, 1)]
    assert all(row["num_data"] == num_data(x) for row in comparison.rows if "num_data" in row)


@every_model
def test_evaluate_leaves_nothing_behind(name: str) -> None:
    model, x = instance(name)
    before = world()
    result = zoo.evaluate(model, x, num_samples=30)
    assert world() == before
    if result.log_likelihood is not None and result.elbo is not None:
        assert result.elbo <= result.log_likelihood + 5 * (result.elbo_se or 0.0) + 1e-9


@every_model
def test_a_seed_reproduces_bit_for_bit(name: str) -> None:
    model, x = instance(name)
    first, second, other = (quick(name, x, model, seed=seed) for seed in (3, 3, 4))
    assert same(first.model, second.model)
    assert first.history["objective"] == second.history["objective"]
    assert same(first.model, other.model) is (first.estimator == "closed_form")  # which draws nothing


@every_model
def test_a_fit_inside_another_fits_callback_changes_neither(name: str) -> None:
    model, x = instance(name)
    outer_alone, inner_alone = quick(name, x, model, seed=1), quick(name, x, model, seed=2)
    inner: list[zoo.Fit] = []

    def callback(row: dict[str, Any], fraction: float | None) -> None:
        if not inner:
            inner.append(quick(name, x, model, seed=2))

    outer = quick(name, x, model, seed=1, progress=callback)
    assert inner
    assert same(outer.model, outer_alone.model)
    assert same(inner[0].model, inner_alone.model)
    assert outer.history["objective"] == outer_alone.history["objective"]
    assert inner[0].history["objective"] == inner_alone.history["objective"]


@every_model
def test_the_users_own_parameters_are_neither_seen_nor_touched(name: str) -> None:
    model, x = instance(name)
    alone = quick(name, x, model)
    with pyro.get_param_store().scope():
        names = [n.removesuffix("_unconstrained") for n, _ in model.named_parameters()]
        for n in [*names, *(f"encoder.{n}" for n in names), "mine"]:
            pyro.param(n, torch.tensor([1.5, -2.5]))
        before = {n: v.clone() for n, v in pyro.get_param_store().items()}
        among = quick(name, x, model)
        after = dict(pyro.get_param_store().items())
        assert before.keys() == after.keys()
        assert all(torch.equal(before[n], after[n]) for n in before)
    assert same(alone.model, among.model)


BAD_VALUES: list[tuple[str, Callable[[Tensor], Any], str]] = [
    ("shape", lambda t: torch.zeros(*t.shape, 2), r"expected shape"),
    ("nan", lambda t: torch.full_like(t, torch.nan), r"expected values in"),
    ("kind", lambda t: "0.5", r"expected a tensor or an array, got str"),
]


@pytest.mark.parametrize(("bad", "match"), [(b, m) for _, b, m in BAD_VALUES], ids=[i for i, _, _ in BAD_VALUES])
@every_model
def test_bad_parameter_values_are_refused(name: str, bad: Callable[[Tensor], Any], match: str) -> None:
    model, _ = instance(name)
    names = list(model.__dict__["_pyro_params"])
    if not names:
        pytest.skip("its parameters are networks")
    for parameter in names:
        with pytest.raises(zoo.ZooError, match=match):
            setattr(model, parameter, bad(getattr(model, parameter).detach()))


@every_model
def test_weights_must_sum_to_one(name: str) -> None:
    model, _ = instance(name)
    if "weights" not in model.__dict__["_pyro_params"]:
        pytest.skip("no mixture weights")
    kept = model.weights.detach().clone()
    for bad in (torch.full_like(kept, 2.0), -kept):
        with pytest.raises(zoo.ZooError, match="weights expected values in the support"):
            model.weights = bad
    torch.testing.assert_close(model.weights, kept, rtol=0, atol=0)
    model.weights = kept.flip(0).numpy()
    torch.testing.assert_close(model.weights, kept.flip(0), rtol=0, atol=1e-15)
