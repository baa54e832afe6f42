"""Boltzmann machines against the sum over all states, written out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resuming import check_resumed
from torch import Tensor

import zoo
from zoo.data._spins import spin_couplings
from zoo.densities import ising
from zoo.densities.boltzmann import Boltzmann
from zoo.densities.ising import Units

DOUBLE: Any = {"dtype": torch.float64}


def states(n: int, values: tuple[float, float]) -> Tensor:
    return torch.tensor(list(itertools.product(values, repeat=n)), **DOUBLE)


def energies(s: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """-(sum over pairs i < j of w_ij s_i s_j + b' s), pair by pair."""
    n = s.shape[1]
    total = -(s @ b)
    for i in range(n):
        for j in range(i + 1, n):
            total = total - w[i, j] * s[:, i] * s[:, j]
    return total


def drawn(n: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    w = spread * torch.randn(n, n, generator=generator, **DOUBLE) / n**0.5
    return (w + w.T).fill_diagonal_(0.0), torch.randn(n, generator=generator, **DOUBLE)


def machine(n: int, hidden: int = 0, seed: int = 0, **arguments: Any) -> zoo.BoltzmannMachine:
    model = zoo.BoltzmannMachine(n - hidden, hidden, **arguments)
    model.couplings, model.biases = drawn(n, seed)
    return model


@settings(max_examples=40, deadline=None)
@given(n=st.integers(2, 9), seed=st.integers(0, 10**6), bits=st.booleans(), beta=st.floats(0.1, 3.0), data=st.data())
def test_probabilities_moments_and_their_gradient(n: int, seed: int, bits: bool, beta: float, data: Any) -> None:
    hidden = data.draw(st.integers(0, n - 1))
    model = machine(n, hidden, seed, inverse_temperature=beta, states="bits" if bits else "signs")
    w, b = (v.detach().clone().requires_grad_() for v in (model.couplings, model.biases))
    values = (0.0, 1.0) if bits else (-1.0, 1.0)
    s = states(n, values)
    log_z = (-beta * energies(s, w, b)).logsumexp(0)
    assert float(model.log_partition().detach()) == pytest.approx(float(log_z.detach()), abs=1e-10)
    x = states(n - hidden, values)
    among = (-beta * energies(s, w, b)).reshape(len(x), -1).logsumexp(1)
    found = model.log_marginal(x)
    torch.testing.assert_close(found, among - log_z, rtol=0, atol=1e-10)
    weight = torch.rand(len(x), generator=torch.Generator().manual_seed(seed), **DOUBLE)
    theirs = torch.autograd.grad(((among - log_z) * weight).sum(), [w, b])
    raw = [model.get_parameter("couplings_unconstrained"), model.get_parameter("biases")]
    ours = torch.autograd.grad((found * weight).sum(), raw, allow_unused=True)
    rows, columns = torch.triu_indices(n, n, 1)
    torch.testing.assert_close(ours[0], theirs[0][rows, columns], rtol=0, atol=1e-9)
    torch.testing.assert_close(ours[1], theirs[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("values", [(-1.0, 1.0), (0.0, 1.0)])
def test_the_sum_in_blocks(values: tuple[float, float]) -> None:
    """More than twelve units go half by half: value, means and pairs of all 2^14 states."""
    w, b = drawn(14, 3, spread=3.0)
    s = states(14, values)
    p = (-energies(s, w, b)).softmax(0)
    units = Units(w.requires_grad_(), b.requires_grad_(), *values)
    log_z, mean, pairs = ising.moments(units)
    torch.testing.assert_close(log_z, (-energies(s, w, b)).logsumexp(0).detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(mean, (p @ s).detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(pairs, (s.T @ (s * p.unsqueeze(-1))).detach(), rtol=0, atol=1e-10)
    value = ising.log_partition(units)
    gradient = torch.autograd.grad(value, [w, b])
    torch.testing.assert_close(gradient[0], 0.5 * (pairs - pairs.diagonal().diag()), rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient[1], mean, rtol=0, atol=1e-10)
    again = torch.autograd.grad(ising.log_partition(units), [b], create_graph=True)[0]
    with pytest.raises(RuntimeError, match="differentiated once only"):
        torch.autograd.grad(again.square().sum(), [b])


def chi_square(found: Tensor, p: Tensor, values: tuple[float, float]) -> float:
    codes = ((found > values[0]).long() * 2 ** torch.arange(found.shape[1] - 1, -1, -1)).sum(1)
    expected = p * len(found)
    return float(((torch.bincount(codes, minlength=len(p)) - expected) ** 2 / expected).sum())


@pytest.mark.parametrize("values", [(-1.0, 1.0), (0.0, 1.0)])
@pytest.mark.parametrize("kind", ["dense", "two colours", "draws"])
def test_sweeps_leave_the_distribution_in_place(kind: str, values: tuple[float, float]) -> None:
    w, b = drawn(5, 1)
    if kind == "two colours":
        w[:2, :2] = w[2:, 2:] = 0
    units, s = Units(w, b, *values), states(5, values)
    blocks = ising.colours(w)
    assert len(blocks) == (2 if kind == "two colours" else 5)
    p = (-energies(s, w, b)).softmax(0)
    torch.manual_seed(0)
    chains = ising.draws(units, 20_000)
    for _ in range(0 if kind == "draws" else 3):
        chains = ising.sweep(chains, units, blocks=blocks if kind == "two colours" else None)
    assert chi_square(chains, p, values) < 31 + 4 * math.sqrt(62)
    if kind != "draws":  # and brings what is elsewhere there
        chains = torch.full((20_000, 5), values[1], **DOUBLE)
        for _ in range(60):
            chains = ising.sweep(chains, units, blocks=blocks if kind == "two colours" else None)
        assert chi_square(chains, p, values) < 31 + 4 * math.sqrt(62)


def test_a_sweep_by_torch_is_that_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    w, b = drawn(7, 2)
    start = torch.where(torch.rand(9, 7, generator=torch.Generator().manual_seed(0)) < 0.5, -1.0, 1.0).double()
    torch.manual_seed(5)
    compiled = ising.sweep(start, Units(w, b))
    monkeypatch.setattr(ising, "has_numba", lambda: False)
    torch.manual_seed(5)
    assert torch.equal(compiled, ising.sweep(start, Units(w, b)))


def frustrated(seed: int) -> tuple[zoo.BoltzmannMachine, float]:
    n, beta = 8 + seed % 5, 2.0 if seed % 2 else 1.0
    model = zoo.BoltzmannMachine(n, inverse_temperature=beta)
    w, b = drawn(n, seed)
    model.couplings, model.biases = w, 0.3 * b
    return model, float((-beta * energies(states(n, (-1.0, 1.0)), w, 0.3 * b)).logsumexp(0))


def brackets(seeds: range, temperatures: int) -> None:
    """Both estimates within 5 of their standard errors, at most one in forty beyond 3, and the truth between."""
    away = []
    for seed in seeds:
        model, exact = frustrated(seed)
        below, above = (model.annealed_log_partition(100, temperatures, seed, reverse) for reverse in (False, True))
        away += [abs(found.value - exact) / found.standard_error for found in (below, above)]
        assert below.value - 3 * below.standard_error <= exact <= above.value + 3 * above.standard_error
    assert max(away) <= 5
    assert sum(z > 3 for z in away) <= 1


def test_annealing_from_both_sides() -> None:
    brackets(range(3), 300)


@pytest.mark.slow
def test_annealing_from_both_sides_over_twenty_machines() -> None:
    """The short test takes three machines and 300 temperatures."""
    brackets(range(20), 1000)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 8), seed=st.integers(0, 10**6), spread=st.floats(0.0, 4.0), bits=st.booleans())
def test_the_mean_field_bound_is_one(n: int, seed: int, spread: float, bits: bool) -> None:
    model = zoo.BoltzmannMachine(n, states="bits" if bits else "signs")
    model.couplings, model.biases = drawn(n, seed, spread)
    bound, exact = float(model.log_partition_bound()), float(model.log_partition().detach())
    assert bound <= exact + 1e-9
    if spread == 0:
        assert bound == pytest.approx(exact, abs=1e-9)


def test_a_machine_is_recovered_from_its_samples() -> None:
    truth = zoo.BoltzmannMachine(10)
    w, b = drawn(10, 4, spread=0.5)
    truth.couplings, truth.biases = w, 0.3 * b
    torch.manual_seed(0)
    x = ising.draws(truth.units, 20_000)
    fit = zoo.fit(zoo.BoltzmannMachine(10), x, estimator="eg", batch_size=20_000, max_epochs=500, tol=1e-6)
    assert fit.log_likelihood > float(truth.log_marginal(x).sum().detach())
    assert float((fit.model.couplings - w).abs().max()) < 0.06
    # At the maximum the moments of the model are those of the data.
    _, mean, pairs = ising.moments(fit.model.units)
    torch.testing.assert_close(mean, x.mean(0), rtol=0, atol=2e-3)
    torch.testing.assert_close(pairs, x.T @ x / len(x), rtol=0, atol=2e-3)


def test_chains_learn_what_the_sum_learns() -> None:
    x = zoo.load_data("spins")[:400]
    exact = zoo.fit(zoo.BoltzmannMachine(12), x, estimator="eg", max_epochs=120)
    for name in ("pcd", "cd", "tempering"):
        fit = zoo.fit(zoo.BoltzmannMachine(12), x, estimator=name, max_epochs=120)
        assert fit.log_likelihood == pytest.approx(exact.log_likelihood, abs=12)
        assert fit.log_likelihood <= exact.log_likelihood + 0.05
        assert fit.elbo is None
        assert fit.history["log_likelihood"][-1] is None
        assert abs(fit.history["contrast"][-1]) < 1
    assert float((exact.model.couplings - torch.tensor(spin_couplings())).abs().max()) < 0.2


@pytest.mark.parametrize("name", ["pcd", "cd", "tempering"])
def test_a_resumed_run_has_the_same_chains(name: str, tmp_path: Any) -> None:
    x = zoo.load_data("spins")[:60]
    options: Any = {"estimator": name, "max_epochs": 4, "batch_size": 20}
    check_resumed(zoo.BoltzmannMachine(12), x, tmp_path / "run", "contrast", **options)


def test_hidden_units_of_any_number() -> None:
    x = zoo.load_data("spins")[:300, :6]
    fit = zoo.fit(zoo.BoltzmannMachine(6, 2), x, estimator="eg", max_epochs=60)
    assert fit.log_likelihood > zoo.fit(zoo.BoltzmannMachine(6), x, estimator="eg", max_epochs=2).log_likelihood
    many = zoo.fit(zoo.BoltzmannMachine(6, 20), x, estimator="pcd", max_epochs=3)
    assert many.log_likelihood is None
    assert "2^20 states of hidden units" in str(zoo.core.contract.lacks(many.model, "free_energy"))


def test_too_many_units_have_a_bracket_and_draws() -> None:
    model = machine(26)
    assert model.too_many() == "its ln Z is a sum over 2^26 states, and at most 2^24 are taken"
    with pytest.raises(zoo.ZooError, match=r"2\^26 states.*annealed_log_partition"):
        model.log_partition()
    small = machine(9)
    x = small.gibbs(50, 200)
    below, above = small.annealed_log_partition(50, 200), small.annealed_log_partition(50, 200, reverse=True)
    assert below.value == pytest.approx(float(small.log_partition().detach()), abs=6 * below.standard_error)
    assert above.value == pytest.approx(float(small.log_partition().detach()), abs=6 * above.standard_error)
    assert x.shape == (50, 9)
    large = zoo.BoltzmannMachine(26)
    large.couplings, large.biases = drawn(26, 0)
    data = large.gibbs(20, 50)
    found = zoo.evaluate(large, data)
    assert found.log_likelihood is None
    assert found.annealed == pytest.approx(found.reverse_annealed, abs=20 * 1.0)
    assert "annealed" in str(found)
    pairwise = large.inverse_temperature * (data @ large.couplings.detach() + large.biases.detach())
    conditional = torch.nn.functional.logsigmoid(2 * data * pairwise).sum()
    assert found.pseudo_likelihood == pytest.approx(float(conditional), abs=1e-8)


def test_a_distribution_for_any_program() -> None:
    w, b = drawn(4, 0)
    s = states(4, (-1.0, 1.0))
    law = Boltzmann(w, b)
    torch.testing.assert_close(law.log_prob(s), (-energies(s, w, b)).log_softmax(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(law.enumerate_support(), s, rtol=0, atol=0)

    def program(x: Tensor) -> None:
        bias = pyro.param("bias", torch.zeros(4, **DOUBLE))
        with pyro.plate("data", len(x)):
            pyro.sample("x", Boltzmann(w, bias), obs=x)

    torch.manual_seed(0)
    x = law.sample((4000,))
    fit = zoo.fit(program, x, estimator="eg", max_epochs=300, batch_size=4000, learning_rate=0.05)
    assert float((torch.as_tensor(fit.parameters["bias"]) - b).abs().max()) < 0.15
    assert Boltzmann(None, torch.zeros(40)).sample((3,)).shape == (3, 40)
    with pytest.raises(zoo.ZooError, match="at most 24 units, got 25"):
        Boltzmann(torch.zeros(25, 25), torch.zeros(25)).log_prob(torch.ones(25))


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: setattr(m, "couplings", torch.ones(3, 2)), r"couplings expected shape \(3, 3\), got \(3, 2\)"),
        (lambda m: setattr(m, "couplings", torch.arange(9.0).reshape(3, 3)), r"got 2 at \(0, 2\) and 6.*w \+ w.T"),
        (lambda m: setattr(m, "couplings", torch.ones(3, 3)), r"got 1 at \(0, 0\). Set the diagonal to zero"),
        (lambda m: zoo.fit(m, torch.tensor([[0.0, 1, 1]])), r"x expected -1 or 1, got 0 in row 0. Pass 2 \* x - 1"),
        (lambda m: zoo.fit(m, torch.tensor([[0.2, 0.9, 0.1]])), r"Cut grey levels in two first: \(x > 0.5\)"),
        (lambda m: zoo.BoltzmannMachine(3, states="spin"), r"states.*'spin'"),
        (lambda m: zoo.BoltzmannMachine(3, inverse_temperature=0.0), "a positive number, got 0"),
        (lambda m: Boltzmann(torch.ones(2, 3), torch.zeros(2)), r"couplings expected shape \(2, 2\), got \(2, 3\)"),
        (lambda m: Boltzmann(torch.ones(2, 2), torch.zeros(2)), r"got 1 at \(0, 0\). Set the diagonal to zero"),
        (lambda m: zoo.fit(m, torch.ones(2, 4)), r"x expected shape \(N, 3\), got \(2, 4\)"),
        (lambda m: zoo.fit(zoo.BoltzmannMachine(30), torch.ones(2, 30), estimator="eg"), r"2\^30.*Use cd, pcd, temp"),
    ],
)
def test_bad_input_is_told_in_one_line(act: Any, message: str) -> None:
    with pytest.raises(zoo.ZooError, match=message) as caught:
        act(zoo.BoltzmannMachine(3))
    assert "\n" not in str(caught.value)
