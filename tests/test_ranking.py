"""Ties between fits: a difference that rounding, tol, noise or a table's last digit makes is none."""

from __future__ import annotations

import dataclasses

import pytest
import torch

import zoo
from zoo.runs.compare import Comparison
from zoo.runs.ranking import leaders
from zoo.runs.result import Fit

X = torch.tensor([[1.0], [2], [0], [1], [18], [22], [3], [2], [17], [25]])


@pytest.fixture(scope="module")
def fit() -> Fit:
    return zoo.fit(zoo.PoissonMixture(2, 1), X, restarts=1)


def compared(*fits: Fit) -> Comparison:
    return Comparison("poisson_mixture", "x", len(X), list(fits), x=X)


@pytest.mark.parametrize(
    ("above", "best"), [(4e-8, "em"), (4e-5, "em"), (6e-5, "eg"), (1.0, "eg"), (-1.0, "em")]
)  # fmt: skip
def test_a_tie_goes_to_the_faster(fit: Fit, above: float, best: str) -> None:
    slow = dataclasses.replace(fit, estimator="eg", seconds=9.0, log_likelihood=fit.log_likelihood + above)
    assert compared(dataclasses.replace(fit, seconds=1.0), slow).best.estimator == best


def test_a_loose_tol_resolves_no_more_than_it_asked_for(fit: Fit) -> None:
    loose = dataclasses.replace(fit, options={"tol": 1e-3}, seconds=1.0)
    near = dataclasses.replace(fit, seconds=2.0, estimator="eg", log_likelihood=fit.log_likelihood + 5e-3)
    assert compared(loose, near).best is loose
    assert compared(dataclasses.replace(loose, options={"tol": 1e-9}), near).best is near


def test_bounds_tie_within_their_noise(fit: Fit) -> None:
    low = dataclasses.replace(fit, log_likelihood=None, elbo=-30.0, elbo_se=0.2, seconds=1.0, estimator="svi")
    high = dataclasses.replace(low, elbo=-29.5, seconds=5.0, estimator="iwae")
    assert compared(low, high).best is low
    assert compared(low, dataclasses.replace(high, elbo=-29.0)).best.estimator == "iwae"


def test_diverged_and_degenerate_fits_come_last_whatever_their_score(fit: Fit) -> None:
    sound = dataclasses.replace(fit, log_likelihood=-50.0)
    floor = dataclasses.replace(fit, log_likelihood=-20.0, degenerate=True)
    lost = dataclasses.replace(fit, log_likelihood=-10.0, status="diverged")
    scores = [-50.0, -20.0, -10.0]
    assert leaders([sound, floor, lost], scores) == [0]
    assert leaders([floor, lost], scores[1:]) == [0]
    assert leaders([sound, floor, lost], [None, -20.0, -10.0]) == [0]


def test_the_report_highlights_the_faster_of_equals(fit: Fit) -> None:
    from zoo.reporting.report import _page

    slow = dataclasses.replace(fit, estimator="eg", seconds=9.0, log_likelihood=fit.log_likelihood + 4e-8)
    page = _page(compared(dataclasses.replace(fit, seconds=0.1), slow), [], [])
    assert "by em (seed 0)" in page
    assert '<tr class="best"><td>em</td>' in page
