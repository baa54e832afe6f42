"""Restricted Boltzmann machines against the sum over all states, written out."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resuming import check_resumed
from torch import Tensor

import zoo
from zoo.core.contract import lacks
from zoo.reporting.chains import plot_chains
from zoo.reporting.filters import plot_filters

DOUBLE: Any = {"dtype": torch.float64}


def bits(n: int) -> Tensor:
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=n)), **DOUBLE)


def machine(d: int, h: int, seed: int = 0, **arguments: Any) -> zoo.RestrictedBoltzmannMachine:
    generator = torch.Generator().manual_seed(seed)
    model = zoo.RestrictedBoltzmannMachine(d, h, **arguments).double()
    model.weights = 1.5 * torch.randn(d, h, generator=generator, **DOUBLE)
    model.visible_biases = torch.randn(d, generator=generator, **DOUBLE)
    model.hidden_biases = torch.randn(h, generator=generator, **DOUBLE)
    return model


def joint(model: zoo.RestrictedBoltzmannMachine) -> Tensor:
    """x' W z + b' x + c' z of all states, (2^D, 2^H), sum by sum."""
    w, b, c = (getattr(model, n).detach() for n in ("weights", "visible_biases", "hidden_biases"))
    x, z = bits(len(b)), bits(len(c))
    table = torch.zeros(len(x), len(z), **DOUBLE)
    for i, j in itertools.product(range(len(b)), range(len(c))):
        table += w[i, j] * x[:, i : i + 1] * z[:, j]
    return table + (x @ b).unsqueeze(-1) + z @ c


@settings(max_examples=30, deadline=None)
@given(d=st.integers(1, 6), h=st.integers(1, 6), seed=st.integers(0, 10**6), centred=st.booleans())
def test_the_sum_over_either_side(d: int, h: int, seed: int, centred: bool) -> None:
    model = machine(d, h, seed, centred=centred)
    model.visible_offset = torch.rand(d, generator=torch.Generator().manual_seed(seed), **DOUBLE) * centred
    table = joint(model)
    exact = table.logsumexp((0, 1))
    assert float(model.log_partition().detach()) == pytest.approx(float(exact), abs=1e-10)
    found = model.log_marginal(bits(d)).detach()
    torch.testing.assert_close(found, table.logsumexp(1) - exact, rtol=0, atol=1e-10)
    means = model.posterior_means(bits(d)).detach()
    torch.testing.assert_close(means, table.softmax(1) @ bits(h), rtol=0, atol=1e-10)


def test_many_states_go_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    import zoo.models.restricted_boltzmann_machine as module

    model = machine(7, 5)
    whole = torch.autograd.grad(model.log_partition(), [model.weights])[0]
    monkeypatch.setattr(module, "TABLE", 40)
    value = model.log_partition()
    assert float(value.detach()) == pytest.approx(float(joint(model).logsumexp((0, 1))), abs=1e-10)
    torch.testing.assert_close(torch.autograd.grad(value, [model.weights])[0], whole, rtol=0, atol=1e-12)


def test_the_gradient_is_that_of_data_less_that_of_the_model() -> None:
    """Fisher's identity, and that offsets change the gradient as a change of variables does."""
    model = machine(5, 3, centred=True)
    model.visible_offset = torch.linspace(0.1, 0.9, 5, **DOUBLE)
    x = bits(5)[[3, 9, 30]]
    p = joint(model).flatten().softmax(0).reshape(32, 8)
    given_x = joint(model).softmax(1)[[3, 9, 30]]
    names = ["weights", "visible_shift", "hidden_shift"]
    grads = torch.autograd.grad(model.log_marginal(x).sum(), [getattr(model, n) for n in names])
    found = dict(zip(names, grads, strict=True))
    pairs = x.T @ (given_x @ bits(3)) - 3 * bits(5).T @ (p @ bits(3))
    of_x = x.sum(0) - 3 * p.sum(1) @ bits(5)
    of_z = (given_x @ bits(3)).sum(0) - 3 * p.sum(0) @ bits(3)
    torch.testing.assert_close(found["visible_shift"], of_x, rtol=0, atol=1e-10)
    torch.testing.assert_close(found["hidden_shift"], of_z, rtol=0, atol=1e-10)
    centred = pairs - torch.outer(model.visible_offset, of_z) - torch.outer(of_x, model.hidden_offset)
    torch.testing.assert_close(found["weights"], centred, rtol=0, atol=1e-10)


