"""Tours as a mean field, held to sums over all assignments and to the shortest tours."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo
from zoo.densities import tour_dynamics
from zoo.densities.tour_dynamics import _sweep, hopfield_tank, potts
from zoo.densities.tours import critical_temperature, log_partition, mean_energy, shortest
from zoo.models.hopfield_tsp import HopfieldTSP, tiny


def plane(n: int, seed: int = 0) -> Tensor:
    """Distances of points at random in the unit square."""
    points = torch.rand(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    d = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return (d + d.T) / 2


def energy_of(positions: Any, d: Tensor, penalty: float) -> float:
    """Of the positions of the cities, by the sum over all pairs of them."""
    n = len(d)
    along = sum(float(d[a, b]) for a in range(n) for b in range(n) if positions[b] == (positions[a] + 1) % n)
    return along + penalty / 2 * sum((list(positions).count(i) - 1) ** 2 for i in range(n))


def lengths(d: Tensor) -> dict[tuple[int, ...], float]:
    """Of all tours, by the order of the visit."""
    n = len(d)
    return {
        order: sum(float(d[a, b]) for a, b in zip(order, order[1:] + order[:1], strict=True))
        for order in itertools.permutations(range(n))
    }


def test_the_program_is_the_energy_of_every_assignment() -> None:
    model, distances = tiny()
    x: Any = model.prepare(distances)
    d, penalty = x[0] / x.max(), model.penalty_of(x[0] / x.max())
    total = []
    for positions in itertools.product(range(4), repeat=4):
        with torch.no_grad():
            held = pyro.poutine.condition(model.model, {"z": torch.tensor([positions])})
            trace = pyro.poutine.trace(held).get_trace(x)
            total.append(float(trace.log_prob_sum()))
        assert total[-1] == pytest.approx(-10 * energy_of(positions, d, penalty), rel=1e-12)
    assert float(model.relaxed_log_partition(distances)) == pytest.approx(
        float(torch.tensor(total, dtype=torch.float64).logsumexp(0)), rel=1e-12
    )


def test_a_mean_energy_is_the_mean_over_all_assignments() -> None:
    d = plane(4)
    q = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).softmax(-1)
    mean = 0.0
    for positions in itertools.product(range(4), repeat=4):
        share = math.prod(float(q[a, i]) for a, i in enumerate(positions))
        mean += share * energy_of(positions, d, 1.7)
    assert float(mean_energy(q, d, 1.7)) == pytest.approx(mean, rel=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), beta=st.floats(0.1, 30.0), penalty=st.floats(0.1, 4.0), n=st.integers(3, 5))
def test_the_bound_is_below_the_relaxed_sum_which_is_above_that_of_the_tours(
    seed: int, beta: float, penalty: float, n: int
) -> None:
    d = plane(n, seed)
    model = HopfieldTSP(n, beta, penalty)
    model.initialize(d, "random")
    with torch.no_grad():
        model.logits *= 1 + seed % 7
        whole = float(model.relaxed_log_partition(d))
        assert float(model.elbo(model.prepare(d))) <= whole + 1e-9
        assert float(model.log_partition(d)) <= whole + 1e-9


def test_a_bound_may_be_above_the_sum_over_the_tours_alone() -> None:
    """What is bounded is the relaxed sum: at a high temperature the even q counts assignments that are no tours."""
    model = HopfieldTSP(4, inverse_temperature=0.1)
    d = plane(4)
    with torch.no_grad():
        bound = float(model.elbo(model.prepare(d)))
    assert float(model.log_partition(d)) < bound < float(model.relaxed_log_partition(d))


@pytest.mark.parametrize("n", [3, 4, 7])
def test_sums_over_tours_are_exact(n: int) -> None:
    d = plane(n)
    every = lengths(d)
    costs = 3.0 * d / d.max()
    whole = torch.tensor([-3 * length / float(d.max()) for length in every.values()], dtype=torch.float64).logsumexp(0)
    assert float(log_partition(costs)) == pytest.approx(float(whole), rel=1e-12)
    assert float(shortest(d)) == pytest.approx(min(every.values()), rel=1e-12)
    model = HopfieldTSP(n, 3.0)
    tours = torch.tensor(list(every)[:5])
    expected = [-3 * every[tuple(tour.tolist())] / float(d.max()) - float(whole) for tour in tours]
    assert model.log_prob(tours, d).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_gradient_of_the_sum_says_how_often_a_step_is_taken() -> None:
    costs = plane(5).requires_grad_()
    (grad,) = torch.autograd.grad(log_partition(costs), costs)
    every = lengths(costs.detach())
    weight = {order: math.exp(-length) for order, length in every.items()}
    share = sum(w for o, w in weight.items() if o[(o.index(0) + 1) % 5] == 3) / sum(weight.values())
    assert -float(grad[0, 3]) == pytest.approx(share, rel=1e-10)


def test_the_shortest_tours_of_tsplib_by_dynamic_programming() -> None:
    assert float(shortest(torch.as_tensor(zoo.load_data("burma14")))) == 3323


def free_energy(q: Tensor, d: Tensor, penalty: float, temperature: float) -> Tensor:
    return mean_energy(q, d, penalty) + temperature * torch.xlogy(q, q).sum((-2, -1))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), temperature=st.floats(0.01, 1.0), penalty=st.floats(0.2, 3.0))
def test_a_sweep_never_raises_the_free_energy(seed: int, temperature: float, penalty: float) -> None:
    torch.manual_seed(seed)
    d = plane(6, seed)
    q = torch.randn(4, 6, 6, dtype=torch.float64).softmax(-1)
    before = free_energy(q, d, penalty, temperature)
    for _ in range(3):
        _sweep(q, d, penalty, temperature)
        after = free_energy(q, d, penalty, temperature)
        assert bool((after <= before + 1e-12).all())
        before = after


def test_the_end_of_cooling_is_a_mean_field() -> None:
    """There the gradient of the free energy in a city's logits vanishes."""
    torch.manual_seed(0)
    d = plane(6)
    *_, last = potts(d, 5, 8.0, 1.5)
    logits = last.probs.clamp_min(1e-300).log().requires_grad_()
    q = logits.softmax(-1)
    (grad,) = torch.autograd.grad(free_energy(q, d, 1.5, 1 / 8).sum(), logits)
    assert float(grad.abs().max()) < 1e-6
    assert float((last.probs - 1 / 6).abs().max()) > 0.1


