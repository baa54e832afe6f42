"""Starting points: more states than values, more components than rows, sticky states that look alike, restarts."""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo
from zoo.components.clusters import num_distinct
from zoo.components.kmeans import kmeans
from zoo.components.seeding import num_draws, seeds
from zoo.core.data import call
from zoo.core.duplicates import duplicate
from zoo.core.isolation import isolated
from zoo.models import factor_analysis, model_classes
from zoo.runs.prepare import start

FAMILIES: dict[str, Callable[[int], Any]] = {
    **{
        f"gaussian {kind}": lambda k, kind=kind: zoo.GaussianHMM(k, 1, covariance_type=kind)
        for kind in ("full", "tied", "diag", "spherical")
    },
    "poisson": lambda k: zoo.PoissonHMM(k, 1),
    "bernoulli": lambda k: zoo.BernoulliHMM(k, 1),
    "categorical": lambda k: zoo.CategoricalHMM(k, 2),
    "gaussian mixture": lambda k: zoo.GaussianMixtureHMM(k, 2, 1),
}
COIN = torch.tensor([0.0, 1, 1, 0, 1, 0, 0, 0, 1, 1] * 4, dtype=torch.float64).unsqueeze(-1)
NAN = math.nan


def ragged() -> dict[str, Tensor]:
    """Two values, lengths from 1, missing entries, a sequence without any."""
    x = torch.tensor([[NAN, 0, 0, 0], [0, 1, NAN, 1], [1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 1, 0]], dtype=torch.float64)
    return {"x": x.unsqueeze(-1), "lengths": torch.tensor([1, 4, 1, 3, 4])}


DATA: dict[str, Any] = {
    "two values": COIN,
    "constant": torch.ones(12, 1),
    "nothing but zeros": np.zeros((12, 1), np.float32),
    "one step": torch.ones(1, 1),
    "one sequence of each length": ragged(),
    "lengths of 1": torch.tensor([[[0.0]], [[1.0]], [[1.0]]]),
}


@pytest.mark.parametrize("data", DATA.values(), ids=DATA)
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_more_states_than_values(family: Callable[[int], Any], data: Any) -> None:
    fit = zoo.fit(family(3), data, estimator="em", max_iter=5)
    assert fit.status in ("converged", "stalled", "max_iter")
    assert fit.log_likelihood is not None
    assert math.isfinite(fit.log_likelihood)
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(fit.history["objective"]))
    assert fit.posterior(data).probs.sum(-1).sub(1).abs().max() < 1e-9
    assert (fit.predict(data) < 3).all()


@pytest.mark.parametrize("name", ["poisson", "bernoulli", "categorical"])
def test_order_makes_states_of_equal_values(name: str) -> None:
    """0, 0, 1, 1 again and again: four states in a ring say exactly what comes, two cannot."""
    x = torch.tensor([0.0, 0, 1, 1] * 8, dtype=torch.float64).unsqueeze(-1)
    ring, pair = (zoo.fit(FAMILIES[name](k), x, estimator="em", max_iter=300, restarts=1) for k in (4, 2))
    assert ring.log_likelihood is not None
    assert pair.log_likelihood is not None
    certain = 16 * -1.0 if name == "poisson" else 0.0  # ln Poisson(1; 1) = -1
    assert ring.log_likelihood == pytest.approx(certain, abs=1e-6)
    assert pair.log_likelihood < certain - 10
    stay = ring.model.transition_probs.detach().diagonal()
    assert stay.max() < 1e-6


def test_more_states_are_never_worse() -> None:
    """Rabiner's coins (1989, section II): as few as two sides, any number of coins."""
    reached = [
        zoo.fit(zoo.BernoulliHMM(k, 1), COIN, estimator="em", max_iter=300, restarts=1).log_likelihood
        for k in range(1, 6)
    ]
    heads = float(COIN.mean())
    assert reached[0] == pytest.approx(40 * (heads * math.log(heads) + (1 - heads) * math.log(1 - heads)), abs=1e-9)
    assert all(b >= a + 0.5 for a, b in itertools.pairwise(reached)), reached


def sticky(k: int, symbols: int, length: int, stay: float, spread: float, seed: int) -> tuple[Any, Tensor]:
    """A chain whose states last and whose tables overlap, and a sequence from it."""
    random = np.random.default_rng(seed)
    truth = zoo.CategoricalHMM(k, symbols)
    truth.transition_probs = torch.full((k, k), (1 - stay) / (k - 1)) + (stay - (1 - stay) / (k - 1)) * torch.eye(k)
    truth.emission_probs = random.dirichlet(np.full(symbols, spread), k)
    with isolated(seed):
        return truth, truth.sample(1, length)


