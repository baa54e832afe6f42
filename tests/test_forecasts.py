"""What follows a sequence, and what is known of its states by now: ``fit.forecast`` and ``fit.filter``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import zoo
from zoo.core.contract import prepared


def chain() -> tuple[zoo.PoissonHMM, dict[str, Any]]:
    model = zoo.PoissonHMM(2, 1)
    model.initial_probs = [0.5, 0.5]
    model.transition_probs = [[0.9, 0.1], [0.3, 0.7]]
    model.rates = [[1.0], [12.0]]
    x = torch.zeros(2, 4, 1)
    x[0, :, 0], x[1, :2, 0] = torch.tensor([11.0, 14.0, 0.0, 1.0]), torch.tensor([5.0, 13.0])
    return model, {"x": x, "lengths": torch.tensor([4, 2])}


def test_a_chain_goes_on_from_what_is_known_of_its_last_state() -> None:
    """Means of draws against sums over all paths, written out here."""
    model, data = chain()
    fit = zoo.fit(model, data, estimator="em", init="current", max_iter=1, tol=0)
    initial, transition, rates = (fit.parameters[n] for n in ("initial_probs", "transition_probs", "rates"))
    draws = fit.forecast(data, 3, num_samples=40_000)
    assert draws.shape == (40_000, 2, 3, 1)
    for n, length in enumerate(data["lengths"].tolist()):
        belief = initial
        for t, count in enumerate(data["x"][n, :length, 0].tolist()):
            belief = belief if t == 0 else belief @ transition
            belief = belief * np.exp(count * np.log(rates[:, 0]) - rates[:, 0])
            belief = belief / belief.sum()
        np.testing.assert_allclose(fit.filter(data)[n, length - 1], belief, atol=1e-10)
        for h in range(3):
            belief = belief @ transition
            each = draws[:, n, h, 0].numpy()
            assert abs(each.mean() - belief @ rates[:, 0]) < 4 * each.std() / len(each) ** 0.5
            silent = belief @ np.exp(-rates[:, 0])
            assert abs((each == 0).mean() - silent) < 4 * (silent / len(each)) ** 0.5


def test_the_seed_decides_and_is_the_fits_own_by_default() -> None:
    model, data = chain()
    fit = zoo.fit(model, data, estimator="em", seed=3, max_iter=2)
    state = torch.get_rng_state()
    first = fit.forecast(data, 5, num_samples=4)
    assert torch.equal(first, fit.forecast(data, 5, num_samples=4, seed=3))
    assert not torch.equal(first, fit.forecast(data, 5, num_samples=4, seed=4))
    assert torch.equal(state, torch.get_rng_state())


def test_one_sequence_may_come_as_it_was_fitted() -> None:
    model, _ = chain()
    x = np.array([[1.0], [12.0], [10.0], [2.0]])
    fit = zoo.fit(model, x, estimator="em", max_iter=2)
    assert fit.forecast(x, 2, num_samples=3).shape == (3, 1, 2, 1)
    assert fit.filter(x).shape == (1, 4, 2)


def test_components_with_missing_entries_and_symbols_go_on_too() -> None:
    gaussian = zoo.fit(zoo.GaussianHMM(2, 2), torch.randn(3, 5, 2), estimator="em", max_iter=2)
    x = torch.randn(2, 4, 2)
    x[0, 3, 1] = torch.nan
    assert gaussian.forecast(x, 3, num_samples=2).isfinite().all()
    symbols = zoo.fit(zoo.CategoricalHMM(2, 3), torch.tensor([[0, 1, 2, 1, 0]]), estimator="em", max_iter=2)
    drawn = symbols.forecast(torch.tensor([[0, 1]]), 6, num_samples=5)
    assert drawn.shape[:3] == (5, 1, 6)
    assert set(drawn.flatten().tolist()) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda fit: fit.forecast(torch.zeros(3, 2), 1), "forecast: expected a model of sequences, but it has no cont"),
        (lambda fit: fit.filter(torch.zeros(3, 2)), "filter: expected a model of sequences, but it has no filter"),
    ],
)
def test_models_without_a_sequence_say_so(call: Any, match: str) -> None:
    fit = zoo.fit(zoo.GaussianMixture(2, 2), torch.randn(20, 2), estimator="em", max_iter=2)
    with pytest.raises(zoo.ZooError, match=match) as error:
        call(fit)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("steps", "samples"), [(0, 1), (2, 0), (1.5, 1)])
def test_counts_are_checked(steps: Any, samples: int) -> None:
    model, data = chain()
    fit = zoo.fit(model, data, estimator="em", max_iter=1)
    with pytest.raises(zoo.ZooError, match=r"forecast.*expected"):
        fit.forecast(data, steps, num_samples=samples)


def test_pieces_of_the_data_are_forecast_as_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = chain()
    whole = model.filter(prepared(model, data))
    monkeypatch.setattr("zoo.models.shared.hidden_markov.rows_at_once", lambda *_: 1)
    assert model.continuation(**prepared(model, data), num_steps=2, num_samples=3).shape == (3, 2, 2, 1)
    assert torch.equal(whole, model.filter(prepared(model, data)))


def test_the_command_line_goes_on_with_what_was_fitted_or_named(run: Any, tmp_path: Any) -> None:
    x = np.random.default_rng(0).poisson(4.0, (3, 6, 1)).astype(float)
    np.savez("three.npz", x=x, lengths=np.array([6, 4, 5]))
    options = ("--set", "num_states=2", "--set", "max_iter=2", "--estimator", "em")
    assert run("fit", "poisson_hmm", "--data", "three.npz", *options, "--out", "f").code == 0
    assert run("forecast", "f", "--steps", "5", "-n", "2", "--out", "next.npy").code == 0
    drawn = np.load("next.npy")
    assert drawn.shape == (6, 5, 1)
    wanted = zoo.load("f").forecast({"x": x, "lengths": np.array([6, 4, 5])}, 5, num_samples=2, seed=0)
    np.testing.assert_array_equal(drawn.reshape(3, 2, 5, 1), wanted.transpose(0, 1))
    np.savez("one.npz", x=x[:1], lengths=np.array([2]))
    assert run("forecast", "f", "--data", "one.npz", "--steps", "3", "--out", "one.csv").code == 0
    assert len((tmp_path / "one.csv").read_text().splitlines()) == 4  # with the names
    for wrong, named in (
        (("--steps", "0"), "--steps expected a number of at least 1"),
        (("--out", "next.png"), "--out expected a name ending in .csv, .npy or .txt"),
        (("--out", "next.npy"), "exists"),
    ):
        ran = run("forecast", "f", *wrong)
        assert ran.code == 2
        assert named in ran.err
        assert len(ran.err.strip().splitlines()) == 1
