"""Hopfield networks: rules against their definitions, descents against the energy summed pair by pair."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo
from zoo.densities import descent
from zoo.densities.ising import Units
from zoo.models.shared import memory
from zoo.reporting.recalls import animate_recall
from zoo.scores.recall import flipped, recall_errors

DOUBLE: Any = {"dtype": torch.float64}


def signs(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1


def network(n: int, seed: int = 0, rule: str = "hebbian") -> zoo.HopfieldNetwork:
    """Any symmetric couplings, and biases."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(n, n, generator=generator, **DOUBLE)
    model = zoo.HopfieldNetwork(n, rule)
    model.couplings, model.biases = (w + w.T).fill_diagonal_(0.0), torch.randn(n, generator=generator, **DOUBLE)
    return model


def energies(s: Tensor, model: Any) -> Tensor:
    """-(sum over pairs i < j of w_ij s_i s_j + b' s), pair by pair."""
    w, b = model.couplings.detach(), model.biases.detach()
    pairs = itertools.combinations(range(s.shape[1]), 2)
    return -(s @ b) - sum(w[i, j] * s[:, i] * s[:, j] for i, j in pairs)


@pytest.mark.parametrize("ties", [False, True])
@settings(max_examples=15, deadline=None)
@given(n=st.integers(4, 12), seed=st.integers(0, 10**6), order=st.none() | st.integers(0, 99))
def test_one_unit_after_another_the_energy_never_rises(ties: bool, n: int, seed: int, order: int | None) -> None:
    model = network(n, seed)
    if ties:  # small whole numbers: many fields are zero
        model.couplings, model.biases = model.couplings.detach().round(), torch.zeros(n)
    start = signs(n, seed=seed)
    way = model.steps(start, seed=order)
    assert torch.equal(way[0], start)
    assert ((way[1:] != way[:-1]).sum(1) == 1).all()
    went = energies(way, model)
    assert (went[1:] < went[:-1]).all()
    final, stable = model.descent(start.unsqueeze(0), seed=order)
    assert torch.equal(final[0], way[-1])
    assert bool(stable)
    turned = final.repeat(n, 1).masked_fill(torch.eye(n, dtype=torch.bool), 0.0) - final * torch.eye(n, **DOUBLE)
    assert (energies(turned, model) >= went[-1] - 1e-9).all()


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 30), seed=st.integers(0, 10**6))
def test_all_at_once_ends_in_one_state_or_two(n: int, seed: int) -> None:
    model, x = network(n, seed), signs(7, n, seed=seed)
    final, stable = model.descent(x, "synchronous")
    once = (final @ model.couplings.detach() + model.biases.detach()).sign()
    again = (once @ model.couplings.detach() + model.biases.detach()).sign()
    assert torch.equal(again, final)
    assert torch.equal((once == final).all(1), stable)
    way = model.steps(x[0], "synchronous")
    assert any(torch.equal(way[-1], s) for s in (final[0], once[0]))
    assert (way[1:] != way[:-1]).any(1).all()


def test_two_units_against_each_other_swing() -> None:
    model = zoo.HopfieldNetwork(2)
    model.couplings = [[0.0, 1.0], [1.0, 0.0]]
    start = torch.tensor([[1.0, -1.0]])
    assert not bool(model.descent(start.double(), "synchronous").stable)
    assert model.steps(start, "synchronous").tolist() == [[1, -1], [-1, 1], [1, -1]]
    assert model.recall(start).tolist() == [[-1, -1]]