@pytest.mark.parametrize(("k", "symbols", "spread"), [(3, 4, 1.0), (3, 2, 1.0), (4, 8, 1.0)])
def test_states_that_look_alike(k: int, symbols: int, spread: float) -> None:
    """Four starts find what ten random starts of hmmlearn find, and more than the truth scores."""
    from hmmlearn.hmm import CategoricalHMM as Peer

    truth, x = sticky(k, symbols, 500, 0.95, spread, seed=4)
    symbol = x[0].long().numpy()
    peers = []
    for seed in range(10):
        peer = Peer(k, n_iter=200, tol=1e-4, random_state=seed, n_features=symbols).fit(symbol)
        peers.append(peer.score(symbol))
    fit = zoo.fit(zoo.CategoricalHMM(k, symbols), x, estimator="em", restarts=4, tol=1e-6)
    assert fit.log_likelihood is not None
    assert fit.log_likelihood > float(truth.log_marginal(x).sum().detach())
    assert fit.log_likelihood > max(peers) - 0.1


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_restarts_differ(family: Callable[[int], Any]) -> None:
    """So do the states of each start: equal ones would stay equal under EM."""
    with isolated(0):
        x = torch.randint(2, (1, 60, 1)).double()
    model, data = family(3), {"x": x, "lengths": torch.tensor([60])}
    starts = []
    for restart in range(3):
        with isolated(restart):
            starts.append(start(model, data, model.inits[0], restart))
    for a, b in itertools.combinations(starts, 2):
        assert (a.transition_probs - b.transition_probs).abs().max() > 1e-6
    for one in starts:
        rows = torch.cat([one.align_features(), one.transition_probs], -1).detach()
        assert torch.pdist(rows).min() > 1e-6


def test_left_right_restarts_differ() -> None:
    with isolated(0):
        x = torch.randn(4, 12, 2, dtype=torch.float64)
    fit = zoo.fit(zoo.GaussianHMM(3, 2, topology="left_right"), x, estimator="em", restarts=4)
    assert len({round(entry["log_likelihood"], 3) for entry in fit.restarts}) > 1
    zeros = fit.model.transition_probs.detach() == 0
    assert zeros.tolist() == [[False, False, True], [True, False, False], [True, True, False]]


def test_left_right_sequences_shorter_than_the_chain() -> None:
    """Cutting two steps into four parts leaves out states; the steps between these stay impossible."""
    x = torch.tensor([[[0.0], [1.0]], [[0.0], [1.0]]])
    fit = zoo.fit(zoo.BernoulliHMM(4, 1, topology="left_right"), x, estimator="em", max_iter=20)
    possible = fit.model.transition_probs.detach() > 0
    assert not (possible.triu(2) | possible.tril(-1)).any()
    assert fit.log_likelihood is not None
    assert math.isfinite(fit.log_likelihood)


ROWS = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("k", [3, 5])
def test_bernoulli_mixture_of_few_rows(k: int) -> None:
    """The maximum is the rows' own frequencies, which two classes reach already."""
    x = ROWS.repeat_interleave(torch.tensor([7, 5]), 0)
    fit = zoo.fit(zoo.BernoulliMixture(k, 3), x, estimator="em")
    assert fit.log_likelihood == pytest.approx(7 * math.log(7 / 12) + 5 * math.log(5 / 12), abs=1e-6)
    assert fit.posterior(x).probs.isfinite().all()


def test_poisson_mixture_of_few_rows() -> None:
    """No more than the two values' own rates can be said of two values that far apart."""
    x = torch.tensor([[0.0]] * 6 + [[9.0]] * 4)
    two, four = (zoo.fit(zoo.PoissonMixture(k, 1), x, estimator="em").log_likelihood for k in (2, 4))
    assert four == pytest.approx(two, abs=1e-4)
    alone = zoo.fit(zoo.PoissonMixture(2, 1), torch.tensor([[3.0]]), estimator="em")
    assert alone.log_likelihood == pytest.approx(3 * math.log(3) - 3 - math.log(6), abs=1e-9)
    assert zoo.fit(zoo.PoissonMixture(3, 1), torch.zeros(5, 1), estimator="em").log_likelihood == 0.0


@st.composite
def small_sets(draw: Any) -> tuple[str, int, dict[str, Tensor]]:
    """A family, a number of states, sequences of zeros, ones and gaps."""
    name = draw(st.sampled_from(["poisson", "bernoulli", "categorical", "gaussian diag"]))
    n, t = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    values = draw(st.lists(st.sampled_from([0.0, 1.0, 1.0, NAN]), min_size=n * t, max_size=n * t))
    lengths = draw(st.lists(st.integers(1, t), min_size=n, max_size=n))
    x = torch.tensor(values, dtype=torch.float64).reshape(n, t, 1)
    return name, draw(st.integers(1, 4)), {"x": x, "lengths": torch.tensor(lengths)}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(small_sets())
def test_small_sets(case: tuple[str, int, dict[str, Tensor]]) -> None:
    """Whatever the values: a finite fit that climbs, and posteriors that sum to one."""
    name, k, data = case
    fit = zoo.fit(FAMILIES[name](k), data, estimator="em", max_iter=3)
    assert fit.log_likelihood is not None
    assert math.isfinite(fit.log_likelihood)
    assert all(b >= a - 1e-8 for a, b in itertools.pairwise(fit.history["objective"]))
    assert float(call(fit.model.log_marginal, fit.model.validate(data)).sum().detach()) == pytest.approx(
        fit.log_likelihood, abs=1e-8
    )
    assert fit.posterior(data).probs.sum(-1).sub(1).abs().max() < 1e-9


