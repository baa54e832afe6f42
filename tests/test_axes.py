"""Principal axes from triangles that merge: beside numpy's covariance, in any number of pieces, and to their digits."""

from __future__ import annotations

import functools
import itertools
import operator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo
from zoo.models.shared.axes import Triangle, principal_axes


def scatter(found: Triangle) -> Tensor:
    return found.root.mT @ found.root


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 15),
    d=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 15), max_size=4),
    seed=st.integers(0, 10_000),
    counted=st.booleans(),
    shift=st.sampled_from([0.0, 1e4]),
)
def test_pieces_of_any_size_add_up_to_the_whole(
    n: int, d: int, cuts: list[int], seed: int, counted: bool, shift: float
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-3, 3, size=d) + shift
    weights = rng.integers(0, 3, size=n).astype(float) if counted else np.ones(n)
    weights[rng.integers(n)] = 1.0
    ends = sorted({0, n, *(cut for cut in cuts if cut < n)})
    pieces = [
        Triangle.of(torch.tensor(x[a:b]), torch.tensor(weights[a:b]) if counted else None)
        for a, b in itertools.pairwise(ends)
    ]
    for found in (functools.reduce(operator.add, pieces), functools.reduce(operator.add, pieces[::-1])):
        mean = np.average(x, axis=0, weights=weights)
        theirs = np.einsum("n,ni,nj->ij", weights, x - mean, x - mean)
        unit = np.sqrt(np.outer(np.diagonal(theirs), np.diagonal(theirs))) + 1e-16 * (1 + shift) ** 2
        assert float(found.count) == weights.sum()
        np.testing.assert_allclose(found.mean, mean, rtol=1e-12, atol=1e-13)
        assert np.all(np.abs(scatter(found).numpy() - theirs) <= 1e-8 * unit)
        assert found.root.shape[0] <= d
        np.testing.assert_allclose(found.variance, np.diagonal(theirs) / weights.sum(), rtol=1e-7, atol=1e-15 * shift)


def test_axes_of_pieces_are_those_of_all_rows() -> None:
    x = torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 5
    theirs = principal_axes(x - x.mean(0), 2)
    found = functools.reduce(operator.add, map(Triangle.of, x.split(7))).axes(2)
    values, vectors = np.linalg.eigh(np.cov(x.numpy().T, bias=True))
    np.testing.assert_allclose(found[0], values[::-1][:2], rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.asarray(found[1]).T @ vectors[:, ::-1][:, :2]), np.eye(2), atol=1e-12)
    assert float(found[2]) == pytest.approx(values[::-1][2:].mean(), rel=1e-12)
    for a, b in zip(found, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11)


def test_a_small_variance_beside_a_large_one_keeps_its_digits() -> None:
    """Ten digits of a standard deviation of 1e-10 beside one of 1: sums of squares would have lost all of them."""
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    basis, _ = np.linalg.qr(np.column_stack([np.ones(400), rng.normal(size=(400, 3))]))  # of mean zero, all but one
    x = torch.tensor(basis[:, 1:4] * [20.0, 2.0, 2e-9] @ turned.T)
    values, _, _ = functools.reduce(operator.add, map(Triangle.of, x.split(50))).axes(3)
    np.testing.assert_allclose(values.sqrt() * 20, [20.0, 2.0, 2e-9], rtol=1e-5)
    wrong = np.linalg.eigvalsh(np.cov(x.numpy().T, bias=True))[0]
    assert not np.isclose(np.sqrt(abs(wrong)) * 20, 2e-9, rtol=0.1), "the covariance has lost it"


def test_no_weight_at_all_adds_nothing() -> None:
    x = torch.randn(20, 3, dtype=torch.float64)
    nothing, rest = Triangle.of(x[:5], torch.zeros(5)), Triangle.of(x[5:])
    for both in (nothing + rest, rest + nothing):
        np.testing.assert_allclose(both.mean, rest.mean, atol=1e-15)
        np.testing.assert_allclose(scatter(both), scatter(rest), atol=1e-13)


def test_float32_rows_are_summed_in_float64() -> None:
    x = (torch.randn(3000, 2) + 1000).float()
    exact = Triangle.of(x.double())
    assert torch.equal(Triangle.of(x).root, exact.root)
    model = zoo.PPCA(1, 2)
    model.closed_form(x)
    np.testing.assert_allclose(model.mean.detach(), exact.mean, rtol=1e-12)
