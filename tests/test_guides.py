"""The reusable guides: shapes, standardisation, and relaxed draws that follow the discrete distribution."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from guides import MLP, AmortizedCategorical, AmortizedGaussian, RelaxedBernoulli, RelaxedCategorical


def test_guides_import_nothing_of_the_zoo():
    from pathlib import Path

    import guides

    for path in Path(guides.__file__).parent.glob("*.py"):
        assert "import zoo" not in path.read_text()
        assert "from zoo" not in path.read_text()


def test_networks_standardise_and_keep_constant_columns():
    x = torch.tensor([[1.0, 5.0, 100.0], [3.0, 5.0, 300.0]])
    net = MLP((3, 4, 2))
    net.set_from(x)
    assert torch.equal(net[0](x), torch.tensor([[-1.0, 0.0, -1.0], [1.0, 0.0, 1.0]]))
    assert net(x).shape == (2, 2)


def test_amortized_categorical_and_gaussian_shapes():
    q = AmortizedCategorical(3, 5)(torch.randn(7, 2, 3))
    assert q.batch_shape == (7, 2)
    assert q.logits.shape == (7, 2, 5)
    gaussian = AmortizedGaussian(3, 2)
    with torch.no_grad():
        gaussian.lower.fill_(0.5)
        gaussian.log_diagonal.fill_(-1.0)
    q = gaussian(torch.randn(7, 3))
    assert q.batch_shape == (7,)
    expected = torch.tensor([[1.0, 0.0], [0.5, 1.0]]) * torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    expected = expected.where(~torch.eye(2, dtype=torch.bool), torch.tensor(-1.0).exp())
    torch.testing.assert_close(q.scale_tril[0], expected)


@pytest.mark.parametrize("straight_through", [False, True])
def test_nearest_corner_of_a_relaxed_draw_is_a_draw_of_the_categorical(straight_through):
    """The Gumbel-max property: argmax of a relaxed draw has exactly the categorical's probabilities."""
    torch.manual_seed(0)
    probs = torch.tensor([0.1, 0.2, 0.7], dtype=torch.float64)
    draws = RelaxedCategorical(0.5, probs.log(), straight_through).rsample((40_000,))
    torch.testing.assert_close(draws.sum(-1), torch.ones(40_000, dtype=torch.float64))
    frequency = torch.nn.functional.one_hot(draws.argmax(-1), 3).double().mean(0)
    assert ((frequency - probs).abs() < 4.5 * (probs * (1 - probs) / 40_000).sqrt()).all()
    torch.manual_seed(0)
    binary = RelaxedBernoulli(0.5, torch.tensor(0.7, dtype=torch.float64).logit(), straight_through).rsample((40_000,))
    assert (binary > 0.5).double().mean() == pytest.approx(0.7, abs=4.5 * (0.21 / 40_000) ** 0.5)


@settings(max_examples=30, deadline=None)
@given(st.floats(1e-3, 10), st.integers(0, 1000))
def test_log_of_a_draw_is_finite_at_any_temperature(temperature, seed):
    torch.manual_seed(seed)
    relaxed = RelaxedCategorical(temperature, torch.tensor([30.0, 0.0, -30.0], dtype=torch.float64))
    assert relaxed.log_rsample((50,)).isfinite().all()
    assert relaxed.rsample((50,)).isfinite().all()


def test_straight_through_survives_expand_and_has_the_relaxed_gradient():
    logits = torch.zeros(3, requires_grad=True)
    expanded = RelaxedCategorical(0.5, logits, straight_through=True).expand(torch.Size([4, 2]))
    assert expanded.batch_shape == (4, 2)
    torch.manual_seed(0)
    hard = expanded.rsample()
    assert set(hard.detach().flatten().tolist()) <= {0.0, 1.0}
    torch.manual_seed(0)
    soft = RelaxedCategorical(0.5, logits).expand(torch.Size([4, 2])).rsample()
    value = torch.arange(3.0)
    ours = torch.autograd.grad((hard * value).sum(), logits)[0]
    theirs = torch.autograd.grad((soft * value).sum(), logits)[0]
    torch.testing.assert_close(ours, theirs)
    assert theirs.abs().sum() > 0
    bernoulli = RelaxedBernoulli(0.5, torch.zeros(()), straight_through=True).expand(torch.Size([5]))
    assert set(bernoulli.rsample().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("kind", [RelaxedCategorical, RelaxedBernoulli])
def test_a_temperature_must_be_positive(kind):
    with pytest.raises(ValueError, match="temperature expected a positive number, got 0"):
        kind(0, torch.zeros(2))