def test_seeds_are_those_of_scikit_learn() -> None:
    from sklearn.cluster import kmeans_plusplus

    numbers = np.random.default_rng(0)
    for seed in range(60):
        count, features = int(numbers.integers(1, 60)), int(numbers.integers(1, 6))
        number = int(numbers.integers(1, count + 1))
        rows = numbers.normal(size=(count, features)) * (1000, 1)[seed % 2]
        rows = np.round(rows) if seed % 3 else rows  # equal rows among them
        draws = np.stack([np.random.RandomState(seed + i).random_sample(num_draws(number)) for i in range(3)])
        for i, ours in enumerate(seeds(rows, number, draws)):
            assert np.array_equal(ours, kmeans_plusplus(rows, number, random_state=seed + i)[0])


def test_distinct_rows_are_counted_until_there_are_enough() -> None:
    rows = torch.zeros(50, 2)
    rows[48:] = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    assert [num_distinct(rows, enough) for enough in (1, 3, 4)] == [1, 3, 3]


def test_kmeans_is_scikit_learns() -> None:
    from sklearn.cluster import KMeans

    numbers = np.random.default_rng(1)
    for seed in range(60):
        count, features = int(numbers.integers(2, 80)), int(numbers.integers(1, 6))
        rows = numbers.normal(size=(count, features)) * (1000, 1)[seed % 2]
        rows = np.round(rows) if seed % 3 else rows  # equal rows, and equal distances, among them
        number = int(numbers.integers(1, len(np.unique(rows, axis=0)) + 1))
        peer = KMeans(number, n_init=10, random_state=seed).fit(rows).cluster_centers_
        ours = kmeans(rows, number, np.random.RandomState(seed))
        assert np.abs(ours - peer).max() <= 1e-12 * np.abs(rows).max(), (seed, count, features, number)


@pytest.mark.parametrize("name", sorted(model_classes()))
def test_a_copy_to_start_from_is_a_deep_copy(name: str) -> None:
    model, _ = sys.modules[model_classes()[name].__module__].tiny()
    twin, deep, met = duplicate(model), copy.deepcopy(model), set[int]()

    def compare(one: Any, other: Any, path: str) -> None:
        assert type(one) is type(other), path
        if id(one) in met:
            return
        met.add(id(one))
        if isinstance(one, Tensor):
            assert torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)), path
            assert one.requires_grad == other.requires_grad, path
        elif isinstance(one, dict):
            assert [*map(str, one)] == [*map(str, other)], path
            for key in one:
                compare(one[key], other[key], f"{path}.{key}")
        elif isinstance(one, torch.nn.Module):
            compare(vars(one), vars(other), path)

    compare(twin, deep, name)
    places = {value.data_ptr() for value in model.state_dict().values() if value.numel()}
    assert not places & {value.data_ptr() for value in twin.state_dict().values()}
    hooks = [vars(part)["_forward_hooks"] for one in (model, twin) for part in one.modules()]
    assert len({id(hook) for hook in hooks}) == len(hooks) == 2 * len([*model.modules()])


def test_a_copy_to_start_from_has_what_a_users_module_keeps() -> None:
    model = zoo.GaussianMixture(2, 2)
    model.kept = {"rows": torch.arange(3.0), "none": {}}
    model.table, model.ticks, model.names = torch.ones(2, 2), np.arange(4), set[str]()
    model.pieces = [model.table, [0], torch.zeros(4)[:2]]
    twin = duplicate(model)
    assert torch.equal(twin.table, model.table)
    assert torch.equal(twin.kept["rows"], model.kept["rows"])
    assert twin.ticks.tolist() == model.ticks.tolist()
    assert twin.pieces[0] is twin.table
    twin.pieces[1].append(1)
    twin.pieces[2].add_(1)
    assert model.pieces[1] == [0]
    assert model.pieces[2].tolist() == [0, 0]
    twin.table.zero_()
    twin.kept["rows"].zero_()
    twin.ticks[:] = 0
    twin.names.add("x")
    assert (model.table.sum(), model.kept["rows"].sum(), model.ticks.sum(), len(model.names)) == (4, 3, 6, 0)


@pytest.mark.parametrize(("estimator", "options"), [("em", {"restarts": 1}), ("svi", {"max_epochs": 3})])
def test_a_single_start_needs_no_second_copy(
    monkeypatch: pytest.MonkeyPatch, estimator: str, options: dict[str, Any]
) -> None:
    model, x = factor_analysis.tiny()
    before = copy.deepcopy(model.state_dict())
    several = zoo.fit(model, x, estimator="em", restarts=2)

    def none(module: Any) -> Any:
        raise AssertionError("a copy too much")

    monkeypatch.setattr("zoo.runs.prepare.duplicate", none)
    fit = zoo.fit(model, x, estimator=estimator, **options)
    if estimator == "em":
        assert fit.log_likelihood == several.restarts[0]["log_likelihood"]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(AssertionError, match="too much"):  # what is to stay is put back from the other
        zoo.fit(model, x, estimator=estimator, fixed="mean", **options)