@pytest.mark.parametrize("values", [(-1.0, 1.0), (0.0, 1.0)])
def test_many_states_at_once_go_as_each_alone(values: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    low, high = values
    model = network(23, 5)
    x = torch.where(signs(40, 23) < 0, low, high).double()
    units = Units(model.couplings.detach(), model.biases.detach(), low, high)
    order = torch.randperm(23, generator=torch.Generator().manual_seed(1))
    expected = []
    for row in x.clone():
        moved = True
        while moved:
            before = row.clone()
            for i in order.tolist():
                row[i] = high if float(units.couplings[i] @ row + units.biases[i]) > 0 else low
            moved = not torch.equal(before, row)
        expected.append(row)
    compiled = descent.descend(x, units, order)
    assert compiled.stable.all()
    assert torch.equal(compiled.state, torch.stack(expected))
    few = descent.descend(x, units, order, max_sweeps=1)
    monkeypatch.setattr(descent, "has_numba", lambda: False)
    plain = descent.descend(x.reshape(5, 8, 23), units, order)
    assert torch.equal(plain.state, compiled.state.reshape(5, 8, 23))
    short = descent.descend(x, units, order, max_sweeps=1)
    assert torch.equal(short.state, few.state)
    assert torch.equal(short.stable, few.stable)
    assert not few.stable.all()


def test_rules_are_as_their_authors_wrote_them() -> None:
    x = signs(5, 9)
    n = 9
    hebb, storkey = np.zeros((n, n)), np.zeros((n, n))
    for row in x.numpy():
        old = storkey.copy()
        for i, j in itertools.product(range(n), range(n)):
            if i != j:
                h_ij = sum(old[i, k] * row[k] for k in range(n) if k not in (i, j))
                h_ji = sum(old[j, k] * row[k] for k in range(n) if k not in (i, j))
                storkey[i, j] += (row[i] * row[j] - row[i] * h_ji - h_ij * row[j]) / n
                hebb[i, j] += row[i] * row[j] / n
    projection = np.linalg.pinv(x.numpy()) @ x.numpy()
    np.fill_diagonal(projection, 0.0)
    for rule, expected in (("hebbian", hebb), ("storkey", storkey), ("pseudo_inverse", projection)):
        fit = zoo.fit(zoo.HopfieldNetwork(n, rule), x, estimator="closed_form")
        np.testing.assert_allclose(fit.model.couplings.numpy(), expected, rtol=0, atol=1e-12)
        assert fit.history["objective"] == [pytest.approx(-float(energies(x, fit.model).sum()))]
        counted = zoo.fit(zoo.HopfieldNetwork(n, rule), x, weights=[2.0, 0.0, 1.0, 1.0, 3.0])
        repeated = zoo.fit(zoo.HopfieldNetwork(n, rule), x[[0, 0, 2, 3, 4, 4, 4]])
        torch.testing.assert_close(counted.model.couplings, repeated.model.couplings, rtol=0, atol=1e-12)
    with pytest.raises(zoo.ZooError, match=r"storkey expected weights that are whole numbers. Take rule='hebbian'"):
        zoo.fit(zoo.HopfieldNetwork(n, "storkey"), x, weights=[0.5] * 5)


def test_what_each_rule_holds() -> None:
    n = 400
    few = signs(math.floor(memory.perfect(n)), n)
    assert len(few) == 16
    for rule in memory.RULES:
        fit = zoo.fit(zoo.HopfieldNetwork(n, rule), few)
        assert torch.equal(fit.predict(few), few)
        assert not any("patterns" in note for note in fit.notes)
    most = signs(n - 1, n)
    fit = zoo.fit(zoo.HopfieldNetwork(n, "pseudo_inverse"), most)
    assert torch.equal(fit.predict(most), most)
    assert not any("patterns" in note for note in fit.notes)
    half = signs(80, n)
    wrong = {
        r: float((zoo.fit(zoo.HopfieldNetwork(n, r), half).predict(half) != half).double().mean()) for r in memory.RULES
    }
    assert wrong["hebbian"] > 0.2
    assert wrong["storkey"] == wrong["pseudo_inverse"] == 0


@pytest.mark.parametrize("rule", list(memory.RULES))
def test_more_patterns_than_a_rule_holds_are_told_with_what_to_expect(rule: str) -> None:
    n, count = 100, {"hebbian": 30, "storkey": 60, "pseudo_inverse": 100}[rule]
    x = signs(count, n, seed=3)
    model = zoo.HopfieldNetwork(n, rule)
    (note,) = model.closed_form(x)
    assert note.startswith(f"{count} patterns are more than the {memory.capacity(rule, n):.1f} ")
    if rule == "pseudo_inverse":
        assert "a state recalls itself" in note
        assert float(model.couplings.detach().abs().max()) < 1e-9
        return
    moved = float(((x @ model.couplings.detach()) * x < 0).double().mean())
    assert f"of these {moved:.2%} do" in note
    assert memory.unstable(rule, n, count) == pytest.approx(moved, abs=4 * math.sqrt(moved / x.numel()) + 0.005)


def test_patterns_that_resemble_each_other_are_told() -> None:
    x = signs(3, 100)
    x[:, :97] = x[0, :97]
    notes = zoo.HopfieldNetwork(100).closed_form(x)
    assert len(notes) == 1
    assert "resemble each other. Take rule='pseudo_inverse'" in notes[0]


def test_the_published_retrieval_curve() -> None:
    """The equations of Amit, Gutfreund & Sompolinsky in m, C and r, which the curve's one equation came from."""
    for load in (0.02, 0.08, 0.12, 0.1375):
        error = memory.retrieval_error(load)
        m = 1 - 2 * error
        r = 1.0
        for _ in range(500):  # r given m
            c = math.sqrt(2 / (math.pi * load * r)) * math.exp(-m * m / (2 * load * r))
            r = 1 / (1 - c) ** 2
        assert math.erf(m / math.sqrt(2 * load * r)) == pytest.approx(m, abs=2e-3)
    assert memory.retrieval_error(0.13786) == pytest.approx(0.016, abs=0.002)  # as published
    assert memory.retrieval_error(0.139) == 0.5
    x = signs(100, 1000)
    model = zoo.HopfieldNetwork(1000)
    model.closed_form(x)
    assert float((model.recall(x) != x).double().mean()) == pytest.approx(memory.retrieval_error(0.1), abs=6e-4)


def test_above_zero_it_is_a_boltzmann_machine() -> None:
    model, x = network(5, 2), signs(6, 5)
    machine = model.thermal(0.7)
    gap = machine.log_marginal(x) - machine.log_marginal(x[:1])
    torch.testing.assert_close(gap, -(model.energy(x) - model.energy(x[:1])) / 0.7)
    with pytest.raises(zoo.ZooError, match="temperature expected a positive number, got 0"):
        model.thermal(0.0)


def test_draws_are_of_the_lowest_energy() -> None:
    model = network(10, 4)
    states = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=10)), **DOUBLE)
    lowest = float(energies(states, model).min())
    torch.manual_seed(0)
    drawn = model.sample_like(states, 40)
    assert float((energies(drawn, model) < lowest + 1e-9).double().mean()) > 0.8


