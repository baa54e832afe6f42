"""CategoricalHMM: what every chain promises, the doctor's Viterbi path, hmmlearn, impossible symbols, bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hmm_oracles
import numpy as np
import pytest
import torch
from hmm_oracles import CHECKS, Array, Case, em_steps, sequences, table
from torch import Tensor

import zoo
from zoo.core.data import call
from zoo.models.categorical_hmm import CategoricalHMM

INF = float("inf")


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def build(k: int, symbols: int = 4, **options: Any) -> CategoricalHMM:
    model = CategoricalHMM(k, symbols, **options)
    probs = rows([0.7, 0.1, 0.1, 0.1], [0.1, 0.2, 0.6, 0.1], [0.15, 0.25, 0.1, 0.5])[:k, :symbols]
    model.emission_probs = probs / probs.sum(-1, keepdim=True)
    hmm_oracles.set_chain(model)
    return model


def emission(model: CategoricalHMM, row: Array) -> Array:
    probs = model.emission_probs.detach().numpy()
    return np.zeros(len(probs)) if np.isnan(row[0]) else np.log(probs[:, int(row[0])])


CASE = Case(build, emission, holes=False)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_chain(check: Callable[[Case], None]) -> None:
    check(CASE)


def test_fit_methods(tmp_path: Path) -> None:
    hmm_oracles.check_fit_methods(CASE, tmp_path)


def doctor() -> CategoricalHMM:
    """Healthy or fever; normal, cold or dizzy."""
    model = CategoricalHMM(2, 3)
    model.initial_probs = rows([0.6, 0.4])[0]
    model.transition_probs = rows([0.7, 0.3], [0.4, 0.6])
    model.emission_probs = rows([0.5, 0.4, 0.1], [0.1, 0.3, 0.6])
    return model


def test_viterbis_doctor() -> None:
    """Wikipedia, "Viterbi algorithm": normal, cold, dizzy; healthy, healthy, fever with 0.01512."""
    path, score = doctor().viterbi(torch.tensor([0, 1, 2]))
    assert path.tolist() == [[0, 0, 1]]
    assert math.exp(float(score)) == pytest.approx(0.01512, abs=1e-12)


def test_weather() -> None:
    """Wikipedia's earlier example (rainy or sunny; walk, shop, clean): sunny, rainy, rainy with 0.01344."""
    model = doctor()
    model.emission_probs = rows([0.1, 0.4, 0.5], [0.6, 0.3, 0.1])
    x = torch.tensor([0, 1, 2])
    path, score = model.viterbi(x)
    assert path.tolist() == [[1, 0, 0]]
    assert math.exp(float(score)) == pytest.approx(0.01344, abs=1e-12)
    assert zoo.evaluate(model, x).log_likelihood == pytest.approx(math.log(0.033612), abs=1e-12)


