"""Data of probability zero are said where they are scored, and a prior's pseudo-counts keep them possible."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from torch import Tensor

import zoo
from zoo.models.categorical_hmm import CategoricalHMM
from zoo.runs.fit import _judged as judged

INF = float("inf")
SEEN = torch.tensor([0, 1, 0, 1, 1, 2, 0, 0, 1, 2, 1, 0])


def plain(**options: Any) -> zoo.Fit:
    return zoo.fit(CategoricalHMM(2, 5, **options), SEEN, estimator="em", max_iter=20)


@pytest.mark.parametrize("method", ["score", "posterior", "predict"])
def test_unseen_symbols_are_named(method: str) -> None:
    fit = plain()
    ask: Callable[[Any], Any] = getattr(fit, method)
    x = torch.tensor([[0, 3, 1], [0, 1, 1], [4, 3, 0]])
    match = (
        rf"^{method}: 2 of 3 data \(index 0, 2\) have probability zero .*: no state emits symbols 3, 4\. .*prior_str"
    )
    with pytest.warns(UserWarning, match=match):
        answer = ask(x)
    with pytest.warns(UserWarning, match=r"the data have probability zero.*no state emits symbol 3\. Fit with prior_s"):
        ask(torch.tensor([1, 3]))
    if method == "score":
        assert answer == -INF
    elif method == "posterior":
        assert answer.probs.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ask(torch.tensor([0, 1, 2]))


def test_evaluation_says_so() -> None:
    scored = zoo.evaluate(plain(), torch.tensor([0, 3]))
    assert scored.log_likelihood == -INF
    assert len(scored.notes) == 1
    assert "symbol 3" in str(scored)
    assert not zoo.evaluate(plain(), SEEN).notes


@pytest.mark.parametrize(
    ("model", "train", "other", "match"),
    [
        (
            zoo.BernoulliHMM(2, 2),
            [[0.0, 1], [1, 1], [1, 1], [0, 1]],
            [[0.0, 0]],
            r"no state emits the row \(0, 0\)\. Fit",
        ),
        (
            zoo.PoissonHMM(2, 1),
            [[0.0], [0], [0]],
            [[0.0], [2]],
            r"no state emits the row \(2\)\. Fit with prior_strength",
        ),
        (
            zoo.PoissonMixture(2, 1),
            [[0.0], [0]],
            [[0.0], [2]],
            r"1 of 2 data \(index 1\) has .*component emits the row \(2",
        ),
        (zoo.BernoulliMixture(2, 2), [[1.0, 0], [1, 1]], [[0.0, 0]], r"no component emits the row \(0, 0\)\.$"),
    ],
)
def test_other_families(model: Any, train: list[list[float]], other: list[list[float]], match: str) -> None:
    fit = zoo.fit(model, torch.tensor(train), estimator="em", max_iter=5)
    with pytest.warns(UserWarning, match=match):
        assert fit.score(torch.tensor(other)) == -INF
    with pytest.warns(UserWarning, match=match):
        assert fit.posterior(torch.tensor(other)).probs.isfinite().all()


def test_impossible_order() -> None:
    """Every symbol is possible, their order is not."""
    model = CategoricalHMM(2, 2)
    model.initial_probs, model.transition_probs = torch.tensor([1.0, 0.0]), torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    model.emission_probs = torch.eye(2)
    fit = zoo.fit(model, torch.tensor([0, 0, 1, 1]), estimator="em", init="current", max_iter=3)
    with pytest.warns(UserWarning, match="no path through the states emits these values. Fit with .* concentration=2"):
        assert fit.score(torch.tensor([1, 0])) == -INF


def objective(model: CategoricalHMM, x: list[int], strength: float) -> float:
    """ln p(x) over all paths, and the Dirichlet priors' log-densities less their constants; by numpy and scipy."""
    start, step, emit = (
        v.detach().numpy() for v in (model.initial_probs, model.transition_probs, model.emission_probs)
    )
    paths = itertools.product(range(len(start)), repeat=len(x))
    total = sum(
        start[p[0]]
        * math.prod(step[a, b] for a, b in itertools.pairwise(p))
        * math.prod(emit[z, v] for z, v in zip(p, x, strict=True))
        for p in paths
    )
    counts = np.bincount(x, minlength=emit.shape[1]) + 0.5  # some symbol is unseen: half of each more
    alpha = 1 + strength * counts / counts.sum()
    constant = scipy.special.gammaln(alpha).sum() - scipy.special.gammaln(alpha.sum())
    return math.log(total) + sum(scipy.stats.dirichlet.logpdf(row, alpha) + constant for row in emit)


@pytest.mark.parametrize("estimator", ["em", "eg"])
def test_pseudo_counts_have_their_mode_found(estimator: str) -> None:
    """What is climbed is likelihood times Dirichlet, by EM and by gradients; at its top, no step leads higher."""
    x = SEEN[:8].tolist()
    limits: dict[str, Any] = {"max_iter": 3000} if estimator == "em" else {"max_epochs": 800}
    fit = zoo.fit(CategoricalHMM(2, 4, prior_strength=3.0), torch.tensor(x), estimator=estimator, **limits)
    model: Any = fit.model
    reached = objective(model, x, 3.0)
    assert fit.history["objective"][-1] == pytest.approx(reached, abs=1e-9 if estimator == "em" else 1e-3)
    assert float(model.log_prior().detach()) + fit.log_likelihood == pytest.approx(reached, abs=1e-9)
    emission = model.emission_probs.detach().clone()
    assert (emission > 0).all()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = emission * (0.05 * torch.randn(emission.shape, generator=generator, dtype=emission.dtype)).exp()
        model.emission_probs = other / other.sum(-1, keepdim=True)
        assert objective(model, x, 3.0) < reached + 1e-6


def test_starts_are_chosen_by_likelihood_times_prior() -> None:
    """What a start is judged by is the objective that EM climbs."""
    fit = zoo.fit(CategoricalHMM(2, 4, prior_strength=3.0), SEEN, estimator="em", max_iter=400)
    assert judged(fit) == pytest.approx(objective(fit.model, SEEN.tolist(), 3.0), abs=1e-9)
    assert judged(plain()) == plain().log_likelihood


def test_one_state_has_a_closed_form() -> None:
    fit = zoo.fit(CategoricalHMM(1, 4, prior_strength=2.0), torch.tensor([0, 0, 1, 3]), estimator="em")
    overall = np.array([2.5, 1.5, 0.5, 1.5]) / 6
    np.testing.assert_allclose(
        fit.model.emission_probs.detach()[0], (np.array([2, 1, 0, 1]) + 2 * overall) / 6, atol=1e-12
    )


def test_unseen_symbols_score_with_a_prior_also_from_disk(tmp_path: Path) -> None:
    fit = plain(prior_strength=1.0)
    x: Tensor = torch.tensor([[0, 3, 1], [4, 4, 4]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score = fit.score(x)
        fit.save(tmp_path / "fit")
        again = zoo.load(tmp_path / "fit")
        assert again.score(x) == score
    assert score is not None
    assert -60 < score < 0
    assert again.model.prior_strength == 1.0
    assert torch.equal(again.model.overall, fit.model.overall)


def test_counts_of_a_feature_that_never_occurs_stay_possible() -> None:
    fit = zoo.fit(zoo.PoissonHMM(2, 1, prior_strength=1.0), torch.zeros(6, 1), estimator="em", max_iter=20)
    score = fit.score(torch.tensor([[0.0], [2.0]]))
    assert score is not None
    assert math.isfinite(score)