def test_the_even_q_gives_way_at_the_critical_temperature() -> None:
    d = plane(6)
    critical = critical_temperature(d, 1.5)
    for factor, stays in ((1.03, True), (0.97, False)):
        torch.manual_seed(0)
        q = (0.01 * torch.randn(3, 6, 6, dtype=torch.float64)).softmax(-1)
        for _ in range(1000):
            _sweep(q, d, 1.5, factor * critical)
        assert (float((q - 1 / 6).abs().max()) < 1e-3) is stays


def test_the_circuit_follows_the_gradient_of_the_energy_of_hopfield_and_tank(monkeypatch: pytest.MonkeyPatch) -> None:
    n, d = 4, plane(4)
    scaled = d * 0.5214 / d[~torch.eye(n, dtype=torch.bool)].mean()

    def energy(v: Tensor) -> Tensor:
        """Of outputs (n, n), as in equation 8 of the paper, with 15 neurons aimed at for 10 cities."""
        total = torch.zeros((), dtype=v.dtype)
        for a, i, j in itertools.product(range(n), repeat=3):
            if i != j:
                total = total + 250 * v[a, i] * v[a, j] + 250 * v[i, a] * v[j, a]
        total = total + 100 * (v.sum() - 6) ** 2
        for a, b, i in itertools.product(range(n), repeat=3):
            if a != b:
                total = total + 250 * scaled[a, b] * v[a, i] * (v[b, (i + 1) % n] + v[b, (i - 1) % n])
        return total

    monkeypatch.setattr(tour_dynamics, "STEPS", 10)
    torch.manual_seed(0)
    *_, last = hopfield_tank(d, 1, 1.0, 1.0)
    torch.manual_seed(0)
    u = 0.02 * (0.1 * (2 * torch.rand(n, n, dtype=torch.float64) - 1) - math.log(n - 1) / 2)
    for _ in range(10):
        v = ((1 + torch.tanh(u / 0.02)) / 2).requires_grad_()
        (grad,) = torch.autograd.grad(energy(v), v)
        u = u + 1e-5 * (-u - grad)
    v = (1 + torch.tanh(u / 0.02)) / 2
    torch.testing.assert_close(last.probs[0], v / v.sum(-1, keepdim=True), rtol=1e-10, atol=0)


def test_the_circuit_comes_to_rest_sometimes_at_a_tour() -> None:
    found = HopfieldTSP(5).solve(plane(5), starts=20, dynamics="hopfield_tank")
    assert 0 < int(found.valid.sum()) < 20


@pytest.mark.parametrize("n", [3, 4, 5, 8])
def test_small_problems_are_solved(n: int) -> None:
    d = plane(n, n)
    found = HopfieldTSP(n).solve(d, starts=20)
    assert bool(found.valid.all())
    assert float(found.lengths.min()) == pytest.approx(float(shortest(d)), rel=1e-9)
    again = [sum(float(d[t[i - 1], t[i]]) for i in range(n)) for t in found.tours.tolist()]
    assert found.lengths.tolist() == pytest.approx(again, rel=1e-12)


def test_burma_is_solved_from_a_few_starts_in_either_precision() -> None:
    d = torch.as_tensor(zoo.load_data("burma14"))
    for model in (HopfieldTSP(14), HopfieldTSP(14).float()):
        found = model.solve(d, starts=12)
        assert int(found.valid.sum()) >= 11
        assert float(found.lengths.nanmedian()) < 1.06 * 3323
        assert sorted(found.tours[int(found.valid.int().argmax())].tolist()) == list(range(14))