@pytest.mark.parametrize("steps", [1, 5])
def test_em_is_hmmlearns(steps: int) -> None:
    from hmmlearn.hmm import CategoricalHMM as Peer

    model, lengths = build(3), [20, 7, 31]
    data = sequences(model, lengths, seed=1)
    model.emission_probs = 0.7 * model.emission_probs.detach() + 0.075
    peer = Peer(3, n_iter=steps, tol=-INF, params="ste", init_params="")
    peer.startprob_, peer.transmat_ = table(model)
    peer.emissionprob_ = model.emission_probs.detach().numpy()
    x = np.concatenate(hmm_oracles.each(data)).astype(int)
    peer.fit(x, lengths)
    em_steps(model, data, steps)
    start, transition = table(model)
    np.testing.assert_allclose(start, peer.startprob_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(transition, peer.transmat_, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(model.emission_probs.detach(), peer.emissionprob_, rtol=1e-8, atol=1e-12)
    assert float(call(model.log_marginal, data).sum().detach()) == pytest.approx(peer.score(x, lengths), rel=1e-8)


def test_prior_counts() -> None:
    """The Dirichlet prior is ``prior_strength`` symbols spread as they are in the data."""
    model = build(2, prior_strength=3.0)
    data = sequences(model, [12, 9], seed=2)
    inside = torch.arange(12) < data["lengths"].unsqueeze(-1)
    x = torch.nn.functional.one_hot(data["x"][inside][:, 0].long(), 4).double()
    model.overall.copy_(model.overall_statistic(data["x"][inside]))
    weight = call(model.posterior, data).probs[inside]
    expected = (weight.mT @ x + 3 * x.mean(0)) / (weight.sum(0).unsqueeze(-1) + 3)
    model.m_step(call(model.e_step, data))
    torch.testing.assert_close(model.emission_probs.detach(), expected, rtol=1e-12, atol=1e-15)


def test_impossible_symbols() -> None:
    """A symbol no state emits scores -inf, not torch's clamp; steps ruled out by emissions leave no NaN."""
    model = doctor()
    model.emission_probs = rows([0.5, 0.5, 0.0], [0.0, 1.0, 0.0])
    x = torch.tensor([[[0.0], [1.0], [0.0]], [[0.0], [2.0], [0.0]], [[1.0], [1.0], [1.0]]], dtype=torch.float64)
    value = model.log_marginal(x)
    # Symbol 0 pins the state at both ends; in between both states emit a 1.
    expected = 0.6 * 0.5 * (0.7 * 0.5 * 0.7 + 0.3 * 1.0 * 0.4) * 0.5
    assert float(value[0].detach()) == pytest.approx(math.log(expected), abs=1e-13)
    assert value[1].item() == -INF
    theta = [model.emission_probs_unconstrained, model.transition_probs_unconstrained]
    for grad in torch.autograd.grad(value[[0, 2]].sum(), theta):
        assert grad.isfinite().all()
        assert grad.abs().max() > 0.01
    path, score = model.viterbi(x)
    assert path[0].tolist() == [0, 0, 0]
    assert score[1] == -INF
    assert not model.posterior(x).probs.isnan().any()
    statistics = model.e_step(x)
    assert statistics["log_likelihood"] == -INF
    assert not any(statistics[name].isnan().any() for name in ("starts", "steps", "counts", "symbols"))
    model.m_step(model.e_step(x[[0, 2]]))
    assert (model.emission_probs[:, 2] == 0).all(), "EM leaves an exact zero where it was"
    assert model.emission_probs[1, 0] == 0


def test_symbols_that_cannot_follow() -> None:
    """A forbidden step through the chain, not through the emissions."""
    model = CategoricalHMM(2, 2)
    model.initial_probs = rows([1.0, 0.0])[0]
    model.transition_probs = rows([0.5, 0.5], [0.0, 1.0])
    model.emission_probs = torch.eye(2)
    x = torch.tensor([[[0.0], [1.0], [1.0]], [[0.0], [1.0], [0.0]]], dtype=torch.float64)
    value = model.log_marginal(x).detach()
    assert value[0].item() == pytest.approx(math.log(0.5), abs=1e-14)
    assert value[1].item() == -INF
    assert model.posterior_entropy(x)[0] == pytest.approx(0.0, abs=1e-14)


def test_from_data() -> None:
    x = torch.tensor([0, 3, 1, 2, 3, 3])
    model = CategoricalHMM.from_data(x, num_states=2)
    assert model.num_symbols == 4
    assert zoo.fit(model, x, estimator="em", max_iter=3).log_likelihood is not None


def test_from_data_reads_no_padding() -> None:
    padded = torch.tensor([[0, 2, 99], [1, 0, 1]])
    for x in (
        {"lengths": torch.tensor([2, 3]), "x": padded},
        {"x": padded.unsqueeze(-1), "lengths": torch.tensor([2, 3])},
        (padded, torch.tensor([2, 3])),
    ):
        assert CategoricalHMM.from_data(x, num_states=2).num_symbols == 3
    assert CategoricalHMM.from_data(torch.tensor([0.0, float("nan"), 4.0]), num_states=2).num_symbols == 5


@pytest.mark.parametrize(
    ("x", "match"),
    [
        (torch.tensor([0, 1, 4]), r"x expected symbols 0 to 3, got 4 in row 2\. Recode the symbols or raise"),
        (torch.tensor([[0, 1, 2], [0, -1, 2]]), r"sequence 1 of x expected symbols 0 to 3, got -1 in row 1\."),
        (torch.tensor([0, 1.5, 3]), r"got 1\.5 in row 1\."),
    ],
)
def test_bad_symbols(x: Tensor, match: str) -> None:
    with pytest.raises(zoo.ZooError, match=match):
        zoo.fit(CategoricalHMM(2, 4), x)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_bad_alphabet(size: Any) -> None:
    with pytest.raises(zoo.ZooError, match="num_symbols expected a whole number of at least 1"):
        CategoricalHMM(2, size)