def test_what_is_kept_is_counted() -> None:
    x = zoo.load_data("letters")
    fit = zoo.fit(zoo.HopfieldNetwork(25, "pseudo_inverse"), x)
    found = zoo.evaluate(fit, x)
    assert (found.num_recalled, found.recall_error, found.log_likelihood) == (4, 0.0, None)
    assert "recalled          4 of 4" in str(found)
    assert "at temperature zero" in fit.notes[-1]
    strange = signs(3, 25)
    wrong = (fit.predict(strange) != strange).double().mean(1)
    assert torch.equal(recall_errors(fit.model, strange, 0.0, 1)[0], wrong)
    assert zoo.evaluate(fit, strange).recall_error == pytest.approx(float(wrong.mean()))
    turned = flipped(strange.expand(50, 3, 25), 0.2)
    assert ((turned != strange).sum(-1) == 5).all()
    assert float((turned != strange).double().mean((0, 1)).max()) < 0.5


def test_the_command_line_and_pictures(run: Any, tmp_path: Any) -> None:
    out = tmp_path / "a"
    fitted = run("fit", "hopfield_network", "--data", "letters", "--set", "rule=storkey", "--out", str(out))
    assert fitted.code == 0
    assert "hopfield_network by closed_form" in fitted.out
    assert {"basins.png", "recall.png", "model.safetensors"} <= {path.name for path in out.iterdir()}
    assert "recalled          4 of 4" in run("evaluate", str(out)).out
    assert run("sample", str(out), "-n", "3", "--out", str(tmp_path / "s.csv")).code == 0
    again = zoo.load(out)
    x = torch.as_tensor(zoo.load_data("letters"))
    path = animate_recall(again.model, [x[0], -x[1]], tmp_path / "recall.gif")
    assert path.read_bytes()[:6] == b"GIF89a"
    with pytest.raises(zoo.ZooError, match=r"expected a name ending in .gif, got 'a.png'"):
        animate_recall(again.model, [x[0]], tmp_path / "a.png")


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda m: setattr(m, "couplings", torch.arange(9.0).reshape(3, 3)), r"got 2 at \(0, 2\) and 6.*w \+ w.T"),
        (lambda m: setattr(m, "couplings", torch.ones(3, 3)), r"got 1 at \(0, 0\). Set the diagonal to zero"),
        (lambda m: zoo.fit(m, torch.tensor([[0.0, 1, 1]])), r"x expected -1 or 1, got 0 in row 0. Pass 2 \* x - 1"),
        (lambda m: m.recall(torch.tensor([[0.5, 1, 1]])), r"x expected -1 or 1, got 0.5 in row 0. Cut grey levels"),
        (lambda m: m.recall(torch.ones(2, 3), updates="parallel"), "updates.*'parallel'"),
        (lambda m: zoo.HopfieldNetwork(3, rule="hebb"), "rule.*'hebb'.*hebbian"),
        (lambda m: zoo.fit(m, torch.ones(2, 4)), r"x expected shape \(N, 3\), got \(2, 4\)"),
        (lambda m: zoo.fit(m, torch.ones(2, 3), estimator="eg"), r"at temperature zero.*Use closed_form"),
    ],
)
def test_bad_input_is_told_in_one_line(act: Any, message: str) -> None:
    with pytest.raises(zoo.ZooError, match=message) as caught:
        act(zoo.HopfieldNetwork(3))
    assert "\n" not in str(caught.value)