def test_what_is_no_tour_is_said_and_not_repaired() -> None:
    """A penalty too small lets positions stay empty."""
    d = plane(5)
    found = HopfieldTSP(5, 20.0, penalty=0.1).solve(d, starts=4)
    assert not bool(found.valid.any())
    assert bool(found.lengths.isnan().all())
    assert bool((found.tours == -1).all())
    fit = zoo.fit(HopfieldTSP(5, 20.0, penalty=0.1), d, starts=4)
    assert fit.notes[0] == "none of 4 starts came to a tour"


def test_a_fit_is_the_best_of_the_starts() -> None:
    d = plane(9, 3)
    fit = zoo.fit(HopfieldTSP(9), d, starts=15, seed=2)
    assert fit.estimator == "mean_field"
    assert fit.status == "converged"
    found = HopfieldTSP(9).solve(d, starts=15, seed=2)
    best = float(found.lengths[found.valid].min())
    tour = fit.predict(d)[0]
    assert sum(float(d[tour[i - 1], tour[i]]) for i in range(9)) == pytest.approx(best)
    # q is one assignment: the bound is its weight alone, and no more than that of all.
    assert fit.elbo == pytest.approx(-100 * best / float(d.max()), abs=1e-3)
    assert fit.elbo <= float(fit.model.log_partition(d))
    assert fit.log_likelihood is None
    assert fit.history["elbo"][-1] == pytest.approx(fit.elbo, abs=1e-6)


def test_the_same_bound_by_the_gradient() -> None:
    """What the mean field lowers as a free energy is the bound that a gradient climbs: at rest there is no slope."""
    d = plane(4)
    fit = zoo.fit(HopfieldTSP(4, inverse_temperature=4.0), d, starts=3)
    model = fit.model.train()
    (grad,) = torch.autograd.grad(model.elbo(model.prepare(d)).sum(), list(model.parameters()))
    assert float(grad.abs().max()) < 1e-6
    model.logits = model.logits.detach() + 0.1 * torch.eye(4, dtype=torch.float64)
    (grad,) = torch.autograd.grad(model.elbo(model.prepare(d)).sum(), list(model.parameters()))
    assert float(grad.abs().max()) > 1e-4


def test_dynamics_stand_side_by_side() -> None:
    both = ["mean_field:starts=5", "mean_field:starts=5:dynamics=hopfield_tank"]
    made = zoo.compare(HopfieldTSP(5), plane(5), estimators=both)
    assert len(made.fits) == 2
    assert made.best is made.fits[0]


def spoilt(row: int, column: int, value: float) -> Tensor:
    d = plane(4)
    d[row, column] = value
    return d


@pytest.mark.parametrize(
    ("d", "message"),
    [
        (spoilt(1, 2, 9.0), r"expected a symmetric matrix, got 9 at \(1, 2\) and .* at \(2, 1\). Pass"),
        (spoilt(1, 2, -1.0), "expected no negative ones, got -1 in row 1"),
        (spoilt(2, 1, math.nan), "expected finite numbers, got NaN in row 2"),
        (spoilt(3, 3, 2.0), "expected 0 from a city to itself, got 2 in row 3"),
        (torch.zeros(4, 4), "expected some above 0, got none"),
        (plane(5), r"expected shape \(4, 4\), got \(5, 5\). Pass num_cities=5"),
        (plane(4)[:3], r"expected shape \(4, 4\), got \(3, 4\). Pass all distances"),
        (torch.stack([plane(4)] * 2), "expected one matrix, got 2"),
    ],
)  # fmt: skip
def test_bad_distances_are_refused(d: Tensor, message: str) -> None:
    with pytest.raises(zoo.ZooError, match=message) as caught:
        HopfieldTSP(4).solve(d)
    assert "\n" not in str(caught.value)


def test_bad_arguments_are_refused() -> None:
    d = plane(4)
    cases: list[tuple[Any, str]] = [
        (lambda: HopfieldTSP(2), "num_cities expected at least 3, got 2"),
        (lambda: HopfieldTSP(4, inverse_temperature=0.0), "inverse_temperature expected a finite number above 0"),
        (lambda: HopfieldTSP(4, penalty=-1.0), "penalty expected a finite number above 0, got -1"),
        (lambda: HopfieldTSP(4).solve(d, starts=0), "starts expected a whole number of at least 1"),
        (lambda: HopfieldTSP(4).solve(d, dynamics="pots"), "Did you mean 'potts'"),
        (lambda: zoo.fit(HopfieldTSP(4), d, dynamics="pots"), "Did you mean 'potts'"),
        (lambda: zoo.fit(HopfieldTSP(4), d, starts=0), "starts expected a whole number of at least 1"),
        (lambda: HopfieldTSP(17).log_partition(plane(17)), "expected at most 16 cities"),
        (lambda: HopfieldTSP(8).relaxed_log_partition(plane(8)), "expected at most 7 cities"),
    ]
    for call, message in cases:
        with pytest.raises(zoo.ZooError, match=message):
            call()
