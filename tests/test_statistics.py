"""Statistics add, whatever the pieces; moments are merged without losing digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import Moments, Statistics


def moments(x, weight, diagonal=False):
    """By the textbook, in extended precision."""
    x, weight = np.asarray(x, np.longdouble), np.asarray(weight, np.longdouble)
    count = weight.sum(0)
    mean = (weight.T @ x) / np.where(count > 0, count, 1)[:, None]
    delta = x[None] - mean[:, None]
    scatter = np.einsum("nk,knd,kne->kde", weight, delta, delta)
    if diagonal:
        scatter = np.einsum("kdd->kd", scatter)
    return Moments(*(torch.tensor(np.asarray(v, float)) for v in (count, mean, scatter)))


@st.composite
def weighted_data(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, k, d = draw(st.integers(2, 12)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = rng.normal(size=(rows, d)) * draw(st.sampled_from([1e-3, 1.0, 1e3])) + draw(st.sampled_from([0.0, 1e4]))
    weight = rng.dirichlet(np.ones(k), size=rows) * (rng.random((rows, k)) > 0.2)
    return x, weight, draw(st.integers(1, rows - 1)), draw(st.booleans())


def slack(x, whole):
    """1e-9 of the scatter, and what a mean stored in double precision at the data's offset cannot tell apart."""
    spread = max(float(whole.scatter.abs().max()), 1e-12)
    stored = float(np.abs(x).max()) * np.finfo(float).eps
    return 1e-9 * spread + 2 * stored * (float(whole.count.sum()) * spread) ** 0.5


@settings(max_examples=100, deadline=None)
@given(weighted_data())
def test_moments_of_two_pieces_are_the_moments_of_the_whole(case):
    x, weight, cut, diagonal = case
    whole = moments(x, weight, diagonal)
    first, second = moments(x[:cut], weight[:cut], diagonal), moments(x[cut:], weight[cut:], diagonal)
    for added in (first + second, second + first):
        torch.testing.assert_close(added.count, whole.count)
        alive = whole.count > 0
        torch.testing.assert_close(added.mean[alive], whole.mean[alive], rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(added.scatter[alive], whole.scatter[alive], rtol=1e-9, atol=slack(x, whole))


@settings(max_examples=50, deadline=None)
@given(weighted_data())
def test_merged_weightings_are_the_moments_of_the_summed_weights(case):
    x, weight, _, diagonal = case
    expected = moments(x, weight.sum(1, keepdims=True), diagonal)
    got = moments(x, weight, diagonal).merged()
    torch.testing.assert_close(got.count, expected.count)
    if got.count > 0:
        torch.testing.assert_close(got.mean, expected.mean, rtol=1e-12, atol=1e-9)
        torch.testing.assert_close(got.scatter, expected.scatter, rtol=1e-9, atol=slack(x, expected))


def test_scaling_scales_what_is_summed_and_leaves_the_mean():
    m = moments([[1.0], [3.0]], [[1.0], [1.0]]) * 2.5
    assert (m.count.item(), m.mean.item(), m.scatter.item()) == (5.0, 2.0, 5.0)


def test_statistics_add_and_scale_name_by_name():
    a = Statistics(2, torch.tensor(-1.0), counts=torch.tensor([1.0, 1.0]))
    b = Statistics(3, torch.tensor(-2.0), torch.tensor(-5.0), counts=torch.tensor([3.0, 0.0]))
    both = a + b
    assert both["num_data"] == 5
    assert float(both["log_likelihood"]) == -3.0
    assert float(both["objective"]) == -6.0
    assert both["counts"].tolist() == [4.0, 1.0]
    assert (b * 2)["counts"].tolist() == [6.0, 0.0]
    with pytest.raises(TypeError, match="expected the names"):
        a + Statistics(1, torch.tensor(0.0))
