"""The guide that a program gets where it brings none: tables, shaped as its latents hang together."""

from __future__ import annotations

import contextlib
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
from torch.distributions import constraints

import zoo
from guides import FiniteSupport
from tests import oracles
from zoo.core.functions import as_model
from zoo.core.problem import Problem
from zoo.core.weighing import log_weights
from zoo.errors import ZooError
from zoo.runs.prepare import first_run
from zoo.scores.bounds import bound

BITS = torch.tensor([[0, 1, 1], [1, 1, 0]], dtype=torch.float64)
STEP = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
PROBS = torch.tensor([[0.2, 0.8], [0.4, 0.9]], dtype=torch.float64)


def two_causes(x):
    """Two latents in one plate, coupled by what both explain."""
    p = pyro.param("p", PROBS, constraint=constraints.unit_interval)
    with pyro.plate("rows", len(x)):
        a = pyro.sample("a", dist.Categorical(torch.ones(2) / 2))
        b = pyro.sample("b", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample("y", dist.Bernoulli(p[a, b]), obs=x[:, 0])


def chain(x):
    p = pyro.param("p", PROBS[0], constraint=constraints.unit_interval)
    z = torch.tensor(0)
    with pyro.plate("data", len(x)):
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z{t}", dist.Categorical(STEP[z]))
            pyro.sample(f"y{t}", dist.Bernoulli(p[z]), obs=x[:, t])


def ragged_chain(x, lengths):
    p = pyro.param("p", PROBS[0], constraint=constraints.unit_interval)
    z = torch.tensor(0)
    with pyro.plate("data", len(x)):
        for t in pyro.markov(range(x.shape[1])):
            with poutine.mask(mask=lengths > t):
                z = pyro.sample(f"z{t}", dist.Categorical(STEP[z]))
                pyro.sample(f"y{t}", dist.Bernoulli(p[z]), obs=x[:, t])


def second_order(x):
    """Each state hangs on the two before it."""
    step = torch.tensor([[[0.8, 0.2], [0.4, 0.6]], [[0.5, 0.5], [0.1, 0.9]]])
    p = pyro.param("p", PROBS[0], constraint=constraints.unit_interval)
    older = old = torch.tensor(0)
    with pyro.plate("data", len(x)):
        for t in pyro.markov(range(x.shape[1]), history=2):
            older, old = old, pyro.sample(f"z{t}", dist.Categorical(step[older, old]))
            pyro.sample(f"y{t}", dist.Bernoulli(p[old]), obs=x[:, t])


def two_chains(x):
    """A factorial hidden Markov model: given the data, neither chain is a chain."""
    p = pyro.param("p", PROBS, constraint=constraints.unit_interval)
    a = b = torch.tensor(0)
    with pyro.plate("data", len(x)):
        for t in pyro.markov(range(2)):
            a = pyro.sample(f"a{t}", dist.Categorical(STEP[a]))
            b = pyro.sample(f"b{t}", dist.Categorical(STEP[b]))
            pyro.sample(f"y{t}", dist.Bernoulli(p[a, b]), obs=x[:, t])


def nested(x):
    """A binary latent a row, a one-hot one a cell."""
    loc = pyro.param("loc", torch.tensor([[-1.0, 1.0], [0.0, 3.0]]))
    with pyro.plate("rows", len(x), dim=-2):
        a = pyro.sample("a", dist.Bernoulli(0.4))
        with pyro.plate("cells", 2, dim=-1):
            b = pyro.sample("b", dist.OneHotCategorical(torch.tensor([0.3, 0.7])))
            pyro.sample("y", dist.Normal((loc[a.long()] * b).sum(-1), 1.0), obs=x[:, :2])


def shared(x):
    """A latent of all data above latents of one datum each, a count with four values among them."""
    loc = pyro.param("loc", torch.tensor([[-1.0, 1.0], [0.0, 3.0]]))
    g = pyro.sample("g", dist.Categorical(torch.tensor([0.3, 0.7])))
    with pyro.plate("rows", len(x)):
        n = pyro.sample("n", dist.Binomial(3, 0.3))
        b = pyro.sample("b", dist.Categorical(STEP[g]))
        pyro.sample("y", dist.Normal(loc[g, b] + n, 1.0), obs=x[:, 0])


def sequential(x):
    """Plates that are loops."""
    p = pyro.param("p", PROBS[0], constraint=constraints.unit_interval)
    for i in pyro.plate("rows", len(x)):
        z = pyro.sample(f"z{i}", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample(f"y{i}", dist.Bernoulli(p[z].unsqueeze(-1).expand(*z.shape, 3)).to_event(1), obs=x[i])


def repeated(x):
    """Everything counts twice."""
    with poutine.scale(scale=2.0):
        chain(x)


def masked_latent(x):
    """A latent whose distribution carries the mask."""
    p = pyro.param("p", PROBS[0], constraint=constraints.unit_interval)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])).mask(x[:, 0] > 0))
        with poutine.mask(mask=x[:, 0] > 0):
            pyro.sample("y", dist.Bernoulli(p[z]), obs=x[:, 1])