def test_real_units_by_quadrature() -> None:
    model = machine(2, 3, visible="gaussian")
    model.weights = 0.7 * model.weights
    model.scale = torch.tensor([0.5, 2.0], **DOUBLE)
    grid = torch.linspace(-12, 12, 601, **DOUBLE)
    x = torch.cartesian_prod(0.5 * grid, 2.0 * grid)
    area = float((0.5 * (grid[1] - grid[0])) * (2.0 * (grid[1] - grid[0])))
    p = model.log_marginal(x).detach().exp()
    assert float(p.sum() * area) == pytest.approx(1.0, abs=1e-9)
    drawn = model.gibbs(4000, 60)
    mean = (p.unsqueeze(-1) * x).sum(0) * area
    assert ((drawn.mean(0) - mean).abs() < 5 * drawn.std(0) / math.sqrt(4000)).all()
    exact = model.log_partition().detach()
    below, above = (model.annealed_log_partition(100, 300, reverse=r) for r in (False, True))
    assert below.value - 4 * below.standard_error <= float(exact) <= above.value + 4 * above.standard_error


def test_annealing_and_draws() -> None:
    model = machine(8, 6)
    table = joint(model)
    exact = float(table.logsumexp((0, 1)))
    below, above = (model.annealed_log_partition(100, 500, reverse=r) for r in (False, True))
    assert below.value == pytest.approx(exact, abs=5 * below.standard_error)
    assert above.value == pytest.approx(exact, abs=5 * above.standard_error)
    p = table.logsumexp(1).softmax(0)
    torch.manual_seed(0)
    for drawn in (model.exact_draws(20_000), model.gibbs(20_000, 100)):
        assert drawn is not None
        check_frequencies(drawn, p)