def with_priors(x):
    w = pyro.sample("w", dist.Dirichlet(2 * torch.ones(2)))
    with pyro.plate("k", 2):
        loc = pyro.sample("loc", dist.Normal(torch.tensor([0.0, 2.0]), 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x[:, 0])


LENGTHS = torch.tensor([3, 1])
PROGRAMS: dict[str, tuple[Any, Any, dict[str, list[str]]]] = {
    "two_causes": (two_causes, BITS, {"a": [], "b": ["a"]}),
    "chain": (chain, BITS, {"z0": [], "z1": ["z0"], "z2": ["z1"]}),
    "ragged_chain": (ragged_chain, (BITS, LENGTHS), {"z0": [], "z1": ["z0"], "z2": ["z1"]}),
    "second_order": (second_order, BITS, {"z0": [], "z1": ["z0"], "z2": ["z0", "z1"]}),
    "two_chains": (
        two_chains,
        BITS[:1],
        {"a0": [], "b0": ["a0"], "a1": ["a0", "b0"], "b1": ["b0", "a1"]},
    ),
    "nested": (nested, BITS, {"a": [], "b": ["a"]}),
    "shared": (shared, BITS[:1], {"g": [], "n": ["g"], "b": ["g", "n"]}),
    "sequential": (sequential, BITS, {"z0": [], "z1": []}),
    "repeated": (repeated, BITS, {"z0": [], "z1": ["z0"], "z2": ["z1"]}),
    "masked_latent": (masked_latent, BITS, {"z": []}),
}


def arguments(x):
    return x if isinstance(x, tuple) else (x,)


def fitted(program, x):
    """The program as a model with its default guide, untrained."""
    model = as_model(program)
    with torch.random.fork_rng(devices=[]):
        first_run(model, x, wants_guide=True)
    return model


def weighted(model, x):
    """Every joint value of the latents of all data together, with its ln p(x, z)."""
    every = oracles.assignments(model.model, x)
    return every, torch.stack([oracles.joint(model.model, x, one) for one in every]).detach()


def set_to_posterior(model, x):
    """Give every table the posterior's conditionals, by counting through all joint values."""
    every, log_joint = weighted(model, x)
    weights = (log_joint - log_joint.logsumexp(0)).exp()
    trace: Any = poutine.trace(model.guide).get_trace(*arguments(x))
    guide = model._kept.value[1]
    for name, parents in guide.parents.items():
        table = model.get_parameter(f"param/{name}/q_logits")
        binary = isinstance(trace.nodes[name]["fn"], dist.Bernoulli)
        counts = torch.zeros(*table.shape[:-1], len(guide.supports[name]))
        shape = table.shape[len(parents) : -1]
        for one, weight in zip(every, weights, strict=True):
            places = [torch.broadcast_to(position(guide.supports[n], one[n]), shape) for n in (*parents, name)]
            for index in itertools.product(*map(range, shape)):
                *above, k = (int(place[index]) for place in places)
                counts[(*above, *index, k)] += weight
        logits = (counts + 1e-300).log()
        with torch.no_grad():
            table.copy_(logits[..., 1:] - logits[..., :1] if binary else logits)
    return float(log_joint.logsumexp(0))


def position(support, value):
    """Which value of its support a site has, of the shape of its plates."""
    one_hot = support.dim() > 1 and support.shape[-1] > 1
    values = support.reshape(len(support), -1) if one_hot else support.flatten()
    same = value.unsqueeze(-2 if one_hot else -1) == values
    return (same.all(-1) if one_hot else same).long().argmax(-1)


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_tables_hang_on_what_the_posterior_needs(name):
    program, x, parents = PROGRAMS[name]
    model = fitted(program, x)
    assert model.guide_record() == parents


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_tables_can_hold_the_exact_posterior(name):
    """With the posterior's conditionals by brute force in them the bound is ln p(x) by brute force; as they start, with
    uniform rows, it is the bound of the uniform q, by brute force too."""
    program, x, _ = PROGRAMS[name]
    model = fitted(program, x)
    every, log_joint = weighted(model, x)
    count = 2.0 if name == "repeated" else 1.0  # q counts as often as the data
    twice = math.log(2) if name == "masked_latent" else 0.0  # the oracle counts values behind a distribution's mask
    uniform = float(log_joint.mean()) + count * (math.log(len(every)) - twice)
    assert bound(Problem(model, x))[0] == pytest.approx(uniform, abs=1e-10)
    if name == "repeated":
        return
    truth = set_to_posterior(model, x) - twice
    assert bound(Problem(model, x))[0] == pytest.approx(truth, abs=1e-9)
    weights = log_weights(model, x, 5).sum(-1)
    assert torch.allclose(weights, torch.full_like(weights, truth), atol=1e-9)


# --- programs of any shape ---


@st.composite
def shapes(draw):
    """Latents in no plate, in a plate of rows, or in cells inside of it, each on some of those before it that it may
    hang on; what is observed hangs on several of them."""
    latents: list[tuple[int, int, list[int]]] = []
    for i, level in enumerate(sorted(draw(st.lists(st.integers(0, 2), min_size=1, max_size=3)))):
        size = draw(st.integers(2, 3 if i == 0 else 2))
        above = [j for j, (other, _, _) in enumerate(latents) if other <= level]
        latents.append((level, size, draw(st.lists(st.sampled_from(above), unique=True)) if above else []))
    seen = draw(st.lists(st.sampled_from(range(len(latents))), unique=True, min_size=1))
    return latents, sorted(seen), draw(st.sampled_from([(1, 2), (2, 1)])), draw(st.integers(0, 99))


def program_of(shape):
    latents, seen, (rows_size, cells_size), seed = shape
    generator = torch.Generator().manual_seed(seed)
    tables = [
        torch.randn(*(latents[j][1] for j in above), size, generator=generator, dtype=torch.float64)
        for _, size, above in latents
    ]
    start = torch.randn([latents[j][1] for j in seen], generator=generator, dtype=torch.float64)

    def program(x):
        loc = pyro.param("loc", start)
        rows, cells = pyro.plate("rows", rows_size, dim=-2), pyro.plate("cells", cells_size, dim=-1)
        plates = [[], [rows], [rows, cells]]
        values = []
        for i, (level, _, above) in enumerate(latents):
            with contextlib.ExitStack() as stack:
                for plate in plates[level]:
                    stack.enter_context(plate)
                logits = tables[i][tuple(values[j] for j in above)] if above else tables[i]
                values.append(pyro.sample(f"z{i}", dist.Categorical(logits=logits)))
        with rows, cells:
            pyro.sample("x", dist.Normal(loc[tuple(values[j] for j in seen)], 1.0), obs=x)

    return program


@settings(max_examples=10, deadline=None)
@given(shape=shapes())
def test_any_shape_of_program_is_served(shape):
    x = torch.tensor([[-1.0, 0.5], [2.0, 0.0]])[: shape[2][0], : shape[2][1]]
    model = fitted(program_of(shape), x)
    _, log_joint = weighted(model, x)
    truth = float(log_joint.logsumexp(0))
    assert bound(Problem(model, x))[0] < truth + 1e-9
    set_to_posterior(model, x)
    assert bound(Problem(model, x))[0] == pytest.approx(truth, abs=1e-9)
    fit = zoo.fit(program_of(shape), x, estimator="svi", warmup=0, max_epochs=2)
    assert fit.status != "diverged"
    assert fit.elbo < fit.log_likelihood + 1e-9


# --- what the estimators make of it ---


@pytest.mark.parametrize("program", [two_causes, chain])
def test_svi_closes_the_gap(program):
    fit = zoo.fit(program, BITS, estimator="svi", warmup=60, max_epochs=100, learning_rate=0.2)
    _, log_joint = weighted(fit.model, BITS)
    assert fit.log_likelihood == pytest.approx(float(log_joint.logsumexp(0)), abs=1e-9)
    assert -1e-9 < fit.evidence_gap < 0.02


@pytest.mark.parametrize("estimator", ["svi", "iwae", "rws", "reinforce"])
@pytest.mark.parametrize("name", ["two_causes", "ragged_chain", "shared", "sequential"])
def test_every_estimator_takes_it(name, estimator):
    program, x, _ = PROGRAMS[name]
    fit = zoo.fit(program, x, estimator=estimator, warmup=1, max_epochs=2)
    assert fit.status != "diverged"
    assert math.isfinite(fit.elbo)
    assert fit.elbo < fit.log_likelihood + 1e-9


@pytest.mark.parametrize("estimator", ["gumbel", "st_gumbel"])
def test_relaxed_parents_take_the_mean_of_their_rows(estimator):
    fit = zoo.fit(nested, BITS, estimator=estimator, warmup=1, max_epochs=2)
    assert fit.status != "diverged"
    assert fit.elbo < fit.log_likelihood + 1e-9


def test_parameters_with_priors_stand_beside_it():
    """The latents get tables, the parameters are estimated at their mode; the weights of a datum are its own."""
    fit = zoo.fit(with_priors, BITS, estimator="svi", warmup=40, max_epochs=60, learning_rate=0.2)
    assert fit.model.points == {"w", "loc"}
    assert fit.model.guide_record() == {"z": []}
    assert -1e-9 < fit.evidence_gap < 0.05
    assert log_weights(fit.model, BITS, 3).shape == (3, len(BITS))


def test_it_comes_back_from_a_folder(tmp_path):
    """Also where the program's latents are as many as the data ask for, which a folder does not hold."""

    def longest(x, lengths):
        ragged_chain(x[:, : int(lengths.max())], lengths)

    x = (BITS, torch.tensor([1, 3]))
    fit = zoo.fit(longest, x, estimator="svi", warmup=2, max_epochs=2)
    loaded = zoo.load(fit.save(tmp_path / "fit"), longest)
    assert bound(Problem(loaded.model, x)) == bound(Problem(fit.model, x))
    assert loaded.guide_trained
    assert not loaded.exact_q


def test_other_data_are_no_data_of_its():
    fit = zoo.fit(chain, BITS, estimator="svi", warmup=1, max_epochs=1)
    more = torch.cat([BITS, BITS])
    with pytest.raises(ZooError, match=r"chain: its guide is a table for the data it was fitted to .* Fit to these"):
        bound(Problem(fit.model, more))
    # What needs no guide works: exact score, evaluation and labels.
    assert fit.score(more) == pytest.approx(2 * fit.log_likelihood)
    assert zoo.evaluate(fit, more).elbo is None
    assert fit.predict(more)["z0"].shape == (4,)


def test_a_plate_that_takes_a_part_of_the_data_is_told_by_name():
    def part(x):
        loc = pyro.param("loc", torch.zeros(2))
        with pyro.plate("rows", len(x), subsample_size=1) as index:
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x[index, 0])

    with pytest.raises(ZooError, match=r"plate 'rows' takes a part of the data; pass a guide"):
        zoo.fit(part, BITS, estimator="svi", max_epochs=1)


# --- any finite support ---


def test_a_finite_support_of_values():
    values, logits = torch.tensor([-1.0, 0.5, 2.0]), torch.tensor([[0.0, 1.0, 2.0], [0.3, 0.0, -1.0]])
    q = FiniteSupport(values, logits)
    assert torch.allclose(q.log_prob(values.unsqueeze(-1)).T, logits.log_softmax(-1))
    assert q.log_prob(torch.tensor(0.7)).tolist() == [-math.inf, -math.inf]
    assert torch.equal(q.enumerate_support()[:, 1], values)
    assert q.enumerate_support(expand=False).shape == (3, 1)
    torch.manual_seed(0)
    draws = q.expand([4, 2]).sample((2000,))
    assert draws.shape == (2000, 4, 2)
    share = (draws[..., 0] == 2.0).double().mean()
    assert float(share) == pytest.approx(float(logits[0].softmax(-1)[2]), abs=0.02)
    pairs = FiniteSupport(torch.eye(3)[:2], torch.zeros(2))
    assert pairs.event_shape == (3,)
    assert float(pairs.log_prob(torch.tensor([0.0, 1.0, 0.0]))) == pytest.approx(-math.log(2))