@pytest.mark.parametrize("centred", [False, True])
def test_contrasts_are_free_energies_and_a_sweep(centred: bool) -> None:
    """Value and gradient, for any weights of the rows, are those of the energies one by one; a sweep leaves p alone."""
    model = machine(6, 4, centred=centred)
    model.visible_offset = torch.linspace(0.1, 0.9, 6, **DOUBLE) * centred
    x, chains, weight = bits(6)[[3, 9, 30]], bits(6)[[1, 60]], torch.tensor([0.5, 2.0, 1.0, -0.7, -0.1], **DOUBLE)
    values = model.contrast(x, chains)
    assert [v.shape for v in values] == [(3,), (2,), (0, 6)]
    found, expected = torch.cat(values[:2]), model.free_energy(torch.cat([x, chains]))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    parameters = [model.weights, model.visible_shift, model.hidden_shift]
    for ours, theirs in zip(
        torch.autograd.grad(found @ weight, parameters), torch.autograd.grad(expected @ weight, parameters), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    torch.manual_seed(0)
    drawn = model.exact_draws(20_000)
    assert drawn is not None
    moved = model.contrast(x, drawn, sweep=True)[2]
    assert 0.05 < float((moved != drawn).double().mean()) < 0.95
    check_frequencies(moved, joint(model).logsumexp(1).softmax(0))


def check_frequencies(drawn: Tensor, p: Tensor) -> None:
    """Draws of bits by a χ² test against the probabilities of all states."""
    n, d = drawn.shape
    codes = (drawn.long() * 2 ** torch.arange(d - 1, -1, -1)).sum(1)
    often = p * n > 5
    counts = torch.bincount(codes, minlength=2**d)[often]
    statistic = float(((counts - n * p[often]) ** 2 / (n * p[often])).sum())
    assert statistic < int(often.sum()) + 5 * math.sqrt(2 * int(often.sum()))


@pytest.mark.parametrize("white", [1.0, 16.0])
def test_pseudo_likelihoods_are_conditionals_of_the_sum_over_states(white: float) -> None:
    model = machine(5, 3, white=white)
    log_p = joint(model).logsumexp(1)
    index = torch.arange(32)
    expected = sum(log_p - torch.logaddexp(log_p, log_p[index ^ (1 << d)]) for d in range(5))
    found = model.pseudo_log_likelihood(white * bits(5)).detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert "real numbers" in str(lacks(machine(5, 3, visible="gaussian"), "pseudo_log_likelihood"))


def test_what_is_said_of_a_machine_whose_sum_is_too_large(tmp_path: Any) -> None:
    x = zoo.load_data("digits")[:200]
    model = zoo.RestrictedBoltzmannMachine.from_data(x, num_hidden=30)
    both = zoo.compare(model, x, estimators=["cd", "pcd"], options={n: {"max_epochs": 3} for n in ("cd", "pcd")})
    fit = both.best
    assert fit.notes[-1].endswith("it has no exact log-likelihood; evaluate gives a bracket by annealing")
    assert both.score_kind == "annealed log-likelihood"
    found = zoo.evaluate(fit, x)
    assert both.score(fit) == pytest.approx(found.annealed, abs=5 * (found.annealed_se or 0) + 1)
    assert "annealed" in str(both)
    machine: Any = fit.model
    with torch.no_grad():
        expected = float(machine.pseudo_log_likelihood(machine.prepare(x)).sum())
    assert found.pseudo_likelihood == pytest.approx(expected, rel=1e-5)
    assert "each unit given all others; no likelihood" in str(found)
    for drawn in (*plot_filters(fit, tmp_path / "filters.png"), *plot_chains(fit, x, tmp_path / "chains.png")):
        assert drawn.stat().st_size > 2000


def test_biases_read_as_they_are_set() -> None:
    model = machine(3, 2)
    model.visible_offset = torch.tensor([0.2, 0.5, 0.9], **DOUBLE)
    model.visible_biases, model.hidden_biases = [1.0, 2.0, 3.0], [-1.0, 0.5]
    model.weights = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    assert model.visible_biases.tolist() == pytest.approx([1.0, 2.0, 3.0])
    assert model.hidden_biases.tolist() == pytest.approx([-1.0, 0.5])


def test_digits_are_learned() -> None:
    x = zoo.load_data("digits")
    model = zoo.RestrictedBoltzmannMachine.from_data(x, num_hidden=12)
    assert (model.white, model.binarization) == (16.0, "threshold")
    independent = zoo.fit(model, x, estimator="pcd", max_epochs=1, learning_rate=1e-9)
    fit = zoo.fit(model, x, estimator="pcd", max_epochs=60)
    assert fit.log_likelihood / len(x) > independent.log_likelihood / len(x) + 3
    assert fit.log_likelihood == pytest.approx(zoo.evaluate(fit, x).log_likelihood)
    drawn = fit.sample(50)
    assert set(drawn.unique().tolist()) == {0.0, 16.0}
    assert set(fit.parameters) == {"weights", "visible_biases", "hidden_biases"}


@pytest.mark.parametrize("options", [{"estimator": "pcd", "k": 2}, {"estimator": "cd"}, {"estimator": "tempering"}])
def test_a_resumed_run_has_the_same_chains(options: dict[str, Any], tmp_path: Any) -> None:
    x = (zoo.load_data("digits")[:60] > 8).float()
    model = zoo.RestrictedBoltzmannMachine(64, 5)
    check_resumed(model, x, tmp_path / "run", "contrast", max_epochs=4, batch_size=20, **options)


def test_large_machines_withhold_the_sum() -> None:
    model = zoo.RestrictedBoltzmannMachine(784, 500)
    assert lacks(model, "log_marginal") == "its ln Z is a sum over 2^500 states of 784 units"
    with pytest.raises(zoo.ZooError, match=r"at most 24 units on one side, got 500 and 784.*annealed_log_partition"):
        model.log_partition()


@pytest.mark.parametrize(
    ("arguments", "x", "message"),
    [
        ({}, [[0.5, 1.0]], r"x expected 0 or 1, got 0.5 in row 0. Pass binarization='threshold', or visible='gaus"),
        (
            {},
            [[0.0, 16.0]],
            r"x expected 0 or 1, got 16 in row 0. Pass white=16, or visible='gaussian' for measurements\.$",
        ),
        (
            {"white": 16.0},
            [[0.0, 3.0], [255.0, 0.0]],
            r"got 3 in rows 0, 1.*white=255 and binarization='threshold'",
        ),
        ({}, [[-0.3, 1.0]], r"got -0.3 in row 0"),
        ({}, [[-1.0, 1.0]], r"got -1 in row 0. Pass \(x \+ 1\) / 2"),
        ({}, [[1.0, 0.0, 1.0]], r"x expected shape \(N, 2\), got \(1, 3\)"),
        ({"visible": "binary"}, [[1.0, 0.0]], "visible.*'binary'"),
        ({"binarization": "dynamic"}, [[1.0, 0.0]], "binarization.*'dynamic'"),
    ],
)
def test_bad_input_is_told_in_one_line(arguments: dict[str, Any], x: Any, message: str) -> None:
    with pytest.raises(zoo.ZooError, match=message) as caught:
        zoo.fit(zoo.RestrictedBoltzmannMachine(2, 2, **arguments), torch.tensor(x))
    assert "\n" not in str(caught.value)


def test_a_few_measurements_are_no_pixels() -> None:
    heights = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) * 100
    for x in (heights, heights.round(), heights / 100):
        with pytest.raises(zoo.ZooError, match="visible='gaussian' for measurements"):
            zoo.fit("restricted_boltzmann_machine", x, num_hidden=2)
    images = (torch.rand(20, 64, generator=torch.Generator().manual_seed(0)) * 255).round()
    model = zoo.fit("restricted_boltzmann_machine", images, num_hidden=2, max_epochs=1).model
    assert (model.config["white"], model.config["binarization"]) == (255.0, "threshold")
